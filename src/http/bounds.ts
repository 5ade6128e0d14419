/**
 * Limits in time and number for what the server waits for. Without them a dead NATS or a crowd of clients would pile
 * up requests until memory or disk is gone.
 */
import { logUnavailable } from './errors.ts';

/** Resolves as the promise does; rejects with the signal's reason if it aborts first. */
export async function orAbort<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const onAbort = (): void => reject(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener('abort', onAbort);
    // The loser of the race may still fail; nobody waits for it any more.
    promise.catch(() => undefined);
  }
}

/** Waits at most `ms` milliseconds. @throws HttpError 503 log_unavailable */
export async function within<T>(ms: number, what: string, promise: Promise<T>): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(logUnavailable(`${what} did not answer within ${ms / 1000} s; try again`)), ms);
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
    promise.catch(() => undefined);
  }
}

/** A fixed number of places. */
export class Slots {
  readonly #waiting: (() => void)[] = [];
  #free: number;

  constructor(count: number) {
    this.#free = count;
  }

  /** A place, to be disposed of after use; null if all are taken. */
  tryTake(): Disposable | null {
    if (this.#free === 0) return null;
    this.#free -= 1;
    let held = true;
    return {
      [Symbol.dispose]: () => {
        if (held) this.#release();
        held = false;
      },
    };
  }

  /** Runs the function as soon as there is a place. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#free === 0) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    else this.#free -= 1;
    try {
      return await work();
    } finally {
      this.#release();
    }
  }

  /** Hands the place to the next in line, so that nobody can overtake between release and take. */
  #release(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#free += 1;
  }
}
