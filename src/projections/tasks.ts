/**
 * The tasks of every batch with their attempts and steps: what became of each, and the evidence of every attempt. A
 * task ends once, by its own result or with its batch; late events still add to the evidence but reopen nothing.
 */
import type { DatabaseSync } from 'node:sqlite';
import type { FailureCause, Recorded, StepKind } from '../events.ts';
import { unreachable } from '../errors.ts';
import { EXPIRED_MESSAGE } from './batches.ts';
import type { AttemptRow, ReadModel, StepRow, TaskRow, TaskStatus } from './read-model.ts';
import { type Model, type Row, json, jsonOrNull, number, numberOrNull, text, textOrNull } from './model.ts';

const schema = `
CREATE TABLE tasks (
  batch_id TEXT NOT NULL,
  task_id TEXT NOT NULL,
  ordinal INTEGER NOT NULL,
  status TEXT NOT NULL DEFAULT 'queued',
  passed INTEGER,
  reward REAL NOT NULL DEFAULT 0,
  cause TEXT,
  error TEXT,
  warnings TEXT NOT NULL DEFAULT '[]',
  duration_ms INTEGER,
  attempt INTEGER NOT NULL DEFAULT 0,
  patch TEXT,
  ended_seq INTEGER,
  PRIMARY KEY (batch_id, task_id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX tasks_in_plan_order ON tasks (batch_id, ordinal);

CREATE TABLE attempts (
  batch_id TEXT NOT NULL,
  task_id TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  executor_id TEXT NOT NULL,
  sandbox TEXT NOT NULL,
  started_at TEXT NOT NULL,
  PRIMARY KEY (batch_id, task_id, attempt)
) STRICT, WITHOUT ROWID;

CREATE TABLE steps (
  batch_id TEXT NOT NULL,
  task_id TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  step INTEGER NOT NULL,
  kind TEXT NOT NULL,
  name TEXT NOT NULL,
  status TEXT NOT NULL DEFAULT 'running',
  exit_code INTEGER,
  signal TEXT,
  started_at TEXT NOT NULL,
  duration_ms INTEGER,
  cause TEXT,
  error TEXT,
  output TEXT,
  PRIMARY KEY (batch_id, task_id, attempt, step)
) STRICT, WITHOUT ROWID;
`;

function statusDuring(kind: StepKind): TaskStatus {
  switch (kind) {
    case 'clone':
    case 'checkout':
      return 'cloning_repo';
    case 'install':
      return 'installing_deps';
    case 'agent':
      return 'running_agent';
    case 'tests':
      return 'running_tests';
    default:
      return unreachable(kind);
  }
}

const OF_TASK = 'batch_id = :batchId AND task_id = :taskId';

function prepare(db: DatabaseSync): (event: Recorded) => void {
  const nextOrdinal = db.prepare('SELECT coalesce(max(ordinal) + 1, 0) AS next FROM tasks WHERE batch_id = ?');
  const planned = db.prepare(`
    INSERT INTO tasks (batch_id, task_id, ordinal) VALUES (:batchId, :taskId, :ordinal) ON CONFLICT DO NOTHING`);
  const started = db.prepare(`
    UPDATE tasks SET status = 'cloning_repo', attempt = :attempt
    WHERE ${OF_TASK} AND ended_seq IS NULL AND attempt <= :attempt`);
  const attempted = db.prepare(`
    INSERT INTO attempts (batch_id, task_id, attempt, executor_id, sandbox, started_at)
    VALUES (:batchId, :taskId, :attempt, :executorId, :sandbox, :time) ON CONFLICT DO NOTHING`);
  const moved = db.prepare(`
    UPDATE tasks SET status = :status WHERE ${OF_TASK} AND ended_seq IS NULL AND attempt = :attempt`);
  const stepStarted = db.prepare(`
    INSERT INTO steps (batch_id, task_id, attempt, step, kind, name, started_at)
    VALUES (:batchId, :taskId, :attempt, :step, :kind, :name, :time) ON CONFLICT DO NOTHING`);
  const stepFinished = db.prepare(`
    UPDATE steps SET status = 'finished', exit_code = :exitCode, signal = :signal, duration_ms = :durationMs,
      cause = :cause, error = :error, output = :output
    WHERE ${OF_TASK} AND attempt = :attempt AND step = :step AND status = 'running'`);
  const finished = db.prepare(`
    UPDATE tasks SET status = :status, passed = :passed, reward = :reward, cause = :cause, error = :error,
      warnings = :warnings, patch = :patch, duration_ms = :durationMs, ended_seq = :seq
    WHERE ${OF_TASK} AND ended_seq IS NULL AND attempt <= :attempt`);
  const abandoned = db.prepare(`
    UPDATE tasks SET status = 'failed', passed = 0, cause = :cause, error = :error, ended_seq = :seq
    WHERE ${OF_TASK} AND ended_seq IS NULL AND attempt <= :attempt`);
  const endedWithBatch = db.prepare(`
    UPDATE tasks SET status = :status, passed = 0, cause = :cause, error = :error, ended_seq = :seq
    WHERE batch_id = :batchId AND ended_seq IS NULL`);

  return (event) => {
    const { seq, time } = event;
    const endUnfinished = (
      batchId: string,
      status: TaskStatus,
      cause: FailureCause | null,
      error: string | null,
    ): void => {
      endedWithBatch.run({ batchId, status, cause, error, seq });
    };
    switch (event.type) {
      case 'BatchPlanned': {
        const { batchId, tasks } = event.data;
        const first = number(nextOrdinal.get(batchId) ?? {}, 'next');
        for (const [index, { taskId }] of tasks.entries()) planned.run({ batchId, taskId, ordinal: first + index });
        return;
      }
      case 'TaskStarted': {
        const { batchId, taskId, attempt, executorId, sandbox } = event.data;
        started.run({ batchId, taskId, attempt });
        attempted.run({ batchId, taskId, attempt, executorId, sandbox, time });
        return;
      }
      case 'StepStarted': {
        const { batchId, taskId, attempt, step, kind, name } = event.data;
        moved.run({ batchId, taskId, attempt, status: statusDuring(kind) });
        stepStarted.run({ batchId, taskId, attempt, step, kind, name, time });
        return;
      }
      case 'StepFinished': {
        const { batchId, taskId, attempt, step, exitCode, signal, durationMs, cause, error } = event.data;
        const output = toJson(event.data.output);
        stepFinished.run({ batchId, taskId, attempt, step, exitCode, signal, durationMs, cause, error, output });
        return;
      }
      case 'TaskFinished': {
        const { batchId, taskId, attempt, passed, reward, cause, error, durationMs } = event.data;
        finished.run({
          batchId,
          taskId,
          attempt,
          status: passed ? 'completed' : 'failed',
          passed: Number(passed),
          reward,
          cause,
          error,
          warnings: JSON.stringify(event.data.warnings),
          patch: toJson(event.data.patch),
          durationMs,
          seq,
        });
        return;
      }
      case 'TaskHandedBack': {
        const { batchId, taskId, attempt } = event.data;
        moved.run({ batchId, taskId, attempt, status: 'queued' });
        return;
      }
      case 'TaskAbandoned': {
        const { batchId, taskId, attempt, cause, reason } = event.data;
        abandoned.run({ batchId, taskId, attempt, cause, error: reason, seq });
        return;
      }
      case 'BatchCancelled':
        endUnfinished(event.data.batchId, 'cancelled', 'cancelled', null);
        return;
      case 'BatchExpired':
        endUnfinished(event.data.batchId, 'failed', 'max-duration', EXPIRED_MESSAGE);
        return;
      case 'BatchRejected':
        endUnfinished(event.data.batchId, 'failed', null, event.data.message);
        return;
      default:
        return;
    }
  };
}

