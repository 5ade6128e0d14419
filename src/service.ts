/**
 * Wiring: puts the parts of a process together for the roles it has, and takes them apart again in the right order.
 * Everything that can be replaced is made here and handed down; nothing below looks for it.
 */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { NatsConnection } from '@nats-io/transport-node';
import { v4, v7 } from 'uuid';
import type { Logger as PinoLogger } from 'pino';
import type { Blobs } from './blobs.ts';
import { CommandHandler } from './commands/handle.ts';
import { whitelistDecider } from './commands/whitelist.ts';
import type { Config, Role } from './config.ts';
import { lockDataDir, type DataDirLock } from './data-dir.ts';
import { CodedError, messageOf } from './errors.ts';
import { DEFAULT_ARCHIVE_LIMITS, type ArchiveLimits } from './executors/archive-limits.ts';
import { runPlanner } from './executors/plan.ts';
import { runExecutor } from './executors/run.ts';
import { createProcessSandbox } from './executors/sandbox/process.ts';
import { openWorkDirs, type WorkDirs } from './executors/work-dirs.ts';
import { openBlobs } from './jetstream-blobs.ts';
import { emptyHead, openJetStreamLog } from './jetstream-log.ts';
import type { EventLog } from './log.ts';
import { sweepOrphans } from './nats/blob-sweep.ts';
import { connectNats } from './nats/connect.ts';
import { startEmbeddedNats, type EmbeddedNats } from './nats/embedded.ts';
import { announceExecutor } from './nats/liveness.ts';
import { ensureStreams } from './nats/setup.ts';
import { openWorkQueue } from './nats/work-queue.ts';
import { BUCKETS, PLAN_CONSUMER, runConsumer, subjectOf, subjects } from './streams.ts';
import { startHttp, type RunningHttp } from './service-http.ts';

const CONNECT_TIMEOUT_MS = 15_000;
/** The KV bucket's TTL: five minutes, as the contract says. */
const NONCE_TTL_SECS = 300;
const DEFAULT_POOL = 'default';

/** What all roles of a process share. */
export interface Core {
  readonly config: Config;
  readonly logger: PinoLogger;
  readonly nc: NatsConnection;
  readonly log: EventLog;
  readonly handler: CommandHandler;
  readonly archives: Blobs;
  readonly bundles: Blobs;
  readonly outputs: Blobs;
  readonly limits: ArchiveLimits;
  /** For archives while they are looked at; empty at the start. Only where there is a DATA_DIR. */
  readonly scratchDir: string;
  readonly startedAtMs: number;
}

export interface Service {
  /** Where HTTP listens; null without the http role. */
  readonly url: string | null;
  /** Settles when the process must end: rejects if something it cannot live without died. */
  readonly failed: Promise<never>;
  /**
   * Ends in two stages: no new work, and what runs may finish for DRAIN_TIMEOUT_SECS (`force` cuts that short); then
   * the rest is handed back and everything is closed.
   */
  close(force: AbortSignal): Promise<void>;
}

/**
 * Starts the roles. `interrupted` ends the start. @throws CodedError for what the operator must mend, or the signal's
 * reason; whatever had been started is closed then.
 */
export async function startService(
  config: Config,
  roles: readonly Role[],
  logger: PinoLogger,
  interrupted: AbortSignal,
): Promise<Service> {
  const owned = new AsyncDisposableStack();
  try {
    return await start(config, roles, logger, owned, interrupted);
  } catch (error) {
    await owned.disposeAsync();
    throw error;
  }
}

