/**
 * The schema of every event, and the envelope around it. This file is the vocabulary of the whole system and the only
 * thing that deciders, projections, executors and auditors share. An event that does not match its schema is never
 * written; a log that was written stays readable for ever, so a change of meaning is a new version with an upcaster,
 * never an edit.
 */
import Type, { type Static, type TObject, type TProperties } from 'typebox';
import { Compile } from 'typebox/compile';

const Sha256Hex = Type.String({ pattern: '^[0-9a-f]{64}$' });
const Hotkey = Type.String({ minLength: 1, maxLength: 128, description: 'SS58 address of a validator' });
const BatchId = Type.String({ pattern: '^[0-9a-f-]{36}$', description: 'UUIDv7' });
const TaskId = Type.String({ minLength: 1, maxLength: 255, description: 'the name of the directory tasks/<id>' });
const Count = Type.Integer({ minimum: 0 });
const Positive = Type.Integer({ minimum: 1 });
const EpochMs = Type.Integer({ minimum: 0, description: 'milliseconds since 1970-01-01T00:00:00Z' });
const Reward = Type.Number({ minimum: 0, maximum: 1 });
const Text = Type.String({ maxLength: 4096 });

const closed = { additionalProperties: false } as const;

/** Why a task or step failed: the closed list of the platform. The last three are ours to answer for, not the task's. */
export const FAILURE_CAUSES = [
  'inactivity-timeout',
  'max-duration',
  'agent',
  'git',
  'api',
  'no-usable-output',
  'no-changes',
  'install',
  'tests',
  'sandbox',
  'out-of-memory',
  'disk-full',
  'cancelled',
  'executor-lost',
  'infrastructure',
] as const;
export const FailureCause = Type.Enum([...FAILURE_CAUSES]);
export type FailureCause = (typeof FAILURE_CAUSES)[number];

/** The kinds of steps a task consists of, in the order they run. */
export const STEP_KINDS = ['clone', 'checkout', 'install', 'agent', 'tests'] as const;
export const StepKind = Type.Enum([...STEP_KINDS]);
export type StepKind = (typeof STEP_KINDS)[number];

/** Bytes kept in the blob store. `omittedBytes` is what was produced beyond the limit and is not stored. */
export const StoredOutput = Type.Object({ digest: Sha256Hex, bytes: Count, omittedBytes: Count }, closed);
export type StoredOutput = Static<typeof StoredOutput>;

/** One task of a plan: what an executor must fetch to run it, and the pool of executors that can. */
export const PlannedTask = Type.Object(
  { taskId: TaskId, bundle: Sha256Hex, pool: Type.String({ pattern: '^[a-z0-9][a-z0-9-]{0,31}$' }) },
  closed,
);
export type PlannedTask = Static<typeof PlannedTask>;

const step = {
  batchId: BatchId,
  taskId: TaskId,
  attempt: Positive,
  step: Type.Integer({ minimum: 0, description: 'position within the attempt, from 0' }),
  kind: StepKind,
  name: Type.String({ maxLength: 1024, description: 'what runs: a command, a script name, the repository' }),
};

