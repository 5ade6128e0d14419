/**
 * Runs git so that nothing but our own words decides what it does: no configuration of the machine, the user or the
 * repository's author, no hooks, no prompts, no credentials, only the transports that are allowed. And it tells
 * git's failures apart, because whether a task, the network or this machine is to blame decides what happens next.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CodedError } from '../errors.ts';
import { BoundedOutput } from './output.ts';
import { STANDARD_PATH } from './sandbox/process.ts';
import type { Sink } from './sandbox/output-pipes.ts';
import { supervise } from './sandbox/supervise.ts';

/** How git can fail. */
export type GitErrorCode =
  | 'git_not_found'
  | 'git_auth'
  | 'git_network'
  | 'git_timeout'
  | 'git_bad_commit'
  | 'git_corrupt'
  | 'git_refused'
  | 'git_failed';

/** A failure of git. The message ends with the remedy and the last of what git printed, without credentials. */
export class GitError extends CodedError<GitErrorCode> {
  override readonly name = 'GitError';
}

const REMEDIES: Readonly<Record<GitErrorCode, string>> = {
  git_not_found: 'check the address of the repository',
  git_auth: 'the repository is missing or private; only public repositories can be cloned',
  git_network: 'check the address and the network of this executor, then submit again',
  git_timeout: 'raise the time limit or use a smaller repository',
  git_bad_commit: 'check base_commit; it must be in the repository and reachable from a branch or tag',
  git_corrupt: 'the repository is damaged; repair or replace it',
  git_refused: 'use an address that GIT_PROTOCOLS and GIT_HOSTS allow',
  git_failed: 'see what git printed',
};

/** What git prints in the C locale, in the order in which it is tried: the specific before the general. */
const SYMPTOMS: readonly (readonly [GitErrorCode, RegExp])[] = [
  [
    'git_refused',
    /transport '[^']*' not allowed|protocol "?[^" ]*"? (?:is )?not (?:supported|allowed|enabled)|disabled in libcurl/i,
  ],
  [
    'git_bad_commit',
    /couldn't find remote ref|not our ref|unadvertised object|no such remote ref|Needed a single revision|unknown revision|bad revision|ambiguous argument|Not a valid object name|not a commit|expected commit type/i,
  ],
  [
    'git_auth',
    /Authentication failed|could not read (?:Username|Password)|Permission denied|Host key verification failed|Invalid username or|error: 40[13]\b/i,
  ],
  [
    'git_not_found',
    /repository (?:'[^']*' )?not found|does not appear to be a git repository|repository '[^']*' does not exist|no such (?:repository|project)|error: 404\b/i,
  ],
  [
    'git_network',
    /Could not resolve (?:host|proxy)|unable to look up|Connection (?:refused|timed out|reset|closed)|Failed to connect|Couldn't connect|unreachable|No route to host|timed out|SSL|TLS|certificate|error: (?:429|5\d\d)\b|Empty reply|transfer closed/i,
  ],
  [
    'git_corrupt',
    /bad object|corrupt|inflate|zlib|fsck error|index-pack (?:failed|died|abnormal)|unpack-objects|bad pack|bad line length|protocol error|missing (?:blob|tree|commit)|unable to read (?:tree|sha1)|did not send all necessary|remote did not send|early EOF|unexpected disconnect/i,
  ],
  ['git_network', /remote end hung up|unable to access/i],
];

/** The most probable cause of a failure by what git printed. */
export function classifyGitFailure(stderr: string): GitErrorCode {
  return SYMPTOMS.find(([, pattern]) => pattern.test(stderr))?.[0] ?? 'git_failed';
}

const TAIL_CHARACTERS = 600;

/** Makes a GitError of what happened, where, and what git printed. */
export function gitError(code: GitErrorCode, place: string, stderr = ''): GitError {
  const printed = withoutCredentials(stderr).replace(/\s+/g, ' ').trim();
  const tail = printed.length > TAIL_CHARACTERS ? `…${printed.slice(-TAIL_CHARACTERS).toWellFormed()}` : printed;
  return new GitError(code, `${withoutCredentials(place)}: ${REMEDIES[code]}${tail ? ` (git: ${tail})` : ''}`);
}

