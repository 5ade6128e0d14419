/**
 * The limits that an uploaded archive must keep, and the one error that says it does not. They stand in one place
 * because they are derived from each other: a limit alone would either refuse what another allows or guard nothing.
 */
import { CodedError } from '../errors.ts';

/** Limits on one archive. All are inclusive: exactly the limit is still accepted. */
export interface ArchiveLimits {
  /** Bytes of the archive file as it was uploaded. */
  readonly maxArchiveBytes: number;
  /** Entries of the archive, and likewise the files and directories that come of them. */
  readonly maxEntries: number;
  /** Bytes of one unpacked file. */
  readonly maxEntryBytes: number;
  /** Bytes of all unpacked files together. */
  readonly maxTotalBytes: number;
  /** Unpacked bytes per archive byte, looked at once more than RATIO_FREE_BYTES were unpacked. */
  readonly maxRatio: number;
  /** UTF-8 bytes of an entry's path. */
  readonly maxPathBytes: number;
  /** UTF-8 bytes of one component of a path. */
  readonly maxNameBytes: number;
  /** Components of a path. */
  readonly maxDepth: number;
  readonly maxTasks: number;
  readonly maxTestsPerTask: number;
  /** Bytes of one workspace.yaml. */
  readonly maxWorkspaceBytes: number;
  /** Tokens of one workspace.yaml: text, brackets, commas, indents and the like. Parsing costs per token, not per byte. */
  readonly maxYamlTokens: number;
  /** Bytes of one checks.txt. */
  readonly maxChecksBytes: number;
  /** Bytes of prompt.md, and of one command. */
  readonly maxPromptBytes: number;
  /** Bytes of workspace.yaml, prompt.md and checks.txt of all tasks together: what an inspection writes and parses. */
  readonly maxTextTotalBytes: number;
}

/** Small archives of very regular text compress beyond any ratio; one MiB of unpacked bytes harms nobody. */
export const RATIO_FREE_BYTES = 1024 ** 2;

/** The limits of a server that sets nothing. */
export const DEFAULT_ARCHIVE_LIMITS: ArchiveLimits = Object.freeze({
  // MAX_ARCHIVE_BYTES of the HTTP contract.
  maxArchiveBytes: 524_288_000,
  // >= maxTasks x 5 (the task's directory, workspace.yaml, prompt.md, tests/, one test) + 10,000 for the agent.
  maxEntries: 60_000,
  // <= maxTotalBytes.
  maxEntryBytes: 512 * 1024 ** 2,
  // >= maxEntryBytes, and >= maxArchiveBytes, so that a full-size archive of incompressible files fits.
  maxTotalBytes: 4 * 1024 ** 3,
  // Source text reaches 5 to 20 and repetitive fixtures 100; deflate itself ends near 1,030 (a bomb of zeros).
  maxRatio: 200,
  // A quarter of Linux's PATH_MAX (4,096), so that the directory it is unpacked under always has room.
  maxPathBytes: 1024,
  // Linux's NAME_MAX; also the longest task id that events.ts accepts.
  maxNameBytes: 255,
  maxDepth: 32,
  maxTasks: 10_000,
  maxTestsPerTask: 1000,
  // SWE-style tasks carry a patch, which is one token however long it is.
  maxWorkspaceBytes: 256 * 1024,
  // A list of 3,000 tests has about 15,000 of them; parsing 20,000 of any kind blocked for 0.03 to 0.3 s.
  maxYamlTokens: 20_000,
  maxChecksBytes: 64 * 1024,
  // The prompt and every command are ONE argument of a process. Linux refuses an argument over MAX_ARG_STRLEN =
  // 32 pages = 131,072 bytes (include/uapi/linux/binfmts.h, execve(2)); the rest is room for what goes round it.
  maxPromptBytes: 100_000,
  // >= maxWorkspaceBytes + maxChecksBytes + maxPromptBytes; 6,700 bytes a task when there are maxTasks.
  maxTextTotalBytes: 64 * 1024 ** 2,
});

/** The archive, or a file in it, is not what the contract asks for. The message names entry, file, line or field. */
export class ArchiveError extends CodedError<'extraction_failed'> {
  override readonly name = 'ArchiveError';

  constructor(message: string, options?: ErrorOptions) {
    super('extraction_failed', message, options);
  }
}

/** A name from outside as it may stand in a message: quoted, control characters escaped, at most 120 characters. */
export function shown(name: string): string {
  return JSON.stringify(name.length > 120 ? `${name.slice(0, 119)}…` : name).replace(
    /[\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}
