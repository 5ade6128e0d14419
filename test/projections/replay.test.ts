import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import fc from 'fast-check';
import { STEP_KINDS, type Event } from '../../src/events.ts';
import type { LogEntry } from '../../src/log.ts';
import { openStore } from '../../src/projections/store.ts';
import { batchIdOf, make, makePlan, sha256 } from '../support/events.ts';
import { record } from './array-log.ts';
import { longStory } from './story.ts';
import { dump } from './tables.ts';

let dir = '';
let files = 0;
before(async () => {
  dir = await mkdtemp(join(tmpdir(), 'read-model-'));
});
after(async () => {
  await rm(dir, { recursive: true, force: true });
});

function newFile(): string {
  files += 1;
  return join(dir, `${files}.sqlite`);
}

/** The tables after these groups were applied, each in one transaction. */
function tablesOf(groups: readonly (readonly LogEntry[])[], file = newFile()): Record<string, unknown[]> {
  const store = openStore(file);
  try {
    for (const group of groups) store.apply(group);
    return dump(file);
  } finally {
    store.close();
  }
}

const batchId = fc.constantFrom(batchIdOf(1), batchIdOf(2));
const task = fc.record({
  batchId,
  taskId: fc.constantFrom('a', 'b', 'ü .*>'),
  attempt: fc.integer({ min: 1, max: 2 }),
});
const round = fc.record({
  archiveHash: fc.constantFrom(sha256('1'), sha256('2')),
  round: fc.integer({ min: 1, max: 2 }),
});
const step = fc
  .tuple(task, fc.integer({ min: 0, max: 2 }), fc.constantFrom(...STEP_KINDS))
  .map(([id, position, kind]) => ({ ...id, step: position, kind }));
const passed = fc.boolean();

/** Events over few ids in any order: more than the deciders would ever write, and therefore all that they would. */
const anyEvent: fc.Arbitrary<Event> = fc.oneof(
  fc.tuple(round, fc.constantFrom('alice', 'bob')).map(([id, hotkey]) => make('VoteCast', { ...id, hotkey })),
  round.map((id) => make('VoteRoundExpired', id)),
  fc.tuple(round, batchId).map(([id, batch]) => make('QuorumReached', { ...id, batchId: batch })),
  fc.tuple(round, batchId).map(([id, batch]) => make('BatchApproved', { ...id, batchId: batch })),
  batchId.map((id) => makePlan(['a', 'b'], { batchId: id, parts: 2 })),
  batchId.map((id) => makePlan(['ü .*>'], { batchId: id, part: 2, parts: 2 })),
  batchId.map((id) => make('BatchStarted', { batchId: id, totalTasks: 3 })),
  fc.tuple(task, passed).map(([id, ok]) => make('BatchTaskFinished', { ...id, passed: ok })),
  task.map((id) => make('TaskStarted', id)),
  step.map((id) => make('StepStarted', id)),
  step.map((id) => make('StepFinished', id)),
  fc.tuple(task, passed).map(([id, ok]) => make('TaskFinished', { ...id, passed: ok })),
  task.map((id) => make('TaskAbandoned', id)),
);
const anyEnd: fc.Arbitrary<Event> = batchId.chain((id) =>
  fc.constantFrom<Event>(
    make('BatchCompleted', { batchId: id, totalTasks: 3, passedTasks: 1, failedTasks: 2 }),
    make('BatchCancelled', { batchId: id }),
    make('BatchExpired', { batchId: id }),
    make('BatchRejected', { batchId: id }),
  ),
);
/** Mostly with a beginning that lets the rest have effects, and with ends rarer than the rest. */
const anyLog = fc
  .tuple(
    fc.boolean(),
    fc.array(fc.oneof({ arbitrary: anyEvent, weight: 12 }, { arbitrary: anyEnd, weight: 1 }), { maxLength: 60 }),
  )
  .map(([begun, rest]) => record(begun ? [...beginning, ...rest] : rest));
