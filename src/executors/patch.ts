/**
 * What an agent changed, as a patch against the base commit: committed, staged, unstaged and untracked alike. Nothing
 * that the agent could write is believed. The comparison uses the repository copy from before the agent ran and a
 * private index, and git never walks into a repository below the work tree, whose configuration it would obey.
 */
import { closeSync, constants, openSync, writeSync } from 'node:fs';
import { access, copyFile, lstat, open, opendir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type Git, type GitLimits, gitError, openGit } from './git-run.ts';
import type { KeptOutput } from './output.ts';

export interface PatchOptions extends GitLimits {
  /** The work tree as the agent left it; must be a real directory. */
  readonly dir: string;
  /** The repository copy that `checkout` made. */
  readonly baseDir: string;
  readonly baseCommit: string;
  /** Receives the patch; replaced if it exists. */
  readonly outFile: string;
  /** A longer patch is cut there. */
  readonly maxBytes: number;
  /** Most files that are looked at, and most bytes of their names; more is a GitError. */
  readonly maxPaths?: number;
  readonly maxPathBytes?: number;
}

const DEFAULT_MAX_PATHS = 100_000;
const DEFAULT_MAX_PATH_BYTES = 32 * 1024 * 1024;
const PLACE = 'patch of the agent';

/**
 * Writes the patch; zero bytes mean that nothing changed. Left out are files ignored by the work tree's .gitignore
 * files, files that cannot be read, submodules, and everything named .git. Rejects with GitError.
 */
export async function patchSince(options: PatchOptions): Promise<KeptOutput> {
  const { dir, baseDir } = options;
  const bounds = new Bounds(options);
  await using git = await openGit({ ...options, signal: bounds.signal });
  const index = join(git.scratch, 'index');
  await copyFile(join(baseDir, 'index'), index);
  const run = (args: readonly string[], more: { stdin?: string; stdout?: (chunk: Buffer) => void } = {}) =>
    git.run({
      place: PLACE,
      args: [`--git-dir=${baseDir}`, `--work-tree=${dir}`, '--literal-pathspecs', ...args],
      cwd: dir,
      env: { GIT_INDEX_FILE: index },
      ...more,
    });

  const tracked = (await listPaths(run, bounds, ['ls-files', '-z', '--stage']))
    .filter((line) => !line.startsWith('160000 '))
    .map((line) => line.slice(line.indexOf('\t') + 1));
  const untracked = await listPaths(run, bounds, ['ls-files', '-z', '--others', '--exclude-standard']);
  const present: string[] = [];
  const gone: string[] = [];
  const known = new Map<string, boolean>();
  for (const path of tracked) {
    bounds.check();
    const kind = await kindOf(dir, path, known);
    if (kind === 'file') present.push(path);
    else if (kind === 'none') gone.push(path);
  }
  for (const path of untracked) {
    bounds.check();
    if (path.endsWith('/')) await collectFiles(dir, path.slice(0, -1), present, known, bounds);
    else if ((await kindOf(dir, path, known)) === 'file') present.push(path);
  }
  await updateIndex(git, run, ['--force-remove'], gone);
  await updateIndex(git, run, ['--add', '--replace'], present);

  const diff = ['diff-index', '--cached', '--patch', '--binary', '--full-index', '--no-renames', '--no-color'];
  const plain = ['--no-ext-diff', '--no-textconv', '--ignore-submodules=all', '--src-prefix=a/', '--dst-prefix=b/'];
  await rm(options.outFile, { recursive: true, force: true });
  const file = openSync(options.outFile, 'wx', 0o600);
  let bytes = 0;
  let omittedBytes = 0;
  try {
    await run([...diff, ...plain, options.baseCommit, '--'], {
      stdout(chunk) {
        const kept = chunk.subarray(0, Math.max(0, options.maxBytes - bytes));
        for (let written = 0; written < kept.length;) written += writeSync(file, kept, written);
        bytes += kept.length;
        omittedBytes += chunk.length - kept.length;
      },
    });
  } finally {
    closeSync(file);
  }
  return { bytes, omittedBytes };
}

type Run = (args: readonly string[], more?: { stdin?: string; stdout?: (chunk: Buffer) => void }) => Promise<string>;

/** Names are bytes to git; latin1 carries them through unchanged. */
const NAMES = 'latin1';

/** What an agent can make large: how many files there are, how long their names, how long all that takes. */
class Bounds {
  readonly signal: AbortSignal;
  readonly #overflow = new AbortController();
  readonly #deadline: number;
  readonly #timeoutMs: number;
  #paths: number;
  #bytes: number;

