/**
 * The one interface behind which untrusted code runs. Steps say what to run and within which limits; how it is
 * isolated (`process`: not at all; `oci`: a container) is the sandbox's business, so that the steps read the same.
 */
import type { FailureCause } from '../../events.ts';

/** One command to run. Paths are host paths; a sandbox that maps them does so itself. */
export interface SandboxCommand {
  readonly argv: readonly [string, ...string[]];
  readonly cwd: string;
  /** The complete environment of the command apart from what the sandbox sets itself (PATH, HOME, TMPDIR, LANG). */
  readonly env: Readonly<Record<string, string>>;
  /** Wall-clock limit; then SIGTERM, after the grace period SIGKILL, to everything the command started. */
  readonly timeoutMs: number;
  /** File that receives the bounded output (stdout and stderr interleaved); created by the sandbox. */
  readonly outputFile: string;
  /** Abort ends the command as a timeout does, with cause `cancelled`. */
  readonly signal: AbortSignal;
  /** Directories that the command may write to; everything else is read-only where the sandbox can enforce it. */
  readonly writable: readonly string[];
  readonly network: 'none' | 'egress';
}

/** How a command ended. Every process that it started is gone when this is returned. */
export interface SandboxResult {
  /** Exit code; null when it was ended by a signal or could not be started. */
  readonly exitCode: number | null;
  readonly signal: string | null;
  readonly durationMs: number;
  /** Set when the sandbox knows more than the exit code: a time limit, cancellation, memory, a runtime failure. */
  readonly cause: FailureCause | null;
  readonly error: string | null;
  readonly outputBytes: number;
  /** Bytes produced beyond the limit; they are counted and not kept. */
  readonly omittedBytes: number;
}

export interface Sandbox {
  /** `process`, `runc`, …: recorded in TaskStarted and shown at /status. */
  readonly name: string;
  run(command: SandboxCommand): Promise<SandboxResult>;
}