async function start(
  config: Config,
  roles: readonly Role[],
  logger: PinoLogger,
  owned: AsyncDisposableStack,
  interrupted: AbortSignal,
): Promise<Service> {
  const failure = Promise.withResolvers<never>();
  // Nobody may be waiting yet when it fails.
  failure.promise.catch(() => undefined);
  const failed = new AbortController();
  const fail = (error: CodedError): void => {
    failure.reject(error);
    failed.abort(error);
  };
  const starting = AbortSignal.any([interrupted, failed.signal]);
  const core = await openCore(config, roles, logger, owned, fail, starting);
  const drain = new AbortController();
  const stop = new AbortController();
  const running: Promise<void>[] = [];
  /** A part that ends although nobody asked it to takes the process with it: half a service would only look alive. */
  const guard = (name: string, part: Promise<void>): void => {
    running.push(part.catch((error: unknown) => fail(partFailed(name, error))));
  };

  let workDirs: WorkDirs | null = null;
  if (roles.includes('executor')) {
    workDirs = await openWorkDirs(config.workspaceBase, v4());
    owned.defer(() => workDirs?.close());
  }
  // After close() there is nothing left to end; after a start that fails halfway there is.
  owned.defer(async () => {
    drain.abort();
    stop.abort();
    await Promise.all(running);
  });
  if (roles.includes('planner')) guard('planner', (await openPlanner(core))(drain.signal));
  if (workDirs) {
    guard('executor', (await openExecutor(core, workDirs))({ drain: drain.signal, stop: stop.signal }));
  }
  let http: RunningHttp | null = null;
  if (roles.includes('http')) {
    http = await startHttp(core, starting);
    owned.use(http);
  }
  logger.info({ roles, sandbox: config.sandbox, url: http?.url }, 'ready');

  return {
    url: http?.url ?? null,
    failed: failure.promise,
    async close(force) {
      drain.abort();
      const timer = setTimeout(() => stop.abort(), config.drainTimeoutSecs * 1000);
      force.addEventListener('abort', () => stop.abort(), { once: true });
      if (force.aborted) stop.abort();
      await Promise.all(running);
      clearTimeout(timer);
      await owned.disposeAsync();
    },
  };
}

async function openCore(
  config: Config,
  roles: readonly Role[],
  logger: PinoLogger,
  owned: AsyncDisposableStack,
  onDeath: (error: CodedError) => void,
  starting: AbortSignal,
): Promise<Core> {
  const needsDataDir = config.nats === null || roles.includes('http') || roles.includes('planner');
  const lock: DataDirLock | null = needsDataDir ? lockDataDir(config.dataDir) : null;
  if (lock) owned.use(lock);
  const scratchDir = join(config.dataDir, 'scratch');
  if (lock) await emptyDir(scratchDir);
  let embedded: EmbeddedNats | null = null;
  let connection: NatsConnection | null = null;
  const died = Promise.withResolvers<never>();
  if (config.nats === null) {
    const { dataDir, natsServer } = config;
    embedded = await startEmbeddedNats({
      dataDir,
      natsServer,
      signal: starting,
      onDeath: (error) => died.reject(error),
    });
    // Before it is reported: what waits for a connection that never comes back must not hold up the end.
    died.promise.catch(async (error: CodedError) => {
      await connection?.close();
      onDeath(error);
    });
    owned.use(embedded);
  }
  const access = config.nats ?? embedded?.access;
  if (!access) throw new Error('neither NATS_URL nor an embedded server');
  const nc = await connectNats(access, {
    name: `term-executor ${roles.join('+')} ${config.executorId}`,
    timeoutMs: CONNECT_TIMEOUT_MS,
    signal: starting,
    onStatus: (type, data) => logger.info({ nats: type, ...data }, 'NATS connection'),
  });
  connection = nc;
  owned.defer(() => nc.close());
  await ensureStreams(nc, { replicas: config.natsReplicas, nonceTtlSecs: NONCE_TTL_SECS });
  const log = await openJetStreamLog(nc, { newId: () => v7() });
  const handler = new CommandHandler({ log, subjectOf, emptyHead, random: Math.random });
  const [archives, bundles, outputs] = await Promise.all([
    openBlobs(nc, BUCKETS.archives),
    openBlobs(nc, BUCKETS.bundles),
    openBlobs(nc, BUCKETS.outputs),
  ]);
  if (config.trustedValidators.length > 0) await applyTrustedValidators(config, handler);
  const limits = { ...DEFAULT_ARCHIVE_LIMITS, maxArchiveBytes: config.maxArchiveBytes };
  return { config, logger, nc, log, handler, archives, bundles, outputs, limits, scratchDir, startedAtMs: Date.now() };
}

