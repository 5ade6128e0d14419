import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Event } from '../../src/events.ts';
import { openStore, type StoredQueries } from '../../src/projections/store.ts';
import { ARCHIVE_HASH, BATCH_ID, START_MS, batchIdOf, make, makePlan, sha256 } from '../support/events.ts';
import { record } from './array-log.ts';

/** The queries over the tables that these events lead to. Event n is at sequence n, n seconds after START_MS. */
function given(events: readonly Event[]): StoredQueries {
  const store = openStore(':memory:');
  store.apply(record(events));
  return store.queries;
}

const approved = make('BatchApproved');
const plannedTwo = makePlan(['task-b', 'task-a']);
const startedTwo = make('BatchStarted', { totalTasks: 2 });
const running = [approved, plannedTwo, startedTwo];

test('a batch goes from pending over extracting and queued to running', () => {
  const parts = [makePlan(['a', 'b'], { part: 1, parts: 2 }), makePlan(['c'], { part: 2, parts: 2 })];
  const story = [approved, ...parts, make('BatchStarted', { totalTasks: 3, concurrentTasks: 1 })];
  const states = story.map((_, index) => {
    const batch = given(story.slice(0, index + 1)).batch(BATCH_ID);
    return [batch?.status, batch?.totalTasks, batch?.lastSeq];
  });
  assert.deepEqual(states, [
    ['pending', 0, 1],
    ['extracting', 2, 2],
    ['queued', 3, 3],
    ['running', 3, 4],
  ]);
  assert.deepEqual(
    given(story)
      .tasks(BATCH_ID)
      .map((task) => [task.taskId, task.status]),
    [
      ['a', 'queued'],
      ['b', 'queued'],
      ['c', 'queued'],
    ],
  );
});

test('finished tasks are counted and the completion fixes reward and duration', () => {
  const story = [
    ...running,
    make('BatchTaskFinished', { taskId: 'task-a' }),
    make('BatchTaskFinished', { taskId: 'task-b', passed: false, reward: 0.25 }),
  ];
  const before = given(story).batch(BATCH_ID);
  assert.deepEqual([before?.completedTasks, before?.passedTasks, before?.failedTasks], [2, 1, 1]);
  const completion = { totalTasks: 2, passedTasks: 1, failedTasks: 1, aggregateReward: 0.625, durationMs: 4321 };
  const queries = given([...story, make('BatchCompleted', completion)]);
  assert.deepEqual(queries.batch(BATCH_ID), {
    batchId: BATCH_ID,
    archiveHash: ARCHIVE_HASH,
    status: 'completed',
    createdAt: '2026-01-01T00:00:01.000Z',
    concurrentTasks: 2,
    totalTasks: 2,
    completedTasks: 2,
    passedTasks: 1,
    failedTasks: 1,
    aggregateReward: 0.625,
    error: null,
    durationMs: 4321,
    firstSeq: 1,
    lastSeq: 6,
  });
  assert.deepEqual(queries.totals(), {
    totalBatches: 1,
    activeBatches: 0,
    queuedBatches: 0,
    completedBatches: 1,
    tasksPassed: 1,
    tasksFailed: 1,
    durationMsSum: 4321,
  });
});

test('counts never exceed the number of tasks', () => {
  const queries = given([...running, ...Array.from({ length: 5 }, () => make('BatchTaskFinished'))]);
  const batch = queries.batch(BATCH_ID);
  assert.deepEqual([batch?.completedTasks, batch?.passedTasks, batch?.failedTasks], [2, 2, 0]);
});

test('a rejected, a cancelled and an expired batch say why and for how long they ran', () => {
  const ends = (events: readonly Event[]) => {
    const batch = given(events).batch(BATCH_ID);
    return [batch?.status, batch?.error, batch?.durationMs];
  };
  assert.deepEqual(ends([approved, make('BatchRejected')]), ['failed', 'tasks/a: prompt.md is missing', null]);
  assert.deepEqual(ends([approved, make('BatchCancelled')]), ['cancelled', 'no longer wanted', null]);
  assert.deepEqual(ends([...running, make('BatchCancelled', { reason: '' })]), ['cancelled', null, 1000]);
  const expired = [...running, make('BatchTaskFinished'), make('BatchExpired')];
  assert.deepEqual(ends(expired), ['failed', 'the batch did not finish within its time', 2000]);
});

