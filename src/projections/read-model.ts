/**
 * What can be asked of the read models. HTTP and WebSocket know this interface and nothing of SQLite behind it; every
 * answer is a pure function of the log up to `position()`, so a rebuilt database answers the same.
 */
import type { FailureCause, StepKind, StoredOutput } from '../events.ts';

/** The contract's batch states, and ours: `queued` waits for a free place, `cancelled` was cancelled. */
export const BATCH_STATUSES = [
  'pending',
  'extracting',
  'queued',
  'running',
  'completed',
  'failed',
  'cancelled',
] as const;
export type BatchStatus = (typeof BATCH_STATUSES)[number];

export const TASK_STATUSES = [
  'queued',
  'cloning_repo',
  'installing_deps',
  'running_agent',
  'running_tests',
  'completed',
  'failed',
  'cancelled',
] as const;
export type TaskStatus = (typeof TASK_STATUSES)[number];

export interface BatchRow {
  readonly batchId: string;
  readonly archiveHash: string;
  readonly status: BatchStatus;
  /** RFC 3339; the time of BatchApproved. */
  readonly createdAt: string;
  readonly concurrentTasks: number;
  readonly totalTasks: number;
  readonly completedTasks: number;
  readonly passedTasks: number;
  readonly failedTasks: number;
  /** Mean over all tasks; 0 until the batch is completed. */
  readonly aggregateReward: number;
  readonly error: string | null;
  readonly durationMs: number | null;
  /** Sequence of the first and the newest event of the batch. */
  readonly firstSeq: number;
  readonly lastSeq: number;
}

export interface StepRow {
  readonly attempt: number;
  readonly step: number;
  readonly kind: StepKind;
  readonly name: string;
  readonly status: 'running' | 'finished';
  readonly exitCode: number | null;
  readonly signal: string | null;
  readonly startedAt: string;
  readonly durationMs: number | null;
  readonly cause: FailureCause | null;
  readonly error: string | null;
  readonly output: StoredOutput | null;
}

export interface AttemptRow {
  readonly attempt: number;
  readonly executorId: string;
  readonly sandbox: string;
  readonly startedAt: string;
}

export interface TaskRow {
  readonly batchId: string;
  readonly taskId: string;
  readonly status: TaskStatus;
  /** null until the task has ended. */
  readonly passed: boolean | null;
  readonly reward: number;
  readonly cause: FailureCause | null;
  readonly error: string | null;
  readonly warnings: readonly string[];
  readonly durationMs: number | null;
  readonly attempt: number;
  readonly patch: StoredOutput | null;
  /** Steps of the current attempt, in order. */
  readonly steps: readonly StepRow[];
}

export interface Totals {
  readonly totalBatches: number;
  /** Started and not ended. */
  readonly activeBatches: number;
  /** Approved and not started. */
  readonly queuedBatches: number;
  /** Ended, in whatever way. */
  readonly completedBatches: number;
  readonly tasksPassed: number;
  readonly tasksFailed: number;
  readonly durationMsSum: number;
}

/** A vote as it was cast, for the quorum proof. */
export interface VoteRow {
  readonly hotkey: string;
  readonly nonce: string;
  readonly signature: string;
  readonly signatureVersion: number;
  readonly seq: number;
  readonly votedAt: string;
}

export interface QuorumProof {
  readonly archiveHash: string;
  readonly round: number;
  readonly votes: readonly VoteRow[];
  readonly voters: readonly string[];
  readonly required: number;
  readonly validators: readonly string[];
  readonly threshold: { readonly numerator: number; readonly denominator: number };
  /** Sequence of QuorumReached. */
  readonly seq: number;
}

/** An open vote round. */
export interface RoundRow {
  readonly archiveHash: string;
  readonly round: number;
  readonly votes: number;
  readonly expiresAtMs: number;
}

/** One message of the progress feed, as the WebSocket sends it. */
export interface FeedMessage {
  readonly seq: number;
  readonly event: string;
  readonly batch_id: string;
  readonly task_id?: string;
  readonly data: Readonly<Record<string, unknown>>;
}

export interface ReadModel {
  /** Sequence of the last event that is in the tables. */
  position(): number;
  /** Resolves once position() has reached seq; rejects with the signal's reason. */
  waitFor(seq: number, signal: AbortSignal): Promise<void>;
  batch(batchId: string): BatchRow | null;
  /** Newest first. `before` is the firstSeq of the last row of the page before. */
  batches(query: { status?: BatchStatus; limit: number; before?: number }): readonly BatchRow[];
  /** In plan order. */
  tasks(batchId: string): readonly TaskRow[];
  task(batchId: string, taskId: string): TaskRow | null;
  attempts(batchId: string, taskId: string): readonly AttemptRow[];
  quorum(batchId: string): QuorumProof | null;
  /**
   * Whether a vote with this nonce is on the log. Votes and their signatures are public there, and a version 1
   * signature covers nothing but hotkey and nonce: without this, anybody could vote with it once the nonce bucket has
   * forgotten it.
   */
  hasVotedWith(hotkey: string, nonce: string): boolean;
  /** Open rounds; expired ones by the caller's clock included until their event is there. */
  openRounds(): readonly RoundRow[];
  totals(): Totals;
  /** Feed messages of a batch with seq greater than `after`, oldest first; at most `limit` of them (default: all). */
  feed(batchId: string, after: number, limit?: number): readonly FeedMessage[];
  /**
   * Calls the listener, synchronously and in order, for every feed message of the batch applied from now on. A
   * snapshot read in the same tick and this subscription together have no gap and no repeat. Returns the unsubscribe.
   */
  subscribe(batchId: string, listener: (message: FeedMessage) => void): () => void;
}
