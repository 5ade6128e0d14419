/**
 * The SQLite file behind the read models. Rows and log position change in the same transaction, so a process that dies
 * at any moment leaves a database that is exactly the log up to its position. It holds nothing that the log does not:
 * a file of another version, or a damaged one, is deleted and built again.
 */
import { mkdirSync, rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { crc32 } from 'node:zlib';
import { EVENT_SCHEMAS } from '../events.ts';
import { CodedError, messageOf } from '../errors.ts';
import type { LogEntry } from '../log.ts';
import { batchesModel, batchQueries } from './batches.ts';
import { number, textOrNull } from './model.ts';
import { progressModel, progressQueries } from './progress.ts';
import type { FeedMessage, ReadModel } from './read-model.ts';
import { submissionQueries, submissionsModel } from './submissions.ts';
import { taskQueries, tasksModel } from './tasks.ts';

/** Raise it when a model writes other rows for the same events; a change of DDL or of the events counts by itself. */
const READ_MODEL_VERSION = 1;

/** How long a statement waits for another process's lock. It blocks the event loop, so it is short. */
const BUSY_TIMEOUT_MS = 100;

/** In the order they are applied: `tasks` and `progress` build on the ones before. */
const ROW_MODELS = [batchesModel, tasksModel, submissionsModel];
const POSITION_SCHEMA = `
CREATE TABLE position (id INTEGER PRIMARY KEY CHECK (id = 1), seq INTEGER NOT NULL, event_id TEXT) STRICT;
INSERT INTO position (id, seq) VALUES (1, 0);
`;
const SCHEMA = [POSITION_SCHEMA, ...ROW_MODELS.map((model) => model.schema), progressModel.schema].join('');
const EVENT_VERSIONS = Object.entries(EVENT_SCHEMAS).map(([type, { version }]) => `${type} ${version}`);
/** `user_version` is a signed 32-bit integer. */
const USER_VERSION = crc32([READ_MODEL_VERSION, ...EVENT_VERSIONS, SCHEMA].join('\n')) | 0;

/** The last log entry that is in the tables. `eventId` is null before the first and for an unknown event. */
export interface Position {
  readonly seq: number;
  readonly eventId: string | null;
}

/** The queries that tables alone can answer. */
export type StoredQueries = Omit<ReadModel, 'position' | 'waitFor' | 'subscribe'>;

export interface Store {
  readonly queries: StoredQueries;
  position(): Position;
  /**
   * Applies entries in one transaction, passing over those that were applied before, and returns the feed messages
   * they led to. On an error nothing of it is kept.
   */
  apply(entries: readonly LogEntry[]): readonly FeedMessage[];
  close(): void;
}

/**
 * Opens the database, or makes it anew when it is of another version or damaged. `:memory:` is possible.
 * @throws CodedError `read_model_unavailable` when the file can be neither used nor replaced
 */
export function openStore(file: string): Store {
  try {
    if (file !== ':memory:') mkdirSync(dirname(file), { recursive: true });
    return openExisting(file) ?? makeStore(file);
  } catch (error) {
    throw new CodedError(
      'read_model_unavailable',
      `cannot open the read model ${file} (${messageOf(error)}); check permissions and free space of its directory`,
      { cause: error },
    );
  }
}

/** Deletes the database with its side files; the next openStore builds it from the log. */
export function deleteStore(file: string): void {
  if (file === ':memory:') return;
  for (const suffix of ['', '-wal', '-shm']) rmSync(file + suffix, { force: true });
}

/** True for SQLITE_CORRUPT and SQLITE_NOTADB: only building it again helps. */
export function isDamaged(error: unknown): boolean {
  const code = primaryCode(error);
  return code === SQLITE_CORRUPT || code === SQLITE_NOTADB;
}

// https://www.sqlite.org/rescode.html
const SQLITE_ERROR = 1;
const SQLITE_CORRUPT = 11;
const SQLITE_NOTADB = 26;

function primaryCode(error: unknown): number | null {
  // The low byte is the primary code of an extended one such as SQLITE_CORRUPT_INDEX.
  return error instanceof Error && 'errcode' in error && typeof error.errcode === 'number'
    ? error.errcode & 0xff
    : null;
}

function openExisting(file: string): Store | null {
  const db = new DatabaseSync(file, { timeout: BUSY_TIMEOUT_MS });
  try {
    if (number(db.prepare('PRAGMA user_version').get() ?? {}, 'user_version') === USER_VERSION) return prepareStore(db);
  } catch (error) {
    // SQLITE_ERROR: a table or column is missing although the version is right.
    if (!isDamaged(error) && primaryCode(error) !== SQLITE_ERROR) {
      db.close();
      throw error;
    }
  }
  db.close();
  return null;
}

function makeStore(file: string): Store {
  deleteStore(file);
  const db = new DatabaseSync(file, { timeout: BUSY_TIMEOUT_MS });
  try {
    db.exec('PRAGMA journal_mode = WAL');
    db.exec(`BEGIN; ${SCHEMA} PRAGMA user_version = ${USER_VERSION}; COMMIT`);
    return prepareStore(db);
  } catch (error) {
    db.close();
    throw error;
  }
}

function prepareStore(db: DatabaseSync): Store {
  // NORMAL never corrupts in WAL mode; a power cut may lose the newest transactions, which the log still has.
  db.exec('PRAGMA synchronous = NORMAL');
  const applyRows = ROW_MODELS.map((model) => model.prepare(db));
  const applyProgress = progressModel.prepare(db);
  const stored = db.prepare('SELECT seq, event_id FROM position');
  const move = db.prepare('UPDATE position SET seq = :to, event_id = :eventId');
  const readPosition = (): Position => {
    const row = stored.get() ?? {};
    return { seq: number(row, 'seq'), eventId: textOrNull(row, 'event_id') };
  };
  let position = readPosition();

  const applyAll = (entries: readonly LogEntry[]): { messages: FeedMessage[]; reached: Position } => {
    const messages: FeedMessage[] = [];
    let reached = position;
    for (const entry of entries) {
      if (entry.seq <= reached.seq) continue;
      reached = { seq: entry.seq, eventId: entry.type === null ? null : entry.id };
      if (entry.type === null) continue;
      for (const apply of applyRows) apply(entry);
      const message = applyProgress(entry);
      if (message) messages.push(message);
    }
    return { messages, reached };
  };

  return {
    queries: { ...batchQueries(db), ...taskQueries(db), ...submissionQueries(db), ...progressQueries(db) },
    position: () => position,
    apply(entries) {
      if (entries.every((entry) => entry.seq <= position.seq)) return [];
      db.exec('BEGIN IMMEDIATE');
      try {
        // Another process with the same file has counted these events already, and its listeners alone heard of them.
        if (readPosition().seq !== position.seq) {
          throw new CodedError(
            'read_model_shared',
            'another process writes this read model; give each its own DATA_DIR',
          );
        }
        const { messages, reached } = applyAll(entries);
        move.run({ to: reached.seq, eventId: reached.eventId });
        db.exec('COMMIT');
        position = reached;
        return messages;
      } catch (error) {
        // SQLite may have rolled back by itself, as it does when the disk is full.
        if (db.isTransaction) db.exec('ROLLBACK');
        position = readPosition();
        throw error;
      }
    },
    close() {
      if (db.isOpen) db.close();
    },
  };
}
