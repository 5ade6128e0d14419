/**
 * The planner: turns an approved batch into tasks, starts batches in the order of their approval as far as there is a
 * place, and ends what ran out of time. Any number of processes may plan; every decision is guarded on the log.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Blobs } from '../blobs.ts';
import { batchDecider } from '../commands/batch.ts';
import type { CommandHandler } from '../commands/handle.ts';
import { submissionDecider } from '../commands/submission.ts';
import type { Config } from '../config.ts';
import { delay } from '../delay.ts';
import { messageOf } from '../errors.ts';
import type { PlannedTask } from '../events.ts';
import type { EventLog } from '../log.ts';
import type { Delivery, WorkQueue } from '../nats/work-queue.ts';
import { subjects } from '../streams.ts';
import { splitArchive } from './archive.ts';
import { ArchiveError, type ArchiveLimits } from './archive-limits.ts';
import { consumeQueue, keepWorking } from './deliveries.ts';
import type { Logger } from './logger.ts';
import { OpenWorkFollower, type OpenBatch } from './open-work.ts';
import { cutText } from './steps.ts';

const DEFAULT_POOL = 'default';
const TICK_MS = 500;
const VIEW_TIMEOUT_MS = 5_000;
const RETRY_MS = { first: 1_000, max: 60_000 } as const;
/** Planning fails for good only when its archive stays out of reach this often (about a quarter of an hour). */
const MAX_PLANNING_TRIES = 20;
const STORE_CONCURRENCY = 4;

export interface PlannerPorts {
  readonly config: Config;
  readonly log: EventLog;
  readonly handler: CommandHandler;
  readonly queue: WorkQueue;
  readonly archives: Blobs;
  readonly bundles: Blobs;
  readonly scratchDir: string;
  readonly limits: ArchiveLimits;
  readonly newId: () => string;
  readonly now: () => number;
  readonly logger: Logger;
}

/** Plans until the signal aborts; then what is under way is handed back. */
export async function runPlanner(ports: PlannerPorts, signal: AbortSignal): Promise<void> {
  const planner = new Planner(ports, signal);
  await Promise.all([planner.follow(), planner.consume(), planner.tick()]);
}

class Planner {
  readonly #ports: PlannerPorts;
  readonly #signal: AbortSignal;
  readonly #open = new OpenWorkFollower();
  /** What of an open batch cannot be seen from its newest event; dropped when the batch has ended. */
  readonly #approvedAt = new Map<string, number>();
  readonly #expiresAt = new Map<string, number>();

  constructor(ports: PlannerPorts, signal: AbortSignal) {
    this.#ports = ports;
    this.#signal = signal;
  }

  follow(): Promise<void> {
    return this.#open.run(this.#ports.log, this.#signal);
  }

