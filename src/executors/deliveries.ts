/** How work is taken from a queue: the loop that asks, and the sign of life while a message is worked on. */
import { delay } from '../delay.ts';
import { messageOf } from '../errors.ts';
import type { Delivery, WorkQueue } from '../nats/work-queue.ts';
import type { Logger } from './logger.ts';

const RETRY_MS = { first: 500, max: 30_000 } as const;

/**
 * Takes one message after the other and settles it, until the signal aborts. A queue that cannot be reached is asked
 * again after a growing wait. `settle` must not reject for what is wrong with one message.
 */
export async function consumeQueue(
  queue: WorkQueue,
  options: {
    readonly signal: AbortSignal;
    readonly logger: Logger;
    readonly settle: (delivery: Delivery) => Promise<void>;
  },
): Promise<void> {
  const { signal, logger, settle } = options;
  let backoffMs: number = RETRY_MS.first;
  while (!signal.aborted) {
    try {
      const delivery = await queue.next();
      if (delivery) await settle(delivery);
      backoffMs = RETRY_MS.first;
    } catch (error) {
      if (signal.aborted) return;
      logger.warn({ error: messageOf(error) }, 'the queue cannot be reached; trying again');
      await delay(backoffMs, signal);
      backoffMs = Math.min(backoffMs * 2, RETRY_MS.max);
    }
  }
}

/**
 * While work goes on, its message must not be given to somebody else: a sign of life at a third of the ack wait. Call
 * the returned function when the delivery is about to be settled.
 */
export function keepWorking(delivery: Delivery, ackWaitMs: number): () => void {
  const timer = setInterval(() => delivery.working(), ackWaitMs / 3);
  return () => clearInterval(timer);
}