test('a batch ends once: later events move its last sequence and nothing else', () => {
  const cancelled = [...running, make('BatchCancelled')];
  const late = [
    make('TaskFinished'),
    make('BatchTaskFinished'),
    make('BatchStarted'),
    make('BatchExpired'),
    make('BatchCompleted'),
  ];
  const [before, after] = [given(cancelled), given([...cancelled, ...late])];
  assert.deepEqual(after.batch(BATCH_ID), { ...before.batch(BATCH_ID), lastSeq: 9 });
  assert.deepEqual(after.tasks(BATCH_ID), before.tasks(BATCH_ID));
  assert.deepEqual(after.totals(), before.totals());
  assert.deepEqual(after.feed(BATCH_ID, 0), before.feed(BATCH_ID, 0));
});

test('the kind of the running step is the status of its task', () => {
  const kinds = ['clone', 'checkout', 'install', 'agent', 'tests'] as const;
  const statuses = kinds.map((kind, step) => {
    const story = [...running, make('TaskStarted'), make('StepStarted', { step, kind })];
    return given(story).task(BATCH_ID, 'task-a')?.status;
  });
  assert.deepEqual(statuses, ['cloning_repo', 'cloning_repo', 'installing_deps', 'running_agent', 'running_tests']);
});

test('a finished task has its result, its steps and what they put out', () => {
  const output = { digest: sha256('output'), bytes: 12, omittedBytes: 3 };
  const patch = { digest: sha256('patch'), bytes: 99, omittedBytes: 0 };
  const result = { passed: false, reward: 0.5, cause: 'tests', error: '1 of 2 tests failed' } as const;
  const story = [
    ...running,
    make('TaskStarted'),
    make('StepStarted'),
    make('StepFinished', { exitCode: null, signal: 'SIGKILL', cause: 'max-duration', error: 'too long', output }),
    make('TaskFinished', { ...result, warnings: ['ran 0 tests'], patch }),
  ];
  assert.deepEqual(given(story).task(BATCH_ID, 'task-a'), {
    batchId: BATCH_ID,
    taskId: 'task-a',
    status: 'failed',
    ...result,
    warnings: ['ran 0 tests'],
    durationMs: 900,
    attempt: 1,
    patch,
    steps: [
      {
        attempt: 1,
        step: 0,
        kind: 'clone',
        name: 'https://example.org/repo.git',
        status: 'finished',
        exitCode: null,
        signal: 'SIGKILL',
        startedAt: '2026-01-01T00:00:05.000Z',
        durationMs: 100,
        cause: 'max-duration',
        error: 'too long',
        output,
      },
    ],
  });
});

test('a retry shows the steps of the new attempt, keeps both attempts, and the old one can no longer end the task', () => {
  const story = [
    ...running,
    make('TaskStarted'),
    make('StepStarted', { name: 'first' }),
    make('TaskStarted', { attempt: 2, executorId: 'executor-2' }),
    make('StepStarted', { attempt: 2, name: 'second' }),
    make('TaskFinished', { attempt: 1 }),
    make('StepFinished', { attempt: 1, exitCode: 1 }),
    make('TaskHandedBack', { attempt: 1 }),
  ];
  const queries = given(story);
  const task = queries.task(BATCH_ID, 'task-a');
  assert.deepEqual([task?.status, task?.attempt, task?.passed], ['cloning_repo', 2, null]);
  assert.deepEqual(
    task?.steps.map(({ attempt, name, status }) => [attempt, name, status]),
    [[2, 'second', 'running']],
  );
  assert.deepEqual(
    queries.attempts(BATCH_ID, 'task-a').map(({ attempt, executorId }) => [attempt, executorId]),
    [
      [1, 'executor-1'],
      [2, 'executor-2'],
    ],
  );
  assert.deepEqual(queries.tasks(BATCH_ID)[1], task);
});