  consume(): Promise<void> {
    const { queue, logger } = this.#ports;
    return consumeQueue(queue, { signal: this.#signal, logger, settle: (delivery) => this.#settle(delivery) });
  }

  /** Time makes no message: what is due is looked for. */
  async tick(): Promise<void> {
    while (!this.#signal.aborted) {
      await delay(TICK_MS, this.#signal);
      if (this.#signal.aborted) return;
      for (const look of [() => this.#expire(), () => this.#startNext()]) {
        await look().catch((error: unknown) => {
          this.#ports.logger.warn({ error: messageOf(error) }, 'looking for due work failed; trying again');
        });
      }
    }
  }

  async #settle(delivery: Delivery): Promise<void> {
    const { entry } = delivery;
    if (this.#signal.aborted) return delivery.retryLater(0);
    const stopHeartbeat = keepWorking(delivery, this.#ports.config.ackWaitSecs * 1000);
    try {
      if (entry.type === 'BatchApproved') await this.#plan(entry.data.batchId, delivery.deliveries);
      if (entry.type !== null) {
        await this.#open.reached(entry.seq, VIEW_TIMEOUT_MS, this.#signal);
        await this.#startNext();
      }
      delivery.ack();
    } catch (error) {
      if (!this.#signal.aborted) {
        this.#ports.logger.warn({ seq: entry.seq, error: messageOf(error) }, 'planning failed; it is tried again');
      }
      delivery.retryLater(this.#signal.aborted ? 0 : Math.min(RETRY_MS.first * 2 ** delivery.deliveries, RETRY_MS.max));
    } finally {
      stopHeartbeat();
    }
  }

  async #plan(batchId: string, tries: number): Promise<void> {
    const { handler, scratchDir } = this.#ports;
    const subject = subjects.batch(batchId);
    const { state } = await handler.read(batchDecider, subject);
    if (state.phase !== 'approved') return;
    // An archive that kills the planner each time must not hold up every batch behind it.
    if (tries > MAX_PLANNING_TRIES)
      return this.#reject(batchId, 'archive_unavailable', 'planning it never came to an end');
    const dir = await mkdtemp(join(scratchDir, 'plan-'));
    try {
      const planned = await this.#split(state.archiveHash, dir);
      await handler.handle(batchDecider, subject, { type: 'PlanBatch', batchId, ...planned }, this.#context());
    } catch (error) {
      const final = error instanceof ArchiveError || tries >= MAX_PLANNING_TRIES;
      if (!final || this.#signal.aborted) throw error;
      const code = error instanceof ArchiveError ? error.code : 'archive_unavailable';
      await this.#reject(batchId, code, cutText(messageOf(error)));
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
  }

  async #reject(batchId: string, code: string, message: string): Promise<void> {
    const command = { type: 'RejectBatch', batchId, code, message } as const;
    await this.#ports.handler.handle(batchDecider, subjects.batch(batchId), command, this.#context());
  }

  async #split(archiveHash: string, dir: string): Promise<{ agentBundle: string; tasks: PlannedTask[] }> {
    const { archives, bundles, config, limits } = this.#ports;
    const signal = this.#signal;
    const file = join(dir, 'archive');
    await archives.getToFile(archiveHash, file, signal);
    const { gitProtocols, gitHosts } = config;
    const split = await splitArchive(file, limits, { scratchDir: dir, outDir: dir, signal, gitProtocols, gitHosts });
    await rm(file);
    const agentBundle = (await bundles.putFile(split.agent.file)).digest;
    const tasks: PlannedTask[] = [];
    for (let from = 0; from < split.tasks.length; from += STORE_CONCURRENCY) {
      signal.throwIfAborted();
      const stored = split.tasks.slice(from, from + STORE_CONCURRENCY).map(async ({ taskId, file: bundle }) => ({
        taskId,
        bundle: (await bundles.putFile(bundle)).digest,
        pool: DEFAULT_POOL,
      }));
      tasks.push(...(await Promise.all(stored)));
    }
    return { agentBundle, tasks };
  }

  async #startNext(): Promise<void> {
    if (!this.#open.caughtUp) return;
    const open = this.#open.view.batches();
    let active = open.filter(({ phase }) => phase === 'running').length;
    for (const { batchId, phase } of await this.#inOrderOfApproval(open.filter((batch) => batch.phase !== 'running'))) {
      // The oldest one goes first, also when it is still being planned: that order is what keeps the limit.
      if (phase !== 'planned' || active >= this.#ports.config.maxActiveBatches) return;
      const command = { type: 'StartBatch', batchId, nowMs: this.#ports.now() } as const;
      const { result } = await this.#ports.handler.handle(
        batchDecider,
        subjects.batch(batchId),
        command,
        this.#context(),
      );
      if (result.kind !== 'done') return;
      active += 1;
    }
  }

  async #inOrderOfApproval(waiting: readonly OpenBatch[]): Promise<readonly OpenBatch[]> {
    for (const { batchId } of waiting) {
      if (this.#approvedAt.has(batchId)) continue;
      const { entries } = await this.#ports.log.load(subjects.batch(batchId));
      this.#approvedAt.set(batchId, entries[0]?.seq ?? 0);
    }
    const approvedAt = (batch: OpenBatch): number => this.#approvedAt.get(batch.batchId) ?? 0;
    return waiting.toSorted((a, b) => approvedAt(a) - approvedAt(b));
  }

  async #expire(): Promise<void> {
    if (!this.#open.caughtUp) return;
    const { handler, now } = this.#ports;
    const nowMs = now();
    for (const round of this.#open.view.dueRounds(nowMs)) {
      const { archiveHash } = round;
      const command = { type: 'ExpireVoteRound', archiveHash, nowMs } as const;
      await handler.handle(submissionDecider, subjects.submission(archiveHash), command, this.#context());
      this.#open.view.closeRound(round);
    }
    const open = this.#open.view.batches();
    const openIds = new Set(open.map(({ batchId }) => batchId));
    for (const known of [this.#approvedAt, this.#expiresAt]) {
      for (const batchId of known.keys()) if (!openIds.has(batchId)) known.delete(batchId);
    }
    for (const { batchId, phase } of open) {
      if (phase !== 'running') continue;
      const subject = subjects.batch(batchId);
      const expiresAt = this.#expiresAt.get(batchId) ?? (await handler.read(batchDecider, subject)).state.expiresAtMs;
      this.#expiresAt.set(batchId, expiresAt);
      if (nowMs < expiresAt) continue;
      await handler.handle(batchDecider, subject, { type: 'ExpireBatch', batchId, nowMs }, this.#context());
    }
  }

  #context(): { actor: string; commandId: string; nowMs: number } {
    return { actor: 'planner', commandId: this.#ports.newId(), nowMs: this.#ports.now() };
  }
}
