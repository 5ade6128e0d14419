/**
 * Puts exactly one commit of a repository on disk. The agent must not find the fix in later commits, in other
 * branches, in reflogs or at a remote, so the work tree's repository is built from that commit alone instead of
 * being cleaned up after a clone.
 */
import { constants } from 'node:fs';
import { cp, mkdir, rm } from 'node:fs/promises';
import { isIP } from 'node:net';
import { join } from 'node:path';
import { CodedError } from '../errors.ts';
import { type Git, type GitErrorCode, type GitLimits, gitError, openGit } from './git-run.ts';
import { addressesOf, isPublicAddress } from './public-address.ts';
import { checkCommit, checkRepo } from './task-repo.ts';

/** What to fetch, and by which rules. */
export interface FetchOptions extends GitLimits {
  /** Address as TaskSpec has it. */
  readonly repo: string;
  /** Full or short commit, tag or branch; absent means the tip of the default branch. */
  readonly commit?: string;
  /** Does not exist yet; becomes a bare repository that only `checkout` reads and that it removes. */
  readonly storeDir: string;
  /** Transports that are allowed, from https, http, ssh, git, file. */
  readonly protocols: readonly string[];
  /** Hosts that are allowed, in lower case; empty means every host with public addresses only. */
  readonly hosts: readonly string[];
}

/** Where a fetched commit lies. */
export interface FetchedCommit {
  readonly storeDir: string;
  /** The full name of the commit. */
  readonly commit: string;
}

/** What `checkout` fills. All three do not exist yet, or are empty. */
export interface CheckoutOptions extends GitLimits {
  readonly fetched: FetchedCommit;
  /** The work tree that the agent gets, on a branch `main` at the commit. */
  readonly dir: string;
  /** A copy of its repository that the agent cannot reach; `patchSince` compares with it. */
  readonly baseDir: string;
}

const DEFAULT_REF = 'refs/term-executor/default';
const FULL_COMMIT = /^(?:[0-9a-f]{40}|[0-9a-f]{64})$/;
const IDENTITY = { name: 'agent', email: 'agent@term-executor.invalid' };

/** Failures after which asking for everything cannot help either. */
const FINAL: ReadonlySet<GitErrorCode> = new Set([
  'git_not_found',
  'git_auth',
  'git_network',
  'git_timeout',
  'git_refused',
]);

/** Forges that answer renamed repositories with redirects to themselves, and to nowhere else. */
const FORGES: ReadonlySet<string> = new Set(['github.com', 'gitlab.com', 'bitbucket.org', 'codeberg.org']);

/**
 * The clone step: fetches the commit into a bare repository of ours. A full commit is asked for by name; where the
 * server refuses that, or only a part of the name or a tag or branch is known, everything is fetched and searched.
 * Rejects with GitError.
 */
export async function fetchCommit(options: FetchOptions): Promise<FetchedCommit> {
  const { repo, storeDir } = options;
  const checked = checkRepo(repo, { gitProtocols: options.protocols, gitHosts: options.hosts });
  if ('fault' in checked) throw gitError('git_refused', `the address of the repository ${checked.fault}`);
  const commit = options.commit?.trim();
  const fault = commit === undefined ? null : checkCommit(commit);
  if (fault && 'fault' in fault) throw gitError('git_bad_commit', `base_commit ${fault.fault}`);
  const url = checked.value;

  await using git = await openGit(options);
  const pinning = await pinHost(url, options);
  const place = `clone of ${url}`;
  await initialize(git, storeDir, commit, ['--bare']);
  const fetch = (...args: string[]) =>
    git.run({
      place,
      args: ['-C', storeDir, ...pinning, 'fetch', '--quiet', '--no-tags', '--no-write-fetch-head', ...args],
      cwd: git.scratch,
      protocols: options.protocols,
    });

  if (commit === undefined) {
    await fetch('--depth=1', '--', url, `+HEAD:${DEFAULT_REF}`);
    return { storeDir, commit: await resolve(git, storeDir, DEFAULT_REF, url) };
  }
  if (FULL_COMMIT.test(commit)) {
    try {
      await fetch('--depth=1', '--', url, commit);
      return { storeDir, commit: await resolve(git, storeDir, commit, url) };
    } catch (error) {
      if (!(error instanceof CodedError) || FINAL.has(error.code as GitErrorCode)) throw error;
      await rm(storeDir, { recursive: true, force: true });
      await initialize(git, storeDir, commit, ['--bare']);
    }
  }
  await fetch('--', url, '+refs/heads/*:refs/heads/*', '+refs/tags/*:refs/tags/*');
  return { storeDir, commit: await resolve(git, storeDir, commit, url) };
}

