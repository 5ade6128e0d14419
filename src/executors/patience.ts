/**
 * An agent may have worked for an hour when NATS is restarted: what it did must not be thrown away because one append
 * found nobody at home. Commands carry their own id, so that trying again never does anything twice.
 */
import { delay } from '../delay.ts';
import { CodedError } from '../errors.ts';

const PASSING = new Set(['log_unavailable', 'contention', 'blob_unavailable']);
const PATIENCE_MS = 120_000;
const WAIT_MS = { first: 100, max: 5_000 } as const;

/**
 * Repeats an idempotent action for about two minutes while it fails for a reason that passes. Once `stop` aborts there
 * is no further try: a process that must end does not wait for a NATS that may never come back.
 */
export async function patiently<T>(action: () => Promise<T>, stop: AbortSignal): Promise<T> {
  let waitMs: number = WAIT_MS.first;
  for (let waitedMs = 0; ; waitedMs += waitMs, waitMs = Math.min(waitMs * 2, WAIT_MS.max)) {
    try {
      return await action();
    } catch (error) {
      const passing = error instanceof CodedError && PASSING.has(error.code);
      if (!passing || waitedMs >= PATIENCE_MS || stop.aborted) throw error;
      await delay(waitMs, stop);
    }
  }
}
