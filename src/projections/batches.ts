/**
 * The batches as they stand, and the totals over all of them. A batch ends once: whatever the log says of it later
 * moves `lastSeq` and nothing else.
 */
import type { DatabaseSync } from 'node:sqlite';
import type { Recorded } from '../events.ts';
import type { BatchRow, BatchStatus, ReadModel, Totals } from './read-model.ts';
import { type Model, type Row, number, numberOrNull, text, textOrNull } from './model.ts';

/** The error of a batch, and of its unfinished tasks, that ran out of time. */
export const EXPIRED_MESSAGE = 'the batch did not finish within its time';

/**
 * The contribution of one batch row to each of the totals, as SQL over `new` or `old`. Triggers add the one and take
 * away the other, so that the totals cannot drift from the rows and reading them costs one row.
 */
const totalsOf = (row: 'new' | 'old'): Record<string, string> => ({
  total_batches: '1',
  active_batches: `(${row}.status = 'running')`,
  queued_batches: `(${row}.status IN ('pending', 'extracting', 'queued'))`,
  completed_batches: `(${row}.ended_seq IS NOT NULL)`,
  tasks_passed: `${row}.passed_tasks`,
  tasks_failed: `${row}.failed_tasks`,
  duration_ms_sum: `(CASE WHEN ${row}.status = 'completed' THEN coalesce(${row}.duration_ms, 0) ELSE 0 END)`,
});
const columns = Object.keys(totalsOf('new'));
const added = Object.entries(totalsOf('new')).map(([name, value]) => `${name} = ${name} + ${value}`);
const moved = added.map((part, index) => `${part} - ${Object.values(totalsOf('old'))[index]}`);

const schema = `
CREATE TABLE batches (
  batch_id TEXT PRIMARY KEY,
  archive_hash TEXT NOT NULL,
  status TEXT NOT NULL,
  created_at TEXT NOT NULL,
  started_at_ms INTEGER,
  concurrent_tasks INTEGER NOT NULL,
  total_tasks INTEGER NOT NULL DEFAULT 0,
  completed_tasks INTEGER NOT NULL DEFAULT 0,
  passed_tasks INTEGER NOT NULL DEFAULT 0,
  failed_tasks INTEGER NOT NULL DEFAULT 0,
  aggregate_reward REAL NOT NULL DEFAULT 0,
  error TEXT,
  duration_ms INTEGER,
  first_seq INTEGER NOT NULL,
  last_seq INTEGER NOT NULL,
  ended_seq INTEGER
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX batches_by_age ON batches (first_seq);
CREATE INDEX batches_by_status ON batches (status, first_seq);

CREATE TABLE totals (id INTEGER PRIMARY KEY CHECK (id = 1), ${columns.map((name) => `${name} INTEGER NOT NULL DEFAULT 0`).join(', ')}) STRICT;
INSERT INTO totals (id) VALUES (1);
CREATE TRIGGER batches_inserted AFTER INSERT ON batches BEGIN
  UPDATE totals SET ${added.join(', ')};
END;
CREATE TRIGGER batches_updated AFTER UPDATE OF status, passed_tasks, failed_tasks ON batches BEGIN
  UPDATE totals SET ${moved.join(', ')};
END;
`;

const OPEN = 'batch_id = :batchId AND ended_seq IS NULL';

