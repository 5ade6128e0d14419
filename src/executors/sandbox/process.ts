/**
 * The sandbox that isolates nothing: a command runs as our own user on our own machine. It exists for development,
 * for the demo's own tasks and for hosts that isolate the whole executor, and has to be asked for by name
 * (SANDBOX=process). What it does give is a clean environment, a time limit, bounded output and the end of whatever a
 * command leaves running, unless that sheds every mark on purpose (see process-tree.ts).
 */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { messageOf } from '../../errors.ts';
import { BoundedOutput, DEFAULT_OUTPUT_LIMIT_BYTES } from '../output.ts';
import type { Sandbox, SandboxCommand, SandboxResult } from './sandbox.ts';
import { type SupervisedEnd, supervise } from './supervise.ts';

/** Where programs are looked for unless the operator's PATH is given. */
export const STANDARD_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export interface ProcessSandboxOptions {
  /** PATH of the commands; the server's own is fine. */
  readonly path?: string;
  /** Where HOME and TMPDIR of each command are made; default: the system's temporary directory. */
  readonly scratchDir?: string;
  /** Between SIGTERM and SIGKILL. */
  readonly graceMs?: number;
  /** Bytes kept of each command's output. */
  readonly outputLimitBytes?: number;
}

const DEFAULT_GRACE_MS = 5_000;

/**
 * Runs commands as plain processes. HOME and TMPDIR are fresh directories of each command, removed after it, unless
 * the command's environment names others. `run` rejects only when the output cannot be stored.
 */
export function createProcessSandbox(options: ProcessSandboxOptions = {}): Sandbox {
  const graceMs = options.graceMs ?? DEFAULT_GRACE_MS;
  return {
    name: 'process',
    async run(command: SandboxCommand): Promise<SandboxResult> {
      const output = new BoundedOutput(options.outputLimitBytes ?? DEFAULT_OUTPUT_LIMIT_BYTES);
      const own = await mkdtemp(join(options.scratchDir ?? tmpdir(), 'term-executor-step-'));
      try {
        const home = join(own, 'home');
        const temporary = join(own, 'tmp');
        await Promise.all([mkdir(home), mkdir(temporary)]);
        const end = await supervise({
          argv: command.argv,
          cwd: command.cwd,
          scratchDir: own,
          env: {
            PATH: options.path ?? STANDARD_PATH,
            HOME: home,
            TMPDIR: temporary,
            LANG: 'C.UTF-8',
            ...command.env,
          },
          timeoutMs: command.timeoutMs,
          graceMs,
          signal: command.signal,
          stdout: (chunk) => output.write(chunk),
        });
        const kept = await output.writeTo(command.outputFile);
        return {
          ...judge(end, command.timeoutMs),
          exitCode: end.exitCode,
          signal: end.signal,
          durationMs: end.durationMs,
          outputBytes: kept.bytes,
          omittedBytes: kept.omittedBytes,
        };
      } finally {
        await removeOwn(own);
      }
    },
  };
}

function judge(end: SupervisedEnd, timeoutMs: number): Pick<SandboxResult, 'cause' | 'error'> {
  if (end.survivors.length > 0) {
    const names = end.survivors.map(({ pid, name }) => `${name} (${pid})`).join(', ');
    return { cause: 'sandbox', error: `processes of the command could not be killed: ${names}; end them by hand` };
  }
  switch (end.ended) {
    case 'exited':
      return { cause: null, error: null };
    case 'timed-out':
      return { cause: 'max-duration', error: `ended after its time limit of ${timeoutMs / 1000} s` };
    case 'aborted':
      return { cause: 'cancelled', error: 'cancelled' };
    case 'not-started':
      return { cause: 'sandbox', error: end.error };
  }
}

/** A command may take its own rights to its HOME away; what then stays behind must not fail the step. */
async function removeOwn(directory: string): Promise<void> {
  try {
    await rm(directory, { recursive: true, force: true, maxRetries: 2 });
  } catch (error) {
    process.emitWarning(`${directory} could not be removed: ${messageOf(error)}`);
  }
}
