import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { Objm } from '@nats-io/obj';
import type { NatsConnection } from '@nats-io/transport-node';
import { CHUNK_BYTES } from '../src/blob-format.ts';
import { BlobError, type BlobErrorCode, type Blobs } from '../src/blobs.ts';
import { openBlobs } from '../src/jetstream-blobs.ts';
import { freshLogNats, type TestNats } from './support/nats.ts';

const MIB = 1024 * 1024;

test('blobs of every size around the chunk size come back as they were', async (t) => {
  const { blobs } = await fresh(t);
  for (const size of [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 20 * CHUNK_BYTES + 7]) {
    const bytes = randomBytes(size);
    const digest = sha256(bytes);
    assert.equal(await blobs.has(digest), false);
    assert.deepEqual(await blobs.put(pieces(bytes, 100_000)), { digest, bytes: size, existed: false });
    assert.equal(await blobs.has(digest), true);
    assert.ok(bytes.equals(await collect(blobs.get(digest))), `${size} bytes differ`);
  }
});

test('what exists is not stored again, and the source is closed unread when its digest is announced', async (t) => {
  const { blobs, nc } = await fresh(t);
  const bytes = randomBytes(3 * CHUNK_BYTES);
  const { digest } = await blobs.put(pieces(bytes));
  assert.deepEqual(await blobs.put(pieces(bytes)), { digest, bytes: bytes.length, existed: true });
  let read = false;
  const source = (async function* () {
    read = true;
    yield bytes;
  })();
  assert.deepEqual(await blobs.put(source, digest), { digest, bytes: bytes.length, existed: true });
  assert.equal(read, false);
  const stream = createReadStream(import.meta.filename);
  await blobs.put(stream, digest);
  assert.ok(stream.destroyed);
  assert.equal(await messages(nc), 4);
});

test('bytes that are not the announced ones are refused and leave nothing', async (t) => {
  const { blobs, nc } = await fresh(t);
  await rejectsWith('blob_digest_mismatch', blobs.put(pieces(randomBytes(10)), sha256(randomBytes(10))));
  assert.equal(await messages(nc), 0);
});

test('a source that fails leaves nothing, and its own error is thrown', async (t) => {
  const { blobs, nc } = await fresh(t);
  const failure = new Error('the client hung up');
  const source = (async function* () {
    yield randomBytes(20 * CHUNK_BYTES);
    throw failure;
  })();
  await assert.rejects(blobs.put(source), failure);
  assert.equal(await messages(nc), 0);
});

test('a blob that is not there is not found, whatever its name', async (t) => {
  const { blobs } = await fresh(t);
  for (const digest of [sha256(Buffer.from('absent')), '', '*', '>', '../x', 'A'.repeat(64)]) {
    assert.equal(await blobs.has(digest), false);
    await rejectsWith('blob_not_found', collect(blobs.get(digest)));
  }
});

test('twenty puts of the same bytes at once store them once and do not disturb a reader', async (t) => {
  const { nats, nc } = await fresh(t);
  const bytes = randomBytes(5 * MIB);
  const connections = await Promise.all(Array.from({ length: 4 }, () => nats.connect()));
  const stores = await Promise.all(connections.map((connection) => openBlobs(connection, 'bundles')));
  const [reader] = stores;
  assert.ok(reader);
  const digest = sha256(bytes);
  let stop = false;
  let reads = 0;
  const reading = (async () => {
    while (!stop) {
      if (!(await reader.has(digest))) continue;
      assert.ok(bytes.equals(await collect(reader.get(digest))));
      reads += 1;
    }
  })();
  const puts = await Promise.all(
    stores.flatMap((store) => Array.from({ length: 5 }, () => store.put(pieces(bytes, 77_777)))),
  );
  stop = true;
  await reading;
  assert.ok(bytes.equals(await collect(reader.get(digest))));
  assert.equal(puts.filter((put) => !put.existed).length, 1);
  assert.ok(reads > 0);
  assert.equal(await messages(nc), bytes.length / CHUNK_BYTES + 1);
});

test('the stock client reads what we wrote', async (t) => {
  const { blobs, nc } = await fresh(t);
  const stock = await new Objm(nc).open('bundles');
  for (const size of [0, 1, 3 * CHUNK_BYTES + 5]) {
    const bytes = randomBytes(size);
    const { digest } = await blobs.put(pieces(bytes));
    const info = await stock.info(digest);
    assert.equal(info?.size, size);
    assert.ok(bytes.equals(Buffer.from((await stock.getBlob(digest)) ?? [])));
  }
});

test('we read what the stock client wrote, and write again what it deleted', async (t) => {
  const { blobs, nc } = await fresh(t);
  const stock = await new Objm(nc).open('bundles');
  const bytes = randomBytes(3 * CHUNK_BYTES + 5);
  const digest = sha256(bytes);
  await stock.putBlob({ name: digest }, bytes);
  assert.ok(bytes.equals(await collect(blobs.get(digest))));
  await stock.delete(digest);
  assert.equal(await blobs.has(digest), false);
  assert.equal((await blobs.put(pieces(bytes))).existed, false);
  assert.ok(bytes.equals(await collect(blobs.get(digest))));
});