const beginning = [1, 2].flatMap((n) => [
  make('BatchApproved', { batchId: batchIdOf(n) }),
  makePlan(['a', 'b', 'ü .*>'], { batchId: batchIdOf(n) }),
  make('BatchStarted', { batchId: batchIdOf(n), totalTasks: 3 }),
]);

/** Splits a log into transactions, each of which may begin with entries of earlier ones once more. */
function regroup(entries: readonly LogEntry[], cuts: readonly { size: number; again: number }[]): LogEntry[][] {
  const groups: LogEntry[][] = [];
  let at = 0;
  for (let index = 0; at < entries.length; index += 1) {
    const { size, again } = cuts[index % cuts.length] ?? { size: 1, again: 0 };
    groups.push(entries.slice(Math.max(0, at - again), at + size));
    at += size;
  }
  return groups;
}

test('any log gives the same tables however it is cut into transactions and delivered again', () => {
  const cut = fc.record({ size: fc.integer({ min: 1, max: 9 }), again: fc.integer({ min: 0, max: 9 }) });
  fc.assert(
    fc.property(anyLog, fc.array(cut, { minLength: 1, maxLength: 5 }), (entries, cuts) => {
      const oneByOne = tablesOf(entries.map((entry) => [entry]));
      assert.deepEqual(tablesOf(regroup(entries, cuts)), oneByOne);
    }),
    { numRuns: 40 },
  );
});

test('after any log the counts fit the rows and nothing follows the end of a batch in the feed', () => {
  fc.assert(
    fc.property(anyLog, (entries) => {
      const store = openStore(':memory:');
      store.apply(entries);
      const batches = store.queries.batches({ limit: 10 });
      const sum = (value: (batch: (typeof batches)[number]) => number) =>
        batches.reduce((total, b) => total + value(b), 0);
      const ended = ['completed', 'failed', 'cancelled'];
      assert.deepEqual(store.queries.totals(), {
        totalBatches: batches.length,
        activeBatches: sum((batch) => Number(batch.status === 'running')),
        queuedBatches: sum((batch) => Number(['pending', 'extracting', 'queued'].includes(batch.status))),
        completedBatches: sum((batch) => Number(ended.includes(batch.status))),
        tasksPassed: sum((batch) => batch.passedTasks),
        tasksFailed: sum((batch) => batch.failedTasks),
        durationMsSum: sum((batch) => (batch.status === 'completed' ? (batch.durationMs ?? 0) : 0)),
      });
      for (const batch of batches) {
        assert.ok(batch.completedTasks <= batch.totalTasks);
        assert.equal(batch.completedTasks, batch.passedTasks + batch.failedTasks);
        const names = store.queries.feed(batch.batchId, 0).map((message) => message.event);
        assert.equal(names.includes('batch_complete'), ended.includes(batch.status));
        if (names.includes('batch_complete')) assert.equal(names.indexOf('batch_complete'), names.length - 1);
        for (const row of store.queries.tasks(batch.batchId)) {
          assert.equal(row.passed === null, !ended.includes(row.status));
          assert.deepEqual(store.queries.task(batch.batchId, row.taskId), row);
        }
      }
      store.close();
    }),
    { numRuns: 150 },
  );
});

test('kill -9 in the middle of applying leaves exactly the rows up to the position', { timeout: 60_000 }, async () => {
  const batches = 400;
  const entries = record(longStory(batches));
  const file = newFile();
  const script = join(import.meta.dirname, 'apply-until-killed.ts');
  for (let kill = 1; kill <= 4; kill += 1) {
    const child = spawn(process.execPath, [script, file, String(batches)], { stdio: ['ignore', 'pipe', 'inherit'] });
    const exited = once(child, 'exit');
    await Promise.race([once(child.stdout, 'data'), exited]);
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 30));
    child.kill('SIGKILL');
    await exited;
    const reopened = openStore(file);
    const position = reopened.position().seq;
    reopened.close();
    assert.ok(position > 0);
    assert.deepEqual(dump(file), tablesOf([entries.slice(0, position)]), `after kill ${kill} at position ${position}`);
  }
  assert.deepEqual(tablesOf([entries], file), tablesOf([entries]));
});
