/**
 * The executor: pulls a dispatch for each free slot, runs it, tells the batch, and only then acknowledges. Whatever
 * dies in between, the dispatch is delivered again and finds on the log how far things got.
 */
import { batchDecider } from '../commands/batch.ts';
import { taskDecider, type TaskEnd } from '../commands/task.ts';
import { delay } from '../delay.ts';
import { messageOf } from '../errors.ts';
import type { EventLog } from '../log.ts';
import type { Delivery, WorkQueue } from '../nats/work-queue.ts';
import { subjects } from '../streams.ts';
import { AttemptReplacedError, contextOf, runAttempt, type AttemptPorts, type Dispatch } from './attempt.ts';
import { consumeQueue, keepWorking } from './deliveries.ts';
import type { Logger } from './logger.ts';
import { patiently } from './patience.ts';
import { cutText } from './steps.ts';

const RETRY_MS = { first: 500, max: 30_000 } as const;
/** With the waits in between about eight minutes; hand-backs of executors that were stopped count as well. */
const MAX_DELIVERIES = 20;

export interface ExecutorPorts extends Omit<AttemptPorts, 'stop'> {
  readonly log: EventLog;
  readonly queue: WorkQueue;
  readonly logger: Logger;
}

/**
 * Runs tasks in `slots` slots. `drain` aborts: no new work, what runs goes on. `stop` aborts: what runs is stopped and
 * handed back. Resolves when every slot is empty and every delivery settled.
 */
export async function runExecutor(
  ports: ExecutorPorts,
  slots: number,
  signals: { readonly drain: AbortSignal; readonly stop: AbortSignal },
): Promise<void> {
  const ended = new AbortController();
  const batches = new EndedBatches();
  // From before the first pull on, so that no cancellation falls between reading a batch and watching it.
  const after = await ports.log.lastSeq().catch(() => 0);
  const following = batches.follow(ports.log, after, ended.signal);
  const executor = new Executor(ports, batches, signals);
  try {
    await Promise.all(Array.from({ length: slots }, () => executor.slot()));
  } finally {
    ended.abort();
    await following;
  }
}

/** Tells those who run a batch's tasks when it is cancelled or expires. */
class EndedBatches {
  readonly #running = new Map<string, Set<AbortController>>();

  async follow(log: EventLog, after: number, signal: AbortSignal): Promise<void> {
    for await (const { entry } of log.follow({ filters: [subjects.allBatches], after, signal })) {
      if (entry.type !== 'BatchCancelled' && entry.type !== 'BatchExpired') continue;
      for (const controller of this.#running.get(entry.data.batchId) ?? []) controller.abort();
    }
  }

  /** A signal that aborts when the batch ends before its tasks do; `release` must be called. */
  watch(batchId: string): { signal: AbortSignal; release: () => void } {
    const controller = new AbortController();
    const watchers = this.#running.get(batchId) ?? new Set();
    this.#running.set(batchId, watchers.add(controller));
    const release = (): void => {
      watchers.delete(controller);
      if (watchers.size === 0) this.#running.delete(batchId);
    };
    return { signal: controller.signal, release };
  }
}

class Executor {
  readonly #ports: ExecutorPorts;
  readonly #batches: EndedBatches;
  readonly #drain: AbortSignal;
  readonly #stop: AbortSignal;
  /** Stream sequences of the dispatches that run here. */
  readonly #running = new Set<number>();
  /** Attempts in a row that failed through a fault of ours. */
  #failures = 0;

  constructor(ports: ExecutorPorts, batches: EndedBatches, signals: { drain: AbortSignal; stop: AbortSignal }) {
    this.#ports = ports;
    this.#batches = batches;
    this.#drain = AbortSignal.any([signals.drain, signals.stop]);
    this.#stop = signals.stop;
  }

