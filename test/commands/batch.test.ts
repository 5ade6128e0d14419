import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { batchDecider, type BatchCommand, type BatchState } from '../../src/commands/batch.ts';
import type { Event } from '../../src/events.ts';
import { given, recordedAt } from '../support/specification.ts';

const batchId = '0199aaaa-0000-7000-8000-000000000000';
const digest = 'd'.repeat(64);

function approved(concurrentTasks = 2): Event {
  const data = { batchId, archiveHash: digest, archiveBytes: 1, round: 1, voters: ['V1', 'V2'], concurrentTasks };
  return { type: 'BatchApproved', data: { ...data, ttlMs: 1_000 } };
}

function tasks(...ids: string[]) {
  return ids.map((taskId) => ({ taskId, bundle: digest, pool: 'default' }));
}

function planned(...ids: string[]): Event {
  return { type: 'BatchPlanned', data: { batchId, part: 1, parts: 1, agentBundle: digest, tasks: tasks(...ids) } };
}

function started(totalTasks: number, concurrentTasks = 2): Event {
  return { type: 'BatchStarted', data: { batchId, totalTasks, concurrentTasks, expiresAtMs: 1_000 } };
}

function dispatched(taskId: string): Event {
  const data = { batchId, taskId, pool: 'default', attempt: 1, bundle: digest, agentBundle: digest };
  return { type: 'TaskDispatched', data };
}

function finished(taskId: string, passed = true, reward = passed ? 1 : 0): Event {
  return { type: 'BatchTaskFinished', data: { batchId, taskId, attempt: 1, passed, reward } };
}

function finish(taskId: string, passed = true, reward = passed ? 1 : 0): BatchCommand {
  return { type: 'FinishBatchTask', batchId, taskId, attempt: 1, passed, reward, nowMs: 500 };
}

const cancelled: Event = { type: 'BatchCancelled', data: { batchId, by: 'V1', reason: '' } };

