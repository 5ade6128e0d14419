/**
 * One WebSocket's way through a batch's feed: first where the reader stands, then everything that follows, in order,
 * with no gap and no repeat. A reader too slow for the live feed is told so and continues from the stored one, which
 * costs no memory; it is never silently skipped.
 */
import type { FeedMessage, ReadModel } from '../projections/read-model.ts';
import { hasEnded } from './views.ts';

/** What is needed of a WebSocket. */
export interface FeedSocket {
  /** Bytes handed over and not yet on their way. */
  readonly bufferedAmount: number;
  /** `sent` is called once the message is on its way, or has failed. */
  send(text: string, sent: (error?: Error | null) => void): void;
  close(code: number, reason: string): void;
}

/** RFC 6455, section 7.4.1. */
export const CLOSE_NORMAL = 1000;
export const CLOSE_POLICY = 1008;

/** How much of the stored feed is in memory at once. */
const PAGE_MESSAGES = 500;

export class FeedSession implements Disposable {
  readonly #socket: FeedSocket;
  readonly #readModel: ReadModel;
  readonly #batchId: string;
  readonly #maxBufferedBytes: number;
  #unsubscribe: (() => void) | null = null;
  #lastSeq = 0;
  /** `stored`: continues from the stored feed as the socket drains; live messages are left to it. */
  #source: 'live' | 'stored' | 'closed' = 'stored';

  constructor(socket: FeedSocket, readModel: ReadModel, batchId: string, maxBufferedBytes: number) {
    this.#socket = socket;
    this.#readModel = readModel;
    this.#batchId = batchId;
    this.#maxBufferedBytes = maxBufferedBytes;
  }

  /**
   * Begins: with a snapshot, or after a sequence that the reader has seen. Everything here happens in one tick, in
   * which the read model cannot change.
   */
  start(after: number): void {
    const batch = this.#readModel.batch(this.#batchId);
    if (!batch) {
      this.#write({ error: 'batch_not_found', batch_id: this.#batchId });
      this.#close(CLOSE_POLICY, 'batch_not_found');
      return;
    }
    this.#unsubscribe = this.#readModel.subscribe(this.#batchId, (message) => this.#onLive(message));
    const position = this.#readModel.position();
    // A sequence that was not reached yet is not of this log, or the read models are being built again. Waiting for it
    // would look like a batch in which nothing happens, so such a reader begins anew, with a snapshot.
    if (after > 0 && after <= position) {
      this.#lastSeq = after;
    } else {
      this.#lastSeq = position;
      this.#write(this.#snapshot());
    }
    this.#continueStored();
  }

  [Symbol.dispose](): void {
    this.#source = 'closed';
    this.#unsubscribe?.();
    this.#unsubscribe = null;
  }

  #snapshot(): object {
    const batch = this.#readModel.batch(this.#batchId);
    const tasks = this.#readModel.tasks(this.#batchId);
    return {
      event: 'snapshot',
      batch_id: this.#batchId,
      seq: this.#lastSeq,
      data: {
        status: batch?.status,
        total_tasks: batch?.totalTasks,
        completed_tasks: batch?.completedTasks,
        passed_tasks: batch?.passedTasks,
        failed_tasks: batch?.failedTasks,
        aggregate_reward: batch?.aggregateReward,
        error: batch?.error,
        duration_ms: batch?.durationMs,
        tasks: tasks.map(({ taskId, status, passed, reward }) => ({ task_id: taskId, status, passed, reward })),
      },
    };
  }

  #onLive(message: FeedMessage): void {
    if (this.#source !== 'live' || message.seq <= this.#lastSeq) return;
    if (this.#isSlow()) {
      this.#source = 'stored';
      return;
    }
    this.#forward(message);
    if (message.event === 'batch_complete') this.#finish();
  }

  /** Sends from the stored feed until it is all sent, or the socket has had enough for now. */
  #continueStored(): void {
    if (this.#source === 'closed') return;
    this.#source = 'stored';
    // All in one tick: nothing can be applied between the last page, a short one, and the turn to live messages.
    let page: readonly FeedMessage[];
    do {
      page = this.#readModel.feed(this.#batchId, this.#lastSeq, PAGE_MESSAGES);
      for (const message of page) {
        if (this.#isSlow()) return;
        this.#forward(message);
      }
    } while (page.length === PAGE_MESSAGES);
    const batch = this.#readModel.batch(this.#batchId);
    if (batch && hasEnded(batch)) this.#finish();
    else this.#source = 'live';
  }

  #onDrained(): void {
    if (this.#source !== 'stored' || this.#socket.bufferedAmount > this.#maxBufferedBytes / 4) return;
    const { seq, batchId } = { seq: this.#lastSeq, batchId: this.#batchId };
    this.#write({ event: 'resync', batch_id: batchId, seq, data: { after: seq } });
    this.#continueStored();
  }

  #forward(message: FeedMessage): void {
    this.#lastSeq = message.seq;
    this.#write(message);
  }

  #finish(): void {
    this.#write({ event: 'stream_closed', batch_id: this.#batchId, seq: this.#lastSeq, data: {} });
    this.#close(CLOSE_NORMAL, 'the batch has ended');
  }

  #close(code: number, reason: string): void {
    this[Symbol.dispose]();
    this.#socket.close(code, reason);
  }

  #isSlow(): boolean {
    return this.#socket.bufferedAmount > this.#maxBufferedBytes;
  }

  #write(message: object): void {
    this.#socket.send(JSON.stringify(message), (error) => {
      // A failed send means the connection is going; its close event ends this session.
      if (!error) this.#onDrained();
    });
  }
}
