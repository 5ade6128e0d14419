/**
 * Tasks that nobody made up: small npm packages without dependencies, two published versions of each, the later one
 * with a real fix. Both become commits of a git repository; a test that the earlier version fails is the task. Shows
 * that a null agent scores nothing and the real fix scores everything, on code that was not written for us.
 */
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import { pathToFileURL } from 'node:url';
import { extract } from 'tar';
import { stringify } from 'yaml';
import { run } from './run-by-hand.ts';

export interface RealPackage {
  readonly name: string;
  /** Version with the defect; the base commit. */
  readonly before: string;
  /** Version with the fix. */
  readonly after: string;
  /** What the fix does, in one sentence; the prompt. */
  readonly what: string;
  /** Source of a CommonJS `node:test` file that runs in the package's directory. */
  readonly hiddenTest: string;
}

export interface RealRepo {
  /** file:// address of a bare repository. */
  readonly repoUrl: string;
  readonly baseCommit: string;
  /** `git diff` from the base commit to the fix. */
  readonly fixPatch: string;
}

export interface RealSubmission {
  readonly submissionDir: string;
  readonly tasks: readonly { readonly taskId: string; readonly pkg: RealPackage; readonly repo: RealRepo }[];
}

const header = `'use strict';
const assert = require('node:assert/strict');
const { test } = require('node:test');
const subject = require('.');
`;

export const realPackages: readonly RealPackage[] = [
  {
    name: 'minimist',
    before: '1.2.5',
    after: '1.2.6',
    what: 'An argument such as --_.concat.constructor.prototype.y must not change the prototype of functions.',
    hiddenTest: `${header}
test('constructor.prototype cannot be reached through an argument', () => {
  subject(['--_.concat.constructor.prototype.polluted', '123']);
  assert.equal((() => undefined).polluted, undefined);
});

test('arguments are still parsed', () => {
  assert.deepEqual(subject(['--a.b', '1', '-x', 'rest']), { _: [], a: { b: 1 }, x: 'rest' });
});
`,
  },
  {
    name: 'ini',
    before: '1.3.5',
    after: '1.3.6',
    what: 'A section named __proto__ must not change the prototype of all objects.',
    hiddenTest: `${header}
test('a section __proto__ reaches no prototype', () => {
  subject.parse('[__proto__]\\npolluted = yes\\n');
  assert.equal({}.polluted, undefined);
});

test('sections are still parsed', () => {
  const parsed = JSON.parse(JSON.stringify(subject.parse('a = 1\\n[s]\\nb = 2\\n')));
  assert.deepEqual(parsed, { a: '1', s: { b: '2' } });
});
`,
  },
  {
    name: 'json5',
    before: '2.2.1',
    after: '2.2.2',
    what: 'A key __proto__ must become a property of its own instead of replacing the prototype of the object.',
    hiddenTest: `${header}
test('__proto__ is a property like any other', () => {
  const parsed = subject.parse('{"__proto__": {"admin": true}, "a": 1}');
  assert.equal(Object.getPrototypeOf(parsed), Object.prototype);
  assert.equal(parsed.admin, undefined);
  assert.deepEqual(Object.keys(parsed), ['__proto__', 'a']);
});

test('JSON5 is still parsed', () => {
  assert.deepEqual(subject.parse("{a: [1, .5, 'x',], /* c */ b: +1}"), { a: [1, 0.5, 'x'], b: 1 });
});
`,
  },
  {
    name: 'decode-uri-component',
    before: '0.2.0',
    after: '0.2.1',
    what: 'Broken percent encoding such as %ea%ba%5a%ba must be returned as far as it can be decoded, without throwing.',
    hiddenTest: `${header}
test('broken percent encoding does not throw', () => {
  assert.doesNotThrow(() => subject('%ea%ba%5a%ba'));
});

test('good encoding is still decoded', () => {
  assert.equal(subject('st%C3%A5le%20%F0%9F%98%80'), 'ståle 😀');
});
`,
  },
  {
    name: 'y18n',
    before: '4.0.0',
    after: '4.0.1',
    what: 'A locale named __proto__ must not change the prototype of all objects.',
    hiddenTest: `${header}
test('the locale __proto__ reaches no prototype', () => {
  const y18n = subject({ updateFiles: false });
  y18n.setLocale('__proto__');
  y18n.updateLocale({ polluted: 'yes' });
  assert.equal({}.polluted, undefined);
});

test('strings are still translated', () => {
  const y18n = subject({ updateFiles: false, locale: 'de' });
  y18n.updateLocale({ 'good day %s': 'guten Tag %s' });
  assert.equal(y18n.__('good day %s', 'Ada'), 'guten Tag Ada');
});
`,
  },
];

