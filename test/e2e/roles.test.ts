/** Several processes with one role each on one NATS: work is shared, survives a death, and nothing counts twice. */
import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { test } from 'node:test';
import { startNats } from '../support/nats.ts';
import { countByTask, eventsOf, onceEach, type LoggedEvent } from '../support/program.ts';
import { makeValidators, startServer, submit, vote, waitFor, waitForEnd, type TestServer } from '../support/server.ts';
import { makeSubmission, slowTasks } from '../support/submissions.ts';
import { temporaryDirectory } from '../support/tmp.ts';

const TASKS = 8;
const SLOTS_EACH = 2;

/** The executors whose attempts were started, by task. */
function executors(events: readonly LoggedEvent[]): Readonly<Record<string, readonly string[]>> {
  const by: Record<string, string[]> = {};
  for (const { type, data } of events) {
    if (type === 'TaskStarted') (by[data.taskId ?? ''] ??= []).push(data.executorId ?? '');
  }
  return by;
}

test('two http, a planner and two executors, each a process with its own directories', async (t) => {
  const dir = temporaryDirectory(t);
  const nats = await startNats(t);
  const validators = await makeValidators(3);
  const start = (name: string, ...args: string[]): Promise<TestServer> =>
    startServer(t, {
      validators,
      dataDir: `${dir}/${name}`,
      args,
      env: {
        NATS_URL: nats.url,
        NATS_TOKEN: nats.token,
        EXECUTOR_ID: name,
        MAX_CONCURRENT_TASKS: args[0] === 'work' ? String(SLOTS_EACH) : '8',
      },
    });
  const [http, otherHttp, , first, second] = await Promise.all([
    start('http-1', 'serve', '--roles', 'http'),
    start('http-2', 'serve', '--roles', 'http'),
    start('planner', 'serve', '--roles', 'planner'),
    start('first', 'work'),
    start('second', 'work'),
  ]);
  /** A submission whose agents write their mark into `marks` and then wait until `until` holds in the shell. */
  const submission = async (name: string, until: string): Promise<{ file: string; marks: string }> => {
    const marks = `${dir}/${name}-marks`;
    await mkdir(marks);
    const wait = `cd "${marks}"; touch "at-$TASK_ID"; until ${until}; do sleep 0.05; done\n`;
    const agent = { 'agent.sh': `(${wait})\necho "solved $TASK_ID" > solved.txt\n` };
    const { file } = await makeSubmission(temporaryDirectory(t), { ...slowTasks(TASKS, 0), agent });
    return { file, marks };
  };

  await t.test('both executors run a batch together, each task once', async () => {
    // More tasks at a time than one executor has slots: no agent goes on before both executors are at work.
    const { file } = await submission('shared', `[ "$(ls | wc -l)" -ge ${2 * SLOTS_EACH} ]`);
    const batchId = await vote(http, validators, file, `?concurrent_tasks=${2 * SLOTS_EACH}`);
    const batch = await waitForEnd(http, batchId);
    assert.deepEqual([batch.status, batch['passed_tasks']], ['completed', TASKS]);
    const events = await eventsOf(http, batchId);
    const by = executors(events);
    assert.deepEqual(new Set(Object.values(by).flat()), new Set(['first', 'second']));
    for (const type of ['TaskStarted', 'TaskFinished', 'BatchTaskFinished']) {
      assert.deepEqual(countByTask(events, type), onceEach(TASKS), type);
    }
  });

  await t.test('a vote through each http completes the quorum once, and a nonce is spent on both', async () => {
    const { file } = await submission('votes', 'true');
    const [one, two, three] = validators;
    assert.ok(one && two && three);
    const answers = await Promise.all([
      submit(http.url, one, file),
      submit(otherHttp.url, two, file),
      submit(otherHttp.url, three, file),
    ]);
    assert.deepEqual(
      answers.map(({ status }) => status),
      [202, 202, 202],
      JSON.stringify(answers),
    );
    const ids = answers.flatMap(({ body }) => (typeof body['batch_id'] === 'string' ? [body['batch_id']] : []));
    assert.equal(new Set(ids).size, 1, JSON.stringify(answers));
    const batchId = ids[0] ?? '';
    const [batch, same] = await Promise.all([waitForEnd(http, batchId), waitForEnd(otherHttp, batchId)]);
    assert.deepEqual(batch, same);
    assert.deepEqual([batch.status, batch['passed_tasks']], ['completed', TASKS]);
    const events = await eventsOf(otherHttp, batchId);
    for (const type of ['QuorumReached', 'BatchApproved', 'BatchPlanned', 'BatchStarted', 'BatchCompleted']) {
      assert.equal(events.filter((event) => event.type === type).length, 1, type);
    }

    const headers = one.headers('the-same-nonce');
    assert.equal((await submit(http.url, one, file, { headers })).status, 202);
    const replayed = await submit(otherHttp.url, one, file, { headers });
    assert.deepEqual([replayed.status, replayed.body['error']], [401, 'nonce_reused']);
  });

  await t.test('kill -9 of one executor: the other takes its tasks over, each counts once', async () => {
    const { file, marks } = await submission('killed', '[ -e go ]');
    const batchId = await vote(otherHttp, validators, file, `?concurrent_tasks=${2 * SLOTS_EACH}`);
    const started = async (): Promise<LoggedEvent[] | null> => {
      const events = (await eventsOf(http, batchId)).filter(({ type }) => type === 'TaskStarted');
      return events.length === 2 * SLOTS_EACH ? events : null;
    };
    const before = executors(await waitFor(started, () => first.log() + second.log()));
    await first.kill();
    await writeFile(`${marks}/go`, '');
    const batch = await waitForEnd(otherHttp, batchId);
    assert.deepEqual([batch.status, batch['passed_tasks']], ['completed', TASKS]);
    const events = await eventsOf(http, batchId);
    const expected = Object.fromEntries(
      Object.keys(onceEach(TASKS)).map((id) => [id, before[id]?.[0] === 'first' ? ['first', 'second'] : ['second']]),
    );
    assert.deepEqual(executors(events), expected);
    assert.equal(Object.values(before).filter(([by]) => by === 'first').length, SLOTS_EACH);
    for (const type of ['TaskFinished', 'BatchTaskFinished']) {
      assert.deepEqual(countByTask(events, type), onceEach(TASKS), type);
    }
  });
});
