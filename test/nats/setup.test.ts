import assert from 'node:assert/strict';
import { test } from 'node:test';
import { jetstreamManager } from '@nats-io/jetstream';
import { CodedError } from '../../src/errors.ts';
import { ensureStreams } from '../../src/nats/setup.ts';
import { EVENT_STREAM, eventStreamConfig } from '../../src/streams.ts';
import { freshLogNats, startNats } from '../support/nats.ts';

const options = { replicas: 1, nonceTtlSecs: 300 };

test('eight processes set up at the same time, and again later, and nothing changes', async (t) => {
  const nats = await startNats(t);
  const connections = await Promise.all(Array.from({ length: 8 }, () => nats.connect()));
  await Promise.all(connections.map((nc) => ensureStreams(nc, options)));
  const [nc] = connections;
  assert.ok(nc);
  await nats.restart();
  await ensureStreams(await nats.connect(), options);
  const jsm = await jetstreamManager(await nats.connect());
  const names = (await Array.fromAsync(jsm.streams.names())).toSorted();
  assert.deepEqual(names, ['EVENTS', 'KV_liveness', 'KV_nonces', 'OBJ_archives', 'OBJ_bundles', 'OBJ_outputs']);
});

test('the log refuses to be changed', async (t) => {
  const { nc } = await freshLogNats(t);
  const jsm = await jetstreamManager(nc);
  await assert.rejects(jsm.streams.purge(EVENT_STREAM));
  await assert.rejects(jsm.streams.deleteMessage(EVENT_STREAM, 1));
});

for (const setting of ['deny_delete', 'deny_purge', 'allow_atomic', 'allow_direct'] as const) {
  test(`a log without ${setting} is refused by name`, async (t) => {
    const nats = await startNats(t);
    const nc = await nats.connect();
    const jsm = await jetstreamManager(nc);
    await jsm.streams.add({ ...eventStreamConfig(1), [setting]: false });
    await assert.rejects(ensureStreams(nc, options), (error) => {
      assert.ok(error instanceof CodedError);
      assert.equal(error.code, 'stream_misconfigured');
      assert.match(error.message, new RegExp(`${EVENT_STREAM}.*${setting}`));
      return true;
    });
  });
}

test('an operator may change the nonce lifetime and the setup accepts it', async (t) => {
  const { nc } = await freshLogNats(t);
  await ensureStreams(nc, { replicas: 1, nonceTtlSecs: 600 });
});
