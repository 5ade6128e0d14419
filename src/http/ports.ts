/**
 * Everything the HTTP server needs from the rest of the process, as narrow functions that the wiring fills in. It
 * keeps the server testable with parts of one's choice and keeps executors, NATS and the log out of its imports.
 */
import type { Config } from '../config.ts';
import type { LogEntry } from '../log.ts';
import type { ReadModel } from '../projections/read-model.ts';
import type { VoteResult } from '../commands/submission.ts';
import type { CancelResult } from '../commands/batch.ts';

/** A vote whose signature was verified and whose archive was validated and stored. */
export interface VerifiedVote {
  readonly archiveHash: string;
  readonly archiveBytes: number;
  readonly hotkey: string;
  readonly nonce: string;
  readonly signature: string;
  readonly concurrentTasks: number;
}

export interface HttpPorts {
  readonly config: Config;
  readonly readModel: ReadModel;
  readonly version: string;
  readonly sandboxName: string;
  readonly startedAtMs: number;
  readonly now: () => number;
  /** The hotkeys that are whitelisted now; empty: not ready. */
  readonly validators: () => readonly string[];
  /** True if the nonce was new for this hotkey. Throws when that cannot be known; the request is refused then. */
  readonly useNonce: (hotkey: string, nonce: string) => Promise<boolean>;
  /** `seq`: log sequence that the read model must reach before the answer is visible there. */
  readonly castVote: (vote: VerifiedVote) => Promise<{ result: VoteResult; seq: number }>;
  readonly cancelBatch: (
    batchId: string,
    hotkey: string,
    reason: string,
  ) => Promise<{ result: CancelResult; seq: number }>;
  /** False while a vote on a new archive would be refused with `too-many-pending`. */
  readonly roomForNewRound: () => boolean;
  /** True when the archive store has these bytes, which proves that they were validated. */
  readonly archiveKnown: (sha256: string) => Promise<boolean>;
  /** Validates the uploaded file. @throws CodedError `extraction_failed` naming the place. */
  readonly inspectArchive: (file: string, signal: AbortSignal) => Promise<{ readonly taskCount: number }>;
  readonly storeArchive: (file: string, sha256: string) => Promise<void>;
  /** Stored output bytes, verified. @throws CodedError `blob_not_found` */
  readonly readOutput: (digest: string) => AsyncIterable<Uint8Array>;
  /** Events under any of the filters, which must not overlap, after a sequence; ends when the signal aborts, or when caught up if `live` is false. */
  readonly readEvents: (options: {
    filters: readonly string[];
    after: number;
    live: boolean;
    signal: AbortSignal;
  }) => AsyncIterable<LogEntry>;
  /** Newest event of the batch's subject and the hash that a next one would carry; for GET /verify. null: no batch. */
  readonly chainHead: (batchId: string) => Promise<{ readonly seq: number; readonly hash: string } | null>;
  /** How many executors are known to be alive; for GET /status. */
  readonly executorsAlive: () => number | null;
  /** False while the connection to NATS is down: reads go on from the read model, writes are refused. */
  readonly logReachable: () => boolean;
}