test('tasks that had not finished end with their batch, those that had keep their result', () => {
  const story = [...running, make('TaskStarted'), make('TaskFinished')];
  const rows = (end: Event) =>
    given([...story, end])
      .tasks(BATCH_ID)
      .map(({ taskId, status, passed, cause }) => [taskId, status, passed, cause]);
  const kept = ['task-a', 'completed', true, null];
  assert.deepEqual(rows(make('BatchCancelled')), [['task-b', 'cancelled', false, 'cancelled'], kept]);
  assert.deepEqual(rows(make('BatchExpired')), [['task-b', 'failed', false, 'max-duration'], kept]);
  assert.deepEqual(rows(make('BatchRejected')), [['task-b', 'failed', false, null], kept]);
});

test('an abandoned task has failed for the reason given', () => {
  const task = given([...running, make('TaskAbandoned')]).task(BATCH_ID, 'task-a');
  assert.deepEqual(
    [task?.status, task?.passed, task?.cause, task?.error],
    ['failed', false, 'executor-lost', 'no executor finished it'],
  );
});

test('the proof of a quorum has the votes that made it, a late vote is stored but no part of it', () => {
  const votes = ['alice', 'bob', 'carol'].map((hotkey) => make('VoteCast', { hotkey, nonce: `nonce-${hotkey}` }));
  const [alice, bob, carol] = votes;
  assert.ok(alice && bob && carol);
  const queries = given([alice, bob, make('QuorumReached'), approved, carol]);
  const proof = queries.quorum(BATCH_ID);
  assert.deepEqual(
    proof?.votes.map(({ hotkey, nonce, seq, votedAt }) => [hotkey, nonce, seq, votedAt]),
    [
      ['alice', 'nonce-alice', 1, '2026-01-01T00:00:01.000Z'],
      ['bob', 'nonce-bob', 2, '2026-01-01T00:00:02.000Z'],
    ],
  );
  assert.deepEqual(proof && { ...proof, votes: [] }, {
    archiveHash: ARCHIVE_HASH,
    round: 1,
    votes: [],
    voters: ['alice', 'bob'],
    required: 2,
    validators: ['alice', 'bob', 'carol'],
    threshold: { numerator: 5, denominator: 10 },
    seq: 3,
  });
  assert.deepEqual(queries.openRounds(), []);
});

test('an open round counts its votes until it expires, and a new round begins at none', () => {
  const expires = START_MS + 60_000;
  const story = [make('VoteCast'), make('VoteCast', { hotkey: 'bob' }), make('VoteCast', { archiveHash: sha256('x') })];
  const first = { archiveHash: ARCHIVE_HASH, round: 1, votes: 2, expiresAtMs: expires };
  const other = { archiveHash: sha256('x'), round: 1, votes: 1, expiresAtMs: expires };
  assert.deepEqual(given(story).openRounds(), [first, other]);
  story.push(make('VoteCast', { round: 2, roundExpiresAtMs: expires + 1 }));
  const next = [make('VoteRoundExpired'), ...story.slice(3)];
  assert.deepEqual(given([...story.slice(0, 3), ...next]).openRounds(), [
    other,
    { ...first, round: 2, votes: 1, expiresAtMs: expires + 1 },
  ]);
});

test('batches come newest first, by status, and page by page', () => {
  const many = [1, 2, 3, 4, 5].map((n) => make('BatchApproved', { batchId: batchIdOf(n) }));
  const queries = given([...many, make('BatchCancelled', { batchId: batchIdOf(2) })]);
  const ids = (query: Parameters<StoredQueries['batches']>[0]) => queries.batches(query).map((batch) => batch.firstSeq);
  assert.deepEqual(ids({ limit: 10 }), [5, 4, 3, 2, 1]);
  assert.deepEqual(ids({ limit: 2 }), [5, 4]);
  assert.deepEqual(ids({ limit: 2, before: 4 }), [3, 2]);
  assert.deepEqual(ids({ status: 'pending', limit: 3 }), [5, 4, 3]);
  assert.deepEqual(ids({ status: 'pending', limit: 3, before: 3 }), [1]);
  assert.deepEqual(ids({ status: 'cancelled', limit: 3 }), [2]);
});