/** Name → version and data schema of every event this version writes. */
export const EVENT_SCHEMAS = {
  VoteCast: define(1, {
    archiveHash: Sha256Hex,
    round: Positive,
    hotkey: Hotkey,
    nonce: Type.String({ minLength: 1, maxLength: 256 }),
    signature: Type.String({ minLength: 1, maxLength: 256 }),
    signatureVersion: Type.Enum([1, 2]),
    archiveBytes: Count,
    concurrentTasks: Positive,
    roundExpiresAtMs: EpochMs,
  }),
  VoteRoundExpired: define(1, { archiveHash: Sha256Hex, round: Positive, votes: Count }),
  QuorumReached: define(1, {
    archiveHash: Sha256Hex,
    round: Positive,
    batchId: BatchId,
    voters: Type.Array(Hotkey),
    required: Positive,
    validators: Type.Array(Hotkey, { description: 'the validator set in force at the decision' }),
    threshold: Type.Object({ numerator: Positive, denominator: Positive }, closed),
  }),
  BatchApproved: define(1, {
    batchId: BatchId,
    archiveHash: Sha256Hex,
    archiveBytes: Count,
    round: Positive,
    voters: Type.Array(Hotkey),
    concurrentTasks: Positive,
    ttlMs: Type.Integer({ minimum: 1, description: 'how long the batch may run once started' }),
  }),
  BatchPlanned: define(1, {
    batchId: BatchId,
    part: Type.Integer({ minimum: 1, description: 'a long plan is written as several events, appended as one' }),
    parts: Positive,
    agentBundle: Sha256Hex,
    tasks: Type.Array(PlannedTask, { minItems: 1 }),
  }),
  BatchRejected: define(1, { batchId: BatchId, code: Type.String({ maxLength: 64 }), message: Text }),
  BatchStarted: define(1, { batchId: BatchId, totalTasks: Positive, concurrentTasks: Positive, expiresAtMs: EpochMs }),
  BatchTaskFinished: define(1, {
    batchId: BatchId,
    taskId: TaskId,
    attempt: Positive,
    passed: Type.Boolean(),
    reward: Reward,
  }),
  BatchCompleted: define(1, {
    batchId: BatchId,
    totalTasks: Positive,
    passedTasks: Count,
    failedTasks: Count,
    aggregateReward: Reward,
    durationMs: Count,
  }),
  BatchCancelled: define(1, { batchId: BatchId, by: Hotkey, reason: Text }),
  BatchExpired: define(1, { batchId: BatchId, finishedTasks: Count }),
  TaskDispatched: define(1, {
    batchId: BatchId,
    taskId: TaskId,
    pool: Type.String({ pattern: '^[a-z0-9][a-z0-9-]{0,31}$' }),
    attempt: Positive,
    bundle: Sha256Hex,
    agentBundle: Sha256Hex,
  }),
  TaskStarted: define(1, {
    batchId: BatchId,
    taskId: TaskId,
    attempt: Positive,
    executorId: Type.String({ minLength: 1, maxLength: 128 }),
    session: Type.String({ minLength: 1, maxLength: 64, description: 'one life of the executor process' }),
    sandbox: Type.String({ maxLength: 64 }),
  }),
  StepStarted: define(1, { ...step, timeoutMs: Positive }),
  StepFinished: define(1, {
    ...step,
    exitCode: Type.Union([Type.Integer(), Type.Null()], { description: 'null: ended by a signal or never started' }),
    signal: Type.Union([Type.String({ maxLength: 16 }), Type.Null()]),
    durationMs: Count,
    cause: Type.Union([FailureCause, Type.Null()]),
    error: Type.Union([Text, Type.Null()]),
    output: Type.Union([StoredOutput, Type.Null()]),
  }),
  TaskFinished: define(1, {
    batchId: BatchId,
    taskId: TaskId,
    attempt: Positive,
    passed: Type.Boolean(),
    reward: Reward,
    cause: Type.Union([FailureCause, Type.Null()]),
    error: Type.Union([Text, Type.Null()]),
    warnings: Type.Array(Text),
    patch: Type.Union([StoredOutput, Type.Null()]),
    durationMs: Count,
  }),
  TaskHandedBack: define(1, {
    batchId: BatchId,
    taskId: TaskId,
    attempt: Positive,
    cause: FailureCause,
    reason: Text,
  }),
  TaskAbandoned: define(1, {
    batchId: BatchId,
    taskId: TaskId,
    attempt: Type.Integer({ minimum: 0, description: 'the newest attempt; 0: it was never started' }),
    cause: FailureCause,
    reason: Text,
  }),
  WhitelistChanged: define(1, {
    netuid: Count,
    source: Type.Enum(['static', 'chain']),
    endpoint: Type.Union([Text, Type.Null()]),
    block: Type.Union([Type.Object({ number: Count, hash: Type.String({ maxLength: 66 }) }, closed), Type.Null()]),
    validators: Type.Array(
      Type.Object(
        {
          hotkey: Hotkey,
          trusted: Type.Boolean({ description: 'named by TRUSTED_VALIDATORS' }),
          stake: Type.Union([
            Type.Object({ alphaRao: Type.String(), taoRao: Type.String(), totalRao: Type.String() }, closed),
            Type.Null(),
          ]),
        },
        closed,
      ),
    ),
  }),
  WhitelistRefreshFailed: define(1, { netuid: Count, endpoint: Type.Union([Text, Type.Null()]), error: Text }),
} as const;

