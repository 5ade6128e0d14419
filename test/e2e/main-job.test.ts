import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, test } from 'node:test';
import WebSocket from 'ws';
import { makeSubmission, SOLVED_TEST } from '../support/submissions.ts';
import { makeValidators, startServer, submit, vote, waitFor, waitForEnd, type TestServer } from '../support/server.ts';
import { temporaryDirectory } from '../support/tmp.ts';

interface Message {
  readonly event: string;
  readonly seq?: number;
  readonly task_id?: string;
  readonly data: Record<string, unknown>;
}

/** Every message until the server closes the socket. */
function listen(server: TestServer, query: string): Promise<readonly Message[]> {
  const socket = new WebSocket(`${server.url.replace('http', 'ws')}/ws?${query}`);
  const messages: Message[] = [];
  return new Promise((resolve, reject) => {
    socket.on('message', (data: Buffer) => messages.push(JSON.parse(data.toString('utf8')) as Message));
    socket.on('error', reject);
    socket.on('close', () => resolve(messages));
  });
}

const TASKS = {
  'solved.v1': {},
  'with a space': { files: { 'checks.txt': '# a comment\ngrep -q solved solved.txt\ntrue\n' } },
  'ünïcode *>': { files: {}, workspace: 'fail_to_pass: ["grep -q solved solved.txt"]\npass_to_pass: ["true"]\n' },
  partial: { files: { 'tests/part.sh': 'echo 0.25 > "$REWARD_DIR/reward.txt"; exit 1\n' } },
  failing: { files: { 'tests/a.sh': 'echo output of a; exit 3\n', 'tests/b.sh': 'true\n' } },
};

