/**
 * Makes the example task set runnable: real git repositories out of plain files, and a submission that points at them.
 * A git repository cannot be kept inside another one, so `examples/repos` holds what each commit adds, and the
 * repositories come into being here, with the same commit ids on every machine.
 */
import { execFile } from 'node:child_process';
import { cp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import Type from 'typebox';
import { Compile } from 'typebox/compile';
import { parse } from 'yaml';
import { CodedError, messageOf } from '../errors.ts';
import type { FailureCause } from '../events.ts';

/** What a task of the example set must come to. */
export interface ExpectedResult {
  readonly taskId: string;
  readonly passed: boolean;
  readonly reward: number;
  readonly cause: FailureCause | null;
}

/** A repository that was made. `fixCommit` comes after `baseCommit`; nobody who works on a task may see it. */
export interface ExampleRepo {
  readonly name: string;
  /** file:// address. */
  readonly url: string;
  readonly baseCommit: string;
  readonly fixCommit: string;
}

export interface PreparedExamples {
  /** A directory as `term-executor submit` takes it. */
  readonly submissionDir: string;
  /** Sorted by task id. */
  readonly expected: readonly ExpectedResult[];
  readonly repos: readonly ExampleRepo[];
}

/** What the agent of the example set achieves, sorted by task id. */
export const EXPECTED_RESULTS: readonly ExpectedResult[] = [
  { taskId: 'c-ring-partial', passed: false, reward: 0.5, cause: 'tests' },
  { taskId: 'c-ring-sum', passed: true, reward: 1, cause: null },
  { taskId: 'node crash report', passed: false, reward: 0, cause: 'agent' },
  { taskId: 'node-plus-signs', passed: true, reward: 1, cause: null },
  { taskId: 'python-durations', passed: true, reward: 1, cause: null },
  { taskId: 'python-median', passed: true, reward: 1, cause: null },
  { taskId: 'python-roman.1', passed: false, reward: 0, cause: 'tests' },
];

const EXAMPLES_DIR = fileURLToPath(new URL('../../examples/', import.meta.url));
const GIT_TIMEOUT_MS = 30_000;
const GIT_OUTPUT_BYTES = 1024 * 1024;
/** 2026-01-05T12:00:00Z; each further commit is a day later. */
const FIRST_COMMIT_EPOCH_S = 1_767_614_400;
const DAY_S = 86_400;
const IDENTITY = { name: 'term-executor examples', email: 'examples@term-executor.invalid' };

const History = Compile(
  Type.Array(
    Type.Object(
      {
        dir: Type.String({ pattern: '^[a-z0-9-]+$' }),
        message: Type.String({ minLength: 1 }),
        base: Type.Optional(Type.Boolean()),
      },
      { additionalProperties: false },
    ),
    { minItems: 2 },
  ),
);

const execFileAsync = promisify(execFile);

/**
 * Makes the repositories in `dir/repos` and the submission in `dir/submission`; both must not exist yet. The caller
 * owns `dir` and removes it. @throws CodedError examples_invalid naming the file; git_failed naming the command
 */
export async function prepareExamples(dir: string): Promise<PreparedExamples> {
  const root = resolve(dir);
  const sources = join(EXAMPLES_DIR, 'repos');
  const names = (await readdir(sources)).toSorted();
  const repos: ExampleRepo[] = [];
  for (const name of names) repos.push(await makeRepo(join(sources, name), join(root, 'repos', `${name}.git`), name));

  const submissionDir = join(root, 'submission');
  await cp(join(EXAMPLES_DIR, 'submission'), submissionDir, {
    recursive: true,
    errorOnExist: true,
    force: false,
    // Left behind when somebody ran the agent in place; a submission holds sources.
    filter: (path) => !path.endsWith('__pycache__'),
  });
  const values = new Map(
    repos.flatMap((repo) => [
      [`REPO_${repo.name.toUpperCase()}`, repo.url],
      [`BASE_${repo.name.toUpperCase()}`, repo.baseCommit],
    ]),
  );
  const tasks = join(submissionDir, 'tasks');
  for (const taskId of await readdir(tasks)) {
    const file = join(tasks, taskId, 'workspace.yaml');
    await writeFile(file, fillIn(await readFile(file, 'utf8'), values, `examples/submission/tasks/${taskId}`));
  }
  return { submissionDir, expected: EXPECTED_RESULTS, repos };
}

/** Replaces `${NAME}`. @throws CodedError examples_invalid for a name without a value */
function fillIn(template: string, values: ReadonlyMap<string, string>, place: string): string {
  return template.replace(/\$\{(\w+)\}/g, (_, name: string) => {
    const value = values.get(name);
    if (value !== undefined) return value;
    const known = [...values.keys()].join(', ');
    throw new CodedError('examples_invalid', `${place}/workspace.yaml: no value for ${name}; use one of ${known}`);
  });
}

/** Lays the directories of `history.yaml` over each other, one commit each, into a new bare repository `gitDir`. */
async function makeRepo(source: string, gitDir: string, name: string): Promise<ExampleRepo> {
  const file = join(source, 'history.yaml');
  const history: unknown = parse(await readFile(file, 'utf8'));
  if (!History.Check(history)) {
    const [first] = History.Errors(history);
    throw new CodedError('examples_invalid', `${file}: ${first?.instancePath ?? ''} ${first?.message ?? 'invalid'}`);
  }
  const workTree = `${gitDir}.work`;
  const git = (args: readonly string[], dateEpochS?: number): Promise<string> =>
    runGit([`--git-dir=${gitDir}`, `--work-tree=${workTree}`, ...args], workTree, dateEpochS);
  await mkdir(workTree, { recursive: true });
  try {
    await runGit(['init', '--quiet', '--bare', '--template=', '--initial-branch=main', gitDir], workTree);
    // What public hosts allow: fetching one commit by its id, and partial clones.
    await git(['config', 'uploadpack.allowAnySHA1InWant', 'true']);
    await git(['config', 'uploadpack.allowFilter', 'true']);
    let baseCommit: string | null = null;
    let head = '';
    for (const [index, commit] of history.entries()) {
      await cp(join(source, commit.dir), workTree, {
        recursive: true,
        filter: (path) => !path.endsWith('__pycache__'),
      });
      await git(['add', '--all']);
      await git(['commit', '--quiet', '--no-verify', '-m', commit.message], FIRST_COMMIT_EPOCH_S + index * DAY_S);
      head = (await git(['rev-parse', 'HEAD'])).trim();
      if (commit.base) baseCommit = head;
    }
    if (baseCommit === null || baseCommit === head) {
      throw new CodedError('examples_invalid', `${file}: mark one commit before the last with 'base: true'`);
    }
    return { name, url: pathToFileURL(gitDir).href, baseCommit, fixCommit: head };
  } finally {
    await rm(workTree, { recursive: true, force: true });
  }
}

/** Runs git with nothing of the user's configuration, which could change commit ids or ask for a signing key. */
async function runGit(args: readonly string[], cwd: string, dateEpochS = FIRST_COMMIT_EPOCH_S): Promise<string> {
  const date = `${dateEpochS} +0000`;
  const settings = ['core.autocrlf=false', 'core.fileMode=false', 'gc.auto=0', 'maintenance.auto=false'];
  try {
    const { stdout } = await execFileAsync('git', [...settings.flatMap((setting) => ['-c', setting]), ...args], {
      cwd,
      timeout: GIT_TIMEOUT_MS,
      killSignal: 'SIGKILL',
      maxBuffer: GIT_OUTPUT_BYTES,
      env: {
        PATH: process.env['PATH'] ?? '/usr/bin:/bin',
        HOME: cwd,
        LC_ALL: 'C',
        GIT_CONFIG_NOSYSTEM: '1',
        GIT_CONFIG_GLOBAL: '/dev/null',
        GIT_TERMINAL_PROMPT: '0',
        GIT_DEFAULT_HASH: 'sha1',
        GIT_AUTHOR_NAME: IDENTITY.name,
        GIT_AUTHOR_EMAIL: IDENTITY.email,
        GIT_AUTHOR_DATE: date,
        GIT_COMMITTER_NAME: IDENTITY.name,
        GIT_COMMITTER_EMAIL: IDENTITY.email,
        GIT_COMMITTER_DATE: date,
      },
    });
    return stdout;
  } catch (error) {
    throw new CodedError('git_failed', `git ${args.join(' ')}: ${messageOf(error)}; is git installed?`, {
      cause: error,
    });
  }
}
