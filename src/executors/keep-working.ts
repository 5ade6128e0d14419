/** While work goes on, its message must not be given to somebody else: a sign of life at a third of the ack wait. */
import type { Delivery } from '../nats/work-queue.ts';

/** Starts the signs of life; call the returned function when the delivery is about to be settled. */
export function keepWorking(delivery: Delivery, ackWaitMs: number): () => void {
  const timer = setInterval(() => delivery.working(), ackWaitMs / 3);
  return () => clearInterval(timer);
}
