import assert from 'node:assert/strict';
import { test } from 'node:test';
import { jetstreamManager } from '@nats-io/jetstream';
import { makeSubmission } from '../support/submissions.ts';
import { makeValidators, startServer, submit } from '../support/server.ts';
import { startNats } from '../support/nats.ts';
import { temporaryDirectory } from '../support/tmp.ts';

test('a vote that stands on the public log cannot be replayed on another archive once its nonce has expired', async (t) => {
  const nats = await startNats(t);
  const dir = temporaryDirectory(t);
  const validators = await makeValidators(3);
  const [voter] = validators;
  assert.ok(voter);
  const env = { NATS_URL: nats.url, NATS_TOKEN: nats.token };
  const args = ['serve', '--roles', 'http,planner'];
  const server = await startServer(t, { validators, dataDir: `${dir}/data`, env, args });
  const first = await makeSubmission(dir, { tasks: { first: {} } });
  const headers = voter.headers();
  assert.equal((await submit(server.url, voter, first.file, { headers })).status, 202);

  // What five minutes do: the bucket forgets.
  const manager = await jetstreamManager(await nats.connect());
  await manager.streams.purge('KV_nonces');
  const other = await makeSubmission(temporaryDirectory(t), { tasks: { other: {} } });
  const replayed = await submit(server.url, voter, other.file, { headers });
  assert.deepEqual([replayed.status, replayed.body['error']], [401, 'nonce_reused']);
});
