/**
 * How every client command talks to whoever started it: text for people or JSON for programs on stdout, remarks on
 * stderr, one place where a failure becomes a message and an exit code and where a signal becomes an abort.
 */
import { styleText } from 'node:util';
import { type Command, CommanderError, InvalidArgumentError } from 'commander';
import { CodedError, messageOf } from '../errors.ts';
import { RefusedError } from '../client/errors.ts';
import type { Paint } from '../client/render.ts';
import { safeJson, sanitize } from '../client/sanitize.ts';
import { EXIT, exitCodeHelp, exitCodeOf, type ExitCode } from './exit-codes.ts';

/** What a command may use of the process it runs in. */
export interface Io {
  /** True: stdout carries JSON alone. */
  readonly json: boolean;
  /** Aborts, with a CodedError as the reason, on SIGINT, SIGTERM, SIGHUP and when stdout is closed. */
  readonly signal: AbortSignal;
  /** A line for people on stdout; nothing with --json. The caller has sanitized what is not its own. */
  readonly print: (line: string) => void;
  /** One JSON document on a line of stdout; nothing without --json. */
  readonly data: (value: unknown) => void;
  /** Colours a text where stdout is a terminal that shows colours and NO_COLOR is not set. */
  readonly paint: Paint;
  /** A remark for people on stderr, sanitized; given either way. */
  readonly note: (line: string) => void;
}

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
const JSON_OPTION = ['--json', 'JSON on stdout and nothing else there; messages for people go to stderr'] as const;

/** Adds `--json` as every command has it. */
export function withJson(command: Command): Command {
  return command.option(...JSON_OPTION);
}

/**
 * Runs the body of a command: signals abort it, a second signal ends the process at once, a failure is reported and
 * becomes the exit code. Never rejects.
 */
export async function runAction(json: boolean, body: (io: Io) => Promise<ExitCode>): Promise<void> {
  const abort = new AbortController();
  const onSignal = (name: NodeJS.Signals): void => {
    if (abort.signal.aborted) process.exit(EXIT.interrupted);
    process.stderr.write('stopping; a second signal ends it at once\n');
    abort.abort(new CodedError('interrupted', `interrupted by ${name}`));
  };
  const onBrokenPipe = (): void => abort.abort(new CodedError('interrupted', 'the reader of our output is gone'));
  for (const name of SIGNALS) process.on(name, onSignal);
  process.stdout.on('error', onBrokenPipe);
  const io: Io = {
    json,
    signal: abort.signal,
    print: (line) => void (json || process.stdout.write(`${line}\n`)),
    data: (value) => void (json && process.stdout.write(`${safeJson(value)}\n`)),
    paint: (style, text) => styleText(style, text, { stream: process.stdout }),
    note: (line) => void process.stderr.write(`${sanitize(line, 4000)}\n`),
  };
  try {
    process.exitCode = await body(io);
  } catch (thrown) {
    // Whatever an abort broke, the reason is the interruption.
    const error: unknown = abort.signal.aborted ? abort.signal.reason : thrown;
    process.exitCode = exitCodeOf(error);
    reportError(error, json);
  } finally {
    for (const name of SIGNALS) process.off(name, onSignal);
  }
}

/** Writes an error to stderr for people and, with --json, to stdout for programs. */
export function reportError(error: unknown, json: boolean): void {
  const code = error instanceof CodedError ? error.code : 'internal';
  const message = messageOf(error);
  const hint = exitCodeOf(error) === EXIT.internal ? '; this is a defect, please report it' : '';
  process.stderr.write(`error: ${sanitize(message, 4000)}${hint}\n`);
  if (!json) return;
  const more = error instanceof RefusedError ? { status: error.status, server_error: error.serverCode } : {};
  process.stdout.write(`${safeJson({ error: code, message, ...more })}\n`);
}

/**
 * Makes usage errors throw instead of ending the process, adds the table of exit codes to --help. Call it before any
 * command is registered: commands inherit the setting when they are made.
 */
export function prepareProgram(program: Command): Command {
  return program
    .exitOverride()
    .showHelpAfterError('(add --help for what is accepted)')
    .addHelpText('after', `\n${exitCodeHelp()}`);
}

/** Parses and runs; sets the exit code also for usage errors. Never rejects. */
export async function runProgram(program: Command, argv: readonly string[]): Promise<void> {
  try {
    await program.parseAsync(argv);
  } catch (error) {
    process.exitCode = exitCodeOf(error);
    // commander has written its own message to stderr by now.
    if (!(error instanceof CommanderError)) reportError(error, argv.includes('--json'));
    else if (process.exitCode !== EXIT.ok && argv.includes('--json')) {
      process.stdout.write(`${safeJson({ error: 'usage', message: error.message.replace(/^error: /, '') })}\n`);
    }
  }
}

/** Parses an option that is a whole number within a range; for commander's `argParser`. */
export function wholeNumber(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (/^\d{1,15}$/.test(text) && value >= min && value <= max) return value;
    throw new InvalidArgumentError(`must be a whole number from ${min} to ${max}`);
  };
}
