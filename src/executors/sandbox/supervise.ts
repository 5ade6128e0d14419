/**
 * Starts one command and answers for what comes of it: a time limit, cancellation, the death of all processes of its
 * tree (process-tree.ts says what that is) before the caller goes on, and their death too when this process is killed
 * with SIGKILL. Sandboxes and git share it, so that no child process of ours has weaker rules than another.
 *
 * How: a shell waits for a word on descriptor 3 before it becomes the command. In between we learn its start time and
 * start a second shell, the watcher, that reads a pipe of ours; end of file there means that we died, and it kills
 * the tree.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomInt, randomUUID } from 'node:crypto';
import { constants, accessSync, statSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { Socket } from 'node:net';
import { delimiter, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../../errors.ts';
import { type OutputPipes, type Sink, openOutputPipes } from './output-pipes.ts';
import {
  type ProcessTree,
  TREE_VARIABLE,
  type TreeMember,
  killTree,
  signalTree,
  startTicksOf,
  waitForTree,
} from './process-tree.ts';

export interface SupervisedCommand {
  readonly argv: readonly [string, ...string[]];
  readonly cwd: string;
  /** A directory of ours for what supervising needs; left as it was. */
  readonly scratchDir: string;
  /** The complete environment. */
  readonly env: Readonly<Record<string, string>>;
  readonly timeoutMs: number;
  /** Between SIGTERM and SIGKILL after the time limit or cancellation. */
  readonly graceMs: number;
  readonly signal: AbortSignal;
  /** Receives stdout, and stderr as well unless that has its own. */
  readonly stdout: Sink;
  readonly stderr?: Sink;
  /** File to read from; absent means no input. */
  readonly stdin?: string;
}

/** How a supervised command ended. */
export interface SupervisedEnd {
  readonly ended: 'exited' | 'timed-out' | 'aborted' | 'not-started';
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly durationMs: number;
  /** Why it was not started. */
  readonly error: string | null;
  /** Processes that could not be killed; empty unless something is very wrong. */
  readonly survivors: readonly TreeMember[];
}

/** How long SIGKILL is repeated before a process counts as one that cannot be killed. */
const KILL_BOUND_MS = 10_000;
/** How long the output may stay open once every process is dead. */
const DRAIN_BOUND_MS = 2_000;
const LONGEST_TIMER_MS = 2_147_483_647;

/** $1 is the limit mark in KiB. Descriptor 3 is closed before the command starts. */
const LEADER = 'ulimit -m "$1" 2>/dev/null; shift; IFS= read -r go <&3 || exit 125; exec 3<&-; exec "$@"';

/** $1 is the leader, $2 the environment mark, $3 the limit mark in bytes. Reads until its parent is gone. */
const WATCHER = `
while IFS= read -r line; do :; done
kill -KILL "-$1" 2>/dev/null
tries=0
while [ "$tries" -lt 50 ]; do
  left=
  for file in $(grep -lsF "${TREE_VARIABLE}=$2" /proc/[0-9]*/environ; grep -ls "^Max resident set  *$3 " /proc/[0-9]*/limits); do
    pid=\${file#/proc/}
    kill -KILL "\${pid%%/*}" 2>/dev/null && left=yes
  done
  [ -n "$left" ] || exit 0
  tries=$((tries + 1))
  sleep 0.1
done`;

/**
 * Runs a command to its end. Resolves when all its processes are dead (or named in `survivors`) and its output was
 * handed over. Rejects only with what a sink threw or with a failure of our own (no file descriptors, disk full).
 */
export async function supervise(command: SupervisedCommand): Promise<SupervisedEnd> {
  const startedMs = performance.now();
  const notStarted = (error: string | null): SupervisedEnd => ({
    ended: error === null ? 'aborted' : 'not-started',
    exitCode: null,
    signal: null,
    durationMs: elapsed(startedMs),
    error,
    survivors: [],
  });
  if (command.signal.aborted) return notStarted(null);
  const impossible = findObstacle(command);
  if (impossible !== null) return notStarted(impossible);

  await using outputs = await openOutputPipes(
    command.scratchDir,
    command.stderr ? [command.stdout, command.stderr] : [command.stdout],
  );
  await using stdin = await open(command.stdin ?? '/dev/null', 'r');
  const started = await startLeader(command, outputs, stdin);
  if (typeof started === 'string') return notStarted(started);
  outputs.handOver();
  try {
    const end = await seeThrough(command, started, outputs);
    outputs.throwIfFailed();
    return { ...end, durationMs: elapsed(startedMs) };
  } catch (error) {
    await killTree(started.tree, KILL_BOUND_MS);
    throw error;
  }
}

