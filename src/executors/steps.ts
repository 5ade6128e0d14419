/**
 * Reports every step of an attempt: that it starts, then how it ended, also when it ends the attempt. Apart from the
 * order of the steps, so that none of them can forget its report or go on after a cancellation.
 */
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CodedError } from '../errors.ts';
import type { FailureCause, StepKind } from '../events.ts';
import type { AgentCommand } from './agent.ts';
import { GitError } from './git-run.ts';
import { zeroTestsWarning } from './reward.ts';
import type { Sandbox, SandboxResult } from './sandbox/sandbox.ts';
import { ensureRealDirectory, removeForced } from './test-files.ts';

/** A step that begins. `step` counts from 0 within the attempt. */
export interface StepStart {
  readonly step: number;
  readonly kind: StepKind;
  readonly name: string;
  readonly timeoutMs: number;
}

/** A step that ended. The output file is the reporter's to store; it is not needed afterwards. */
export interface StepEnd {
  readonly step: number;
  readonly kind: StepKind;
  readonly name: string;
  readonly exitCode: number | null;
  readonly signal: string | null;
  readonly durationMs: number;
  readonly cause: FailureCause | null;
  readonly error: string | null;
  readonly outputFile: string | null;
  readonly outputBytes: number;
  readonly omittedBytes: number;
}

/** Hears of every step, in order. A rejection ends the attempt and is passed on. */
export interface StepReporter {
  stepStarted(step: StepStart): Promise<void>;
  stepFinished(step: StepEnd): Promise<void>;
}

/** Ends the attempt before its tests. evaluateTask turns it into an outcome. */
export class Ended extends Error {
  override readonly cause: FailureCause;
  constructor(cause: FailureCause, message: string) {
    super(message);
    this.cause = cause;
  }
}

/** What the schemas of the events allow. */
const MAX_NAME_CHARACTERS = 1024;
const MAX_TEXT_CHARACTERS = 4096;

/** What steps need of the world. */
export interface StepPorts {
  readonly sandbox: Sandbox;
  readonly reporter: StepReporter;
  /** Milliseconds; only differences count. */
  now(): number;
}

/** What holds for every step of an attempt. Both directories exist. */
export interface StepSettings {
  /** Variables of every command. */
  readonly env: Readonly<Record<string, string>>;
  /** Receives a directory for the temporary files of each step. */
  readonly tmpDir: string;
  /** Receives each step's output. */
  readonly outDir: string;
  readonly signal: AbortSignal;
}

/** What a command may use. */
export interface Room {
  readonly home: string;
  /** Besides HOME and the temporary directory. */
  readonly writable: readonly string[];
  readonly network: 'none' | 'egress';
}

/** Runs the steps of one attempt and numbers them. */
export class StepRunner {
  readonly #settings: StepSettings;
  readonly #ports: StepPorts;
  #steps = 0;

  constructor(settings: StepSettings, ports: StepPorts) {
    this.#settings = settings;
    this.#ports = ports;
  }

  /** Throws Ended if the attempt was cancelled. */
  stopIfCancelled(): void {
    if (this.#settings.signal.aborted) throw new Ended('cancelled', 'cancelled');
  }

  /** Runs work of git as a step. Throws Ended when git fails. */
  async git<T>(kind: 'clone' | 'checkout', label: string, timeoutMs: number, work: () => Promise<T>): Promise<T> {
    const { signal } = this.#settings;
    this.stopIfCancelled();
    const step = this.#steps++;
    const name = cut(label, MAX_NAME_CHARACTERS);
    await this.#ports.reporter.stepStarted({ step, kind, name, timeoutMs: Math.ceil(timeoutMs) });
    const startedMs = this.#ports.now();
    const finish = (cause: FailureCause | null, error: string | null) =>
      this.#ports.reporter.stepFinished({
        step,
        kind,
        name,
        exitCode: cause === null ? 0 : null,
        signal: null,
        durationMs: Math.max(0, Math.round(this.#ports.now() - startedMs)),
        cause,
        error: error === null ? null : cutText(error),
        outputFile: null,
        outputBytes: 0,
        omittedBytes: 0,
      });
    let result: T;
    try {
      result = await work();
    } catch (error) {
      if (signal.aborted) {
        await finish('cancelled', 'cancelled');
        throw new Ended('cancelled', 'cancelled');
      }
      if (!(error instanceof GitError)) throw error;
      if (/No space left on device|Disk quota exceeded/i.test(error.message)) {
        throw new CodedError('disk_full', `${kind} failed: the disk of this executor is full (${error.message})`);
      }
      await finish('git', error.message);
      throw new Ended('git', `${kind}: ${error.message}`);
    }
    await finish(null, null);
    return result;
  }

  /**
   * Runs one command as a step; `exitCause` is what an exit code other than 0 stands for. Throws Ended when it was
   * cancelled or the sandbox failed.
   */
  async command(
    kind: StepKind,
    command: AgentCommand,
    timeoutMs: number,
    room: Room,
    exitCause: FailureCause,
  ): Promise<SandboxResult & { readonly warning: string | null }> {
    const { signal, env, tmpDir, outDir } = this.#settings;
    this.stopIfCancelled();
    const step = this.#steps++;
    const name = cut(command.name, MAX_NAME_CHARACTERS);
    const tmp = join(tmpDir, String(step));
    // A step before may have put something of that name there.
    await ensureRealDirectory(tmpDir);
    await removeForced(tmp);
    await mkdir(tmp);
    await this.#ports.reporter.stepStarted({ step, kind, name, timeoutMs: Math.ceil(timeoutMs) });
    const outputFile = join(outDir, `${step}.log`);
    const result = await this.#ports.sandbox.run({
      argv: command.argv,
      cwd: command.cwd,
      env: { ...env, ...command.env, HOME: room.home, TMPDIR: tmp },
      timeoutMs,
      outputFile,
      signal,
      writable: [...room.writable, room.home, tmp],
      network: room.network,
    });
    const cause = result.cause ?? (result.exitCode === 0 ? null : exitCause);
    const error = cause === null ? null : cutText(result.error ?? describeExit(result));
    const warning = kind === 'tests' && cause === null ? zeroTestsWarning(await readFile(outputFile, 'utf8')) : null;
    await this.#ports.reporter.stepFinished({
      step,
      kind,
      name,
      exitCode: result.exitCode,
      signal: result.signal,
      durationMs: result.durationMs,
      cause,
      error,
      outputFile,
      outputBytes: result.outputBytes,
      omittedBytes: result.omittedBytes,
    });
    if (cause === 'cancelled') throw new Ended('cancelled', 'cancelled');
    // Something of the step may still live, or the executor lacks a program: nothing after it could be trusted.
    if (cause === 'sandbox') throw new Ended('sandbox', `${kind} ${name}: ${error}`);
    return { ...result, cause, error, warning };
  }
}

function describeExit({ exitCode, signal }: SandboxResult): string {
  return exitCode === null ? `ended by ${signal ?? 'an unknown signal'}` : `exited with code ${exitCode}`;
}

/** Shortens a text to what an event takes. */
export function cutText(text: string): string {
  return cut(text, MAX_TEXT_CHARACTERS);
}

function cut(text: string, characters: number): string {
  return text.length <= characters ? text : `${text.slice(0, characters - 1).toWellFormed()}…`;
}
