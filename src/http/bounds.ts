/**
 * Limits in time and number for what the server waits for. Without them a dead NATS or a crowd of clients would pile
 * up requests until memory or disk is gone.
 */
import { busy, logUnavailable } from './errors.ts';

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

  /** Runs the function as soon as there is a place. @throws HttpError 503 busy after `maxWaitMs` (default: never) */
  async run<T>(work: () => Promise<T>, maxWaitMs?: number): Promise<T> {
    if (this.#free === 0) await this.#wait(maxWaitMs);
    else this.#free -= 1;
    try {
      return await work();
    } finally {
      this.#release();
    }
  }

  async #wait(maxWaitMs: number | undefined): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#waiting.push(resolve);
    const giveUp = (): void => {
      const place = this.#waiting.indexOf(resolve);
      // Not in line any more: the place was handed over already.
      if (place === -1) return;
      this.#waiting.splice(place, 1);
      reject(busy('too many large answers are being made; try again'));
    };
    const timer = maxWaitMs === undefined ? undefined : setTimeout(giveUp, maxWaitMs);
    try {
      await promise;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Hands the place to the next in line, so that nobody can overtake between release and take. */
  #release(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#free += 1;
  }
}

/** A number of places altogether, and of them a smaller number for each key, such as a client's address. */
export class SharedSlots {
  readonly #all: Slots;
  readonly #eachMax: number;
  readonly #held = new Map<string, number>();

  constructor(count: number, eachMax: number) {
    this.#all = new Slots(count);
    this.#eachMax = eachMax;
  }

  /** A place, to be disposed of after use; null if all, or all of this key, are taken. */
  tryTake(key: string): Disposable | null {
    const held = this.#held.get(key) ?? 0;
    const slot = held < this.#eachMax ? this.#all.tryTake() : null;
    if (!slot) return null;
    this.#held.set(key, held + 1);
    let isHeld = true;
    return {
      [Symbol.dispose]: () => {
        if (isHeld) this.#release(key);
        isHeld = false;
        slot[Symbol.dispose]();
      },
    };
  }

  #release(key: string): void {
    const left = (this.#held.get(key) ?? 0) - 1;
    if (left > 0) this.#held.set(key, left);
    else this.#held.delete(key);
  }
}
