/**
 * The progress feed: what the WebSocket sends about a batch, kept so that a reader can resume after any sequence. One
 * event is at most one message, so the sequence identifies it within its batch.
 *
 * Applied after the batches and tasks models, whose rows it reads: it announces what changed them, and stays silent on
 * late events that changed nothing, so that nothing follows `batch_complete`.
 */
import type { DatabaseSync } from 'node:sqlite';
import type { Recorded } from '../events.ts';
import type { FeedMessage, ReadModel } from './read-model.ts';
import { type Model, type Row, json, number, numberOrNull, text, textOrNull } from './model.ts';

const schema = `
CREATE TABLE feed (
  batch_id TEXT NOT NULL,
  seq INTEGER NOT NULL,
  event TEXT NOT NULL,
  task_id TEXT,
  data TEXT NOT NULL,
  PRIMARY KEY (batch_id, seq)
) STRICT, WITHOUT ROWID;
`;

function prepare(db: DatabaseSync): (event: Recorded) => FeedMessage | null {
  const batchRow = db.prepare('SELECT * FROM batches WHERE batch_id = ?');
  const taskRow = db.prepare(`
    SELECT tasks.* FROM tasks JOIN batches USING (batch_id)
    WHERE batch_id = ? AND task_id = ? AND batches.ended_seq IS NULL`);
  const insert = db.prepare(`
    INSERT INTO feed (batch_id, seq, event, task_id, data) VALUES (:batchId, :seq, :event, :taskId, :data)`);

  const message = (event: Recorded): FeedMessage | null => {
    if (!('batchId' in event.data)) return null;
    if ('taskId' in event.data) {
      const task = taskRow.get(event.data.batchId, event.data.taskId);
      return task ? ofTask(event, task) : null;
    }
    const batch = batchRow.get(event.data.batchId);
    return batch ? ofBatch(event, batch) : null;
  };
  return (event) => {
    const made = message(event);
    if (made) {
      const { batch_id: batchId, seq, task_id: taskId = null, data } = made;
      insert.run({ batchId, seq, event: made.event, taskId, data: JSON.stringify(data) });
    }
    return made;
  };
}

function ofBatch(event: Recorded, batch: Row): FeedMessage | null {
  const make = (name: string, data: FeedMessage['data']): FeedMessage => ({
    seq: event.seq,
    event: name,
    batch_id: text(batch, 'batch_id'),
    data,
  });
  const endedSeq = numberOrNull(batch, 'ended_seq');
  switch (event.type) {
    case 'BatchPlanned':
      if (endedSeq !== null || event.data.part !== event.data.parts) return null;
      return make('batch_planned', { total_tasks: number(batch, 'total_tasks') });
    case 'BatchStarted': {
      const { totalTasks, concurrentTasks } = event.data;
      if (endedSeq !== null) return null;
      return make('batch_started', { total_tasks: totalTasks, concurrent_limit: concurrentTasks });
    }
    case 'BatchCompleted':
    case 'BatchRejected':
    case 'BatchCancelled':
    case 'BatchExpired': {
      if (endedSeq !== event.seq) return null;
      const error = textOrNull(batch, 'error');
      return make('batch_complete', {
        status: text(batch, 'status'),
        total: number(batch, 'total_tasks'),
        passed: number(batch, 'passed_tasks'),
        failed: number(batch, 'failed_tasks'),
        reward: number(batch, 'aggregate_reward'),
        duration_ms: numberOrNull(batch, 'duration_ms'),
        ...(error === null ? {} : { error }),
      });
    }
    default:
      return null;
  }
}

function ofTask(event: Recorded, task: Row): FeedMessage | null {
  const taskId = text(task, 'task_id');
  const make = (name: string, data: FeedMessage['data']): FeedMessage => ({
    seq: event.seq,
    event: name,
    batch_id: text(task, 'batch_id'),
    task_id: taskId,
    data: { task_id: taskId, ...data },
  });
  const endedSeq = numberOrNull(task, 'ended_seq');
  const isCurrent = (attempt: number): boolean => endedSeq === null && attempt === number(task, 'attempt');
  switch (event.type) {
    case 'TaskStarted': {
      const { attempt } = event.data;
      return isCurrent(attempt) ? make('task_started', { attempt }) : null;
    }
    case 'StepStarted': {
      const { attempt, step, kind, name } = event.data;
      return isCurrent(attempt) ? make('step_started', { attempt, step, kind, name }) : null;
    }
    case 'StepFinished': {
      const { attempt, step, kind, name, exitCode, durationMs, cause } = event.data;
      if (!isCurrent(attempt)) return null;
      return make('step_finished', { attempt, step, kind, name, exit_code: exitCode, duration_ms: durationMs, cause });
    }
    case 'TaskFinished':
    case 'TaskAbandoned':
      if (endedSeq !== event.seq) return null;
      return make('task_complete', {
        status: text(task, 'status'),
        passed: number(task, 'passed') === 1,
        reward: number(task, 'reward'),
      });
    default:
      return null;
  }
}

export const progressModel: Model<FeedMessage | null> = { name: 'progress', schema, prepare };

/** To SQLite a negative limit is none. Source: https://sqlite.org/lang_select.html#limitoffset */
const NO_LIMIT = -1;

/** The stored feed, prepared once. */
export function progressQueries(db: DatabaseSync): Pick<ReadModel, 'feed'> {
  const after = db.prepare('SELECT * FROM feed WHERE batch_id = ? AND seq > ? ORDER BY seq LIMIT ?');
  return {
    feed(batchId, seq, limit = NO_LIMIT) {
      return after.all(batchId, seq, limit).map(toMessage);
    },
  };
}

function toMessage(row: Row): FeedMessage {
  const taskId = textOrNull(row, 'task_id');
  return {
    seq: number(row, 'seq'),
    event: text(row, 'event'),
    batch_id: text(row, 'batch_id'),
    ...(taskId === null ? {} : { task_id: taskId }),
    data: json(row, 'data'),
  };
}
