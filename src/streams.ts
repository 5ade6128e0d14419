/**
 * Names on NATS: the stream, the buckets, the consumers, and which subject an event belongs to. Subjects are the
 * identity of aggregates (one literal subject each, ADR 0002), so they are built here and nowhere else, and every id
 * that comes from outside is encoded before it becomes a token.
 */
import { DiscardPolicy, RetentionPolicy, StorageType, type StreamConfig } from '@nats-io/jetstream';
import type { Event } from './events.ts';
import { unreachable } from './errors.ts';

/** The one stream that holds every event. */
export const EVENT_STREAM = 'EVENTS';
const DUPLICATE_WINDOW_NS = 120_000_000_000;

/** Object buckets. Archives have their own, so that being in it proves that the bytes passed validation. */
export const BUCKETS = { archives: 'archives', bundles: 'bundles', outputs: 'outputs' } as const;
export type BucketName = (typeof BUCKETS)[keyof typeof BUCKETS];

/** The KV bucket whose keys are used nonces; its TTL is how long a nonce stays used. */
export const NONCE_BUCKET = 'nonces';

/** The KV bucket with one key for each executor session that lives; a key that is not renewed goes. */
export const LIVENESS_BUCKET = 'liveness';
export const LIVENESS_TTL_SECS = 30;

/** Durable consumers: one planner for all processes, one `run` consumer for each pool of executors. */
export const PLAN_CONSUMER = 'plan';
export function runConsumer(pool: string): string {
  return `run-${pool}`;
}

/** The event stream's configuration: append-only, never expiring, with direct gets and atomic batches (ADR-50). */
export function eventStreamConfig(replicas: number): Partial<StreamConfig> & { name: string } {
  return {
    name: EVENT_STREAM,
    subjects: ['ev.>'],
    storage: StorageType.File,
    retention: RetentionPolicy.Limits,
    discard: DiscardPolicy.New,
    // Said although they are the defaults, so that a stream which forgets is refused.
    max_age: 0,
    max_msgs: -1,
    max_bytes: -1,
    max_msgs_per_subject: -1,
    num_replicas: replicas,
    duplicate_window: DUPLICATE_WINDOW_NS,
    allow_direct: true,
    allow_atomic: true,
    deny_delete: true,
    deny_purge: true,
  };
}

/**
 * Encodes an id as one subject token: percent-encoding of UTF-8, also of `.`, `*` and the other characters that
 * encodeURIComponent leaves. Reversible with decodeURIComponent; two ids never share a token.
 */
export function encodeToken(id: string): string {
  return encodeURIComponent(id.toWellFormed()).replace(
    /[.*!'()~]/g,
    (c) => `%${c.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`,
  );
}

/** Subject builders. `all*` are filters for consumers, never expectations of an append. */
export const subjects = {
  all: 'ev.>',
  allBatches: 'ev.batch.*',
  allSubmissions: 'ev.submission.*',
  submission: (archiveHash: string) => `ev.submission.${encodeToken(archiveHash)}`,
  batch: (batchId: string) => `ev.batch.${encodeToken(batchId)}`,
  dispatch: (pool: string, batchId: string, taskId: string) =>
    `ev.dispatch.${encodeToken(pool)}.${encodeToken(batchId)}.${encodeToken(taskId)}`,
  allDispatches: (pool: string) => `ev.dispatch.${encodeToken(pool)}.>`,
  task: (batchId: string, taskId: string) => `ev.task.${encodeToken(batchId)}.${encodeToken(taskId)}`,
  /** Filters for all that concerns one batch: itself, its dispatches and tasks, and its submission. */
  ofBatch: (batchId: string, archiveHash: string) => [
    `ev.submission.${encodeToken(archiveHash)}`,
    `ev.batch.${encodeToken(batchId)}`,
    `ev.dispatch.*.${encodeToken(batchId)}.>`,
    `ev.task.${encodeToken(batchId)}.>`,
  ],
  whitelist: (netuid: number) => `ev.whitelist.${netuid}`,
} as const;

/** The subject of the aggregate that an event belongs to. */
export function subjectOf(event: Event): string {
  switch (event.type) {
    case 'VoteCast':
    case 'VoteRoundExpired':
    case 'QuorumReached':
      return subjects.submission(event.data.archiveHash);
    case 'BatchApproved':
    case 'BatchPlanned':
    case 'BatchRejected':
    case 'BatchStarted':
    case 'BatchTaskFinished':
    case 'BatchCompleted':
    case 'BatchCancelled':
    case 'BatchExpired':
      return subjects.batch(event.data.batchId);
    case 'TaskDispatched':
      return subjects.dispatch(event.data.pool, event.data.batchId, event.data.taskId);
    case 'TaskStarted':
    case 'StepStarted':
    case 'StepFinished':
    case 'TaskFinished':
    case 'TaskHandedBack':
    case 'TaskAbandoned':
      return subjects.task(event.data.batchId, event.data.taskId);
    case 'WhitelistChanged':
    case 'WhitelistRefreshFailed':
      return subjects.whitelist(event.data.netuid);
    default:
      return unreachable(event);
  }
}
