import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { EXIT } from '../../src/cli/exit-codes.ts';
import { isSignedBy, publicKeyOf } from '../../src/http/auth/signature.ts';
import { sendJson, startContractServer } from '../client/contract-server.ts';
import { runClient, tempDir } from './run-client.ts';

const BATCH = '0198f0a2-7c1e-7d3a-9f52-3c6a1b2d4e5f';
const KEY = ['--key', '//Alice', '--dev'];
const approved = {
  batch_id: BATCH,
  total_tasks: 1,
  concurrent_tasks: 2,
  ws_url: `/ws?batch_id=${BATCH}`,
  consensus_reached: true,
  votes: 2,
  required: 2,
};
const pending = (archive_hash: string) => ({
  status: 'pending_consensus',
  archive_hash,
  votes: 1,
  required: 2,
  total_validators: 3,
});
const task = { task_id: 'a', status: 'completed', passed: true, reward: 1, error: null, cause: null, duration_ms: 5 };
const batch = (status: string, passed: number) => ({
  batch_id: BATCH,
  status,
  total_tasks: 1,
  completed_tasks: 1,
  passed_tasks: passed,
  failed_tasks: 1 - passed,
  aggregate_reward: passed,
  error: null,
  duration_ms: 7,
});
const results = (passed: number) => (path: string) => {
  if (path === `/batch/${BATCH}`) return batch('completed', passed);
  if (path === `/batch/${BATCH}/tasks`) return { tasks: [{ ...task, passed: passed === 1, reward: passed }] };
  return undefined;
};
const feed = (seq: number, event: string, data: object) => JSON.stringify({ seq, event, batch_id: BATCH, data });

async function submission(t: TestContext): Promise<string> {
  const dir = await tempDir(t);
  await mkdir(join(dir, 'agent_code'), { recursive: true });
  await mkdir(join(dir, 'tasks', 'a'), { recursive: true });
  await writeFile(join(dir, 'agent_code', 'agent.sh'), 'true\n');
  await writeFile(join(dir, 'tasks', 'a', 'prompt.md'), 'do it\n');
  return dir;
}

async function gzip(t: TestContext): Promise<{ file: string; sha256: string }> {
  const file = join(await tempDir(t), 'x.bin');
  const bytes = Buffer.from('1f8b0800000000000003030000000000000000', 'hex');
  await writeFile(file, bytes);
  return { file, sha256: createHash('sha256').update(bytes).digest('hex') };
}

test('a directory is packed, signed and sent; nothing is left behind', async (t) => {
  const temp = await tempDir(t);
  const server = await startContractServer(t, {
    submit: (response, { sha256 }) => sendJson(response, 202, pending(sha256)),
  });
  const args = ['submit', await submission(t), ...KEY, '--url', `${server.url}/`, '--concurrent', '4', '--json'];
  const { code, stderr, json } = await runClient(args, { env: { TMPDIR: temp } });
  assert.equal(code, EXIT.ok, stderr);
  const [sent] = server.submitted;
  assert.ok(sent);
  assert.equal(sent.query, '?concurrent_tasks=4');
  assert.equal(sent.fileName, 'archive.tar.gz');
  assert.equal(
    isSignedBy(publicKeyOf(sent.hotkey) ?? new Uint8Array(32), sent.hotkey + sent.nonce, sent.signature),
    true,
  );
  const [{ vote }] = json() as [{ vote: Record<string, unknown> }];
  assert.equal(vote['archive_hash'], sent.sha256);
  assert.deepEqual([vote['status'], vote['votes'], vote['required']], ['pending_consensus', 1, 2]);
  assert.deepEqual(await readdir(temp), []);
});

test('an archive goes out byte for byte, its format told by its content', async (t) => {
  const { file, sha256 } = await gzip(t);
  const server = await startContractServer(t, {
    submit: (response, sent) => sendJson(response, 202, { ...approved, note: `late\u001b[2J ${sent.sha256}` }),
  });
  const { code, stdout } = await runClient(['submit', file, ...KEY, '--url', server.url]);
  assert.equal(code, EXIT.ok);
  assert.equal(server.submitted[0]?.sha256, sha256);
  assert.equal(server.submitted[0]?.query, '');
  assert.match(stdout, new RegExp(`quorum: 2 votes, 2 needed; batch ${BATCH}, 1 task, 2 at a time`));
  assert.match(stdout, /late\\x1b/);
});

test('what is no archive is refused before anything is sent', async (t) => {
  const file = join(await tempDir(t), 'a.zip');
  await writeFile(file, 'hello');
  for (const path of [file, '/nowhere/at/all']) {
    const { code, stderr } = await runClient(['submit', path, ...KEY, '--url', 'http://127.0.0.1:1']);
    assert.equal(code, EXIT.usage);
    assert.ok(stderr.includes(path));
  }
});

test('a server that is not ready is asked again, with a new nonce each time', async (t) => {
  const { file } = await gzip(t);
  const server = await startContractServer(t, {
    submit: (response, { sha256 }, index) => {
      if (index === 0)
        sendJson(response, 503, { error: 'whitelist_not_ready', message: 'wait' }, { 'retry-after': '0' });
      else if (index === 1) response.destroy();
      else sendJson(response, 202, pending(sha256));
    },
  });
  const { code, stderr } = await runClient(['submit', file, ...KEY, '--url', server.url]);
  assert.equal(code, EXIT.ok, stderr);
  assert.equal(new Set(server.submitted.map(({ nonce }) => nonce)).size, 3);
  assert.match(stderr, /whitelist_not_ready: wait; trying again/);
});