/** What a crash left in it is nobody's: we hold the lock of the directory it lies in. */
async function emptyDir(dir: string): Promise<void> {
  await rm(dir, { recursive: true, force: true });
  await mkdir(dir, { recursive: true, mode: 0o700 });
}

/** The whitelist without a chain is what TRUSTED_VALIDATORS names. */
async function applyTrustedValidators(config: Config, handler: CommandHandler): Promise<void> {
  const validators = config.trustedValidators.map((hotkey) => ({ hotkey, trusted: true, stake: null }));
  const set = { netuid: config.netuid, source: 'static', endpoint: null, block: null, validators } as const;
  const context = { actor: 'server', commandId: v7(), nowMs: Date.now() };
  const subject = subjects.whitelist(config.netuid);
  await handler.handle(whitelistDecider, subject, { type: 'ChangeWhitelist', ...set }, context);
}

/** Opens what the planner needs, which may fail; the function returned is its life. */
async function openPlanner(core: Core): Promise<(signal: AbortSignal) => Promise<void>> {
  const { config, nc, logger } = core;
  const ackWaitMs = config.ackWaitSecs * 1000;
  const queue = await openWorkQueue(nc, { durable: PLAN_CONSUMER, filter: subjects.allBatches, ackWaitMs });
  const ports = { ...core, queue, newId: () => v7(), now: Date.now };
  return async (signal) => {
    const sweeping = sweepBuckets(core);
    await runPlanner({ ...ports, logger: logger.child({ role: 'planner' }) }, signal);
    await sweeping;
  };
}

/** What killed uploads left is found once, at the start; that it fails is no reason not to plan. */
async function sweepBuckets({ nc, logger }: Core): Promise<void> {
  try {
    for (const bucket of Object.values(BUCKETS)) {
      const swept = await sweepOrphans(nc, bucket);
      if (swept > 0) logger.info({ bucket, swept }, 'removed unfinished uploads');
    }
  } catch (error) {
    logger.warn({ error: messageOf(error) }, 'looking for unfinished uploads failed');
  }
}

async function openExecutor(
  core: Core,
  workDirs: WorkDirs,
): Promise<(signals: { drain: AbortSignal; stop: AbortSignal }) => Promise<void>> {
  const { config, nc, logger } = core;
  const ackWaitMs = config.ackWaitSecs * 1000;
  const durable = runConsumer(DEFAULT_POOL);
  const queue = await openWorkQueue(nc, { durable, filter: subjects.allDispatches(DEFAULT_POOL), ackWaitMs });
  const ports = {
    ...core,
    queue,
    workDirs,
    sandbox: createProcessSandbox({ path: config.commandPath, scratchDir: workDirs.scratchDir }),
    session: v4(),
    nodeBinary: process.execPath,
    newId: () => v7(),
    now: Date.now,
    logger: logger.child({ role: 'executor' }),
  };
  return async (signals) => {
    const gone = new AbortController();
    const announcing = announceExecutor(nc, { executorId: config.executorId, session: ports.session }, gone.signal);
    try {
      await runExecutor(ports, config.maxConcurrentTasks, signals);
    } finally {
      gone.abort();
      await announcing;
    }
  };
}

function partFailed(name: string, error: unknown): CodedError {
  if (error instanceof CodedError) return error;
  return new CodedError('part_failed', `the ${name} ended unexpectedly: ${messageOf(error)}`, { cause: error });
}
