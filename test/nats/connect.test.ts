import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { createUser } from '@nats-io/nkeys';
import type { NatsAccess } from '../../src/config.ts';
import { CodedError } from '../../src/errors.ts';
import { connectNats, redactUrl } from '../../src/nats/connect.ts';
import { isRecentEnough } from '../../src/nats/find-server.ts';
import { startNats, until } from '../support/nats.ts';

const options = { name: 'test', timeoutMs: 10_000 };
const SECRET = 'hunter2';

test('a token, a user with a password and an nkey get in, from variables or from the URL', async (t) => {
  const user = createUser();
  const byToken = await startNats(t);
  const byUser = await startNats(t, {
    authorization: `authorization { users = [
      { user: "alice", password: "${SECRET}" }
      { nkey: "${user.getPublicKey()}" }
    ] }`,
  });
  const nkeyFile = join(byUser.storeDir, '..', 'user.nk');
  await writeFile(nkeyFile, `${new TextDecoder().decode(user.getSeed())}\n`);
  const accesses: NatsAccess[] = [
    { url: byToken.url, token: byToken.token },
    { url: `nats://${byToken.token}@127.0.0.1:${byToken.port}` },
    { url: byUser.url, user: 'alice', password: SECRET },
    { url: `nats://alice:${SECRET}@127.0.0.1:${byUser.port}` },
    { url: byUser.url, nkeyFile },
  ];
  for (const access of accesses) await (await connectNats(access, options)).close();
});

test('wrong credentials are an error of their own that repeats none of them', async (t) => {
  const nats = await startNats(t);
  await refused('nats_auth_failed', { url: nats.url, token: SECRET });
  await refused('nats_auth_failed', { url: nats.url });
  await refused('nats_auth_failed', { url: `nats://bob:${SECRET}@127.0.0.1:${nats.port}` });
  const error = await refused('nats_auth_failed', { url: nats.url, credsFile: '/nowhere/app.creds' });
  assert.match(error.message, /NATS_CREDS: cannot read \/nowhere\/app\.creds/);
});

test('nobody there: the error names the address without its password', async (t) => {
  const nats = await startNats(t);
  await nats.stop();
  const error = await refused('nats_unreachable', { url: `nats://bob:${SECRET}@127.0.0.1:${nats.port}` }, 300);
  assert.match(error.message, new RegExp(`nats://127.0.0.1:${nats.port}`));
});

test('a server that starts a little later is waited for', async (t) => {
  const nats = await startNats(t);
  await nats.stop();
  const [nc] = await Promise.all([connectNats({ url: nats.url, token: nats.token }, options), nats.restart()]);
  await nc.close();
});

test('waiting for a server ends when the signal aborts', async (t) => {
  const nats = await startNats(t);
  await nats.stop();
  const reason = new Error('shutting down');
  const connecting = connectNats({ url: nats.url }, { ...options, timeoutMs: 600_000, signal: AbortSignal.timeout(1) });
  await assert.rejects(connecting, { name: 'TimeoutError' });
  const aborted = connectNats({ url: nats.url }, { ...options, signal: AbortSignal.abort(reason) });
  await assert.rejects(aborted, reason);
});

test('a server without JetStream is refused with the remedy', async (t) => {
  const nats = await startNats(t, { jetstream: false });
  const error = await refused('nats_no_jetstream', { url: nats.url, token: nats.token });
  assert.match(error.message, /jetstream \{\}/);
});

test('a server that is too old is refused by its version', async (t) => {
  const port = await pretendToBe(t, '2.10.29');
  const error = await refused('nats_too_old', { url: `nats://127.0.0.1:${port}` });
  assert.match(error.message, /2\.10\.29.*2\.14\.0/);
});

test('versions compare by number', () => {
  for (const version of ['2.14.0', '2.14.1', '2.100.0', '3.0.0', '2.15.0-RC.1']) assert.ok(isRecentEnough(version));
  for (const version of ['2.13.9', '2.9.20', '1.99.99', '', 'unknown']) assert.ok(!isRecentEnough(version));
});

test('a connection survives a killed server and reports it', async (t) => {
  const nats = await startNats(t);
  const seen: string[] = [];
  const nc = await connectNats(
    { url: nats.url, token: nats.token },
    { ...options, onStatus: (type, data) => seen.push(`${type} ${JSON.stringify(data)}`) },
  );
  t.after(() => nc.close());
  await nats.restart();
  await until(() => seen.some((line) => line.startsWith('reconnected')));
  await nc.flush();
  assert.ok(seen[0]?.startsWith('disconnected'));
  assert.ok(seen.every((line) => !line.includes(nats.token)));
});

test('URLs lose their credentials and nothing else', () => {
  assert.equal(redactUrl('nats://u:p%40ss@a:4222, tls://tok@b:1,c'), 'nats://a:4222,tls://b:1,c');
  assert.equal(redactUrl('nats://u:p@ss@a:4222/'), 'nats://a:4222');
  assert.equal(redactUrl('nats://[::1]:4222'), 'nats://[::1]:4222');
});

async function refused(code: string, access: NatsAccess, timeoutMs = 10_000): Promise<CodedError> {
  let thrown: unknown;
  await assert.rejects(connectNats(access, { name: 'test', timeoutMs }), (error) => {
    thrown = error;
    return true;
  });
  assert.ok(thrown instanceof CodedError, String(thrown));
  assert.equal(thrown.code, code);
  assert.ok(!thrown.message.includes(SECRET));
  return thrown;
}

/** Speaks as much of the protocol as a connect needs: there is no old server to install. */
async function pretendToBe(t: TestContext, version: string): Promise<number> {
  const info = {
    server_id: 'x',
    version,
    proto: 1,
    go: 'go',
    host: '127.0.0.1',
    port: 1,
    headers: true,
    max_payload: 1e6,
  };
  const server: Server = createServer((socket) => {
    socket.on('error', () => undefined);
    socket.write(`INFO ${JSON.stringify(info)}\r\n`);
    socket.on('data', (data) => {
      if (data.includes('PING')) socket.write('PONG\r\n');
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => new Promise((resolve) => server.close(resolve)));
  const address = server.address();
  assert.ok(address !== null && typeof address === 'object');
  return address.port;
}
