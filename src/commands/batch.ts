/**
 * The rules of a batch: approved, planned into tasks, started when there is a place, its tasks handed out within its
 * concurrency, and ended exactly once. Finishing a task and handing out the next one, or completing the batch, are one
 * decision and so one append: no crash can separate them.
 */
import type { Event, PlannedTask, Recorded } from '../events.ts';
import type { Decider, Decision } from './decider.ts';

/** Tasks in one BatchPlanned event; a longer plan is several events, so that each stays far below NATS's 1 MiB. */
const MAX_TASKS_PER_PART = 1000;

export type BatchCommand =
  | {
      readonly type: 'PlanBatch';
      readonly batchId: string;
      readonly agentBundle: string;
      readonly tasks: readonly PlannedTask[];
    }
  | { readonly type: 'RejectBatch'; readonly batchId: string; readonly code: string; readonly message: string }
  | { readonly type: 'StartBatch'; readonly batchId: string; readonly nowMs: number }
  | {
      readonly type: 'FinishBatchTask';
      readonly batchId: string;
      readonly taskId: string;
      readonly attempt: number;
      readonly passed: boolean;
      readonly reward: number;
      readonly nowMs: number;
    }
  | {
      readonly type: 'CancelBatch';
      readonly batchId: string;
      readonly by: string;
      /** Whether this hotkey voted for the archive, in time or late. */
      readonly voted: boolean;
      readonly reason: string;
    }
  | { readonly type: 'ExpireBatch'; readonly batchId: string; readonly nowMs: number };

/** Answer to CancelBatch. */
export type CancelResult = { readonly kind: 'cancelled' | 'already-ended' | 'not-a-voter' | 'unknown-batch' };

/** `done`: the command led to events. Every other kind says why it changed nothing. */
export type BatchResult =
  | CancelResult
  | { readonly kind: 'done' }
  /** The command had been carried out before, or its time has not come. */
  | { readonly kind: 'nothing-to-do' };

type BatchPhase = 'none' | 'approved' | 'planned' | 'running' | 'ended';

export interface BatchState {
  readonly phase: BatchPhase;
  readonly ttlMs: number;
  readonly concurrentTasks: number;
  readonly archiveHash: string;
  readonly agentBundle: string;
  readonly tasks: readonly PlannedTask[];
  /** Tasks before this position were handed out; those of them that are not in `running` have finished. */
  readonly next: number;
  readonly running: ReadonlySet<string>;
  readonly passedTasks: number;
  readonly failedTasks: number;
  readonly rewardSum: number;
  readonly startedAtMs: number;
  readonly expiresAtMs: number;
}

export const batchDecider: Decider<BatchState, BatchCommand, BatchResult> = {
  initialState: {
    phase: 'none',
    ttlMs: 0,
    concurrentTasks: 0,
    archiveHash: '',
    agentBundle: '',
    tasks: [],
    next: 0,
    running: new Set(),
    passedTasks: 0,
    failedTasks: 0,
    rewardSum: 0,
    startedAtMs: 0,
    expiresAtMs: 0,
  },
  evolve,
  decide,
};

function evolve(state: BatchState, event: Recorded): BatchState {
  switch (event.type) {
    case 'BatchApproved': {
      const { ttlMs, concurrentTasks, archiveHash } = event.data;
      return { ...state, phase: 'approved', ttlMs, concurrentTasks, archiveHash };
    }
    case 'BatchPlanned': {
      const tasks = [...state.tasks, ...event.data.tasks];
      const complete = event.data.part === event.data.parts;
      return {
        ...state,
        phase: complete ? 'planned' : state.phase,
        agentBundle: event.data.agentBundle,
        tasks,
      };
    }
    case 'BatchStarted':
      return {
        ...state,
        phase: 'running',
        startedAtMs: Date.parse(event.time),
        ...handOut(state, firstTasks(state)),
        expiresAtMs: event.data.expiresAtMs,
      };
    case 'BatchTaskFinished': {
      const running = new Set(state.running);
      running.delete(event.data.taskId);
      return {
        ...state,
        ...handOut({ ...state, running }, nextTask(state)),
        passedTasks: state.passedTasks + (event.data.passed ? 1 : 0),
        failedTasks: state.failedTasks + (event.data.passed ? 0 : 1),
        rewardSum: state.rewardSum + event.data.reward,
      };
    }
    case 'BatchRejected':
    case 'BatchCompleted':
    case 'BatchCancelled':
    case 'BatchExpired':
      return { ...state, phase: 'ended', tasks: [], running: new Set() };
    default:
      return state;
  }
}