/**
 * The checkout step: makes the work tree, with a repository that knows this commit and nothing else: no remote, no
 * other ref, no reflog, no hook, no filter. Then removes the store. Rejects with GitError.
 */
export async function checkout(options: CheckoutOptions): Promise<void> {
  const { dir, baseDir } = options;
  const { storeDir, commit } = options.fetched;
  await using git = await openGit(options);
  const place = `checkout of ${commit}`;
  const inside = (...args: string[]) =>
    git.run({ place, args: ['-C', dir, ...args], cwd: git.scratch, protocols: ['file'] });
  await initialize(git, dir, commit, ['--initial-branch=main']);
  await inside(
    'fetch',
    '--quiet',
    '--no-tags',
    '--no-write-fetch-head',
    '--depth=1',
    '--',
    `file://${storeDir}`,
    commit,
  );
  await inside('update-ref', '--no-deref', 'refs/heads/main', commit);
  await inside('read-tree', '--reset', '-u', 'HEAD');
  await inside('config', 'user.name', IDENTITY.name);
  await inside('config', 'user.email', IDENTITY.email);
  await cp(join(dir, '.git'), baseDir, { recursive: true, mode: constants.COPYFILE_FICLONE, verbatimSymlinks: true });
  await rm(storeDir, { recursive: true, force: true });
}

async function initialize(git: Git, dir: string, commit: string | undefined, options: readonly string[]) {
  await mkdir(dir, { recursive: true });
  const format = commit?.length === 64 && FULL_COMMIT.test(commit) ? ['--object-format=sha256'] : [];
  const args = ['init', '--quiet', '--template=', ...format, ...options, '--', dir];
  await git.run({ place: `git init in ${dir}`, args, cwd: git.scratch });
}

async function resolve(git: Git, storeDir: string, name: string, url: string): Promise<string> {
  const printed = await git.run({
    place: `search for ${name} in ${url}`,
    args: ['-C', storeDir, 'rev-parse', '--verify', '--end-of-options', `${name}^{commit}`],
    cwd: git.scratch,
  });
  return printed.trim();
}

/**
 * Keeps git away from addresses inside our network when every host is allowed: the host must resolve to public
 * addresses, and curl gets exactly those, so that a second answer of the name server cannot change them. Redirects
 * are refused unless the host is one the operator named or a forge known to redirect to itself.
 */
async function pinHost(url: string, options: FetchOptions): Promise<string[]> {
  const place = parsePlace(url);
  if (place === null) return [];
  if (options.hosts.length > 0 || FORGES.has(place.host)) return ['-c', 'http.followRedirects=initial'];
  const addresses = isIP(place.host) ? [place.host] : await addressesOf(place.host, options);
  // The message is public and must not tell what our name server knows.
  if (!addresses.every(isPublicAddress)) {
    throw gitError('git_refused', `the host ${place.host} is at a private address; name it in GIT_HOSTS to allow that`);
  }
  const resolved = addresses.map((address) => (isIP(address) === 6 ? `[${address}]` : address)).join(',');
  const pin = isIP(place.host) ? [] : ['-c', `http.curloptResolve=${place.host}:${place.port}:${resolved}`];
  return ['-c', 'http.followRedirects=false', ...pin];
}

/** Host and port of an address; null for a local one. */
function parsePlace(url: string): { host: string; port: string } | null {
  const scp = /^[^@/]+@(\[[^\]]+\]|[^:]+):/.exec(url);
  const plain = /^([a-z]+):\/\/(?:[^@/]*@)?(\[[^\]]+\]|[^:/]+)?(?::(\d+))?\//i.exec(url);
  const protocol = scp ? 'ssh' : plain?.[1]?.toLowerCase();
  if (protocol === undefined || protocol === 'file') return null;
  const host = (scp?.[1] ?? plain?.[2] ?? '').toLowerCase().replace(/^\[|\]$/g, '');
  return { host, port: plain?.[3] ?? (protocol === 'http' ? '80' : '443') };
}
