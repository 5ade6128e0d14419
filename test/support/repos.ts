/** Small real git repositories for tests. */
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** Content of a file; `executable` and `link` as git stores them; null removes the file. */
export type RepoFile = string | Uint8Array | null | { readonly executable: string } | { readonly link: string };

export interface TestRepo {
  readonly dir: string;
  /** `file://` address. */
  readonly url: string;
  /** One for each of the given commits, oldest first. */
  readonly commits: readonly string[];
  git(...args: string[]): string;
}

/** Runs git as a test's user would, without the machine's configuration. */
export function runGit(dir: string, ...args: string[]): string {
  return execFileSync('git', args, {
    cwd: dir,
    encoding: 'utf8',
    timeout: 30_000,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      PATH: process.env['PATH'] ?? '',
      HOME: dir,
      GIT_CONFIG_NOSYSTEM: '1',
      GIT_CONFIG_GLOBAL: '/dev/null',
      GIT_AUTHOR_NAME: 'test',
      GIT_AUTHOR_EMAIL: 'test@example.com',
      GIT_COMMITTER_NAME: 'test',
      GIT_COMMITTER_EMAIL: 'test@example.com',
      GIT_AUTHOR_DATE: '2024-01-01T00:00:00Z',
      GIT_COMMITTER_DATE: '2024-01-01T00:00:00Z',
    },
  }).trim();
}

/** Makes a repository below `parent` with one commit on `main` for each set of changes. */
export function makeRepo(parent: string, ...commits: readonly Readonly<Record<string, RepoFile>>[]): TestRepo {
  const dir = mkdtempSync(join(parent, 'repo-'));
  runGit(dir, 'init', '--quiet', '--initial-branch=main');
  const made = commits.map((files, index) => {
    for (const [name, file] of Object.entries(files)) writeRepoFile(join(dir, name), file);
    runGit(dir, 'add', '--all', '--force');
    runGit(dir, 'commit', '--quiet', '--allow-empty', '--message', `commit ${index + 1}`);
    return runGit(dir, 'rev-parse', 'HEAD');
  });
  return { dir, url: `file://${dir}`, commits: made, git: (...args) => runGit(dir, ...args) };
}

function writeRepoFile(path: string, file: RepoFile): void {
  rmSync(path, { recursive: true, force: true });
  if (file === null) return;
  mkdirSync(dirname(path), { recursive: true });
  if (typeof file === 'string' || file instanceof Uint8Array) writeFileSync(path, file);
  else if ('link' in file) symlinkSync(file.link, path);
  else {
    writeFileSync(path, file.executable);
    chmodSync(path, 0o755);
  }
}