/** From the waiting leader to the death of its tree. */
async function seeThrough(
  command: SupervisedCommand,
  { child, tree }: Started,
  outputs: OutputPipes,
): Promise<SupervisedEnd> {
  const exited = exitOf(child);
  const watcher = startWatcher(tree, command.env['PATH'] ?? '');
  const fault = await startOf(watcher);
  const reason = fault === null ? await firstReason(command, exited, outputs.failed, () => release(child)) : 'aborted';
  if (reason !== 'exited') {
    signalTree(tree, 'SIGTERM');
    await waitForTree(tree, command.graceMs);
  }
  const survivors = await killTree(tree, KILL_BOUND_MS);
  const end = await Promise.race([exited, sleep(DRAIN_BOUND_MS, null, { ref: false })]);
  await outputs.drain(DRAIN_BOUND_MS);
  if (fault === null) {
    watcher.kill('SIGKILL');
    await exitOf(watcher);
  }
  return {
    ended: fault === null ? reason : 'not-started',
    exitCode: end?.exitCode ?? null,
    signal: end?.signal ?? null,
    durationMs: 0,
    error: fault === null ? null : `the watcher of the command cannot be started: ${fault}`,
    survivors,
  };
}

const elapsed = (sinceMs: number) => Math.round(performance.now() - sinceMs);

/** Why a command cannot run, as far as that shows before starting it; the shell could not tell us apart afterwards. */
function findObstacle({ argv, cwd, env }: SupervisedCommand): string | null {
  if (!isDirectory(cwd)) return `the working directory ${cwd} is missing or no directory`;
  const [program] = argv;
  const candidates = program.includes('/')
    ? [resolve(cwd, program)]
    : (env['PATH'] ?? '').split(delimiter).map((directory) => resolve(cwd, directory, program));
  const files = candidates.filter(isFile);
  if (files.length === 0) return `the program ${program} is missing; install it on this executor or add it to PATH`;
  if (!files.some(isExecutable))
    return `the program ${program} may not be executed; check the permissions of ${files[0]}`;
  return null;
}

function isDirectory(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

function isFile(path: string): boolean {
  try {
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

interface Started {
  readonly child: ChildProcess;
  readonly tree: ProcessTree;
}

async function startLeader(
  { argv, cwd, env }: SupervisedCommand,
  outputs: OutputPipes,
  stdin: FileHandle,
): Promise<Started | string> {
  const id = randomUUID();
  // Above 2 PiB: never a limit that somebody else set, and below what setrlimit takes.
  const limitKiB = 2 ** 41 + randomInt(2 ** 40);
  let child: ChildProcess;
  try {
    child = spawn('/bin/sh', ['-c', LEADER, 'sh', String(limitKiB), ...argv], {
      cwd,
      env: { ...env, [TREE_VARIABLE]: id },
      detached: true,
      stdio: [stdin.fd, outputs.stdoutFd, outputs.stderrFd, 'pipe'],
    });
  } catch (error) {
    return `${argv[0]} cannot be started: ${messageOf(error)}`;
  }
  const failure = await startOf(child);
  if (failure !== null) return `${argv[0]} cannot be started: ${failure}`;
  const leader = child.pid ?? 0;
  return { child, tree: { leader, startTicks: startTicksOf(leader), id, limitBytes: String(limitKiB * 1024) } };
}

function startWatcher(tree: ProcessTree, path: string): ChildProcess {
  return spawn('/bin/sh', ['-c', WATCHER, 'watcher', String(tree.leader), tree.id, tree.limitBytes], {
    cwd: '/',
    env: { PATH: path },
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  });
}

/** Null once a child runs, else why it does not. */
function startOf(child: ChildProcess): Promise<string | null> {
  return new Promise((settle) => {
    child.once('spawn', () => settle(null));
    child.once('error', (error) => settle(messageOf(error)));
  });
}

interface ChildEnd {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
}

function exitOf(child: ChildProcess): Promise<ChildEnd> {
  if (child.exitCode !== null || child.signalCode !== null) {
    return Promise.resolve({ exitCode: child.exitCode, signal: child.signalCode });
  }
  return new Promise((settle) => child.once('exit', (exitCode, signal) => settle({ exitCode, signal })));
}

/** Lets the waiting leader become the command. */
function release(child: ChildProcess): void {
  const gate = child.stdio[3];
  if (!(gate instanceof Socket)) throw new Error('the leader was started without its descriptor 3');
  // The leader may be dead already; its exit says so.
  gate.on('error', () => {});
  gate.end('go\n');
}

/** Starts the clock and waits for the first reason to end. */
async function firstReason(
  command: SupervisedCommand,
  exited: Promise<ChildEnd>,
  failed: Promise<void>,
  start: () => void,
): Promise<'exited' | 'timed-out' | 'aborted'> {
  const settled = new AbortController();
  try {
    return await new Promise((settle) => {
      const timer = setTimeout(() => settle('timed-out'), Math.min(command.timeoutMs, LONGEST_TIMER_MS));
      settled.signal.addEventListener('abort', () => clearTimeout(timer));
      command.signal.addEventListener('abort', () => settle('aborted'), { signal: settled.signal });
      if (command.signal.aborted) settle('aborted');
      else start();
      void exited.then(() => settle('exited'));
      void failed.then(() => settle('aborted'));
    });
  } finally {
    settled.abort();
  }
}
