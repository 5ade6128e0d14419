/**
 * Keeps the read models in step with the log: follows it in order from the stored position, commits, and tells those
 * who wait. It is the only writer of the tables. Whatever goes wrong with SQLite or the log is reported and tried
 * again from the stored position; what cannot be repaired is built anew, since the log has everything.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { delay } from '../delay.ts';
import { CodedError } from '../errors.ts';
import type { EventLog, LogEntry } from '../log.ts';
import { subjects } from '../streams.ts';
import { createListeners, createWaiters } from './notify.ts';
import type { ReadModel } from './read-model.ts';
import { type Position, deleteStore, isDamaged, openStore } from './store.ts';

/** While catching up, so many entries share a transaction; it bounds how long the event loop is blocked. */
const MAX_GROUP = 500;
/** How long entries wait for others on their way before they are committed without them. */
const MAX_GROUP_WAIT_MS = 20;
const RETRY_MIN_MS = 100;
const RETRY_MAX_MS = 10_000;
/** How long close() waits for the log to end the follow. */
const CLOSE_TIMEOUT_MS = 5_000;

export interface ProjectionsOptions {
  /** Path of the database, or `:memory:`. Belongs to this process alone. */
  readonly file: string;
  readonly log: Pick<EventLog, 'follow' | 'lastSeq'>;
  /** Ends the following; the model answers until close(). */
  readonly signal: AbortSignal;
  /** Called with everything that was survived: failed commits, rebuilds, listeners that threw. Must not throw. */
  readonly onError: (error: unknown) => void;
}

export interface Projections {
  readonly model: ReadModel;
  /**
   * Resolves once the model has what was the newest event of the log at the time of the call. Rejects with the
   * signal's reason. @throws LogUnavailableError
   */
  whenCaughtUp(signal: AbortSignal): Promise<void>;
  /** Stops following, fails those who wait and closes the database. */
  close(): Promise<void>;
}

/** The tables were built from another log than the one that is followed. */
class OtherLogError extends CodedError<'read_model_of_other_log'> {
  constructor(problem: string) {
    super('read_model_of_other_log', `${problem}: the read model is of another log and is built again`);
  }
}

/**
 * Opens the read models and begins to follow the log.
 * @throws CodedError `read_model_unavailable` when the database can be neither opened nor made
 */