function decide(state: BatchState, command: BatchCommand): Decision<BatchResult> {
  switch (command.type) {
    case 'PlanBatch':
      return state.phase === 'approved' ? done(planned(command)) : nothing;
    case 'RejectBatch': {
      const { batchId, code, message } = command;
      return state.phase === 'approved' ? done([{ type: 'BatchRejected', data: { batchId, code, message } }]) : nothing;
    }
    case 'StartBatch':
      return state.phase === 'planned' ? done(started(state, command.batchId, command.nowMs)) : nothing;
    case 'FinishBatchTask':
      return finishTask(state, command);
    case 'CancelBatch': {
      const { batchId, by, voted, reason } = command;
      if (state.phase === 'none') return { events: [], result: { kind: 'unknown-batch' } };
      if (!voted) return { events: [], result: { kind: 'not-a-voter' } };
      if (state.phase === 'ended') return { events: [], result: { kind: 'already-ended' } };
      return { events: [{ type: 'BatchCancelled', data: { batchId, by, reason } }], result: { kind: 'cancelled' } };
    }
    case 'ExpireBatch': {
      if (state.phase !== 'running' || command.nowMs < state.expiresAtMs) return nothing;
      const finishedTasks = state.passedTasks + state.failedTasks;
      return done([{ type: 'BatchExpired', data: { batchId: command.batchId, finishedTasks } }]);
    }
  }
}

const nothing: Decision<BatchResult> = { events: [], result: { kind: 'nothing-to-do' } };

function done(events: readonly Event[]): Decision<BatchResult> {
  return { events, result: { kind: 'done' } };
}

function planned(command: Extract<BatchCommand, { type: 'PlanBatch' }>): Event[] {
  const { batchId, agentBundle, tasks } = command;
  const parts = Math.ceil(tasks.length / MAX_TASKS_PER_PART);
  return Array.from({ length: parts }, (_, index) => ({
    type: 'BatchPlanned',
    data: {
      batchId,
      part: index + 1,
      parts,
      agentBundle,
      tasks: tasks.slice(index * MAX_TASKS_PER_PART, (index + 1) * MAX_TASKS_PER_PART),
    },
  }));
}

function started(state: BatchState, batchId: string, nowMs: number): Event[] {
  return [
    {
      type: 'BatchStarted',
      data: {
        batchId,
        totalTasks: state.tasks.length,
        concurrentTasks: state.concurrentTasks,
        expiresAtMs: nowMs + state.ttlMs,
      },
    },
    ...firstTasks(state).map((task) => dispatched(state, batchId, task)),
  ];
}

function finishTask(
  state: BatchState,
  { batchId, taskId, attempt, passed, reward, nowMs }: Extract<BatchCommand, { type: 'FinishBatchTask' }>,
): Decision<BatchResult> {
  if (state.phase !== 'running' || !state.running.has(taskId)) return nothing;
  const passedTasks = state.passedTasks + (passed ? 1 : 0);
  const failedTasks = state.failedTasks + (passed ? 0 : 1);
  const totalTasks = state.tasks.length;
  const events: Event[] = [{ type: 'BatchTaskFinished', data: { batchId, taskId, attempt, passed, reward } }];
  events.push(...nextTask(state).map((task) => dispatched(state, batchId, task)));
  if (passedTasks + failedTasks === totalTasks) {
    // Rounding in the sum may carry a mean of ones just over 1, which the schema rightly refuses.
    const aggregateReward = Math.min(1, (state.rewardSum + reward) / totalTasks);
    const durationMs = Math.max(0, nowMs - state.startedAtMs);
    events.push({
      type: 'BatchCompleted',
      data: { batchId, totalTasks, passedTasks, failedTasks, aggregateReward, durationMs },
    });
  }
  return done(events);
}

function firstTasks(state: BatchState): readonly PlannedTask[] {
  return state.tasks.slice(0, state.concurrentTasks);
}

function nextTask(state: BatchState): readonly PlannedTask[] {
  return state.tasks.slice(state.next, state.next + 1);
}

function handOut(state: BatchState, tasks: readonly PlannedTask[]): Pick<BatchState, 'next' | 'running'> {
  return { next: state.next + tasks.length, running: new Set([...state.running, ...tasks.map((task) => task.taskId)]) };
}

function dispatched(state: BatchState, batchId: string, task: PlannedTask): Event {
  const { taskId, pool, bundle } = task;
  return {
    type: 'TaskDispatched',
    data: { batchId, taskId, pool, attempt: 1, bundle, agentBundle: state.agentBundle },
  };
}
