/**
 * What the program's exit codes mean: one table, so that scripts can rely on it, --help can print it and no command
 * invents its own.
 */
import { CommanderError } from 'commander';
import { CodedError } from '../errors.ts';

export const EXIT = {
  ok: 0,
  failed: 1,
  usage: 2,
  config: 3,
  unreachable: 4,
  refused: 5,
  interrupted: 6,
  nats: 7,
  timeout: 8,
  internal: 70,
} as const;
export type ExitName = keyof typeof EXIT;
export type ExitCode = (typeof EXIT)[ExitName];

const MEANINGS: Readonly<Record<ExitName, string>> = {
  ok: 'done; where a result is judged: it is good',
  failed: 'done, but the result is not good (a task failed, a batch did not complete, a check found a difference)',
  usage: 'the command line is wrong',
  config: 'a setting, key file or environment variable is wrong',
  unreachable: 'the server or NATS cannot be reached',
  refused: 'the server refused the request',
  interrupted: 'interrupted by a signal',
  nats: 'nats-server is missing, too old or does not start',
  timeout: 'the time allowed ran out before there was a result',
  internal: 'a defect in term-executor',
};

/** Codes of CodedError that do not mean `internal`. Those of NATS are told by their prefix. */
const EXIT_OF_CODE: ReadonlyMap<string, ExitName> = new Map([
  ['usage', 'usage'],
  ['file_exists', 'usage'],
  ['file_unreadable', 'usage'],
  ['extraction_failed', 'usage'],
  ['pack_failed', 'usage'],
  ['config_invalid', 'config'],
  ['key_invalid', 'config'],
  ['data_dir_not_writable', 'config'],
  ['data_dir_in_use', 'config'],
  ['workspace_not_writable', 'config'],
  ['port_taken', 'config'],
  ['read_model_unavailable', 'config'],
  ['stream_misconfigured', 'nats'],
  ['server_unreachable', 'unreachable'],
  ['log_unavailable', 'unreachable'],
  ['blob_unavailable', 'unreachable'],
  ['nats_auth_failed', 'unreachable'],
  ['nats_unreachable', 'unreachable'],
  ['refused', 'refused'],
  ['batch_not_found', 'refused'],
  ['bad_answer', 'refused'],
  ['vote_round_expired', 'failed'],
  ['prerequisite_missing', 'config'],
  ['server_failed', 'unreachable'],
  ['interrupted', 'interrupted'],
  ['timed_out', 'timeout'],
]);

/** The exit code for whatever a command threw. */
export function exitCodeOf(error: unknown): ExitCode {
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage;
  if (!(error instanceof CodedError)) return EXIT.internal;
  const name = EXIT_OF_CODE.get(error.code) ?? (error.code.startsWith('nats_') ? 'nats' : 'internal');
  return EXIT[name];
}

/** The table as text for --help, one line per code. */
export function exitCodeHelp(): string {
  const lines = Object.entries(MEANINGS).map(([name, meaning]) => `  ${codeText(name).padStart(2)}  ${meaning}`);
  return ['Exit codes:', ...lines].join('\n');
}

function codeText(name: string): string {
  return String(Object.entries(EXIT).find(([known]) => known === name)?.[1] ?? '');
}
