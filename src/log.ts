/**
 * The event log: the only way events get onto JetStream and off it. Every append is guarded by the last sequence of
 * its subject, every event carries the hash of the one before; so two writers can never both win, and a changed past
 * shows.
 */
import type { Event, Recorded, UnknownEvent } from './events.ts';
import { CodedError } from './errors.ts';

/** The newest event of a subject: where an append must continue. `seq` 0: nothing there yet. */
export interface Head {
  readonly seq: number;
  /** What `prev` of the next event must be. */
  readonly hash: string;
}

export type LogEntry = Recorded | UnknownEvent;

/** What all events of one append share. */
export interface AppendMeta {
  readonly actor: string;
  /** Command id. */
  readonly cause: string;
  readonly nowMs: number;
}

/** Another writer was first, or a retry found its own events stored. Load again and decide again. */
export class LogConflictError extends CodedError<'log_conflict'> {
  constructor(message: string, options?: ErrorOptions) {
    super('log_conflict', message, options);
  }
}

/** NATS did not answer, or refused for a reason that passes. Whether the events were stored is not known. */
export class LogUnavailableError extends CodedError<'log_unavailable'> {
  constructor(message: string, options?: ErrorOptions) {
    super('log_unavailable', `${message}; is NATS reachable? Try again`, options);
  }
}

/** The event does not match its schema or is too large; a defect in the caller, nothing was written. */
export class InvalidEventError extends CodedError<'invalid_event'> {
  constructor(message: string) {
    super('invalid_event', message);
  }
}

export interface FollowOptions {
  readonly filters: readonly string[];
  /** Deliver what comes after this sequence; 0: from the first event. */
  readonly after: number;
  /** Begin with the newest event of each subject instead of with every event after `after`. */
  readonly lastPerSubject?: boolean;
  readonly signal: AbortSignal;
}

export interface EventLog {
  /** The events of one subject after `from` (default: all), and its head. Direct gets; no consumer. */
  load(subject: string, from?: Head): Promise<{ entries: readonly LogEntry[]; head: Head }>;
  /**
   * Appends events atomically: all or none. `heads` holds the expected head of every subject that the events belong
   * to. Returns the new heads. @throws LogConflictError, LogUnavailableError, InvalidEventError
   */
  append(
    events: readonly Event[],
    heads: ReadonlyMap<string, Head>,
    meta: AppendMeta,
  ): Promise<{ recorded: readonly Recorded[]; heads: ReadonlyMap<string, Head> }>;
  /**
   * Follows the log in order, for ever, across reconnects and server restarts, until the signal aborts (then it ends
   * without an error). `pending`: how many more are stored and on their way; 0 means caught up.
   */
  follow(options: FollowOptions): AsyncIterable<{ entry: LogEntry; pending: number }>;
  /** Sequence of the newest event on the log, or of those under a subject filter; 0 when there is none. */
  lastSeq(filter?: string): Promise<number>;
}
