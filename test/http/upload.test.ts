import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { type ClientRequest, type IncomingMessage, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { buildRig, listen, rig, signedHeaders, validator } from './support.ts';

const MIB = 1024 ** 2;
const BOUNDARY = 'upload-boundary';
const HEAD = `--${BOUNDARY}\r\nContent-Disposition: form-data; name="archive"; filename="a.zip"\r\n\r\n`;
const TAIL = `\r\n--${BOUNDARY}--\r\n`;

function post(port: number, headers: Record<string, string> = {}): ClientRequest {
  return request({
    port,
    host: '127.0.0.1',
    method: 'POST',
    path: '/submit',
    headers: {
      ...signedHeaders(validator(1), `n${Math.random()}`),
      'content-type': `multipart/form-data; boundary=${BOUNDARY}`,
      ...headers,
    },
  });
}

async function answerOf(client: ClientRequest): Promise<{ status: number | undefined; body: Record<string, unknown> }> {
  const [response] = (await once(client, 'response')) as [IncomingMessage];
  const body = JSON.parse((await response.toArray()).join(''));
  return { status: response.statusCode, body };
}

/** Largest resident memory that a process ever had, in bytes. */
function peakOf(pid: number | undefined): number {
  return Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024;
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await delay(5);
}

describe('an upload over a real connection', { timeout: 60_000 }, () => {
  it('of 300 MB is hashed and stored in bounded memory', async (t) => {
    const dataDir = mkdtempSync(join(tmpdir(), 'http-upload-'));
    const child = spawn(process.execPath, [join(import.meta.dirname, 'serve.ts'), dataDir], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const exited = once(child, 'exit');
    t.after(async () => {
      child.stdin.end();
      await exited;
      rmSync(dataDir, { recursive: true });
    });
    const [line] = await once(child.stdout, 'data');
    const hash = createHash('sha256');
    const generate = function* (): Generator<Buffer> {
      yield Buffer.from(HEAD);
      for (let n = 0; n < 300; n += 1) {
        const chunk = Buffer.alloc(MIB, n);
        hash.update(chunk);
        yield chunk;
      }
      yield Buffer.from(TAIL);
    };
    t.diagnostic(`VmHWM before ${Math.round(peakOf(child.pid) / MIB)} MiB`);
    const client = post(Number(String(line)));
    const answer = answerOf(client);
    await pipeline(Readable.from(generate()), client);
    const { status, body } = await answer;
    assert.deepEqual([status, body['archive_hash']], [202, hash.digest('hex')]);
    const peak = peakOf(child.pid);
    t.diagnostic(`VmHWM ${Math.round(peak / MIB)} MiB`);
    assert.ok(peak < 350 * MIB, `${peak} bytes`);
    assert.deepEqual(readdirSync(join(dataDir, 'uploads')), []);
  });

  it('that the client gives up leaves no file and spends no vote', async (t) => {
    const { app, uploads, votes } = await rig(t);
    const client = post(await listen(app));
    client.on('error', () => undefined);
    client.write(HEAD);
    client.write(Buffer.alloc(MIB));
    await until(() => readdirSync(uploads).some((name) => statSync(join(uploads, name)).size > 0));
    client.destroy();
    await until(() => readdirSync(uploads).length === 0);
    assert.deepEqual(votes, []);
  });

  it('that is too large is answered while the client still sends, and the connection serves the next request', async (t) => {
    const { app, uploads } = await rig(t, { env: { MAX_ARCHIVE_BYTES: '100000' } });
    const client = post(await listen(app));
    const answer = answerOf(client);
    client.write(HEAD);
    for (let n = 0; n < 20; n += 1) client.write(Buffer.alloc(MIB));
    const { status, body } = await answer;
    assert.deepEqual([status, body['error']], [413, 'archive_too_large']);
    assert.deepEqual(readdirSync(uploads), []);
    client.end(TAIL);
    await once(client, 'close');
  });

  it('that announces too much is refused before anything is read', async (t) => {
    const { app } = await rig(t);
    const client = post(await listen(app), { 'content-length': String(10 ** 12) });
    client.on('error', () => undefined);
    client.flushHeaders();
    const { status } = await answerOf(client);
    assert.equal(status, 413);
    client.destroy();
  });

  it('of somebody who may not submit is refused before anything is read, and is not waited for', async (t) => {
    const { app } = await rig(t, { options: { limits: { lingerMs: 50 } } });
    const client = post(await listen(app), { 'x-signature': 'ff' });
    client.on('error', () => undefined);
    client.write(HEAD);
    const { body } = await answerOf(client);
    assert.equal(body['error'], 'invalid_signature');
    if (!client.destroyed) await once(client, 'close');
  });

  it('that stalls is given up', async (t) => {
    const { app, uploads } = await rig(t, { options: { limits: { uploadIdleMs: 100, lingerMs: 50 } } });
    const port = await listen(app);
    for (const begun of [HEAD, `${HEAD}some bytes`, HEAD.slice(0, 20)]) {
      const client = post(port);
      client.on('error', () => undefined);
      client.write(begun);
      const { status, body } = await answerOf(client);
      assert.deepEqual([status, body['error']], [400, 'upload_failed']);
      assert.match(String(body['message']), /no byte came/);
      assert.deepEqual(readdirSync(uploads), []);
      client.destroy();
    }
  });

  it('that a killed server left behind is removed at the next start', async (t) => {
    const { uploads, dataDir } = await rig(t);
    writeFileSync(join(uploads, 'left.upload'), 'x');
    const next = await buildRig(dataDir);
    t.after(() => next.app.close());
    assert.deepEqual(readdirSync(uploads), []);
  });
});
