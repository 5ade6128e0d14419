import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { v7 } from 'uuid';
import { submissionDecider, type CastVote } from '../../src/commands/submission.ts';
import { batchDecider } from '../../src/commands/batch.ts';
import { taskDecider } from '../../src/commands/task.ts';
import { LogUnavailableError, type EventLog } from '../../src/log.ts';
import { CommandHandler, ContentionError } from '../../src/commands/handle.ts';
import { emptyHead } from '../../src/jetstream-log.ts';
import { subjectOf, subjects } from '../../src/streams.ts';
import { context, startLog } from '../support/log.ts';

const VALIDATORS = Array.from({ length: 10 }, (_, index) => `V${index}`);

function vote(archiveHash: string, hotkey: string): CastVote {
  return {
    type: 'CastVote',
    archiveHash,
    archiveBytes: 1,
    hotkey,
    nonce: v7(),
    signature: 'ab',
    signatureVersion: 1,
    concurrentTasks: 1,
    validators: VALIDATORS,
    threshold: { numerator: 1, denominator: 2 },
    roundTtlMs: 60_000,
    batchTtlMs: 60_000,
    newBatchId: v7(),
    openRounds: 0,
    maxOpenRounds: 100,
    nowMs: Date.now(),
  };
}

describe('handling commands', () => {
  test('ten votes at once through two processes lead to exactly one batch', async (t) => {
    const first = await startLog(t);
    const second = await first.another();
    for (let round = 0; round < 5; round += 1) {
      const archive = String(round).repeat(64);
      const subject = subjects.submission(archive);
      const results = await Promise.all(
        VALIDATORS.map((hotkey, index) =>
          (index % 2 ? first : second).handler.handle(submissionDecider, subject, vote(archive, hotkey), context()),
        ),
      );
      const batches = new Set(results.flatMap(({ result }) => (result.kind === 'approved' ? [result.batchId] : [])));
      assert.equal(batches.size, 1);
      const { entries } = await first.log.load(subject);
      assert.equal(entries.filter(({ type }) => type === 'VoteCast').length, VALIDATORS.length);
      assert.equal(entries.filter(({ type }) => type === 'QuorumReached').length, 1);
      const [batchId] = batches;
      const batch = await first.log.load(subjects.batch(batchId ?? ''));
      assert.deepEqual(
        batch.entries.map(({ type }) => type),
        ['BatchApproved'],
      );
    }
  });

  test('an append whose answer was lost is found by its command id and not written twice', async (t) => {
    const { log } = await startLog(t);
    let lost = 0;
    const lossy: EventLog = {
      load: (...args) => log.load(...args),
      follow: (options) => log.follow(options),
      lastSeq: () => log.lastSeq(),
      async append(...args) {
        const appended = await log.append(...args);
        lost += 1;
        if (lost === 1) throw new LogUnavailableError('the answer was lost');
        return appended;
      },
    };
    const handler = new CommandHandler({ log: lossy, subjectOf, emptyHead, random: Math.random });
    const subject = subjects.task('b', 't');
    const start = {
      type: 'StartAttempt',
      batchId: v7(),
      taskId: 't',
      executorId: 'e',
      session: 's',
      sandbox: 'process',
      maxAttempts: 3,
    } as const;
    const own = subjects.task(start.batchId, 't');
    const { result } = await handler.handle(taskDecider, own, start, context());
    assert.deepEqual(result, { kind: 'started', attempt: 1 });
    assert.equal((await log.load(own)).entries.length, 1);
    assert.equal((await log.load(subject)).entries.length, 0);
  });

  test('of two executors that start the same task both know their attempt, and the first is then replaced', async (t) => {
    const first = await startLog(t);
    const second = await first.another();
    const batchId = v7();
    const subject = subjects.task(batchId, 't');
    const start = { type: 'StartAttempt', batchId, taskId: 't', sandbox: 'process', maxAttempts: 9 } as const;
    const attempts = await Promise.all(
      [first, second].map(({ handler }, index) =>
        handler.handle(taskDecider, subject, { ...start, executorId: `e${index}`, session: `s${index}` }, context()),
      ),
    );
    const numbers = attempts.map(({ result }) => (result.kind === 'started' ? result.attempt : 0));
    assert.deepEqual(
      numbers.toSorted((a, b) => a - b),
      [1, 2],
    );
    const loser = numbers[0] === 1 ? first : second;
    const step = { step: 0, kind: 'clone', name: 'r', timeoutMs: 1 } as const;
    const late = { type: 'StartStep', batchId, taskId: 't', attempt: 1, ...step } as const;
    assert.equal((await loser.handler.handle(taskDecider, subject, late, context())).result.kind, 'replaced');
  });

  test('a thousand tasks finishing on four handlers complete their batch once', async (t) => {
    const first = await startLog(t);
    const handlers = [
      first.handler,
      ...(await Promise.all([1, 2, 3].map(async () => (await first.another()).handler))),
    ];
    const archive = 'e'.repeat(64);
    const voted = { ...vote(archive, 'V0'), validators: ['V0'], concurrentTasks: 64 };
    const { result } = await first.handler.handle(submissionDecider, subjects.submission(archive), voted, context());
    assert.ok(result.kind === 'approved');
    const { batchId } = result;
    const subject = subjects.batch(batchId);
    const ids = Array.from({ length: 1_000 }, (_, index) => `task.${index} *`);
    const digest = 'd'.repeat(64);
    const tasks = ids.map((taskId) => ({ taskId, bundle: digest, pool: 'default' }));
    await first.handler.handle(
      batchDecider,
      subject,
      { type: 'PlanBatch', batchId, agentBundle: digest, tasks },
      context(),
    );
    await first.handler.handle(batchDecider, subject, { type: 'StartBatch', batchId, nowMs: 0 }, context());
    const queue = [...ids];
    await Promise.all(
      Array.from({ length: 32 }, async (_, worker) => {
        for (let taskId = queue.shift(); taskId !== undefined; taskId = queue.shift()) {
          const finish = { type: 'FinishBatchTask', batchId, taskId, attempt: 1, passed: true, reward: 1 } as const;
          // A redelivery: the same end is told twice, by two processes.
          for (const index of [worker, worker + 1]) {
            const handler = handlers[index % handlers.length];
            await untilDone(() => handler?.handle(batchDecider, subject, { ...finish, nowMs: 1 }, context()));
          }
        }
      }),
    );
    const { entries } = await first.log.load(subject);
    const count = (type: string): number => entries.filter((entry) => entry.type === type).length;
    assert.deepEqual([count('BatchTaskFinished'), count('BatchCompleted')], [1_000, 1]);
  });
});

/** Four processes that do nothing but write to one batch starve each other; executors come back after a while, too. */
async function untilDone(action: () => Promise<unknown> | undefined): Promise<void> {
  for (;;) {
    try {
      await action();
      return;
    } catch (error) {
      if (!(error instanceof ContentionError)) throw error;
    }
  }
}
