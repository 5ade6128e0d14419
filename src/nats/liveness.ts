/**
 * Which executors live, as far as one can know: each writes a key that expires, and renews it. It is for people and
 * dashboards; nothing is decided by it, since who owns a task is decided on the log.
 */
import { jetstreamManager } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/transport-node';
import { delay } from '../delay.ts';
import { encodeToken, LIVENESS_BUCKET, LIVENESS_TTL_SECS } from '../streams.ts';

/** Two renewals may be lost before the key goes. */
const RENEW_MS = (LIVENESS_TTL_SECS * 1000) / 3;
const LOOK_MS = 2_000;
const TIMEOUT_MS = 2_000;
const STREAM = `KV_${LIVENESS_BUCKET}`;

/** Renews the key until the signal aborts, then takes it away. Never rejects: NATS may be away for a while. */
export async function announceExecutor(
  nc: NatsConnection,
  { executorId, session }: { readonly executorId: string; readonly session: string },
  signal: AbortSignal,
): Promise<void> {
  const subject = `$KV.${LIVENESS_BUCKET}.${encodeToken(executorId)}.${encodeToken(session)}`;
  while (!signal.aborted) {
    await nc.request(subject, JSON.stringify({ executorId, session }), { timeout: TIMEOUT_MS }).catch(() => null);
    await delay(RENEW_MS, signal);
  }
  const body = JSON.stringify({ filter: subject });
  await nc.request(`$JS.API.STREAM.PURGE.${STREAM}`, body, { timeout: TIMEOUT_MS }).catch(() => null);
}

export interface ExecutorsView {
  /** How many executor sessions live; null while that is not known. */
  readonly count: () => number | null;
  /** Settles once the signal has aborted. */
  readonly ended: Promise<void>;
}

/** Looks every two seconds until the signal aborts. */
export function watchExecutors(nc: NatsConnection, signal: AbortSignal): ExecutorsView {
  let count: number | null = null;
  const watch = async (): Promise<void> => {
    const manager = await jetstreamManager(nc, { checkAPI: false, timeout: TIMEOUT_MS });
    while (!signal.aborted) {
      count = await manager.streams.info(STREAM).then(
        ({ state }) => state.num_subjects ?? 0,
        () => null,
      );
      await delay(LOOK_MS, signal);
    }
  };
  return { count: () => count, ended: watch().catch(() => undefined) };
}