/** Hides `user:secret@` in addresses and the values of authorization headers. */
function withoutCredentials(text: string): string {
  return text.replace(/([a-z][a-z0-9+.-]*:\/\/)[^\s/@']*@/gi, '$1').replace(/(authorization:\s*\S+)\s+\S+/gi, '$1 ***');
}

/** What limits a series of git commands. */
export interface GitLimits {
  /** For all commands of one `Git` together. */
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  /** Where git's configuration for these commands is made; default: the system's temporary directory. */
  readonly scratchDir?: string;
  /** PATH to find git and ssh in. */
  readonly path?: string;
  /** Between SIGTERM and SIGKILL. */
  readonly graceMs?: number;
}

/** One git command. */
export interface GitCommand {
  /** Names the place in errors: `clone of https://…`. */
  readonly place: string;
  readonly args: readonly string[];
  readonly cwd: string;
  /** Transports that git may use for this command; none unless given. */
  readonly protocols?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly stdout?: Sink;
  readonly stdin?: string;
}

/** A private configuration and one deadline for a series of git commands. */
export interface Git extends AsyncDisposable {
  /** A directory of ours that lives as long as this. */
  readonly scratch: string;
  /** Runs one command; resolves to the first MiB of what it printed unless `stdout` takes it. Rejects with GitError. */
  run(command: GitCommand): Promise<string>;
}

const DEFAULT_GRACE_MS = 2_000;
const STDOUT_LIMIT_BYTES = 1_048_576;
const STDERR_LIMIT_BYTES = 16_384;

/**
 * The only configuration that git reads besides the private directories' own. A repository owned by somebody else may
 * be read (safe.directory), and any commit of a local one may be asked for, because these are our own directories or
 * ones that GIT_PROTOCOLS=file offers.
 */
const CONFIG = `[safe]
	directory = *
[core]
	hooksPath = /dev/null
	fsmonitor = false
	attributesFile = /dev/null
	excludesFile = /dev/null
	logAllRefUpdates = false
	askPass =
[credential]
	helper =
[gc]
	auto = 0
[maintenance]
	auto = false
[fetch]
	recurseSubmodules = false
	writeCommitGraph = false
[submodule]
	recurse = false
[advice]
	detachedHead = false
[uploadpack]
	allowAnySHA1InWant = true
[protocol]
	version = 2
`;

/** Prepares a series of git commands. Dispose of it when they are done. */
export async function openGit(limits: GitLimits): Promise<Git> {
  const scratch = await mkdtemp(join(limits.scratchDir ?? tmpdir(), 'term-executor-git-'));
  const config = join(scratch, 'config');
  await writeFile(config, CONFIG);
  const deadline = performance.now() + limits.timeoutMs;
  const environment = {
    PATH: limits.path ?? STANDARD_PATH,
    HOME: scratch,
    TMPDIR: scratch,
    LC_ALL: 'C',
    GIT_CONFIG_NOSYSTEM: '1',
    GIT_CONFIG_GLOBAL: config,
    GIT_ATTR_NOSYSTEM: '1',
    GIT_TERMINAL_PROMPT: '0',
    GIT_ASKPASS: '/bin/false',
    SSH_ASKPASS: '/bin/false',
    GIT_SSH_COMMAND: 'ssh -oBatchMode=yes -oConnectTimeout=20',
    GIT_LFS_SKIP_SMUDGE: '1',
    GIT_PROTOCOL_FROM_USER: '0',
  };
  return {
    scratch,
    async run({ place, args, cwd, protocols = [], env = {}, stdout, stdin }) {
      const printed = new BoundedOutput(STDOUT_LIMIT_BYTES);
      const complaints = new BoundedOutput(STDERR_LIMIT_BYTES);
      const end = await supervise({
        argv: ['git', ...args],
        cwd,
        scratchDir: scratch,
        env: { ...environment, ...env, GIT_ALLOW_PROTOCOL: protocols.join(':') || 'none' },
        timeoutMs: Math.max(1, deadline - performance.now()),
        graceMs: limits.graceMs ?? DEFAULT_GRACE_MS,
        signal: limits.signal,
        stdout: stdout ?? ((chunk) => printed.write(chunk)),
        stderr: (chunk) => complaints.write(chunk),
        ...(stdin === undefined ? {} : { stdin }),
      });
      limits.signal.throwIfAborted();
      const stderr = textOf(complaints);
      if (end.ended === 'not-started') throw gitError('git_failed', `${place}: ${end.error}`);
      if (end.ended === 'timed-out') {
        throw gitError('git_timeout', `${place} took longer than ${limits.timeoutMs / 1000} s`, stderr);
      }
      if (end.exitCode !== 0) throw gitError(classifyGitFailure(stderr), `${place} failed`, stderr);
      return textOf(printed);
    },
    async [Symbol.asyncDispose]() {
      await rm(scratch, { recursive: true, force: true });
    },
  };
}

function textOf(output: BoundedOutput): string {
  return Buffer.concat(output.contents().parts).toString('utf8');
}
