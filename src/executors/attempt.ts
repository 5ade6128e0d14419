/**
 * One attempt at one task, from the dispatch to its outcome on the log. What the outcome means for the message (ack,
 * retry, leave it alone) is the caller's; here only events are appended and files come and go.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Blobs } from '../blobs.ts';
import type { CommandContext, CommandHandler } from '../commands/handle.ts';
import { taskDecider, type TaskCommand, type TaskEnd, type TaskResult } from '../commands/task.ts';
import type { Config } from '../config.ts';
import { CodedError, messageOf } from '../errors.ts';
import type { Event, StoredOutput } from '../events.ts';
import { subjects } from '../streams.ts';
import { extractBundle } from './archive.ts';
import type { ArchiveLimits } from './archive-limits.ts';
import { evaluateTask, type TaskOutcome } from './evaluate.ts';
import type { Sandbox } from './sandbox/sandbox.ts';
import { patiently } from './patience.ts';
import { cutText, type StepReporter } from './steps.ts';
import { readTask } from './task-files.ts';
import type { WorkDirs } from './work-dirs.ts';

/** Another executor has the task now. Nothing of this attempt counts, and its message is not ours any more. */
export class AttemptReplacedError extends CodedError<'attempt_replaced'> {
  constructor() {
    super('attempt_replaced', 'another executor took the task over');
  }
}

export interface AttemptPorts {
  readonly config: Config;
  readonly handler: CommandHandler;
  readonly bundles: Blobs;
  readonly outputs: Blobs;
  readonly sandbox: Sandbox;
  readonly workDirs: WorkDirs;
  readonly limits: ArchiveLimits;
  /** One life of this executor process. */
  readonly session: string;
  readonly nodeBinary: string;
  readonly newId: () => string;
  readonly now: () => number;
  /** Aborts when the process must end. */
  readonly stop: AbortSignal;
}

export type Dispatch = Extract<Event, { type: 'TaskDispatched' }>['data'];

/**
 * Starts an attempt unless the task has ended, runs it, and returns how the task ended. An abort of `signal` stops it
 * at the next possible moment; if `cancelled()` says so by then, that is the outcome, otherwise the reason is thrown.
 * @throws AttemptReplacedError, and whatever is our own fault (log, blobs, disk), after which it can be tried again
 */
export async function runAttempt(
  ports: AttemptPorts,
  dispatch: Dispatch,
  signal: AbortSignal,
  cancelled: () => boolean,
): Promise<TaskEnd> {
  const { batchId, taskId } = dispatch;
  const { state } = await ports.handler.read(taskDecider, subjects.task(batchId, taskId));
  if (state.end) return state.end;
  const workDir = await ports.workDirs.create(batchId, taskId);
  try {
    // Before the attempt begins: a machine that cannot even do this must not use up the task's attempts.
    const dirs = await fetchBundles(ports, dispatch, workDir, signal);
    return await attemptIn(ports, dispatch, dirs, signal, cancelled);
  } finally {
    await ports.workDirs.remove(workDir);
  }
}

async function attemptIn(
  ports: AttemptPorts,
  dispatch: Dispatch,
  dirs: AttemptDirs,
  signal: AbortSignal,
  cancelled: () => boolean,
): Promise<TaskEnd> {
  const { batchId, taskId } = dispatch;
  const { config, session, sandbox } = ports;
  const started = await command(ports, {
    type: 'StartAttempt',
    batchId,
    taskId,
    executorId: config.executorId,
    session,
    sandbox: sandbox.name,
    maxAttempts: config.maxTaskAttempts,
  });
  if (started.kind === 'ended') return started.end;
  if (started.kind !== 'started') throw new AttemptReplacedError();
  const { attempt } = started;
  const startedAtMs = ports.now();
  try {
    const outcome = await evaluate(ports, dispatch, attempt, dirs, signal);
    if (outcome.cause === 'cancelled' && !cancelled()) signal.throwIfAborted();
    const patch = outcome.patch ? await store(ports, outcome.patch) : null;
    const finished = await command(ports, {
      type: 'FinishTask',
      batchId,
      taskId,
      attempt,
      passed: outcome.passed,
      reward: outcome.reward,
      cause: outcome.cause,
      error: outcome.error,
      warnings: outcome.warnings.map((warning) => cutText(warning)),
      patch,
      durationMs: Math.max(0, ports.now() - startedAtMs),
    });
    if (finished.kind !== 'ended') throw new AttemptReplacedError();
    return finished.end;
  } catch (error) {
    if (!(error instanceof AttemptReplacedError)) await handBack(ports, { batchId, taskId, attempt }, signal, error);
    throw error;
  }
}

