/**
 * Blob store against the stock object store client and against publishing the same chunks raw, each in a process of its
 * own so that its peak memory is its own. Run: node bench/blobs.ts [MiB]
 */
import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { jetstream } from '@nats-io/jetstream';
import { Objm } from '@nats-io/obj';
import type { NatsConnection } from '@nats-io/transport-node';
import { CHUNK_BYTES } from '../src/blob-format.ts';
import { openBlobs } from '../src/jetstream-blobs.ts';
import { connectNats } from '../src/nats/connect.ts';
import { withNats } from './nats.ts';
import { type Measurement, peakMemoryMib, printReport } from './report.ts';

const MIB = 1024 ** 2;
const CASE_TIMEOUT_MS = 300_000;
const RAW_WINDOW = 16;
/** Slow readers wait this long every MiB: what runs ahead of them shows as memory. */
const SLOW_READER_MS = 5;

const CASES = ['raw put', 'our put', 'stock put', 'our get', 'stock get', 'our slow get', 'stock slow get'] as const;
type Case = (typeof CASES)[number];

const [first = '256', url, token, size] = process.argv.slice(2);
if (url !== undefined && token !== undefined) await child(first, url, token, Number(size));
else await main(Number(first));

async function main(mib: number): Promise<void> {
  await withNats(async (nats) => {
    const results: Measurement[] = [];
    for (const name of CASES) {
      const args = [import.meta.filename, name, nats.url, nats.token, `${mib * MIB}`];
      const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: CASE_TIMEOUT_MS });
      const { mbPerSecond, peakMib } = JSON.parse(stdout) as { mbPerSecond: number; peakMib: number };
      results.push({ name, value: mbPerSecond, unit: 'MB/s', notes: { 'peak MiB': `${peakMib}` } });
    }
    printReport(`blobs of ${mib} MiB, sync_interval always`, results, 'raw put');
  });
}

async function child(name: string, natsUrl: string, natsToken: string, bytes: number): Promise<void> {
  const nc = await connectNats({ url: natsUrl, token: natsToken }, { name, timeoutMs: 5000 });
  const started = process.hrtime.bigint();
  await run(name as Case, nc, bytes);
  const seconds = Number(process.hrtime.bigint() - started) / 1e9;
  process.stdout.write(JSON.stringify({ mbPerSecond: bytes / 1e6 / seconds, peakMib: peakMemoryMib() }));
  await nc.close();
}

// The same bytes in all cases: our put names them by digest, the stock one by 'stock'.
async function* source(bytes: number): AsyncGenerator<Uint8Array> {
  const piece = createHash('sha256')
    .update('seed')
    .digest()
    .toString('hex')
    .repeat(MIB / 64);
  for (let i = 0; i < bytes / MIB; i += 1) {
    const buffer = Buffer.from(piece);
    buffer.writeUInt32BE(i);
    yield buffer;
  }
}

async function run(name: Case, nc: NatsConnection, bytes: number): Promise<void> {
  const stock = async () => new Objm(nc).open('archives');
  switch (name) {
    case 'raw put': {
      const js = jetstream(nc);
      const pending: Promise<unknown>[] = [];
      const chunk = randomBytes(CHUNK_BYTES);
      for (let sent = 0; sent < bytes; sent += chunk.length) {
        pending.push(js.publish('$O.outputs.C.raw', chunk));
        if (pending.length >= RAW_WINDOW) await pending.shift();
      }
      await Promise.all(pending);
      return;
    }
    case 'our put':
      await (await openBlobs(nc, 'bundles')).put(source(bytes));
      return;
    case 'stock put':
      await (
        await stock()
      ).put({ name: 'stock', options: { max_chunk_size: CHUNK_BYTES } }, ReadableStream.from(source(bytes)));
      return;
    case 'our get':
    case 'our slow get': {
      const blobs = await openBlobs(nc, 'bundles');
      const [stored] = await new Objm(nc).open('bundles').then((bucket) => bucket.list());
      if (stored === undefined) throw new Error('run our put first');
      await consume(blobs.get(stored.name), name === 'our slow get');
      return;
    }
    case 'stock get':
    case 'stock slow get': {
      const object = await (await stock()).get('stock');
      if (object === null) throw new Error('run stock put first');
      await consume(object.data, name === 'stock slow get');
    }
  }
}

async function consume(chunks: AsyncIterable<Uint8Array>, slow: boolean): Promise<void> {
  let sinceSleep = 0;
  for await (const chunk of chunks) {
    sinceSleep += chunk.length;
    if (!slow || sinceSleep < MIB) continue;
    sinceSleep = 0;
    await sleep(SLOW_READER_MS);
  }
}
