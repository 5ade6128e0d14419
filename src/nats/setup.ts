/**
 * Makes sure that the stream and the buckets exist and are what the rest relies on. A log without `deny_delete` would
 * look the same from above and be worth nothing as evidence; so what exists is checked, never silently adapted.
 */
import {
  DiscardPolicy,
  JetStreamApiError,
  jetstreamManager,
  RetentionPolicy,
  StorageType,
  type StreamConfig,
} from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/transport-node';
import { CodedError } from '../errors.ts';
import { BUCKETS, eventStreamConfig, LIVENESS_BUCKET, LIVENESS_TTL_SECS, NONCE_BUCKET } from '../streams.ts';

export interface SetupOptions {
  /** Copies of each message, 1 to 5; NATS_REPLICAS. */
  readonly replicas: number;
  /** How long a nonce stays used, in seconds. */
  readonly nonceTtlSecs: number;
}

type NamedConfig = Partial<StreamConfig> & { name: string };

/** The server's code for a stream that exists with another configuration; the client does not name it. */
const STREAM_NAME_IN_USE = 10058;
const DUPLICATE_WINDOW_NS = 120_000_000_000;
const NS_PER_SECOND = 1_000_000_000;

/** What may differ without harm: the operator may move or resize these while we run. */
const ADJUSTABLE: ReadonlySet<string> = new Set(['num_replicas', 'duplicate_window']);

/**
 * Creates the event stream, the object buckets and the buckets of nonces and liveness, or checks those that exist. Idempotent; safe
 * when several processes do it at once. @throws CodedError stream_misconfigured naming stream and setting
 */
export async function ensureStreams(nc: NatsConnection, options: SetupOptions): Promise<void> {
  const jsm = await jetstreamManager(nc, { checkAPI: false });
  const wanted: NamedConfig[] = [
    eventStreamConfig(options.replicas),
    ...Object.values(BUCKETS).map((bucket) => objectBucketConfig(bucket, options.replicas)),
    expiringBucketConfig(NONCE_BUCKET, options.nonceTtlSecs, options.replicas),
    expiringBucketConfig(LIVENESS_BUCKET, LIVENESS_TTL_SECS, options.replicas),
  ];
  for (const config of wanted) {
    let actual: StreamConfig;
    try {
      actual = (await jsm.streams.add(config)).config;
    } catch (error) {
      // Another process may have been first, or an operator has changed what may be changed.
      if (!(error instanceof JetStreamApiError) || error.code !== STREAM_NAME_IN_USE) throw error;
      actual = (await jsm.streams.info(config.name)).config;
    }
    checkConfig(config, actual);
  }
}

/** An object bucket as ADR-20 defines it, with direct gets. `nats object` commands work on it. */
export function objectBucketConfig(bucket: string, replicas: number): NamedConfig {
  return {
    name: `OBJ_${bucket}`,
    subjects: [`$O.${bucket}.C.>`, `$O.${bucket}.M.>`],
    storage: StorageType.File,
    retention: RetentionPolicy.Limits,
    discard: DiscardPolicy.New,
    num_replicas: replicas,
    allow_rollup_hdrs: true,
    allow_direct: true,
  };
}

/** A key-value bucket as ADR-8 defines it. On disk: a restart must not make used nonces new again. */
function expiringBucketConfig(bucket: string, ttlSecs: number, replicas: number): NamedConfig {
  const ttlNs = ttlSecs * NS_PER_SECOND;
  return {
    name: `KV_${bucket}`,
    subjects: [`$KV.${bucket}.>`],
    storage: StorageType.File,
    retention: RetentionPolicy.Limits,
    discard: DiscardPolicy.New,
    num_replicas: replicas,
    max_msgs_per_subject: 1,
    max_age: ttlNs,
    duplicate_window: Math.min(ttlNs, DUPLICATE_WINDOW_NS),
    allow_rollup_hdrs: true,
    allow_direct: true,
    deny_delete: true,
  };
}

function checkConfig(wanted: NamedConfig, actual: StreamConfig): void {
  for (const [setting, value] of Object.entries(wanted)) {
    // How long a bucket remembers may be changed; what the log remembers may not.
    if (ADJUSTABLE.has(setting) || (setting === 'max_age' && wanted.name.startsWith('KV_'))) continue;
    const found: unknown = Reflect.get(actual, setting);
    if (JSON.stringify(found) === JSON.stringify(value)) continue;
    throw new CodedError(
      'stream_misconfigured',
      `stream ${wanted.name}: ${setting} is ${JSON.stringify(found) ?? 'not set'}, must be ${JSON.stringify(value)}; ` +
        'it was made by another program or version: use another NATS account, or move the stream away',
    );
  }
}
