/**
 * One nats-server process that cannot outlive us. The embedded server and the tests both start one; if our process is
 * killed with SIGKILL no handler of ours runs, so a shell stands between us and the server: it blocks reading a pipe
 * whose other end only we hold, and ends the server when that pipe closes, however we died.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { CodedError, messageOf } from '../errors.ts';

/** How long the watcher gives the server between SIGTERM and SIGKILL, in tenths of a second. */
const GRACE_TENTHS = 50;
/** stop() waits this much longer than the watcher before it kills the whole group itself. */
const STOP_TIMEOUT_MS = GRACE_TENTHS * 100 + 2000;
const START_TIMEOUT_MS = 10_000;
const STDERR_TAIL_CHARS = 4096;

// $1: binary, $2: configuration. fd 3 keeps the pipe, because a background command gets /dev/null as its stdin.
const WATCHER = `
exec 3<&0
"$1" -c "$2" 3<&- >&2 &
server=$!
echo "$server"
(
  exec >&- 2>&-
  while read -r _ <&3; do :; done
  kill -TERM "$server"
  tenths=0
  while kill -0 "$server" && [ "$tenths" -lt ${GRACE_TENTHS} ]; do sleep 0.1; tenths=$((tenths + 1)); done
  kill -KILL "$server"
) &
watcher=$!
wait "$server"
status=$?
kill "$watcher"
wait "$watcher"
exit "$status"
`;

/** A running nats-server. Whoever started it must call stop() or kill(). */
export interface ServerProcess {
  readonly pid: number;
  /** Settles (never rejects) when the server is gone, wanted or not, with how it ended. */
  readonly exited: Promise<string>;
  /** What the server wrote to stderr last; with a log file configured only what precedes the log. */
  stderrTail(): string;
  /** SIGTERM, then SIGKILL; resolves when the server is seen dead. Safe to call again. */
  stop(): Promise<void>;
  /** SIGKILL to server and watcher, as a crash would; resolves when the server is seen dead. */
  kill(): Promise<void>;
}

/** Starts `binary -c configFile` below a watcher. @throws CodedError nats_start_failed when it cannot be executed */
export async function spawnServer(binary: string, configFile: string): Promise<ServerProcess> {
  // A group of its own: Ctrl-C in a terminal must reach us first, or the log is gone before the drain has used it.
  const child = spawn('/bin/sh', ['-c', WATCHER, 'nats-watcher', binary, configFile], {
    stdio: ['pipe', 'pipe', 'pipe'],
    detached: true,
    env: { PATH: process.env['PATH'] ?? '/usr/bin:/bin' },
  });
  let tail = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    tail = (tail + text).slice(-STDERR_TAIL_CHARS);
  });
  child.stdin.on('error', () => undefined);
  const exited = new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(messageOf(error)));
    child.once('exit', (code, by) => resolve(by === null ? `exit code ${code}` : `signal ${by}`));
  });
  const pid = await firstNumber(child, exited);
  if (pid === 0) {
    killGroup(child);
    throw new CodedError(
      'nats_start_failed',
      `cannot start ${binary}: ${await exited}; ${tail.trim() || 'no output'}; check that the file can be executed`,
    );
  }

  const gone = async (timeoutMs: number): Promise<void> => {
    const timer = new AbortController();
    await Promise.race([exited, sleep(timeoutMs, undefined, { signal: timer.signal }).catch(() => undefined)]);
    timer.abort();
  };
  // After the shell has collected the server its number may belong to somebody else.
  let collected = false;
  void exited.then(() => {
    collected = child.exitCode !== null;
  });
  async function kill(): Promise<void> {
    // The server alone, so that the shell collects it: where PID 1 is no init, orphans stay as zombies.
    if (!collected) signal(pid, 'SIGKILL');
    await gone(STOP_TIMEOUT_MS);
    child.stdin.end();
    killGroup(child);
    if (!(await seenDead(pid, STOP_TIMEOUT_MS))) {
      throw new CodedError('nats_stop_failed', `nats-server, process ${pid}, does not die; end it by hand`);
    }
  }
  return {
    pid,
    exited,
    stderrTail: () => tail,
    kill,
    async stop() {
      child.stdin.end();
      await gone(STOP_TIMEOUT_MS);
      await kill();
    },
  };
}

/** Whether a process is alive; a zombie is not. */
export async function isAlive(pid: number): Promise<boolean> {
  try {
    process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
  // Without /proc (macOS) signal 0 has to do.
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => null);
  return stat === null || !/\) [ZX] /.test(stat);
}

/** Waits until a process is dead, polling. Returns false if it still lives after `timeoutMs`. */
export async function seenDead(pid: number, timeoutMs: number): Promise<boolean> {
  const deadline = Date.now() + timeoutMs;
  while (await isAlive(pid)) {
    if (Date.now() > deadline) return false;
    await sleep(20);
  }
  return true;
}

/** The process id the watcher prints first; 0 if none comes. */
async function firstNumber(child: ChildProcess, exited: Promise<string>): Promise<number> {
  const timer = new AbortController();
  const line = new Promise<string>((resolve) => {
    let text = '';
    child.stdout?.setEncoding('utf8').on('data', (more: string) => {
      text += more;
      if (text.includes('\n')) resolve(text);
    });
  });
  const none = exited.then(() => '');
  const late = sleep(START_TIMEOUT_MS, '', { signal: timer.signal }).catch(() => '');
  const first = await Promise.race([line, none, late]);
  timer.abort();
  return /^\d+\n/.test(first) ? Number.parseInt(first, 10) : 0;
}

function killGroup(child: ChildProcess): void {
  // Once the shell is collected its number may belong to somebody else.
  if (child.pid !== undefined && child.exitCode === null && child.signalCode === null) signal(-child.pid, 'SIGKILL');
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // Already gone, which is what was wanted.
  }
}
