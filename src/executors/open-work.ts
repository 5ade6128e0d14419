/**
 * Which vote rounds and batches are open, as one process sees it: the type of an aggregate's newest event tells its
 * phase, so the view begins with one event for each aggregate, however long the log is.
 *
 * The view is a prefix of the log, and that is enough to keep MAX_ACTIVE_BATCHES over all processes: batches start
 * strictly in the order of their approval, and starting is guarded on the batch itself. Whoever starts the oldest one
 * from an outdated view finds it started (or ended) and changes nothing.
 */
import { delay } from '../delay.ts';
import { unreachable } from '../errors.ts';
import type { EventLog, LogEntry } from '../log.ts';
import { subjects } from '../streams.ts';

export interface OpenBatch {
  readonly batchId: string;
  readonly phase: 'approved' | 'planned' | 'running';
}

export interface OpenRound {
  readonly archiveHash: string;
  readonly expiresAtMs: number;
}

/** Folded from the newest events; pure. */
export class OpenWork {
  readonly #batches = new Map<string, OpenBatch>();
  readonly #rounds = new Map<string, OpenRound>();

  apply(entry: LogEntry): void {
    switch (entry.type) {
      case 'BatchApproved':
        return this.#set(entry.data.batchId, 'approved');
      case 'BatchPlanned':
        return this.#set(entry.data.batchId, 'planned');
      case 'BatchStarted':
      case 'BatchTaskFinished':
        return this.#set(entry.data.batchId, 'running');
      case 'BatchRejected':
      case 'BatchCompleted':
      case 'BatchCancelled':
      case 'BatchExpired':
        this.#batches.delete(entry.data.batchId);
        return;
      case 'VoteCast':
        // A late vote looks like an open round here; expiring it changes nothing and closes it.
        this.#rounds.set(entry.data.archiveHash, {
          archiveHash: entry.data.archiveHash,
          expiresAtMs: entry.data.roundExpiresAtMs,
        });
        return;
      case 'VoteRoundExpired':
      case 'QuorumReached':
        this.#rounds.delete(entry.data.archiveHash);
        return;
      case 'TaskDispatched':
      case 'TaskStarted':
      case 'StepStarted':
      case 'StepFinished':
      case 'TaskFinished':
      case 'TaskHandedBack':
      case 'TaskAbandoned':
      case 'WhitelistChanged':
      case 'WhitelistRefreshFailed':
      case null:
        return;
      default:
        unreachable(entry);
    }
  }

  #set(batchId: string, phase: OpenBatch['phase']): void {
    this.#batches.set(batchId, { batchId, phase });
  }

  batches(): readonly OpenBatch[] {
    return [...this.#batches.values()];
  }

  dueRounds(nowMs: number): readonly OpenRound[] {
    return [...this.#rounds.values()].filter(({ expiresAtMs }) => nowMs >= expiresAtMs);
  }

  /** Drops a round, unless a new one on the same archive has taken its place. */
  closeRound(round: OpenRound): void {
    if (this.#rounds.get(round.archiveHash) === round) this.#rounds.delete(round.archiveHash);
  }
}

/** Keeps a view up to date until the signal aborts. */
export class OpenWorkFollower {
  readonly view = new OpenWork();
  #position = 0;
  #caughtUp = false;

  /** Until the newest event of each aggregate has been seen the view is no prefix of the log, and decides nothing. */
  get caughtUp(): boolean {
    return this.#caughtUp;
  }

  async run(log: EventLog, signal: AbortSignal): Promise<void> {
    const filters = [subjects.allBatches, subjects.allSubmissions];
    for await (const { entry, pending } of log.follow({ filters, after: 0, lastPerSubject: true, signal })) {
      this.view.apply(entry);
      this.#position = entry.seq;
      this.#caughtUp ||= pending === 0;
    }
  }

  /** Waits until the view holds everything up to `seq`; false if that took longer than `timeoutMs`. */
  async reached(seq: number, timeoutMs: number, signal: AbortSignal): Promise<boolean> {
    const stepMs = 10;
    for (let waitedMs = 0; waitedMs < timeoutMs && !signal.aborted; waitedMs += stepMs) {
      if (this.#caughtUp && this.#position >= seq) return true;
      await delay(stepMs, signal);
    }
    return false;
  }
}