  slot(): Promise<void> {
    const { queue, logger } = this.#ports;
    return consumeQueue(queue, { signal: this.#drain, logger, settle: (delivery) => this.#settle(delivery) });
  }

  async #settle(delivery: Delivery): Promise<void> {
    const { entry, deliveries } = delivery;
    if (this.#drain.aborted) return delivery.retryLater(0);
    // An event of a newer version is for a newer executor, which asks the same queue.
    if (entry.type !== 'TaskDispatched') return delivery.retryLater(RETRY_MS.max);
    // After an outage longer than the ack wait we may be told again of what we are doing: nothing is to be settled.
    if (this.#running.has(entry.seq)) return;
    const { batchId, taskId } = entry.data;
    const fields = { batchId, taskId };
    const { config, logger } = this.#ports;
    const stopHeartbeat = keepWorking(delivery, config.ackWaitSecs * 1000);
    this.#running.add(entry.seq);
    try {
      await this.#run(entry.data);
      delivery.ack();
      this.#failures = 0;
    } catch (error) {
      if (error instanceof AttemptReplacedError) {
        // An ack or nak from here would settle the message of the executor that has the task now.
        logger.warn(fields, 'another executor took the task over; this attempt ends without effect');
        return;
      }
      if (this.#stop.aborted) {
        logger.info(fields, 'the task is handed back');
        return delivery.retryLater(0);
      }
      logger.error(
        { ...fields, error: messageOf(error) },
        'the attempt failed through no fault of the task; trying again',
      );
      if (deliveries >= MAX_DELIVERIES) return await this.#giveUp(entry.data, delivery, error);
      delivery.retryLater(Math.min(RETRY_MS.first * 2 ** deliveries, RETRY_MS.max));
      // A machine that fails at once would otherwise be the quickest to take the next task, and spoil that as well.
      this.#failures += 1;
      await delay(Math.min(RETRY_MS.first * 2 ** this.#failures, RETRY_MS.max), this.#drain);
    } finally {
      this.#running.delete(entry.seq);
      stopHeartbeat();
    }
  }

  /** Neither here nor elsewhere could the task be run: it must not wait for the end of its batch's time. */
  async #giveUp(dispatch: Dispatch, delivery: Delivery, error: unknown): Promise<void> {
    const { batchId, taskId } = dispatch;
    const reason = cutText(`given up after ${MAX_DELIVERIES} tries; the last one failed: ${messageOf(error)}`);
    const abandon = { type: 'AbandonTask', batchId, taskId, cause: 'infrastructure', reason } as const;
    try {
      const { handler } = this.#ports;
      const { result } = await handler.handle(
        taskDecider,
        subjects.task(batchId, taskId),
        abandon,
        contextOf(this.#ports),
      );
      if (result.kind === 'ended') await this.#tellBatch(dispatch, result.end);
      delivery.ack();
    } catch {
      delivery.retryLater(RETRY_MS.max);
    }
  }

  async #run(dispatch: Dispatch): Promise<void> {
    const { batchId, taskId } = dispatch;
    const { handler } = this.#ports;
    // Watched before it is read: an end in between is then seen by the one or the other.
    const watch = this.#batches.watch(batchId);
    try {
      const { state } = await handler.read(batchDecider, subjects.batch(batchId));
      if (state.phase === 'ended') {
        const reason = 'its batch ended before it was started';
        const abandon = { type: 'AbandonTask', batchId, taskId, cause: 'cancelled', reason } as const;
        await handler.handle(taskDecider, subjects.task(batchId, taskId), abandon, contextOf(this.#ports));
        return;
      }
      const signal = AbortSignal.any([watch.signal, this.#stop]);
      const end = await runAttempt({ ...this.#ports, stop: this.#stop }, dispatch, signal, () => watch.signal.aborted);
      await this.#tellBatch(dispatch, end);
    } finally {
      watch.release();
    }
  }

  async #tellBatch({ batchId, taskId }: Dispatch, end: TaskEnd): Promise<void> {
    const command = {
      type: 'FinishBatchTask',
      batchId,
      taskId,
      attempt: Math.max(1, end.attempt),
      passed: end.passed,
      reward: end.reward,
      nowMs: this.#ports.now(),
    } as const;
    const context = contextOf(this.#ports);
    await patiently(
      () => this.#ports.handler.handle(batchDecider, subjects.batch(batchId), command, context),
      this.#stop,
    );
  }
}
