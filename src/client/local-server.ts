/**
 * A server of our own for the demo: started as a real process, as an operator would, and ended with everything below
 * it, so that nothing of a demo outlives it.
 */
import { spawn, type ChildProcessByStdio } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import Type from 'typebox';
import { Check } from 'typebox/value';
import { delay } from '../delay.ts';
import { CodedError, messageOf } from '../errors.ts';
import { throwIfAborted } from './retry.ts';

const READY_TIMEOUT_MS = 60_000;
/** More than the server's own drain (DRAIN_TIMEOUT_SECS in the demo) needs. */
const STOP_TIMEOUT_MS = 20_000;
const KILL_TIMEOUT_MS = 5_000;
const POLL_MS = 50;
const STDERR_TAIL_CHARS = 8192;

const Ready = Type.Object({ ready: Type.Literal(true), url: Type.String() });

export interface LocalServer extends AsyncDisposable {
  readonly url: string;
  /** Aborts, with a CodedError as its reason, when the server ends without having been asked to. */
  readonly died: AbortSignal;
  /** What the server wrote to stderr last. */
  stderrTail(): string;
}

/**
 * Starts `command` and waits for its line `{"ready":true,"url":…}`. @throws CodedError server_failed when it ends
 * before or is not ready in time; the signal's reason when it aborts
 */
export async function startLocalServer(options: {
  command: readonly [string, ...string[]];
  env: NodeJS.ProcessEnv;
  cwd: string;
  signal: AbortSignal;
}): Promise<LocalServer> {
  const [file, ...args] = options.command;
  // A process group of its own: Ctrl-C must reach us first, and the group can be killed as a whole.
  const child = spawn(file, args, {
    cwd: options.cwd,
    env: options.env,
    detached: true,
    // Its end tells the server that we have died, however that happened.
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  let tail = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    tail = (tail + text).slice(-STDERR_TAIL_CHARS);
  });
  const exited = new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(messageOf(error)));
    child.once('exit', (code, signal) => resolve(signal === null ? `exit code ${code}` : `signal ${signal}`));
  });
  const isRunning = (): boolean => child.pid !== undefined && child.exitCode === null && child.signalCode === null;
  const died = new AbortController();
  let stopping = false;
  void exited.then((how) => {
    if (stopping) return;
    died.abort(new CodedError('server_failed', `the server ended (${how})${tail === '' ? '' : `: ${tail.trim()}`}`));
  });

  // Should our process end before stop() is through, also during it; first in line, before others clean up below it.
  const onExit = (): void => {
    if (child.pid !== undefined && isRunning()) killTree(child.pid, []);
  };
  process.prependListener('exit', onExit);

  async function stop(): Promise<void> {
    stopping = true;
    try {
      await endAll();
    } finally {
      process.off('exit', onExit);
    }
  }

  async function endAll(): Promise<void> {
    if (child.pid === undefined) return;
    if (isRunning()) {
      const before = descendants(child.pid);
      child.kill('SIGTERM');
      if (!(await endsWithin(exited, STOP_TIMEOUT_MS))) killTree(child.pid, before);
      await endsWithin(exited, KILL_TIMEOUT_MS);
    }
    // What the server leaves of its group is not to survive it either.
    killGroup(child.pid);
    const deadline = Date.now() + KILL_TIMEOUT_MS;
    while (isGroupAlive(child.pid) && Date.now() < deadline) await delay(POLL_MS);
  }

  try {
    const timeout = AbortSignal.timeout(READY_TIMEOUT_MS);
    const url = await readyUrl(child, AbortSignal.any([options.signal, died.signal, timeout]));
    throwIfAborted(options.signal);
    throwIfAborted(died.signal);
    if (url === null) {
      throw new CodedError(
        'server_failed',
        `the server was not ready within ${READY_TIMEOUT_MS / 1000} s: ${tail.trim()}`,
      );
    }
    return {
      url,
      died: died.signal,
      stderrTail: () => tail,
      [Symbol.asyncDispose]: stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

type Child = ChildProcessByStdio<Writable, Readable, Readable>;

async function readyUrl(child: Child, signal: AbortSignal): Promise<string | null> {
  const lines = createInterface({ input: child.stdout, signal });
  try {
    for await (const line of lines) {
      try {
        const value: unknown = JSON.parse(line);
        if (Check(Ready, value)) return value.url;
      } catch {
        // Not the line that is waited for.
      }
    }
  } finally {
    // Nobody reads on; a full pipe must not stop the server.
    child.stdout.resume();
  }
  // The output ends a moment before the exit is known; give that the time to become the reason.
  await delay(KILL_TIMEOUT_MS, signal);
  return null;
}

async function endsWithin(exited: Promise<string>, ms: number): Promise<boolean> {
  const timer = new AbortController();
  const ended = await Promise.race([exited.then(() => true), delay(ms, timer.signal).then(() => false)]);
  timer.abort();
  return ended;
}

/** SIGKILL to a process, its group and all that descends from it, also what has left the group. */
function killTree(pid: number, alsoThese: readonly number[]): void {
  const all = new Set([...alsoThese, ...descendants(pid)]);
  killGroup(pid);
  for (const one of all) kill(one);
}

function killGroup(pid: number): void {
  kill(-pid);
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It is gone already.
  }
}

function isGroupAlive(pid: number): boolean {
  try {
    process.kill(-pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** Process ids below `root`, from /proc; none where there is no /proc. */
function descendants(root: number): number[] {
  const childrenOf = new Map<number, number[]>();
  for (const [pid, parent] of parents()) childrenOf.set(parent, [...(childrenOf.get(parent) ?? []), pid]);
  const found: number[] = [];
  const queue = [root];
  for (let pid = queue.pop(); pid !== undefined; pid = queue.pop()) {
    const children = childrenOf.get(pid) ?? [];
    found.push(...children);
    queue.push(...children);
  }
  return found;
}

function parents(): (readonly [pid: number, parent: number])[] {
  let names: string[];
  try {
    names = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  } catch {
    return [];
  }
  return names.flatMap((name) => {
    try {
      // proc(5): "pid (comm) state ppid …"; comm may contain anything, so look behind its last parenthesis.
      const text = readFileSync(`/proc/${name}/stat`, 'utf8');
      const parent = Number(text.slice(text.lastIndexOf(')') + 2).split(' ')[1]);
      return [[Number(name), parent] as const];
    } catch {
      return [];
    }
  });
}