describe('the main job', () => {
  test('two of three votes run the archive, and every route tells the same story', async (t) => {
    const dir = temporaryDirectory(t);
    const validators = await makeValidators(3);
    const [first, second, third] = validators;
    assert.ok(first && second && third);
    const server = await startServer(t, { validators, dataDir: `${dir}/data` });
    const { file } = await makeSubmission(dir, { tasks: TASKS });

    const pending = await submit(server.url, first, file);
    assert.deepEqual([pending.status, pending.body['status']], [202, 'pending_consensus']);
    assert.deepEqual(
      [pending.body['votes'], pending.body['required'], pending.body['total_validators']],
      [1, 2, 3],
      JSON.stringify(pending.body),
    );
    const again = await submit(server.url, first, file);
    assert.equal(again.body['note'], 'Your vote was already recorded');
    assert.equal(again.body['votes'], 1);

    const quorum = await submit(server.url, second, file, { query: '?concurrent_tasks=2' });
    const batchId = String(quorum.body['batch_id']);
    assert.deepEqual(quorum.body, {
      batch_id: batchId,
      total_tasks: 5,
      concurrent_tasks: 8,
      ws_url: `/ws?batch_id=${batchId}`,
      consensus_reached: true,
      votes: 2,
      required: 2,
    });
    const feed = listen(server, `batch_id=${batchId}`);
    const late = await submit(server.url, third, file);
    assert.equal(late.body['batch_id'], batchId);
    assert.ok(typeof late.body['note'] === 'string');

    const batch = await waitForEnd(server, batchId);
    assert.ok(Number(batch['duration_ms']) > 0);
    assert.partialDeepStrictEqual(batch, {
      batch_id: batchId,
      status: 'completed',
      total_tasks: 5,
      completed_tasks: 5,
      passed_tasks: 3,
      failed_tasks: 2,
      aggregate_reward: (1 + 1 + 1 + 0.25 + 0) / 5,
      error: null,
    });

    const { tasks } = await server.get<{ tasks: Record<string, unknown>[] }>(`/batch/${batchId}/tasks`);
    const fields = ['task_id', 'status', 'passed', 'reward', 'test_output', 'agent_output', 'agent_patch', 'error'];
    for (const task of tasks) for (const field of [...fields, 'duration_ms']) assert.ok(field in task, field);
    const outcome = Object.fromEntries(tasks.map((task) => [task['task_id'], [task['status'], task['reward']]]));
    assert.deepEqual(outcome, {
      failing: ['failed', 0],
      partial: ['failed', 0.25],
      'solved.v1': ['completed', 1],
      'with a space': ['completed', 1],
      'ünïcode *>': ['completed', 1],
    });

    for (const taskId of Object.keys(TASKS)) {
      const path = `/batch/${batchId}/task/${encodeURIComponent(taskId)}`;
      const task = await server.get<{
        agent_output: string;
        agent_patch: string;
        test_results: { name: string; passed: boolean; output: string; exit_code: number }[];
        steps: { kind: string }[];
        attempts: unknown[];
      }>(path);
      assert.equal(task.agent_output, `working on ${taskId}\n`);
      assert.match(task.agent_patch, /\+solved/);
      assert.equal(task.attempts.length, 1);
      assert.deepEqual(
        task.steps.slice(0, 3).map(({ kind }) => kind),
        ['clone', 'checkout', 'agent'],
      );
      if (taskId !== 'failing') continue;
      assert.deepEqual(
        task.test_results.map(({ name, passed, output, exit_code: code }) => [name, passed, output, code]),
        [
          ['a.sh', false, 'output of a\n', 3],
          ['b.sh', true, '', 0],
        ],
      );
      const output = await fetch(`${server.url}${path}/steps/3/output`);
      assert.equal(await output.text(), 'output of a\n');
    }

    const verify = await server.get<{ results_hash: string; task_summaries: { task_id: string }[] }>(
      `/verify/${batchId}`,
    );
    const hash = createHash('sha256').update(batchId);
    const reward = Buffer.alloc(8);
    for (const [id, passed, value] of [
      ['failing', '0', 0],
      ['partial', '0', 0.25],
      ['solved.v1', '1', 1],
      ['with a space', '1', 1],
      ['ünïcode *>', '1', 1],
    ] as const) {
      reward.writeDoubleLE(value);
      hash.update(id).update(passed).update(reward);
    }
    assert.equal(verify.results_hash, hash.digest('hex'));

    const messages = await feed;
    assert.equal(messages[0]?.event, 'snapshot');
    assert.equal(messages.at(-1)?.event, 'stream_closed');
    assert.equal(messages.at(-2)?.event, 'batch_complete');
    const numbers = messages.slice(0, -1).map(({ seq }) => Number(seq));
    assert.deepEqual(
      numbers,
      [...new Set(numbers)].toSorted((a, b) => a - b),
      'in order and none twice',
    );
    assert.equal(messages.filter(({ event }) => event === 'task_complete').length, 5);
    // What was sent is what the log has: resuming after the snapshot gives the same messages once more.
    const resumed = await listen(server, `batch_id=${batchId}&after=${numbers[0]}`);
    assert.deepEqual(resumed, messages.slice(1));

    const status = await server.get('/status');
    assert.deepEqual([status['total_batches'], status['completed_batches']], [1, 1]);
    assert.deepEqual([status['tasks_passed'], status['tasks_failed']], [3, 2]);
    const metrics = await (await fetch(`${server.url}/metrics`)).text();
    for (const line of ['batches_total 1', 'tasks_total 5', 'tasks_passed 3', 'tasks_failed 2', 'batches_active 0']) {
      assert.match(metrics, new RegExp(`^term_executor_${line}$`, 'm'));
    }
    const batches = await server.get<{ batch_id: string; created_at: string; status: string }[]>('/batches');
    assert.deepEqual(
      batches.map(({ batch_id: id, status: state }) => [id, state]),
      [[batchId, 'completed']],
    );
    assert.equal((await server.get('/health'))['status'], 'ok');
    for (const field of [
      'version',
      'image',
      'image_digest',
      'uptime_secs',
      'hostname',
      'max_concurrent_tasks',
      'netuid',
    ]) {
      assert.ok(field in (await server.get('/instance')), field);
    }
    assert.equal(await server.stop(), 0);
  });

  test('at most MAX_ACTIVE_BATCHES run, the others wait in the order of their approval', async (t) => {
    const dir = temporaryDirectory(t);
    const validators = await makeValidators(1);
    const server = await startServer(t, { validators, dataDir: `${dir}/data` });
    const batches: string[] = [];
    for (const name of ['one', 'two', 'three']) {
      const { file } = await makeSubmission(temporaryDirectory(t), { tasks: { [name]: { files: SOLVED_TEST } } });
      batches.push(await vote(server, validators, file));
    }
    for (const batchId of batches) assert.equal((await waitForEnd(server, batchId)).status, 'completed');
    const response = await fetch(`${server.url}/events?subject=ev.batch.*`);
    const events = (await response.text())
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line) as { type: string; data: { batchId: string } })
      .filter(({ type }) => type === 'BatchStarted' || type === 'BatchCompleted')
      .map(({ type, data }) => `${type} ${batches.indexOf(data.batchId)}`);
    const expected = [0, 1, 2].flatMap((index) => [`BatchStarted ${index}`, `BatchCompleted ${index}`]);
    assert.deepEqual(events, expected);
  });

  test('a voter cancels a running batch: its agent is stopped, its tasks are cancelled, the next batch runs', async (t) => {
    const dir = temporaryDirectory(t);
    const validators = await makeValidators(2);
    const [voter, other] = validators;
    assert.ok(voter && other);
    const server = await startServer(t, { validators, dataDir: `${dir}/data`, env: { CONSENSUS_THRESHOLD: '0.5' } });
    const slow = { 'agent.sh': 'sleep 600\n' };
    const { file } = await makeSubmission(dir, { agent: slow, tasks: { a: {}, b: {}, c: {} } });
    const batchId = await vote(server, [voter], file, '?concurrent_tasks=2');
    const running = async (): Promise<true | null> => {
      const { tasks } = await server.get<{ tasks: { status: string }[] }>(`/batch/${batchId}/tasks`);
      return tasks.filter(({ status }) => status === 'running_agent').length === 2 ? true : null;
    };
    await waitFor(running, () => server.log());

    const cancel = (by: typeof voter): Promise<Response> =>
      fetch(`${server.url}/batch/${batchId}/cancel`, { method: 'POST', headers: by.headers() });
    assert.equal((await cancel(other)).status, 403);
    assert.equal((await cancel(voter)).status, 200);
    assert.equal((await cancel(voter)).status, 409);
    assert.equal((await waitForEnd(server, batchId)).status, 'cancelled');
    const { tasks } = await server.get<{ tasks: { status: string }[] }>(`/batch/${batchId}/tasks`);
    assert.deepEqual(
      tasks.map(({ status }) => status),
      ['cancelled', 'cancelled', 'cancelled'],
    );
    const next = await makeSubmission(temporaryDirectory(t), { tasks: { next: {} } });
    const nextId = await vote(server, [voter], next.file);
    assert.equal((await waitForEnd(server, nextId)).status, 'completed');
  });
});