  constructor(options: PatchOptions) {
    this.signal = AbortSignal.any([options.signal, this.#overflow.signal]);
    this.#timeoutMs = options.timeoutMs;
    this.#deadline = performance.now() + options.timeoutMs;
    this.#paths = options.maxPaths ?? DEFAULT_MAX_PATHS;
    this.#bytes = options.maxPathBytes ?? DEFAULT_MAX_PATH_BYTES;
  }

  /** Counts names; returns whether they still fit. If not, running git is stopped and `check` throws. */
  count(paths: number, bytes: number): boolean {
    this.#paths -= paths;
    this.#bytes -= bytes;
    if (this.#paths >= 0 && this.#bytes >= 0) return true;
    this.#overflow.abort(gitError('git_failed', `${PLACE}: there are too many files, or their names are too long`));
    return false;
  }

  /** Throws a GitError for what does not fit or took too long, or why the caller cancelled. */
  check(): void {
    this.signal.throwIfAborted();
    if (performance.now() < this.#deadline) return;
    throw gitError('git_timeout', `${PLACE} took longer than ${this.#timeoutMs / 1000} s`);
  }
}

async function listPaths(run: Run, bounds: Bounds, args: readonly string[]): Promise<string[]> {
  const chunks: Buffer[] = [];
  await run(args, {
    stdout(chunk) {
      let names = 0;
      for (let at = chunk.indexOf(0); at >= 0; at = chunk.indexOf(0, at + 1)) names += 1;
      if (bounds.count(names, chunk.length)) chunks.push(chunk);
    },
  });
  bounds.check();
  return Buffer.concat(chunks).toString(NAMES).split('\0').filter(Boolean);
}

async function updateIndex(git: Git, run: Run, options: readonly string[], paths: readonly string[]): Promise<void> {
  if (paths.length === 0) return;
  const list = join(git.scratch, 'paths');
  {
    await using file = await open(list, 'w', 0o600);
    await file.writeFile(Buffer.from(paths.map((path) => `${path}\0`).join(''), NAMES));
  }
  await run(['update-index', ...options, '-z', '--stdin'], { stdin: list });
}

function diskPath(dir: string, path: string): Buffer {
  return Buffer.concat([Buffer.from(dir), Buffer.from('/'), Buffer.from(path, NAMES)]);
}

/** Whether a path below the work tree is a directory that no link leads to; '' is the work tree. */
async function isRealDirectory(dir: string, path: string, known: Map<string, boolean>): Promise<boolean> {
  if (path === '') return true;
  const cached = known.get(path);
  if (cached !== undefined) return cached;
  const below = await isRealDirectory(dir, parentOf(path), known);
  const real = below && ((await lstat(diskPath(dir, path)).catch(() => null))?.isDirectory() ?? false);
  known.set(path, real);
  return real;
}

const parentOf = (path: string) => path.slice(0, Math.max(0, path.lastIndexOf('/')));

/** What stands at a path, without following a link anywhere on the way to it. */
async function kindOf(dir: string, path: string, known: Map<string, boolean>): Promise<'file' | 'unreadable' | 'none'> {
  if (!(await isRealDirectory(dir, parentOf(path), known))) return 'none';
  const stat = await lstat(diskPath(dir, path)).catch(() => null);
  if (stat?.isSymbolicLink()) return 'file';
  if (!stat?.isFile()) return 'none';
  const readable = await access(diskPath(dir, path), constants.R_OK).then(
    () => true,
    () => false,
  );
  return readable ? 'file' : 'unreadable';
}

/** The files of a repository inside the work tree, which git itself would take for a submodule. */
async function collectFiles(
  dir: string,
  path: string,
  into: string[],
  known: Map<string, boolean>,
  bounds: Bounds,
): Promise<void> {
  const places = [path];
  for (let place = places.pop(); place !== undefined; place = places.pop()) {
    const entries = await opendir(diskPath(dir, place), { encoding: NAMES }).catch(() => []);
    for await (const { name } of entries) {
      bounds.count(1, place.length + name.length + 1);
      bounds.check();
      if (name.toLowerCase() === '.git') continue;
      const inner = `${place}/${name}`;
      const stat = await lstat(diskPath(dir, inner)).catch(() => null);
      if (stat?.isDirectory()) places.push(inner);
      else if ((await kindOf(dir, inner, known)) === 'file') into.push(inner);
    }
  }
}
