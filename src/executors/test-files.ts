/**
 * Puts the hidden tests into a repository that an agent had to itself. Whatever it left in their way (links out of
 * the repository, pipes, locked directories) is removed and never followed: a link followed on write lets an agent
 * choose which file of ours is overwritten. Every process of the agent must be dead before.
 */
import { constants } from 'node:fs';
import { chmod, lstat, mkdir, open, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { CodedError } from '../errors.ts';

/** One file to put into the repository. */
export interface TestFile {
  /** Relative, with slashes; the same below the source directory and below the repository. */
  readonly path: string;
  readonly executable: boolean;
}

/** Writes the files over whatever is there. Rejects with a CodedError `bad_test_path`, or with what the disk says. */
export async function writeTestFiles(sourceDir: string, repoDir: string, files: readonly TestFile[]): Promise<void> {
  for (const { path } of files) checkPath(path);
  await ensureRealDirectory(repoDir);
  for (const file of files) await writeTestFile(sourceDir, repoDir, file);
}

/** Makes `path` a directory that we may write to; anything else of that name is removed. Its parent is trusted. */
export async function ensureRealDirectory(path: string): Promise<void> {
  const stat = await lstatOrNull(path);
  if (stat?.isDirectory()) {
    if ((stat.mode & 0o700) !== 0o700) await chmod(path, (stat.mode & 0o777) | 0o700);
    return;
  }
  if (stat) await rm(path);
  await mkdir(path, { mode: 0o755 });
}

/** Removes a path with everything below, also directories whose rights were taken away. */
export async function removeForced(path: string): Promise<void> {
  try {
    await rm(path, { recursive: true, force: true });
  } catch {
    await unlock(path);
    await rm(path, { recursive: true, force: true });
  }
}

function checkPath(path: string): void {
  const parts = path.split('/');
  const bad = parts.some((part) => part === '' || part === '.' || part === '..' || part.includes('\0'));
  const intoGit = parts.some((part) => part.toLowerCase() === '.git');
  if (!bad && !intoGit) return;
  const fault = intoGit ? 'lies in .git' : 'is no plain relative path';
  throw new CodedError('bad_test_path', `the test file ${JSON.stringify(path)} ${fault}; rename it below tests/`);
}

async function writeTestFile(sourceDir: string, repoDir: string, { path, executable }: TestFile): Promise<void> {
  const parts = path.split('/');
  for (let depth = 1; depth < parts.length; depth += 1) {
    await ensureRealDirectory(join(repoDir, ...parts.slice(0, depth)));
  }
  const target = join(repoDir, ...parts);
  await removeForced(target);
  await using source = await open(join(sourceDir, ...parts), constants.O_RDONLY | constants.O_NOFOLLOW);
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
  const mode = executable ? 0o755 : 0o644;
  await using file = await open(target, flags, mode);
  // The mode above was narrowed by our umask.
  await file.chmod(mode);
  await file.writeFile(source.createReadStream({ autoClose: false }));
}

async function unlock(path: string): Promise<void> {
  const stat = await lstatOrNull(path);
  if (!stat?.isDirectory()) return;
  await chmod(path, 0o700);
  for (const name of await readdir(path)) await unlock(join(path, name));
}

async function lstatOrNull(path: string) {
  try {
    return await lstat(path);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
    throw error;
  }
}
