/**
 * Trying again, bounded: a few tries with growing pauses, so that a server that restarts is not an error and one that
 * is gone is not hammered.
 */
import { CodedError } from '../errors.ts';
import { delay } from '../delay.ts';
import { UnreachableError } from './errors.ts';

const FIRST_PAUSE_MS = 250;
const MAX_PAUSE_MS = 8_000;
/** A longer Retry-After is cut to this: the caller's own time limit decides how often we come back. */
const MAX_RETRY_AFTER_MS = 30_000;
export const TRIES = 6;

/** Milliseconds to wait before try number `attempt` (from 1, after the first failure). Pure. */
export function pauseMs(attempt: number, retryAfterMs: number | null = null): number {
  const backoff = Math.min(FIRST_PAUSE_MS * 2 ** (attempt - 1), MAX_PAUSE_MS);
  return retryAfterMs === null ? backoff : Math.min(Math.max(retryAfterMs, backoff), MAX_RETRY_AFTER_MS);
}

/**
 * Runs `action` until it succeeds, fails for good, or has failed TRIES times by UnreachableError. `onRetry` is told
 * of every failure that is tried again.
 */
export async function withRetries<T>(
  action: () => Promise<T>,
  options: { signal: AbortSignal; onRetry?: (error: UnreachableError, pauseMs: number) => void },
): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await action();
    } catch (error) {
      throwIfAborted(options.signal);
      if (!(error instanceof UnreachableError) || attempt >= TRIES) throw error;
      const pause = pauseMs(attempt, error.retryAfterMs);
      options.onRetry?.(error, pause);
      await delay(pause, options.signal);
      throwIfAborted(options.signal);
    }
  }
}

/** Throws the signal's reason once it has aborted. */
export function throwIfAborted(signal: AbortSignal): void {
  if (signal.aborted) throw signal.reason;
}

/** `signal`, or the same with an end: aborts with `timed_out` after `seconds`. Never keeps the process alive. */
export function withDeadline(signal: AbortSignal, seconds: number, what: string): AbortSignal {
  const timeout = new AbortController();
  const timer = setTimeout(
    () =>
      timeout.abort(new CodedError('timed_out', `${what} took longer than ${seconds} s; allow more with --timeout`)),
    seconds * 1000,
  );
  timer.unref();
  return AbortSignal.any([signal, timeout.signal]);
}