test('the totals tell approved, running and ended batches apart', () => {
  const of = (n: number) => ({ batchId: batchIdOf(n) });
  const story: Event[] = [1, 2, 3, 4].flatMap((n) => [make('BatchApproved', of(n)), makePlan(['a', 'b'], of(n))]);
  story.push(...[1, 2, 3].map((n) => make('BatchStarted', { ...of(n), totalTasks: 2 })));
  story.push(make('BatchTaskFinished', of(1)), make('BatchTaskFinished', { ...of(1), passed: false }));
  story.push(make('BatchCompleted', { ...of(1), totalTasks: 2, failedTasks: 1, durationMs: 700 }));
  story.push(make('BatchTaskFinished', of(2)), make('BatchExpired', of(2)));
  assert.deepEqual(given(story).totals(), {
    totalBatches: 4,
    activeBatches: 1,
    queuedBatches: 1,
    completedBatches: 2,
    tasksPassed: 2,
    tasksFailed: 1,
    durationMsSum: 700,
  });
});

test('the feed tells a batch from its plan to its end in the words of the contract', () => {
  const a = { batch_id: BATCH_ID, task_id: 'task-a' };
  const step = { task_id: 'task-a', attempt: 1, step: 0, kind: 'clone', name: 'https://example.org/repo.git' };
  const queries = given([
    ...running,
    make('TaskStarted'),
    make('StepStarted'),
    make('StepFinished'),
    make('TaskFinished'),
    make('BatchTaskFinished'),
    make('TaskAbandoned', { taskId: 'task-b' }),
    make('BatchTaskFinished', { taskId: 'task-b', passed: false, reward: 0 }),
    make('BatchCompleted', { totalTasks: 2, failedTasks: 1, aggregateReward: 0.5 }),
  ]);
  const complete = { status: 'completed', total: 2, passed: 1, failed: 1, reward: 0.5, duration_ms: 5000 };
  const messages = [
    { seq: 2, event: 'batch_planned', batch_id: BATCH_ID, data: { total_tasks: 2 } },
    { seq: 3, event: 'batch_started', batch_id: BATCH_ID, data: { total_tasks: 2, concurrent_limit: 2 } },
    { seq: 4, event: 'task_started', ...a, data: { task_id: 'task-a', attempt: 1 } },
    { seq: 5, event: 'step_started', ...a, data: step },
    { seq: 6, event: 'step_finished', ...a, data: { ...step, exit_code: 0, duration_ms: 100, cause: null } },
    { seq: 7, event: 'task_complete', ...a, data: { task_id: 'task-a', status: 'completed', passed: true, reward: 1 } },
    {
      seq: 9,
      event: 'task_complete',
      batch_id: BATCH_ID,
      task_id: 'task-b',
      data: { task_id: 'task-b', status: 'failed', passed: false, reward: 0 },
    },
    { seq: 11, event: 'batch_complete', batch_id: BATCH_ID, data: complete },
  ];
  assert.deepEqual(queries.feed(BATCH_ID, 0), messages);
  assert.deepEqual(queries.feed(BATCH_ID, 6), messages.slice(5));
  assert.deepEqual(queries.feed(BATCH_ID, 6, 2), messages.slice(5, 7));
});

test('the feed ends with how and why a batch failed or was cancelled', () => {
  const last = (events: readonly Event[]) => given(events).feed(BATCH_ID, 0).at(-1)?.data;
  const counts = { total: 2, passed: 1, failed: 0, reward: 0, duration_ms: 2000 };
  const half = [...running, make('BatchTaskFinished')];
  assert.deepEqual(last([...half, make('BatchCancelled')]), {
    status: 'cancelled',
    ...counts,
    error: 'no longer wanted',
  });
  assert.deepEqual(last([...half, make('BatchExpired')]), {
    status: 'failed',
    ...counts,
    error: 'the batch did not finish within its time',
  });
});

test('events of batches, tasks and steps that nobody announced change nothing', () => {
  const queries = given([make('TaskStarted'), make('StepStarted'), make('StepFinished'), make('TaskFinished')]);
  assert.equal(queries.batch(BATCH_ID), null);
  assert.equal(queries.task(BATCH_ID, 'task-a'), null);
  assert.equal(queries.quorum(BATCH_ID), null);
  assert.deepEqual(queries.feed(BATCH_ID, 0), []);
});
