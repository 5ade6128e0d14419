/**
 * The rules of one task. Whoever appends TaskStarted with the expected sequence owns the attempt; every later event
 * names its attempt, and one that was replaced can append nothing more. Acks of messages decide nothing.
 */
import type { FailureCause, Recorded, StepKind, StoredOutput } from '../events.ts';
import type { Decider, Decision } from './decider.ts';

interface TaskKey {
  readonly batchId: string;
  readonly taskId: string;
}

interface StepKey extends TaskKey {
  readonly attempt: number;
  readonly step: number;
  readonly kind: StepKind;
  readonly name: string;
}

export type TaskCommand =
  | (TaskKey & {
      readonly type: 'StartAttempt';
      readonly executorId: string;
      readonly session: string;
      readonly sandbox: string;
      readonly maxAttempts: number;
    })
  | (StepKey & { readonly type: 'StartStep'; readonly timeoutMs: number })
  | (StepKey & {
      readonly type: 'FinishStep';
      readonly exitCode: number | null;
      readonly signal: string | null;
      readonly durationMs: number;
      readonly cause: FailureCause | null;
      readonly error: string | null;
      readonly output: StoredOutput | null;
    })
  /** The attempt ends without an outcome and through no fault of the task; it is to be run again. */
  | (TaskKey & {
      readonly type: 'HandBack';
      readonly attempt: number;
      readonly cause: FailureCause;
      readonly reason: string;
    })
  /** The task will not be run (any more): its batch has ended. */
  | (TaskKey & { readonly type: 'AbandonTask'; readonly cause: FailureCause; readonly reason: string })
  | (TaskKey & {
      readonly type: 'FinishTask';
      readonly attempt: number;
      readonly passed: boolean;
      readonly reward: number;
      readonly cause: FailureCause | null;
      readonly error: string | null;
      readonly warnings: readonly string[];
      readonly patch: StoredOutput | null;
      readonly durationMs: number;
    });

/** How a task ended, as the batch needs to know it. */
export interface TaskEnd {
  readonly attempt: number;
  readonly passed: boolean;
  readonly reward: number;
}

export type TaskResult =
  | { readonly kind: 'started'; readonly attempt: number }
  | { readonly kind: 'recorded' }
  | { readonly kind: 'ended'; readonly end: TaskEnd }
  /** Another attempt owns the task by now: stop, nothing of this attempt counts any more. */
  | { readonly kind: 'replaced' };

export interface TaskState {
  readonly phase: 'new' | 'running' | 'ended';
  /** The newest attempt; 0 before the first. */
  readonly attempt: number;
  /** Attempts that came to nothing, apart from those that an executor handed back because it was stopped. */
  readonly failures: number;
  /** Why the newest attempt was handed back; null while it runs, or if its executor vanished. */
  readonly handedBack: { readonly cause: FailureCause; readonly reason: string } | null;
  readonly end: TaskEnd | null;
}

export const taskDecider: Decider<TaskState, TaskCommand, TaskResult> = {
  initialState: { phase: 'new', attempt: 0, failures: 0, handedBack: null, end: null },
  evolve,
  decide,
};

function evolve(state: TaskState, event: Recorded): TaskState {
  switch (event.type) {
    case 'TaskStarted':
      // Counted as failed until it is known better: a vanished executor says nothing any more.
      return {
        ...state,
        phase: 'running',
        attempt: event.data.attempt,
        failures: state.failures + 1,
        handedBack: null,
      };
    case 'TaskHandedBack': {
      const { cause, reason } = event.data;
      return { ...state, failures: state.failures - (cause === 'cancelled' ? 1 : 0), handedBack: { cause, reason } };
    }
    case 'TaskFinished': {
      const { attempt, passed, reward } = event.data;
      return { ...state, phase: 'ended', end: { attempt, passed, reward } };
    }
    case 'TaskAbandoned':
      return { ...state, phase: 'ended', end: { attempt: event.data.attempt, passed: false, reward: 0 } };
    default:
      return state;
  }
}

function decide(state: TaskState, command: TaskCommand): Decision<TaskResult> {
  if (state.end) return { events: [], result: { kind: 'ended', end: state.end } };
  switch (command.type) {
    case 'StartAttempt':
      return startAttempt(state, command);
    case 'StartStep': {
      if (state.attempt !== command.attempt) return replaced;
      const { type: _, ...data } = command;
      return { events: [{ type: 'StepStarted', data }], result: { kind: 'recorded' } };
    }
    case 'FinishStep': {
      if (state.attempt !== command.attempt) return replaced;
      const { type: _, ...data } = command;
      return { events: [{ type: 'StepFinished', data }], result: { kind: 'recorded' } };
    }
    case 'HandBack': {
      if (state.attempt !== command.attempt) return replaced;
      const { type: _, ...data } = command;
      return { events: [{ type: 'TaskHandedBack', data }], result: { kind: 'recorded' } };
    }
    case 'AbandonTask': {
      const { batchId, taskId, cause, reason } = command;
      return abandoned(state, { batchId, taskId }, cause, reason);
    }
    case 'FinishTask': {
      if (state.attempt !== command.attempt) return replaced;
      const { type: _, warnings, ...data } = command;
      const { attempt, passed, reward } = data;
      return {
        events: [{ type: 'TaskFinished', data: { ...data, warnings: [...warnings] } }],
        result: { kind: 'ended', end: { attempt, passed, reward } },
      };
    }
  }
}

const replaced: Decision<TaskResult> = { events: [], result: { kind: 'replaced' } };

function startAttempt(state: TaskState, command: Extract<TaskCommand, { type: 'StartAttempt' }>): Decision<TaskResult> {
  const { batchId, taskId, executorId, session, sandbox, maxAttempts } = command;
  if (state.failures >= maxAttempts) {
    const last = state.handedBack;
    const why = last ? `the last one failed: ${last.reason}` : 'the last one lost its executor';
    const reason = `given up after ${state.failures} attempts; ${why}`.slice(0, 4096).toWellFormed();
    return abandoned(state, { batchId, taskId }, last?.cause ?? 'executor-lost', reason);
  }
  const attempt = state.attempt + 1;
  return {
    events: [{ type: 'TaskStarted', data: { batchId, taskId, attempt, executorId, session, sandbox } }],
    result: { kind: 'started', attempt },
  };
}

function abandoned(state: TaskState, key: TaskKey, cause: FailureCause, reason: string): Decision<TaskResult> {
  const { attempt } = state;
  return {
    events: [{ type: 'TaskAbandoned', data: { ...key, attempt, cause, reason } }],
    result: { kind: 'ended', end: { attempt, passed: false, reward: 0 } },
  };
}