test('a damaged, an extended and an incomplete blob are refused before the end is reported', async (t) => {
  const { blobs, nc } = await fresh(t);
  const jsm = await jetstreamManager(nc);
  const js = jetstream(nc);
  const store = async (): Promise<{ digest: string; subject: string; chunk: number }> => {
    const { digest } = await blobs.put(pieces(randomBytes(10 * CHUNK_BYTES)));
    const info = await (await new Objm(nc).open('bundles')).info(digest);
    const subject = `$O.bundles.C.${info?.nuid}`;
    const first = await jsm.direct.getMessage('OBJ_bundles', { seq: 1, next_by_subj: subject });
    return { digest, subject, chunk: first?.seq ?? 0 };
  };
  const damaged = await store();
  await jsm.streams.deleteMessage('OBJ_bundles', damaged.chunk);
  await js.publish(damaged.subject, randomBytes(CHUNK_BYTES));
  await rejectsWith('blob_corrupt', collect(blobs.get(damaged.digest)));

  const incomplete = await store();
  await jsm.streams.deleteMessage('OBJ_bundles', incomplete.chunk);
  await rejectsWith('blob_corrupt', collect(blobs.get(incomplete.digest)));

  const path = join(await tempDir(t), 'out');
  await rejectsWith('blob_corrupt', blobs.getToFile(damaged.digest, path));
  assert.deepEqual(await readdir(join(path, '..')), []);
});

test('a file goes in and comes out', async (t) => {
  const { blobs } = await fresh(t);
  const dir = await tempDir(t);
  const bytes = randomBytes(3 * MIB + 11);
  await writeFile(join(dir, 'in'), bytes);
  const { digest } = await blobs.putFile(join(dir, 'in'));
  assert.equal(digest, sha256(bytes));
  assert.equal((await blobs.putFile(join(dir, 'in'))).existed, true);
  assert.equal(await blobs.getToFile(digest, join(dir, 'out')), bytes.length);
  assert.ok(bytes.equals(await readFile(join(dir, 'out'))));
  await assert.rejects(blobs.putFile(join(dir, 'absent')), { code: 'ENOENT' });
});

test('an aborted read ends with the reason of its signal and leaves no file', async (t) => {
  const { blobs } = await fresh(t);
  const { digest } = await blobs.put(pieces(randomBytes(40 * CHUNK_BYTES)));
  const aborter = new AbortController();
  const reason = new Error('no longer wanted');
  await assert.rejects(async () => {
    for await (const chunk of blobs.get(digest, aborter.signal)) {
      assert.ok(chunk.length > 0);
      aborter.abort(reason);
    }
  }, reason);
  const dir = await tempDir(t);
  await assert.rejects(blobs.getToFile(digest, join(dir, 'out'), aborter.signal), reason);
  assert.deepEqual(await readdir(dir), []);
});

test('64 MiB pass in both directions and never is more than a few windows of chunks held in memory', async (t) => {
  const { blobs } = await fresh(t);
  const size = 64 * MIB;
  const piece = randomBytes(MIB);
  const before = await heldBytes();
  let peak = 0;
  const sample = async (): Promise<void> => {
    peak = Math.max(peak, (await heldBytes()) - before);
  };
  const source = (async function* () {
    for (let sent = 0; sent < size; sent += piece.length) {
      if (sent % (8 * MIB) === 0) await sample();
      yield piece;
    }
  })();
  const { digest } = await blobs.put(source);
  let received = 0;
  for await (const chunk of blobs.get(digest)) {
    if (received % (8 * MIB) === 0) await sample();
    received += chunk.length;
  }
  assert.equal(received, size);
  assert.ok(peak < 24 * MIB, `${Math.round(peak / MIB)} MiB were held`);
});

test('a server that is killed in the middle of puts and gets costs at most a clean error, and a retry succeeds', async (t) => {
  const { blobs, nats } = await fresh(t);
  const dir = await tempDir(t);
  const bytes = randomBytes(16 * MIB);
  const path = join(dir, 'in');
  await writeFile(path, bytes);
  const restarts: Promise<void>[] = [];
  const source = (async function* () {
    for await (const piece of pieces(bytes, CHUNK_BYTES)) {
      yield piece;
      if (restarts.length === 0) restarts.push(nats.restart());
      await new Promise(setImmediate);
    }
  })();
  await blobs.put(source).catch((error: unknown) => {
    assert.ok(error instanceof BlobError);
    assert.equal(error.code, 'blob_unavailable');
  });
  await Promise.all(restarts);
  const { digest } = await blobs.putFile(path);
  const parts: Uint8Array[] = [];
  for await (const chunk of blobs.get(digest)) {
    parts.push(chunk);
    if (restarts.length === 1) restarts.push(nats.restart());
  }
  await Promise.all(restarts);
  assert.equal(restarts.length, 2);
  assert.ok(bytes.equals(Buffer.concat(parts)));
});

async function fresh(t: TestContext): Promise<{ nats: TestNats; nc: NatsConnection; blobs: Blobs }> {
  const nats = await freshLogNats(t);
  return { nats, nc: nats.nc, blobs: await openBlobs(nats.nc, 'bundles') };
}

/** What is reachable now: garbage that V8 has not collected yet says nothing about whether memory is bounded. */
async function heldBytes(): Promise<number> {
  // Whatever could run ahead gets the chance to.
  await sleep(20);
  setFlagsFromString('--expose-gc');
  const collectGarbage: unknown = runInNewContext('gc');
  assert.ok(typeof collectGarbage === 'function');
  collectGarbage();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

async function tempDir(t: TestContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'blobs-test-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

async function* pieces(bytes: Buffer, size = bytes.length || 1): AsyncGenerator<Uint8Array> {
  for (let offset = 0; offset < bytes.length; offset += size) yield bytes.subarray(offset, offset + size);
}

async function collect(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  return Buffer.concat(await Array.fromAsync(source));
}

async function messages(nc: NatsConnection): Promise<number> {
  return (await (await jetstreamManager(nc)).streams.info('OBJ_bundles')).state.messages;
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

async function rejectsWith(code: BlobErrorCode, promise: Promise<unknown>): Promise<void> {
  await assert.rejects(promise, (error) => error instanceof BlobError && error.code === code);
}