function prepare(db: DatabaseSync): (event: Recorded) => void {
  const approved = db.prepare(`
    INSERT INTO batches (batch_id, archive_hash, status, created_at, concurrent_tasks, first_seq, last_seq)
    VALUES (:batchId, :archiveHash, 'pending', :time, :concurrentTasks, :seq, :seq) ON CONFLICT DO NOTHING`);
  const touched = db.prepare('UPDATE batches SET last_seq = :seq WHERE batch_id = :batchId');
  const planned = db.prepare(`
    UPDATE batches SET status = :status, total_tasks = total_tasks + :tasks
    WHERE ${OPEN} AND status IN ('pending', 'extracting')`);
  const started = db.prepare(`
    UPDATE batches SET status = 'running', started_at_ms = :startedAtMs, total_tasks = :totalTasks,
      concurrent_tasks = :concurrentTasks
    WHERE ${OPEN} AND status <> 'running'`);
  const counted = db.prepare(`
    UPDATE batches SET completed_tasks = completed_tasks + 1, passed_tasks = passed_tasks + :passed,
      failed_tasks = failed_tasks + 1 - :passed
    WHERE ${OPEN} AND completed_tasks < total_tasks`);
  const completed = db.prepare(`
    UPDATE batches SET status = 'completed', total_tasks = :totalTasks, completed_tasks = :passedTasks + :failedTasks,
      passed_tasks = :passedTasks, failed_tasks = :failedTasks, aggregate_reward = :aggregateReward,
      duration_ms = :durationMs, ended_seq = :seq
    WHERE ${OPEN}`);
  const ended = db.prepare(`
    UPDATE batches SET status = :status, error = :error, duration_ms = max(0, :endedAtMs - started_at_ms),
      ended_seq = :seq
    WHERE ${OPEN}`);

  const end = (event: Recorded, batchId: string, status: BatchStatus, error: string | null): void => {
    ended.run({ batchId, status, error, endedAtMs: Date.parse(event.time), seq: event.seq });
  };
  return (event) => {
    if (!('batchId' in event.data)) return;
    const { seq, time } = event;
    const { batchId } = event.data;
    touched.run({ batchId, seq });
    switch (event.type) {
      case 'BatchApproved': {
        const { archiveHash, concurrentTasks } = event.data;
        approved.run({ batchId, archiveHash, time, concurrentTasks, seq });
        return;
      }
      case 'BatchPlanned': {
        const { part, parts, tasks } = event.data;
        planned.run({ batchId, status: part === parts ? 'queued' : 'extracting', tasks: tasks.length });
        return;
      }
      case 'BatchStarted': {
        const { totalTasks, concurrentTasks } = event.data;
        started.run({ batchId, startedAtMs: Date.parse(time), totalTasks, concurrentTasks });
        return;
      }
      case 'BatchTaskFinished':
        counted.run({ batchId, passed: Number(event.data.passed) });
        return;
      case 'BatchCompleted': {
        const { totalTasks, passedTasks, failedTasks, aggregateReward, durationMs } = event.data;
        completed.run({ batchId, totalTasks, passedTasks, failedTasks, aggregateReward, durationMs, seq });
        return;
      }
      case 'BatchRejected':
        end(event, batchId, 'failed', event.data.message);
        return;
      case 'BatchCancelled':
        end(event, batchId, 'cancelled', event.data.reason === '' ? null : event.data.reason);
        return;
      case 'BatchExpired':
        end(event, batchId, 'failed', EXPIRED_MESSAGE);
        return;
      default:
        return;
    }
  };
}

export const batchesModel: Model = { name: 'batches', schema, prepare };

/** The questions about batches, prepared once. */
export function batchQueries(db: DatabaseSync): Pick<ReadModel, 'batch' | 'batches' | 'totals'> {
  const one = db.prepare('SELECT * FROM batches WHERE batch_id = ?');
  const newest = db.prepare('SELECT * FROM batches WHERE first_seq < ? ORDER BY first_seq DESC LIMIT ?');
  const newestWithStatus = db.prepare(
    'SELECT * FROM batches WHERE status = ? AND first_seq < ? ORDER BY first_seq DESC LIMIT ?',
  );
  const totals = db.prepare('SELECT * FROM totals');
  return {
    batch(batchId) {
      const row = one.get(batchId);
      return row ? toBatch(row) : null;
    },
    batches({ status, limit, before = Number.MAX_SAFE_INTEGER }) {
      const rows = status === undefined ? newest.all(before, limit) : newestWithStatus.all(status, before, limit);
      return rows.map(toBatch);
    },
    totals(): Totals {
      const row = totals.get() ?? {};
      return {
        totalBatches: number(row, 'total_batches'),
        activeBatches: number(row, 'active_batches'),
        queuedBatches: number(row, 'queued_batches'),
        completedBatches: number(row, 'completed_batches'),
        tasksPassed: number(row, 'tasks_passed'),
        tasksFailed: number(row, 'tasks_failed'),
        durationMsSum: number(row, 'duration_ms_sum'),
      };
    },
  };
}

function toBatch(row: Row): BatchRow {
  return {
    batchId: text(row, 'batch_id'),
    archiveHash: text(row, 'archive_hash'),
    status: text(row, 'status'),
    createdAt: text(row, 'created_at'),
    concurrentTasks: number(row, 'concurrent_tasks'),
    totalTasks: number(row, 'total_tasks'),
    completedTasks: number(row, 'completed_tasks'),
    passedTasks: number(row, 'passed_tasks'),
    failedTasks: number(row, 'failed_tasks'),
    aggregateReward: number(row, 'aggregate_reward'),
    error: textOrNull(row, 'error'),
    durationMs: numberOrNull(row, 'duration_ms'),
    firstSeq: number(row, 'first_seq'),
    lastSeq: number(row, 'last_seq'),
  };
}
