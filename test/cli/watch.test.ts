import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EXIT } from '../../src/cli/exit-codes.ts';
import { startContractServer } from '../client/contract-server.ts';
import { runClient } from './run-client.ts';

const BATCH = '0198f0a2-7c1e-7d3a-9f52-3c6a1b2d4e5f';
const message = (seq: number, event: string, data: object = {}, task_id?: string): string =>
  JSON.stringify({ seq, event, batch_id: BATCH, ...(task_id === undefined ? {} : { task_id }), data });
const batch = (status: string, passed: number) => ({
  batch_id: BATCH,
  status,
  total_tasks: 2,
  completed_tasks: 2,
  passed_tasks: passed,
  failed_tasks: 2 - passed,
  aggregate_reward: passed / 2,
  error: null,
  duration_ms: 1234,
});
const tasks = [
  { task_id: 'a', status: 'completed', passed: true, reward: 1, error: null, cause: null, duration_ms: 5 },
  { task_id: 'b', status: 'failed', passed: false, reward: 0, error: 'no\u001b[2J', cause: 'tests', duration_ms: 6 },
];

function answers(status: () => string, passed = 1) {
  return (path: string): unknown => {
    if (path === `/batch/${BATCH}`) return batch(status(), passed);
    if (path === `/batch/${BATCH}/tasks`) return { tasks };
    return undefined;
  };
}

test('a feed that is cut is resumed after the last sequence, and nothing comes twice', async (t) => {
  let status = 'running';
  const server = await startContractServer(t, {
    feed: (socket, index) => {
      if (index === 0) {
        socket.send(message(3, 'snapshot', { status: 'running' }));
        socket.send(message(4, 'task_started', { attempt: 1 }, 'a'));
        socket.send(message(5, 'step_finished', { kind: 'clone', name: 'r', exit_code: 0, duration_ms: 9 }, 'a'), () =>
          socket.terminate(),
        );
        return;
      }
      status = 'completed';
      // A repeat, as a less careful server might send it.
      socket.send(message(5, 'step_finished', {}, 'a'));
      socket.send(message(6, 'task_complete', { status: 'completed', passed: true, reward: 1 }, 'a'));
      socket.send(message(7, 'batch_complete', { status: 'completed', passed: 1, failed: 1 }));
    },
    json: answers(() => status),
  });
  const { code, stderr, json } = await runClient(['watch', BATCH, '--url', server.url, '--json']);
  assert.equal(code, EXIT.failed, stderr);
  assert.deepEqual(server.feeds, [`?batch_id=${BATCH}`, `?batch_id=${BATCH}&after=5`]);
  const documents = json() as { seq?: number; result?: { good: boolean; tasks: unknown[] } }[];
  assert.deepEqual(
    documents.map(({ seq }) => seq),
    [3, 4, 5, 6, 7, undefined],
  );
  assert.equal(documents.at(-1)?.result?.good, false);
  assert.deepEqual(documents.at(-1)?.result?.tasks, tasks);
  assert.match(stderr, /resuming after sequence 5/);
});

test('what was said while the connection was down still comes, also when the batch has ended by then', async (t) => {
  const server = await startContractServer(t, {
    feed: (socket, index) => {
      if (index === 0) socket.send(message(4, 'task_started', {}, 'a'), () => socket.terminate());
      else {
        for (const seq of [5, 6]) socket.send(message(seq, 'task_complete', { passed: true, reward: 1 }, 'a'));
        socket.send(message(7, 'batch_complete', { status: 'completed' }));
      }
    },
    json: answers(() => 'completed', 2),
  });
  const { code, json } = await runClient(['watch', BATCH, '--url', server.url, '--json']);
  assert.equal(code, EXIT.ok);
  assert.deepEqual(
    (json() as { seq?: number }[]).map(({ seq }) => seq),
    [4, 5, 6, 7, undefined],
  );
});

test('people get lines and a table without control characters from the server, and no colours in a pipe', async (t) => {
  const server = await startContractServer(t, {
    feed: (socket) => {
      socket.send(message(4, 'task_started', { attempt: 2 }, 'a\u001b]0;x\u0007'));
      socket.send(message(5, 'something_new', { x: 1 }));
      socket.send('no json');
    },
    json: answers(() => 'completed'),
  });
  const { code, stdout } = await runClient(['watch', BATCH, '--url', server.url]);
  assert.equal(code, EXIT.failed);
  assert.match(stdout, /^a\\x1b\]0;x\\x07: started \(attempt 2\)$/m);
  assert.match(stdout, /^b +failed +0 +tests +6 ms +no\\x1b\[2J$/m);
  assert.match(stdout, /^completed: 1 of 2 passed, aggregate reward 0.5 in 1.2 s$/m);
  assert.equal(/[^\n\P{Cc}]/u.test(stdout), false);
});

test('an unknown batch is refused', async (t) => {
  const server = await startContractServer(t, {
    feed: (socket) => {
      socket.send(JSON.stringify({ error: 'batch_not_found', batch_id: 'nope' }));
      socket.close();
    },
  });
  const { code, json } = await runClient(['watch', 'nope', '--url', server.url, '--json']);
  assert.equal(code, EXIT.refused);
  assert.equal((json()[0] as { error: string }).error, 'batch_not_found');
});

test('an interrupt ends the watching with its own exit code', async (t) => {
  const server = await startContractServer(t, {
    feed: (socket) => socket.send(message(4, 'task_started', {}, 'a')),
    json: answers(() => 'running'),
  });
  const { code, stderr } = await runClient(['watch', BATCH, '--url', server.url], {
    onStdout: (_, kill) => kill('SIGINT'),
  });
  assert.equal(code, EXIT.interrupted);
  assert.match(stderr, /interrupted by SIGINT/);
});