const NPM_TIMEOUT_MS = 60_000;
const GIT_TIMEOUT_MS = 30_000;

/** Why packages cannot be had here; null when they can. Tries one, from the cache of npm if it is there. */
export async function registryReachable(): Promise<string | null> {
  const dir = await mkdtemp(join(tmpdir(), 'real-packages-'));
  try {
    const [first] = realPackages;
    if (first) await fetchPackage(first.name, first.before, dir);
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

/** Makes a bare repository of both versions in `dir`, which is created. Its second commit, on `main`, is the fix. */
export async function makeRealRepo(pkg: RealPackage, dir: string): Promise<RealRepo> {
  const gitDir = join(dir, `${pkg.name}.git`);
  const workTree = join(dir, `${pkg.name}.work`);
  const downloads = join(dir, `${pkg.name}.tgz`);
  await mkdir(downloads, { recursive: true });
  const git = (...args: string[]): Promise<string> =>
    runGit([`--git-dir=${gitDir}`, `--work-tree=${workTree}`, ...args], dir);
  try {
    await runGit(['init', '--quiet', '--bare', '--template=', '--initial-branch=main', gitDir], dir);
    await git('config', 'uploadpack.allowAnySHA1InWant', 'true');
    for (const version of [pkg.before, pkg.after]) {
      const archive = await fetchPackage(pkg.name, version, downloads);
      await rm(workTree, { recursive: true, force: true });
      await mkdir(workTree);
      await extract({ file: archive, cwd: workTree, strip: 1, noChmod: true });
      await git('add', '--all', '--force');
      await git('commit', '--quiet', '--no-verify', '-m', `${pkg.name} ${version}`);
    }
    const patchFile = join(downloads, 'fix.patch');
    await git('diff', '--no-color', '--full-index', `--output=${patchFile}`, 'main~1', 'main');
    return {
      repoUrl: pathToFileURL(gitDir).href,
      baseCommit: (await git('rev-parse', 'main~1')).trim(),
      fixPatch: await readFile(patchFile, 'utf8'),
    };
  } finally {
    await rm(workTree, { recursive: true, force: true });
    await rm(downloads, { recursive: true, force: true });
  }
}

/**
 * Writes `dir/submission`, one task for each package, with repositories in `dir/repos` (made once: give the tasks of
 * an earlier call to reuse them). `null`: an agent that does nothing; `fix`: one that applies the published fix.
 */
export async function realSubmission(
  dir: string,
  options: { readonly agent: 'null' | 'fix'; readonly reuse?: RealSubmission['tasks'] },
): Promise<RealSubmission> {
  const submissionDir = join(dir, 'submission');
  const agentDir = join(submissionDir, 'agent_code');
  await mkdir(agentDir, { recursive: true });
  const tasks: { taskId: string; pkg: RealPackage; repo: RealRepo }[] = [];
  for (const pkg of realPackages) {
    const known = options.reuse?.find((task) => task.pkg.name === pkg.name)?.repo;
    const repo = known ?? (await makeRealRepo(pkg, join(dir, 'repos')));
    const taskId = `${pkg.name}-${pkg.after}`;
    const testsDir = join(submissionDir, 'tasks', taskId, 'tests');
    await mkdir(testsDir, { recursive: true });
    const workspace = { repo: repo.repoUrl, base_commit: repo.baseCommit, version: pkg.before, language: 'javascript' };
    await writeFile(join(testsDir, '..', 'workspace.yaml'), stringify(workspace));
    await writeFile(join(testsDir, '..', 'prompt.md'), `# ${pkg.name}\n\n${pkg.what}\n`);
    await writeFile(join(testsDir, 'hidden.test.cjs'), pkg.hiddenTest);
    await writeFile(join(testsDir, 'run.sh'), '#!/bin/bash\nexec node --test hidden.test.cjs\n');
    tasks.push({ taskId, pkg, repo });
  }
  if (options.agent === 'null') {
    await writeFile(join(agentDir, 'agent.sh'), '#!/bin/bash\necho "doing nothing about $TASK_ID"\n');
  } else {
    await writeFile(join(agentDir, 'agent.py'), FIX_AGENT);
    await writeFile(join(agentDir, 'patches.py'), FIX_AGENT_PATCHES);
    await mkdir(join(agentDir, 'patches'));
    for (const { pkg, repo } of tasks) await writeFile(join(agentDir, 'patches', `${pkg.name}.patch`), repo.fixPatch);
  }
  return { submissionDir, tasks };
}

const FIX_AGENT = `import json
import subprocess
import sys

from patches import patch_for

with open("package.json", encoding="utf-8") as file:
    name = json.load(file)["name"]
print("applying the published fix of", name, flush=True)
sys.exit(subprocess.run(["git", "apply", "--verbose", str(patch_for(name))]).returncode)
`;

const FIX_AGENT_PATCHES = `import pathlib


def patch_for(name):
    return pathlib.Path(__file__).parent / "patches" / f"{name}.patch"
`;

/** Downloads `name@version` into `dir`; returns the archive's path. The message of an error is fit for a skip reason. */
async function fetchPackage(name: string, version: string, dir: string): Promise<string> {
  const before = new Set(await readdir(dir));
  const argv = [
    'npm',
    'pack',
    `${name}@${version}`,
    '--silent',
    '--prefer-offline',
    '--pack-destination',
    dir,
  ] as const;
  const settings = ['--fetch-retries=1', '--fetch-retry-mintimeout=1000', '--fetch-timeout=20000', '--ignore-scripts'];
  // npm is the one child here that needs the user's own settings: proxy, certificates, cache.
  const result = await run([...argv, ...settings], dir, process.env, NPM_TIMEOUT_MS);
  const archive = (await readdir(dir)).find((file) => file.endsWith('.tgz') && !before.has(file));
  if (result.exitCode === 0 && archive !== undefined) return join(dir, archive);
  const code = /\bcode (E[A-Z0-9_]+)/.exec(result.output)?.[1] ?? `exit code ${result.exitCode ?? 'none'}`;
  throw new Error(`npm pack ${name}@${version} failed (${code}); the package registry cannot be used from here`);
}

async function runGit(args: readonly string[], cwd: string): Promise<string> {
  const person = { NAME: 'real packages', EMAIL: 'real-packages@term-executor.invalid', DATE: '1767614400 +0000' };
  const env = {
    PATH: process.env['PATH'] ?? '/usr/bin:/bin',
    HOME: cwd,
    LC_ALL: 'C',
    GIT_CONFIG_NOSYSTEM: '1',
    GIT_CONFIG_GLOBAL: '/dev/null',
    ...Object.fromEntries(
      Object.entries(person).flatMap(([k, v]) => [`AUTHOR_${k}`, `COMMITTER_${k}`].map((n) => [`GIT_${n}`, v])),
    ),
  };
  const settings = ['core.autocrlf=false', 'core.fileMode=false', 'gc.auto=0', 'maintenance.auto=false'];
  const argv: [string, ...string[]] = ['git', ...settings.flatMap((setting) => ['-c', setting]), ...args];
  const result = await run(argv, cwd, env, GIT_TIMEOUT_MS);
  if (result.exitCode !== 0) throw new Error(`git ${args.join(' ')} failed: ${result.output}`);
  return result.output;
}