function define<P extends TProperties>(version: number, properties: P): { version: number; data: TObject<P> } {
  return { version, data: Type.Object(properties, closed) as TObject<P> };
}

type Schemas = typeof EVENT_SCHEMAS;
export type EventType = keyof Schemas;

/** What a decider decides: a type and its data. Ids, time and chain are added when it is written. */
export type Event<T extends EventType = EventType> = {
  [K in T]: { readonly type: K; readonly data: Static<Schemas[K]['data']> };
}[T];

/** What surrounds every event on the log. The JSON bytes of the envelope are what `prev` of the next event hashes. */
export interface Envelope {
  /** UUIDv7, also the message's `Nats-Msg-Id`. */
  readonly id: string;
  readonly version: number;
  /** RFC 3339, UTC, milliseconds. Comes from the command, not from the server. */
  readonly time: string;
  /** Who caused it: `validator:<hotkey>`, `executor:<id>`, `planner`, `server`. */
  readonly actor: string;
  /** The id of the command that decided it; a retried command finds its own events by it. */
  readonly cause: string;
  /** SHA-256 (hex) of the aggregate's previous event as stored; for the first one, of the subject itself. */
  readonly prev: string;
}

/** An event as it stands on the log. `seq` is the stream sequence. */
export type Recorded<T extends EventType = EventType> = Event<T> &
  Envelope & { readonly seq: number; readonly subject: string };

/** What was read but cannot be interpreted: an unknown type or a newer version. It is passed over, never refused. */
export interface UnknownEvent {
  readonly type: null;
  readonly seq: number;
  readonly subject: string;
  readonly reason: string;
}

const envelopeProperties = {
  id: Type.String({ minLength: 1, maxLength: 64 }),
  version: Positive,
  time: Type.String({ pattern: '^\\d{4}-\\d{2}-\\d{2}T\\d{2}:\\d{2}:\\d{2}\\.\\d{3}Z$' }),
  actor: Type.String({ minLength: 1, maxLength: 160 }),
  cause: Type.String({ minLength: 1, maxLength: 64 }),
  prev: Sha256Hex,
};
const EnvelopeOnly = Compile(
  Type.Object({ ...envelopeProperties, type: Type.String(), data: Type.Unknown() }, { additionalProperties: true }),
);

const validators = new Map(
  Object.entries(EVENT_SCHEMAS).map(([type, { version, data }]) => [type, { version, check: Compile(data) }]),
);

/** Schema version that this program writes for a type. */
export function versionOf(type: EventType): number {
  return EVENT_SCHEMAS[type].version;
}

/** The first thing wrong with an event's data, as `path: message`; null when it matches its schema. */
export function findInvalid(event: Event): string | null {
  const validator = validators.get(event.type);
  if (!validator) return `type: ${String(event.type)} is not an event`;
  if (validator.check.Check(event.data)) return null;
  const [first] = validator.check.Errors(event.data);
  return first ? `data${first.instancePath}: ${first.message}` : 'data: does not match its schema';
}

/**
 * Interprets one stored message. Never throws: bytes that are no envelope, unknown types and newer versions come
 * back as UnknownEvent, so that an older program can follow a log that a newer one writes.
 */
export function parseRecorded(bytes: Uint8Array, seq: number, subject: string): Recorded | UnknownEvent {
  let raw: unknown;
  try {
    raw = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch {
    return { type: null, seq, subject, reason: 'not JSON' };
  }
  if (!EnvelopeOnly.Check(raw)) return { type: null, seq, subject, reason: 'no envelope' };
  const validator = validators.get(raw.type);
  if (!validator) return { type: null, seq, subject, reason: `unknown type ${raw.type}` };
  if (raw.version > validator.version) {
    return { type: null, seq, subject, reason: `${raw.type} version ${raw.version} is newer` };
  }
  if (!validator.check.Check(raw.data)) return { type: null, seq, subject, reason: `${raw.type}: data does not match` };
  return { ...(raw as Event & Envelope), seq, subject };
}