function toJson(value: object | null): string | null {
  return value === null ? null : JSON.stringify(value);
}

export const tasksModel: Model = { name: 'tasks', schema, prepare };

/** The questions about tasks, prepared once. */
export function taskQueries(db: DatabaseSync): Pick<ReadModel, 'tasks' | 'task' | 'attempts'> {
  const allTasks = db.prepare('SELECT * FROM tasks WHERE batch_id = ? ORDER BY ordinal');
  const oneTask = db.prepare('SELECT * FROM tasks WHERE batch_id = ? AND task_id = ?');
  const currentSteps = 'SELECT steps.* FROM tasks JOIN steps USING (batch_id, task_id, attempt) WHERE batch_id = ?';
  const allSteps = db.prepare(`${currentSteps} ORDER BY task_id, step`);
  const stepsOfTask = db.prepare(`${currentSteps} AND task_id = ? ORDER BY step`);
  const attempts = db.prepare('SELECT * FROM attempts WHERE batch_id = ? AND task_id = ? ORDER BY attempt');
  return {
    tasks(batchId) {
      const steps = Map.groupBy(allSteps.all(batchId), (row) => text(row, 'task_id'));
      return allTasks.all(batchId).map((row) => toTask(row, steps.get(text(row, 'task_id')) ?? []));
    },
    task(batchId, taskId) {
      const row = oneTask.get(batchId, taskId);
      return row ? toTask(row, stepsOfTask.all(batchId, taskId)) : null;
    },
    attempts(batchId, taskId) {
      return attempts.all(batchId, taskId).map(toAttempt);
    },
  };
}

function toTask(row: Row, steps: readonly Row[]): TaskRow {
  const passed = numberOrNull(row, 'passed');
  return {
    batchId: text(row, 'batch_id'),
    taskId: text(row, 'task_id'),
    status: text(row, 'status'),
    passed: passed === null ? null : passed === 1,
    reward: number(row, 'reward'),
    cause: textOrNull(row, 'cause'),
    error: textOrNull(row, 'error'),
    warnings: json(row, 'warnings'),
    durationMs: numberOrNull(row, 'duration_ms'),
    attempt: number(row, 'attempt'),
    patch: jsonOrNull(row, 'patch'),
    steps: steps.map(toStep),
  };
}

function toStep(row: Row): StepRow {
  return {
    attempt: number(row, 'attempt'),
    step: number(row, 'step'),
    kind: text(row, 'kind'),
    name: text(row, 'name'),
    status: text(row, 'status'),
    exitCode: numberOrNull(row, 'exit_code'),
    signal: textOrNull(row, 'signal'),
    startedAt: text(row, 'started_at'),
    durationMs: numberOrNull(row, 'duration_ms'),
    cause: textOrNull(row, 'cause'),
    error: textOrNull(row, 'error'),
    output: jsonOrNull(row, 'output'),
  };
}

function toAttempt(row: Row): AttemptRow {
  return {
    attempt: number(row, 'attempt'),
    executorId: text(row, 'executor_id'),
    sandbox: text(row, 'sandbox'),
    startedAt: text(row, 'started_at'),
  };
}
