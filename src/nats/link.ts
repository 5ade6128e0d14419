/**
 * Tells operations that their connection was lost. The client reconnects by itself, but a request whose answer was lost
 * with the old connection, and one made while there was none, would only notice by its timeout.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { NatsConnection } from '@nats-io/transport-node';

/** The state of one connection, for as long as that is open. */
export interface Link {
  /** Aborts when the present connection is lost; after a reconnect there is a new one. */
  readonly signal: AbortSignal;
  /** Waits until there is a connection; false if there is none after `timeoutMs`. */
  up(timeoutMs: number): Promise<boolean>;
}

export function watchLink(nc: NatsConnection): Link {
  let lost = new AbortController();
  let up = Promise.withResolvers<void>();
  up.resolve();
  void (async () => {
    for await (const { type } of nc.status()) {
      if (type === 'disconnect' && !lost.signal.aborted) {
        up = Promise.withResolvers<void>();
        lost.abort(new Error('the connection was lost'));
      } else if (type === 'reconnect' && lost.signal.aborted) {
        lost = new AbortController();
        up.resolve();
      }
    }
    // The connection is closed for good.
    lost.abort(new Error('the connection is closed'));
    up.resolve();
  })();
  return {
    get signal() {
      return lost.signal;
    },
    async up(timeoutMs) {
      if (!lost.signal.aborted) return true;
      const timer = new AbortController();
      const late = sleep(timeoutMs, false, { signal: timer.signal }).catch(() => false);
      const first = await Promise.race([up.promise.then(() => true), late]);
      timer.abort();
      return first && !lost.signal.aborted;
    },
  };
}

/** Settles as `promise` does, or rejects with the signal's reason as soon as it aborts. */
export async function orAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  const aborted = Promise.withResolvers<never>();
  const abort = (): void => aborted.reject(signal.reason);
  signal.addEventListener('abort', abort, { once: true });
  if (signal.aborted) abort();
  try {
    return await Promise.race([promise, aborted.promise]);
  } finally {
    signal.removeEventListener('abort', abort);
  }
}