export function openProjections({ file, log, signal, onError }: ProjectionsOptions): Projections {
  let store = openStore(file);
  let mustRebuild = false;
  const closing = new AbortController();
  const stopped = AbortSignal.any([signal, closing.signal]);
  const listeners = createListeners(onError);
  const waiters = createWaiters();
  const checked = Promise.withResolvers<void>();
  /** Of the current follow; aborting it makes the loop begin a new one. */
  let round = new AbortController();
  let failures = 0;

  const commit = (entries: readonly LogEntry[]): void => {
    const messages = store.apply(entries);
    failures = 0;
    waiters.reached(store.position().seq);
    listeners.notify(messages);
  };

  const rebuild = (): void => {
    store.close();
    deleteStore(file);
    store = openStore(file);
    mustRebuild = false;
  };

  const followOnce = async (): Promise<void> => {
    const resumed = store.position();
    const head = await log.lastSeq();
    if (head < resumed.seq) throw new OtherLogError(`the log ends at ${head}, before position ${resumed.seq}`);
    // A read may have met damage while the log was asked.
    if (mustRebuild) return;
    round = new AbortController();
    const group = createGroup(commit, () => round.abort());
    // The entry at the position is read once more, to see that it is the one that was applied.
    let toCheck = resumed.seq > 0;
    if (!toCheck) checked.resolve();
    try {
      const follow = log.follow({
        filters: [subjects.all],
        after: Math.max(0, resumed.seq - 1),
        signal: AbortSignal.any([stopped, round.signal]),
      });
      for await (const { entry, pending } of follow) {
        if (toCheck) checkSame(entry, resumed);
        toCheck = false;
        checked.resolve();
        group.add(entry, pending === 0);
      }
    } finally {
      group.cancel();
    }
    group.throwIfFailed();
  };

  const run = async (): Promise<void> => {
    while (!stopped.aborted) {
      try {
        if (mustRebuild) rebuild();
        await followOnce();
      } catch (error) {
        if (stopped.aborted) return;
        onError(error);
        if (isDamaged(error) || error instanceof OtherLogError) mustRebuild = true;
      }
      const delayMs = Math.min(RETRY_MAX_MS, RETRY_MIN_MS * 2 ** failures);
      failures += 1;
      await delay(delayMs, stopped);
    }
  };

  /** A read that meets a damaged page fails, and has the database built again. */
  const read = <T>(query: () => T): T => {
    try {
      return query();
    } catch (error) {
      if (isDamaged(error) && !mustRebuild) {
        onError(error);
        mustRebuild = true;
        round.abort();
      }
      throw error;
    }
  };

  const waitFor = async (seq: number, until: AbortSignal): Promise<void> => {
    if (store.position().seq < seq) await waiters.wait(seq, until);
  };

  const running = run();
  return {
    model: {
      position: () => store.position().seq,
      waitFor,
      batch: (batchId) => read(() => store.queries.batch(batchId)),
      batches: (query) => read(() => store.queries.batches(query)),
      tasks: (batchId) => read(() => store.queries.tasks(batchId)),
      task: (batchId, taskId) => read(() => store.queries.task(batchId, taskId)),
      attempts: (batchId, taskId) => read(() => store.queries.attempts(batchId, taskId)),
      quorum: (batchId) => read(() => store.queries.quorum(batchId)),
      hasVotedWith: (hotkey, nonce) => read(() => store.queries.hasVotedWith(hotkey, nonce)),
      openRounds: () => read(() => store.queries.openRounds()),
      totals: () => read(() => store.queries.totals()),
      feed: (batchId, after, limit) => read(() => store.queries.feed(batchId, after, limit)),
      subscribe: (batchId, listener) => listeners.subscribe(batchId, store.position().seq, listener),
    },
    async whenCaughtUp(until) {
      // A position of another log says nothing, so the check comes first.
      await unlessAborted(checked.promise, AbortSignal.any([until, closing.signal]));
      await waitFor(await unlessAborted(log.lastSeq(), until), until);
    },
    async close() {
      closing.abort(new CodedError('read_model_closed', 'the read model was closed while it caught up'));
      waiters.close();
      await Promise.race([running, sleep(CLOSE_TIMEOUT_MS, undefined, { ref: false })]);
      store.close();
    },
  };
}

/** @throws OtherLogError unless the entry is the one at the position */
function checkSame(entry: LogEntry, { seq, eventId }: Position): void {
  const sameEvent = entry.type === null || eventId === null || entry.id === eventId;
  if (entry.seq !== seq || !sameEvent) throw new OtherLogError(`the log has another event at position ${seq}`);
}

/**
 * Collects entries while more are on their way. `onLateFailure` is called when a commit fails that no `add` waited
 * for; its error is thrown by throwIfFailed.
 */
function createGroup(commit: (entries: readonly LogEntry[]) => void, onLateFailure: () => void) {
  let entries: LogEntry[] = [];
  let timer: NodeJS.Timeout | undefined;
  let failure: { readonly error: unknown } | undefined;
  const flush = (): void => {
    clearTimeout(timer);
    timer = undefined;
    const group = entries;
    entries = [];
    commit(group);
  };
  const flushLate = (): void => {
    try {
      flush();
    } catch (error) {
      failure = { error };
      onLateFailure();
    }
  };
  return {
    add(entry: LogEntry, isLast: boolean): void {
      // What follows a failed commit must not be applied: the position would pass over the failed entries.
      if (failure) return;
      entries.push(entry);
      if (isLast || entries.length >= MAX_GROUP) flush();
      else timer ??= setTimeout(flushLate, MAX_GROUP_WAIT_MS);
    },
    cancel(): void {
      clearTimeout(timer);
    },
    throwIfFailed(): void {
      if (failure) throw failure.error;
    },
  };
}

async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  const aborted = Promise.withResolvers<never>();
  const abort = (): void => aborted.reject(signal.reason);
  signal.addEventListener('abort', abort, { once: true });
  try {
    return await Promise.race([promise, aborted.promise]);
  } finally {
    signal.removeEventListener('abort', abort);
  }
}
