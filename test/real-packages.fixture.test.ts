/** Checks the real-package tasks themselves, by hand: before the executor is judged by them they must be right. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { realPackages, realSubmission, registryReachable, type RealSubmission } from './support/real-packages.ts';
import { runByHand } from './support/run-by-hand.ts';

const unreachable = await registryReachable();

describe('real packages', { skip: unreachable ?? false }, () => {
  let dir = '';
  let withNull: RealSubmission;
  let withFix: RealSubmission;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'real-packages-test-'));
    withNull = await realSubmission(join(dir, 'null'), { agent: 'null' });
    withFix = await realSubmission(join(dir, 'fix'), { agent: 'fix', reuse: withNull.tasks });
  });
  after(async () => {
    await rm(dir, { recursive: true, force: true });
  });

  for (const [index, pkg] of realPackages.entries()) {
    const title = `${pkg.name} ${pkg.before} to ${pkg.after}`;
    test(`${title}: an agent that does nothing fails`, async () => {
      const workDir = await mkdtemp(join(dir, 'work-'));
      const taskId = withNull.tasks[index]?.taskId ?? '';
      const run = await runByHand({ submissionDir: withNull.submissionDir, taskId, workDir, agent: 'submission' });
      const output = run.tests.map((each) => each.output).join('');
      assert.equal(run.agentExitCode, 0, run.output);
      assert.equal(run.passed, false);
      // The second test of each file holds before and after; so the file ran, and failed for the defect alone.
      assert.match(output, /pass 1\n/);
      assert.match(output, /fail 1\n/);
    });

    test(`${title}: an agent that applies the published fix passes`, async () => {
      const workDir = await mkdtemp(join(dir, 'work-'));
      const taskId = withFix.tasks[index]?.taskId ?? '';
      const run = await runByHand({ submissionDir: withFix.submissionDir, taskId, workDir, agent: 'submission' });
      const output = run.tests.map((each) => each.output).join('');
      assert.equal(run.agentExitCode, 0, run.output);
      assert.equal(run.passed, true, output);
      assert.match(output, /pass 2\n/);
    });
  }
});
