import { describe, test } from 'node:test';
import { taskDecider, type TaskCommand } from '../../src/commands/task.ts';
import type { Event } from '../../src/events.ts';
import { given } from '../support/specification.ts';

const key = { batchId: '0199aaaa-0000-7000-8000-000000000000', taskId: 'a task' };
const executor = { executorId: 'e1', session: 's1', sandbox: 'process' };
const step = { step: 0, kind: 'clone', name: 'repo' } as const;

function started(attempt: number): Event {
  return { type: 'TaskStarted', data: { ...key, ...executor, attempt } };
}

function start(maxAttempts = 3): TaskCommand {
  return { type: 'StartAttempt', ...key, ...executor, maxAttempts };
}

function finish(attempt: number): TaskCommand {
  const outcome = { passed: true, reward: 1, cause: null, error: null, warnings: [], patch: null, durationMs: 5 };
  return { type: 'FinishTask', ...key, attempt, ...outcome };
}

function finished(attempt: number): Event {
  const outcome = { passed: true, reward: 1, cause: null, error: null, warnings: [], patch: null, durationMs: 5 };
  return { type: 'TaskFinished', data: { ...key, attempt, ...outcome } };
}

describe('a task', () => {
  test('is started by its first executor', () => {
    given(taskDecider, [])
      .when(start())
      .then([started(1)], { kind: 'started', attempt: 1 });
  });

  test('is taken over as a new attempt when its dispatch is delivered again', () => {
    given(taskDecider, [started(1)])
      .when(start())
      .then([started(2)], { kind: 'started', attempt: 2 });
  });

  test('takes nothing from an attempt that was replaced', () => {
    const spec = given(taskDecider, [started(1), started(2)]);
    spec
      .when({ type: 'StartStep', ...key, ...step, attempt: 1, timeoutMs: 1 })
      .thenNothingHappened({ kind: 'replaced' });
    spec.when(finish(1)).thenNothingHappened({ kind: 'replaced' });
    spec.when(finish(2)).then([finished(2)], { kind: 'ended' });
  });

  test('is abandoned once it has lost as many executors as it may', () => {
    const reason = 'given up after 3 attempts; the last one lost its executor';
    given(taskDecider, [started(1), started(2), started(3)])
      .when(start())
      .then([{ type: 'TaskAbandoned', data: { ...key, attempt: 3, cause: 'executor-lost', reason } }], {
        kind: 'ended',
        end: { attempt: 3, passed: false, reward: 0 },
      });
  });

  test('handed back because its executor was stopped has lost no attempt', () => {
    const handedBack: Event = { type: 'TaskHandedBack', data: { ...key, attempt: 1, cause: 'cancelled', reason: 'r' } };
    given(taskDecider, [started(1)])
      .when({ type: 'HandBack', ...key, attempt: 1, cause: 'cancelled', reason: 'r' })
      .then([handedBack], { kind: 'recorded' });
    given(taskDecider, [started(1), handedBack])
      .when(start(1))
      .then([started(2)], { kind: 'started', attempt: 2 });
  });

  test('handed back through our fault as often as it may fail is abandoned with that cause', () => {
    const data = { ...key, attempt: 1, cause: 'infrastructure', reason: 'disk full' } as const;
    const reason = 'given up after 1 attempts; the last one failed: disk full';
    given(taskDecider, [started(1), { type: 'TaskHandedBack', data }])
      .when(start(1))
      .then([{ type: 'TaskAbandoned', data: { ...key, attempt: 1, cause: 'infrastructure', reason } }]);
  });

  test('that was never started can be abandoned when its batch has ended', () => {
    const abandon = { type: 'AbandonTask', ...key, cause: 'cancelled', reason: 'r' } as const;
    given(taskDecider, [])
      .when(abandon)
      .then([{ type: 'TaskAbandoned', data: { ...key, attempt: 0, cause: 'cancelled', reason: 'r' } }]);
  });

  test('that has ended answers with its end, whatever is asked', () => {
    const spec = given(taskDecider, [started(1), finished(1)]);
    const end = { attempt: 1, passed: true, reward: 1 };
    spec.when(start()).thenNothingHappened({ kind: 'ended', end });
    spec.when(finish(1)).thenNothingHappened({ kind: 'ended', end });
  });
});