test('a refusal is not tried again and says what the server said', async (t) => {
  const { file } = await gzip(t);
  const server = await startContractServer(t, {
    submit: (response) => sendJson(response, 401, { error: 'unauthorized_hotkey', message: 'not whitelisted' }),
  });
  const { code, stderr, json } = await runClient(['submit', file, ...KEY, '--url', server.url, '--json']);
  assert.equal(code, EXIT.refused);
  assert.match(stderr, /401 unauthorized_hotkey: not whitelisted/);
  assert.equal(server.submitted.length, 1);
  const [document] = json() as [Record<string, unknown>];
  assert.deepEqual(
    [document['error'], document['status'], document['server_error']],
    ['refused', 401, 'unauthorized_hotkey'],
  );
});

test('a vote counted for other bytes than were sent is an error', async (t) => {
  const { file } = await gzip(t);
  const server = await startContractServer(t, {
    submit: (response) => sendJson(response, 202, pending('0'.repeat(64))),
  });
  const { code } = await runClient(['submit', file, ...KEY, '--url', server.url]);
  assert.equal(code, EXIT.refused);
});

test('--timeout ends the waiting with its own exit code', async (t) => {
  const { file } = await gzip(t);
  const server = await startContractServer(t, { submit: () => undefined });
  const { code, stderr } = await runClient(['submit', file, ...KEY, '--url', server.url, '--timeout', '1']);
  assert.equal(code, EXIT.timeout);
  assert.match(stderr, /--timeout/);
});

const ALICE = '5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY';
const event = (seq: number, type: string | null, data: object = {}): string =>
  `${JSON.stringify({ seq, type, data })}\n`;
/** An earlier round that Alice voted in and that expired, then the one that is open. */
const HISTORY = [
  event(3, 'VoteCast', { round: 1, hotkey: ALICE }),
  event(5, 'VoteRoundExpired', { round: 1 }),
  event(6, 'VoteCast', { round: 2, hotkey: ALICE }),
].join('');

test('--follow waits for the quorum over a broken connection, then shows the batch to its end', async (t) => {
  const { file, sha256 } = await gzip(t);
  const server = await startContractServer(t, {
    submit: (response, sent) => sendJson(response, 202, pending(sent.sha256)),
    events: (response, index) => {
      response.writeHead(200, { 'content-type': 'application/x-ndjson' });
      if (index === 0) response.end(HISTORY);
      else if (index === 1) {
        const lines = event(8, 'VoteCast', { round: 2, hotkey: 'x' }) + event(9, null);
        response.write(lines, () => setTimeout(() => response.destroy(), 50));
      } else response.write(event(12, 'QuorumReached', { batchId: BATCH }));
    },
    feed: (socket) => {
      socket.send(feed(20, 'batch_started', { total_tasks: 1, concurrent_limit: 1 }));
      socket.send(feed(21, 'batch_complete', { status: 'completed', total: 1, passed: 1, failed: 0, reward: 1 }));
    },
    json: results(1),
  });
  const { code, stderr, json } = await runClient(['submit', file, ...KEY, '--url', server.url, '--follow', '--json']);
  assert.equal(code, EXIT.ok, stderr);
  const query = (after: number, follow: boolean): string =>
    `?subject=ev.submission.${sha256}&after=${after}&follow=${follow}`;
  assert.deepEqual(server.eventQueries, [query(0, false), query(6, true), query(9, true)]);
  const documents = json() as Record<string, unknown>[];
  assert.deepEqual(
    documents.map((document) => document['event'] ?? Object.keys(document)[0]),
    ['vote', 'batch_started', 'batch_complete', 'result'],
  );
});

test('--follow finds a quorum that was reached while the answer to the vote was on its way', async (t) => {
  const { file } = await gzip(t);
  const server = await startContractServer(t, {
    submit: (response, sent) => sendJson(response, 202, pending(sent.sha256)),
    events: (response) => response.end(HISTORY + event(7, 'QuorumReached', { round: 2, batchId: BATCH })),
    feed: (socket) => socket.send(feed(9, 'batch_complete', { status: 'completed' })),
    json: results(1),
  });
  const { code, stderr } = await runClient(['submit', file, ...KEY, '--url', server.url, '--follow']);
  assert.equal(code, EXIT.ok, stderr);
  assert.equal(server.eventQueries.length, 1);
});

test('--follow exits 1 when the round expires, and when a task fails', async (t) => {
  const { file } = await gzip(t);
  const expired = await startContractServer(t, {
    submit: (response, sent) => sendJson(response, 202, pending(sent.sha256)),
    events: (response, index) =>
      void (index === 0 ? response.end(HISTORY) : response.write(event(8, 'VoteRoundExpired', { round: 2 }))),
  });
  const first = await runClient(['submit', file, ...KEY, '--url', expired.url, '--follow', '--json']);
  assert.equal(first.code, EXIT.failed);
  assert.equal((first.json().at(-1) as { error: string }).error, 'vote_round_expired');

  const failing = await startContractServer(t, {
    submit: (response) => sendJson(response, 202, approved),
    feed: (socket) => socket.send(feed(9, 'batch_complete', { status: 'completed' })),
    json: results(0),
  });
  const second = await runClient(['submit', file, ...KEY, '--url', failing.url, '--follow']);
  assert.equal(second.code, EXIT.failed);
  assert.match(second.stdout, /completed: 0 of 1 passed, aggregate reward 0/);
});

test('nobody listening is told apart from a refusal', async (t) => {
  const { file } = await gzip(t);
  const { code, stderr } = await runClient(['submit', file, ...KEY, '--url', 'http://127.0.0.1:9', '--timeout', '60']);
  assert.equal(code, EXIT.unreachable);
  assert.match(stderr, /cannot reach http:\/\/127\.0\.0\.1:9/);
});
