/**
 * What an agent changed, as a patch against the base commit: committed, staged, unstaged and untracked alike. Nothing
 * that the agent could write is believed. The comparison uses the repository copy from before the agent ran and a
 * private index, and git never walks into a repository below the work tree, whose configuration it would obey.
 */
import { closeSync, constants, openSync, writeSync } from 'node:fs';
import { access, copyFile, lstat, open, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type Git, type GitLimits, openGit } from './git-run.ts';
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
}

/**
 * Writes the patch; zero bytes mean that nothing changed. Left out are files ignored by the work tree's .gitignore
 * files, files that cannot be read, submodules, and everything named .git. Rejects with GitError.
 */
export async function patchSince(options: PatchOptions): Promise<KeptOutput> {
  const { dir, baseDir } = options;
  await using git = await openGit(options);
  const index = join(git.scratch, 'index');
  await copyFile(join(baseDir, 'index'), index);
  const place = 'patch of the agent';
  const run = (args: readonly string[], more: { stdin?: string; stdout?: (chunk: Buffer) => void } = {}) =>
    git.run({
      place,
      args: [`--git-dir=${baseDir}`, `--work-tree=${dir}`, '--literal-pathspecs', ...args],
      cwd: dir,
      env: { GIT_INDEX_FILE: index },
      ...more,
    });

  const tracked = (await listPaths(run, ['ls-files', '-z', '--stage']))
    .filter((line) => !line.startsWith('160000 '))
    .map((line) => line.slice(line.indexOf('\t') + 1));
  const untracked = await listPaths(run, ['ls-files', '-z', '--others', '--exclude-standard']);
  const present: string[] = [];
  const gone: string[] = [];
  const known = new Map<string, boolean>();
  for (const path of tracked) {
    const kind = await kindOf(dir, path, known);
    if (kind === 'file') present.push(path);
    else if (kind === 'none') gone.push(path);
  }
  for (const path of untracked) {
    if (path.endsWith('/')) await collectFiles(dir, path.slice(0, -1), present);
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

async function listPaths(run: Run, args: readonly string[]): Promise<string[]> {
  const chunks: Buffer[] = [];
  await run(args, { stdout: (chunk) => void chunks.push(chunk) });
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
async function kindOf(
  dir: string,
  path: string,
  known: Map<string, boolean> = new Map(),
): Promise<'file' | 'unreadable' | 'none'> {
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
async function collectFiles(dir: string, path: string, into: string[]): Promise<void> {
  const names = await readdir(diskPath(dir, path), { encoding: 'buffer' }).catch(() => []);
  for (const name of names.map((bytes) => bytes.toString(NAMES))) {
    if (name.toLowerCase() === '.git') continue;
    const inner = `${path}/${name}`;
    const stat = await lstat(diskPath(dir, inner)).catch(() => null);
    if (stat?.isDirectory()) await collectFiles(dir, inner, into);
    else if ((await kindOf(dir, inner)) === 'file') into.push(inner);
  }
}
