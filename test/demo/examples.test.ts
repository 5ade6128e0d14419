/** The example set is what people see first; every result that it promises is found here by running it. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { parse } from 'yaml';
import { EXPECTED_RESULTS, prepareExamples, type PreparedExamples } from '../../src/demo/examples.ts';
import { inspectArchive } from '../../src/executors/archive.ts';
import { DEFAULT_ARCHIVE_LIMITS } from '../../src/executors/archive-limits.ts';
import { readTask } from '../../src/executors/task-files.ts';
import { packDirectory } from '../../src/pack.ts';
import { runByHand } from '../support/run-by-hand.ts';

const git = promisify(execFile);

describe('examples', () => {
  let dir = '';
  let examples: PreparedExamples;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'examples-test-'));
    examples = await prepareExamples(join(dir, 'prepared'));
  });
  after(async () => {
    await rm(dir, { recursive: true, force: true });
  });
  const workDir = (): Promise<string> => mkdtemp(join(dir, 'work-'));

  test('commit ids are the same every time, and the base comes before the fix', async () => {
    const again = await prepareExamples(join(dir, 'again'));
    assert.deepEqual(
      again.repos.map(({ name, baseCommit, fixCommit }) => ({ name, baseCommit, fixCommit })),
      examples.repos.map(({ name, baseCommit, fixCommit }) => ({ name, baseCommit, fixCommit })),
    );
    assert.deepEqual(
      examples.repos.map((repo) => repo.name),
      ['querybag', 'ringbuf', 'tally'],
    );
    for (const repo of examples.repos) {
      const { stdout } = await git('git', ['-C', new URL(repo.url).pathname, 'rev-list', '--reverse', 'main'], {
        timeout: 10_000,
      });
      const commits = stdout.trim().split('\n');
      assert.equal(commits.length, 3);
      assert.deepEqual(commits.slice(1), [repo.baseCommit, repo.fixCommit]);
    }
  });

  test('every task points at a commit of a repository that was made, and has an expected result', async () => {
    const taskIds = (await readdir(join(examples.submissionDir, 'tasks'))).toSorted();
    assert.deepEqual(
      taskIds,
      EXPECTED_RESULTS.map((each) => each.taskId),
    );
    for (const taskId of taskIds) {
      const file = join(examples.submissionDir, 'tasks', taskId, 'workspace.yaml');
      const workspace = parse(await readFile(file, 'utf8')) as { repo: string; base_commit: string };
      const repo = examples.repos.find((each) => each.url === workspace.repo);
      assert.equal(workspace.base_commit, repo?.baseCommit, taskId);
    }
  });

  test('the submission packs to an archive that the server takes', async () => {
    const dirOfTest = await workDir();
    const archive = join(dirOfTest, 'submission.tar.gz');
    await packDirectory(examples.submissionDir, archive);
    const inspected = await inspectArchive(archive, DEFAULT_ARCHIVE_LIMITS, {
      gitProtocols: ['file'],
      gitHosts: [],
      scratchDir: dirOfTest,
      signal: AbortSignal.timeout(60_000),
    });
    const taskIds = await readdir(join(examples.submissionDir, 'tasks'));
    assert.deepEqual(inspected, { taskCount: taskIds.length, agentEntry: 'agent.py' });
    const policy = { gitProtocols: ['file'], gitHosts: [] };
    const tests = taskIds.map(async (taskId) => {
      const taskDir = join(examples.submissionDir, 'tasks', taskId);
      const task = await readTask(taskDir, taskId, DEFAULT_ARCHIVE_LIMITS, policy);
      return [taskId, task.tests.map((each) => (each.kind === 'script' ? each.path : each.command))] as const;
    });
    assert.deepEqual(Object.fromEntries(await Promise.all(tests)), {
      'c-ring-partial': ['score.sh'],
      'c-ring-sum': ['make clean', 'make all', 'make check'],
      'node crash report': ['run.sh'],
      'node-plus-signs': [
        'node --test test/plus.test.js',
        'node --test test/parse.test.js',
        'node --test test/format.test.js',
      ],
      'python-durations': ['1-values.sh', '2-repository.sh'],
      'python-median': ['run.sh'],
      'python-roman.1': ['run.sh'],
    });
  });

  for (const expected of EXPECTED_RESULTS) {
    const { taskId } = expected;
    test(`${taskId}: the tests fail without an agent`, async () => {
      const run = await runByHand({
        submissionDir: examples.submissionDir,
        taskId,
        workDir: await workDir(),
        agent: 'null',
      });
      assert.equal(run.passed, false);
      assert.equal(run.reward, 0);
    });

    test(`${taskId}: the tests pass on the commit with the fix`, async () => {
      const run = await runByHand({
        submissionDir: examples.submissionDir,
        taskId,
        workDir: await workDir(),
        agent: 'null',
        commit: examples.repos.find((repo) => taskId.startsWith(PREFIX_OF[repo.name] ?? '?'))?.fixCommit ?? 'unknown',
      });
      assert.equal(run.passed, true, JSON.stringify(run.tests, null, 2));
      assert.equal(run.reward, 1);
    });

    test(`${taskId}: with the agent the result is the expected one`, async () => {
      const run = await runByHand({
        submissionDir: examples.submissionDir,
        taskId,
        workDir: await workDir(),
        agent: 'submission',
      });
      const seen = JSON.stringify({ output: run.output, tests: run.tests }, null, 2);
      assert.equal(run.passed, expected.passed, seen);
      assert.equal(run.reward, expected.reward, seen);
      assert.equal(run.agentExitCode === 0, expected.cause !== 'agent', seen);
      if (expected.cause === 'agent') assert.match(run.output, /IndexError/);
    });
  }
});

const PREFIX_OF: Readonly<Record<string, string>> = { tally: 'python', querybag: 'node', ringbuf: 'c-' };
