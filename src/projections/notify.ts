/**
 * Who wants to hear of commits: feed listeners and waiters for a position. Both are told synchronously after a commit,
 * which is what leaves no gap between a snapshot and a subscription made in the same tick.
 */
import { CodedError } from '../errors.ts';
import type { FeedMessage } from './read-model.ts';

type Listener = (message: FeedMessage) => void;

export interface Listeners {
  /** `after`: the position at this moment; the listener hears of later sequences only. Returns the unsubscribe. */
  subscribe(batchId: string, after: number, listener: Listener): () => void;
  notify(messages: readonly FeedMessage[]): void;
}

/** A listener that throws is reported and does not keep the others from being called. */
export function createListeners(onError: (error: unknown) => void): Listeners {
  const byBatch = new Map<string, Set<{ heard: number; readonly call: Listener }>>();
  return {
    subscribe(batchId, after, listener) {
      const subscription = { heard: after, call: listener };
      const subscriptions = byBatch.get(batchId) ?? new Set();
      byBatch.set(batchId, subscriptions.add(subscription));
      return () => {
        subscriptions.delete(subscription);
        if (subscriptions.size === 0 && byBatch.get(batchId) === subscriptions) byBatch.delete(batchId);
      };
    },
    notify(messages) {
      for (const message of messages) {
        for (const subscription of byBatch.get(message.batch_id) ?? []) {
          // Known already: a listener that subscribed during this notification, or tables that are built again.
          if (message.seq <= subscription.heard) continue;
          subscription.heard = message.seq;
          try {
            subscription.call(message);
          } catch (error) {
            onError(error);
          }
        }
      }
    },
  };
}

export interface Waiters {
  /** Resolves when `reached` was called with seq or more; rejects with the signal's reason, or when closed. */
  wait(seq: number, signal: AbortSignal): Promise<void>;
  reached(seq: number): void;
  close(): void;
}

export function createWaiters(): Waiters {
  const waiting = new Set<{
    readonly seq: number;
    readonly resolve: () => void;
    readonly reject: (e: unknown) => void;
  }>();
  let closed = false;
  const closedError = (): CodedError =>
    new CodedError('read_model_closed', 'the read model is closed; ask again once the server runs');
  return {
    async wait(seq, signal) {
      signal.throwIfAborted();
      if (closed) throw closedError();
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      const waiter = { seq, resolve, reject };
      const abort = (): void => reject(signal.reason);
      waiting.add(waiter);
      signal.addEventListener('abort', abort, { once: true });
      try {
        await promise;
      } finally {
        waiting.delete(waiter);
        signal.removeEventListener('abort', abort);
      }
    },
    reached(seq) {
      for (const waiter of waiting) if (waiter.seq <= seq) waiter.resolve();
    },
    close() {
      closed = true;
      for (const waiter of waiting) waiter.reject(closedError());
    },
  };
}