/** Leaves word why the attempt came to nothing. That fails where the log is away: then the executor counts as lost. */
async function handBack(
  ports: AttemptPorts,
  key: { batchId: string; taskId: string; attempt: number },
  signal: AbortSignal,
  error: unknown,
): Promise<void> {
  const why = signal.aborted
    ? ({ cause: 'cancelled', reason: 'the executor was stopped' } as const)
    : ({ cause: 'infrastructure', reason: cutText(messageOf(error)) } as const);
  const context = contextOf(ports);
  const subject = subjects.task(key.batchId, key.taskId);
  await ports.handler
    .handle(taskDecider, subject, { type: 'HandBack', ...key, ...why }, context)
    .catch(() => undefined);
}

interface AttemptDirs {
  readonly bundleDir: string;
  readonly agentDir: string;
  /** What the steps work in: beside the bundle, so that the hidden tests lie outside of it. */
  readonly stepsDir: string;
}

async function fetchBundles(
  { bundles, limits }: AttemptPorts,
  dispatch: Dispatch,
  workDir: string,
  signal: AbortSignal,
): Promise<AttemptDirs> {
  const at = (name: string): string => join(workDir, name);
  const dirs = { bundleDir: at('bundle'), agentDir: at('agent'), stepsDir: at('work') };
  for (const dir of Object.values(dirs)) await mkdir(dir, { mode: 0o700 });
  await extractBundle(bundles.get(dispatch.bundle, signal), dirs.bundleDir, limits, signal);
  await extractBundle(bundles.get(dispatch.agentBundle, signal), dirs.agentDir, limits, signal);
  return dirs;
}

async function evaluate(
  ports: AttemptPorts,
  dispatch: Dispatch,
  attempt: number,
  { bundleDir, agentDir, stepsDir }: AttemptDirs,
  signal: AbortSignal,
): Promise<TaskOutcome> {
  const { config, limits, sandbox, nodeBinary, now } = ports;
  const { gitProtocols, gitHosts } = config;
  const timeouts = {
    cloneMs: config.cloneTimeoutSecs * 1000,
    installMs: config.installTimeoutSecs * 1000,
    agentMs: config.agentTimeoutSecs * 1000,
    testMs: config.testTimeoutSecs * 1000,
  };
  const spec = await readTask(bundleDir, dispatch.taskId, limits, { gitProtocols, gitHosts });
  return evaluateTask(
    {
      spec,
      bundleDir,
      agentDir,
      workDir: stepsDir,
      // A task may ask for less time than the operator gives, never for more.
      timeouts: { defaults: timeouts, maxima: timeouts },
      gitProtocols,
      gitHosts,
      nodeBinary,
      path: config.commandPath,
      signal,
    },
    { sandbox, reporter: reporter(ports, dispatch, attempt), now },
  );
}

function reporter(ports: AttemptPorts, { batchId, taskId }: Dispatch, attempt: number): StepReporter {
  const key = { batchId, taskId, attempt };
  return {
    async stepStarted({ step, kind, name, timeoutMs }) {
      await record(ports, { type: 'StartStep', ...key, step, kind, name, timeoutMs });
    },
    async stepFinished({ step, kind, name, exitCode, signal, durationMs, cause, error, ...output }) {
      const { outputFile, outputBytes, omittedBytes } = output;
      const stored =
        outputFile === null ? null : await store(ports, { file: outputFile, bytes: outputBytes, omittedBytes });
      const how = { exitCode, signal, durationMs, cause, error: error === null ? null : error.slice(0, 4096) };
      await record(ports, {
        type: 'FinishStep',
        ...key,
        step,
        kind,
        name,
        ...how,
        output: stored,
      });
    },
  };
}

async function store(
  { outputs, stop }: AttemptPorts,
  { file, omittedBytes }: { file: string; bytes: number; omittedBytes: number },
): Promise<StoredOutput> {
  const { digest, bytes } = await patiently(() => outputs.putFile(file), stop);
  return { digest, bytes, omittedBytes };
}

async function record(ports: AttemptPorts, step: TaskCommand): Promise<void> {
  const result = await command(ports, step);
  if (result.kind !== 'recorded') throw new AttemptReplacedError();
}

async function command(ports: AttemptPorts, taskCommand: TaskCommand): Promise<TaskResult> {
  const context = contextOf(ports);
  const subject = subjects.task(taskCommand.batchId, taskCommand.taskId);
  return (await patiently(() => ports.handler.handle(taskDecider, subject, taskCommand, context), ports.stop)).result;
}

/** A new command of this executor, given now. */
export function contextOf(ports: Pick<AttemptPorts, 'config' | 'newId' | 'now'>): CommandContext {
  return { actor: `executor:${ports.config.executorId}`, commandId: ports.newId(), nowMs: ports.now() };
}