describe('a batch', () => {
  test('is planned once', () => {
    const plan = { type: 'PlanBatch', batchId, agentBundle: digest, tasks: tasks('a', 'b') } as const;
    given(batchDecider, [approved()])
      .when(plan)
      .then([planned('a', 'b')], { kind: 'done' });
    given(batchDecider, [approved(), planned('a', 'b')])
      .when(plan)
      .thenNothingHappened();
    given(batchDecider, [approved(), cancelled]).when(plan).thenNothingHappened();
  });

  test('of 2,500 tasks is planned in three events and starts like any other', () => {
    const ids = Array.from({ length: 2_500 }, (_, index) => `task ${index}`);
    const events = given(batchDecider, [approved()])
      .when({ type: 'PlanBatch', batchId, agentBundle: digest, tasks: tasks(...ids) })
      .thenTypes(['BatchPlanned', 'BatchPlanned', 'BatchPlanned']);
    const spec = given(batchDecider, [approved(), ...events]);
    assert.equal(spec.state.tasks.length, 2_500);
    spec
      .when({ type: 'StartBatch', batchId, nowMs: 0 })
      .then([started(2_500), dispatched('task 0'), dispatched('task 1')]);
    given(batchDecider, [approved(), ...events.slice(0, 2)])
      .when({ type: 'StartBatch', batchId, nowMs: 0 })
      .thenNothingHappened();
  });

  test('hands out as many tasks as may run at once when it starts, and starts once', () => {
    const start = { type: 'StartBatch', batchId, nowMs: 0 } as const;
    given(batchDecider, [approved(), planned('a', 'b', 'c')])
      .when(start)
      .then([started(3), dispatched('a'), dispatched('b')]);
    given(batchDecider, [approved(), planned('a'), started(1)])
      .when(start)
      .thenNothingHappened();
    given(batchDecider, [approved()]).when(start).thenNothingHappened();
  });

  test('hands out the next task in the same decision that records a finished one', () => {
    given(batchDecider, [approved(), planned('a', 'b', 'c'), started(3)])
      .when(finish('b'))
      .then([finished('b'), dispatched('c')]);
  });

  test('completes with the last task, whichever that is', () => {
    given(batchDecider, [approved(), planned('a', 'b', 'c'), started(3), finished('b'), finished('a', false, 0.5)], 100)
      .when(finish('c'))
      .then([
        finished('c'),
        {
          type: 'BatchCompleted',
          data: { batchId, totalTasks: 3, passedTasks: 2, failedTasks: 1, aggregateReward: 2.5 / 3, durationMs: 400 },
        },
      ]);
  });

  test('counts each task once', () => {
    given(batchDecider, [approved(), planned('a', 'b'), started(2), finished('a')])
      .when(finish('a'))
      .thenNothingHappened();
    given(batchDecider, [approved(), planned('a'), started(1)])
      .when(finish('unknown'))
      .thenNothingHappened();
  });

  test('ends once: nothing finishes after it was cancelled or has expired', () => {
    const expired: Event = { type: 'BatchExpired', data: { batchId, finishedTasks: 0 } };
    for (const end of [cancelled, expired]) {
      given(batchDecider, [approved(), planned('a'), started(1), end])
        .when(finish('a'))
        .thenNothingHappened();
    }
  });

  test('can be cancelled by a validator that voted for it, and by nobody else', () => {
    const cancel = (by: string, voted = true) => ({ type: 'CancelBatch', batchId, by, voted, reason: '' }) as const;
    given(batchDecider, [approved()]).when(cancel('V1')).then([cancelled], { kind: 'cancelled' });
    given(batchDecider, [approved()]).when(cancel('V3', false)).thenNothingHappened({ kind: 'not-a-voter' });
    given(batchDecider, [approved(), cancelled]).when(cancel('V2')).thenNothingHappened({ kind: 'already-ended' });
    given(batchDecider, []).when(cancel('V1')).thenNothingHappened({ kind: 'unknown-batch' });
  });

  test('expires only after its time', () => {
    const running = [approved(), planned('a'), started(1)];
    given(batchDecider, running).when({ type: 'ExpireBatch', batchId, nowMs: 999 }).thenNothingHappened();
    given(batchDecider, running)
      .when({ type: 'ExpireBatch', batchId, nowMs: 1_000 })
      .then([{ type: 'BatchExpired', data: { batchId, finishedTasks: 0 } }]);
  });

  test('that cannot be planned is rejected with the reason', () => {
    given(batchDecider, [approved()])
      .when({ type: 'RejectBatch', batchId, code: 'extraction_failed', message: 'm' })
      .then([{ type: 'BatchRejected', data: { batchId, code: 'extraction_failed', message: 'm' } }]);
  });

  test('in any order of finishing: never more running than allowed, every task once, one end', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 30 }),
        fc.integer({ min: 1, max: 8 }),
        fc.infiniteStream(fc.nat()),
        (n, c, random) => {
          const ids = Array.from({ length: n }, (_, index) => `t${index}`);
          let state: BatchState = batchDecider.initialState;
          let seq = 0;
          const log: Event[] = [];
          const apply = (events: readonly Event[]): void => {
            for (const event of events) {
              state = batchDecider.evolve(state, recordedAt(event, (seq += 1), 0));
              log.push(event);
            }
          };
          apply([approved(c), planned(...ids)]);
          apply(batchDecider.decide(state, { type: 'StartBatch', batchId, nowMs: 0 }).events);
          while (state.phase === 'running') {
            assert.ok(state.running.size <= c);
            const running = [...state.running];
            const pick = running[(random.next().value as number) % running.length];
            assert.ok(pick !== undefined);
            apply(batchDecider.decide(state, finish(pick)).events);
          }
          const of = (type: string): Event[] => log.filter((event) => event.type === type);
          assert.equal(of('TaskDispatched').length, n);
          assert.equal(of('BatchTaskFinished').length, n);
          assert.equal(of('BatchCompleted').length, 1);
        },
      ),
      { numRuns: 50 },
    );
  });
});
