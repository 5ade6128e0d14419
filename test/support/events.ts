/**
 * Valid events with defaults, so that a test names only what it is about. `recorded` puts one on a log as an adapter
 * would read it; both refuse what does not match its schema, so that no test rests on an impossible event.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { type Event, type EventType, type Recorded, findInvalid, versionOf } from '../../src/events.ts';
import { subjectOf } from '../../src/streams.ts';

export type DataOf<T extends EventType> = Event<T>['data'];

export const BATCH_ID = batchIdOf(1);
export const ARCHIVE_HASH = sha256('archive');
export const START_MS = Date.parse('2026-01-01T00:00:00.000Z');

/** A valid batch id; different numbers give different ids. */
export function batchIdOf(n: number): string {
  return `01900000-0000-7000-8000-${String(n).padStart(12, '0')}`;
}

/** A digest to stand for some bytes. */
export function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

const task = { batchId: BATCH_ID, taskId: 'task-a', attempt: 1 };
const step = { ...task, step: 0, kind: 'clone', name: 'https://example.org/repo.git' } as const;
const round = { archiveHash: ARCHIVE_HASH, round: 1 };
const validators = ['alice', 'bob', 'carol'];

const defaults: { readonly [K in EventType]: DataOf<K> } = {
  VoteCast: {
    ...round,
    hotkey: 'alice',
    nonce: 'nonce-1',
    signature: '0x00',
    signatureVersion: 1,
    archiveBytes: 1000,
    concurrentTasks: 2,
    roundExpiresAtMs: START_MS + 60_000,
  },
  VoteRoundExpired: { ...round, votes: 1 },
  QuorumReached: {
    ...round,
    batchId: BATCH_ID,
    voters: ['alice', 'bob'],
    required: 2,
    validators,
    threshold: { numerator: 5, denominator: 10 },
  },
  BatchApproved: {
    ...round,
    batchId: BATCH_ID,
    archiveBytes: 1000,
    voters: ['alice', 'bob'],
    concurrentTasks: 2,
    ttlMs: 7_200_000,
  },
  BatchPlanned: {
    batchId: BATCH_ID,
    part: 1,
    parts: 1,
    agentBundle: sha256('agent'),
    tasks: [{ taskId: 'task-a', bundle: sha256('task-a'), pool: 'default' }],
  },
  BatchRejected: { batchId: BATCH_ID, code: 'extraction_failed', message: 'tasks/a: prompt.md is missing' },
  BatchStarted: { batchId: BATCH_ID, totalTasks: 1, concurrentTasks: 2, expiresAtMs: START_MS + 7_200_000 },
  BatchTaskFinished: { ...task, passed: true, reward: 1 },
  BatchCompleted: {
    batchId: BATCH_ID,
    totalTasks: 1,
    passedTasks: 1,
    failedTasks: 0,
    aggregateReward: 1,
    durationMs: 5000,
  },
  BatchCancelled: { batchId: BATCH_ID, by: 'alice', reason: 'no longer wanted' },
  BatchExpired: { batchId: BATCH_ID, finishedTasks: 0 },
  TaskDispatched: { ...task, pool: 'default', bundle: sha256('task-a'), agentBundle: sha256('agent') },
  TaskStarted: { ...task, executorId: 'executor-1', session: 'session-1', sandbox: 'process' },
  StepStarted: { ...step, timeoutMs: 180_000 },
  StepFinished: { ...step, exitCode: 0, signal: null, durationMs: 100, cause: null, error: null, output: null },
  TaskFinished: {
    ...task,
    passed: true,
    reward: 1,
    cause: null,
    error: null,
    warnings: [],
    patch: null,
    durationMs: 900,
  },
  TaskHandedBack: { ...task, cause: 'infrastructure', reason: 'the disk is full' },
  TaskAbandoned: { ...task, cause: 'executor-lost', reason: 'no executor finished it' },
  WhitelistChanged: { netuid: 100, source: 'static', endpoint: null, block: null, validators: [] },
  WhitelistRefreshFailed: { netuid: 100, endpoint: null, error: 'no answer' },
};

/** A valid event: the defaults of its type with `data` over them. */
export function make<T extends EventType>(type: T, data: Partial<DataOf<T>> = {}): Event<T> {
  const event = { type, data: { ...defaults[type], ...data } } as Event<T> & Event;
  assert.equal(findInvalid(event), null, `make('${type}')`);
  return event;
}

/** BatchPlanned for these task ids. */
export function makePlan(
  taskIds: readonly string[],
  data: Partial<DataOf<'BatchPlanned'>> = {},
): Event<'BatchPlanned'> {
  return make('BatchPlanned', {
    tasks: taskIds.map((taskId) => ({ taskId, bundle: sha256(taskId), pool: 'default' })),
    ...data,
  });
}

/** The event as it stands on the log. The default time is `seq` seconds after START_MS. */
export function recorded(
  event: Event,
  seq: number,
  subject: string = subjectOf(event),
  time: string = new Date(START_MS + seq * 1000).toISOString(),
): Recorded {
  assert.equal(findInvalid(event), null, `recorded(${event.type}) at ${seq}`);
  const id = `${event.type}-${sha256(JSON.stringify([event, seq])).slice(0, 16)}`;
  const envelope = {
    id,
    version: versionOf(event.type),
    time,
    actor: 'server',
    cause: 'command-1',
    prev: sha256(subject),
  };
  return { ...event, ...envelope, seq, subject };
}
