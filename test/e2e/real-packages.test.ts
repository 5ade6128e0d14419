/** The whole program on code that was not written for it: what nothing is done about fails, the published fix passes. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { packDirectory } from '../../src/pack.ts';
import { realSubmission, registryReachable, type RealSubmission } from '../support/real-packages.ts';
import { makeValidators, startServer, vote, waitForEnd } from '../support/server.ts';
import { temporaryDirectory } from '../support/tmp.ts';

const unreachable = await registryReachable();

interface TaskView {
  readonly task_id: string;
  readonly passed: boolean;
  readonly reward: number;
  readonly agent_output: string;
  readonly agent_patch: string;
  readonly test_output: string;
}

test(
  'tasks from published packages: an agent that does nothing fails all of them, the published fix passes all',
  { skip: unreachable ?? false },
  async (t) => {
    const dir = temporaryDirectory(t);
    const validators = await makeValidators(1);
    const server = await startServer(t, { validators, dataDir: `${dir}/data` });
    const run = async (name: string, submission: RealSubmission): Promise<readonly TaskView[]> => {
      const file = join(dir, `${name}.tar.gz`);
      await packDirectory(submission.submissionDir, file);
      const batchId = await vote(server, validators, file, '?concurrent_tasks=2');
      const batch = await waitForEnd(server, batchId);
      const { tasks } = await server.get<{ tasks: TaskView[] }>(`/batch/${batchId}/tasks`);
      assert.equal(batch.status, 'completed');
      assert.deepEqual(
        tasks.map(({ task_id: id }) => id).toSorted(),
        submission.tasks.map((task) => task.taskId).sort(),
      );
      return tasks;
    };

    const nothing = await realSubmission(join(dir, 'null'), { agent: 'null' });
    for (const task of await run('null', nothing)) {
      assert.deepEqual([task.passed, task.reward, task.agent_patch], [false, 0, ''], task.test_output);
      assert.equal(task.agent_output, `doing nothing about ${task.task_id}\n`);
      // The second test of each file holds before and after the fix: the file ran, and failed for the defect alone.
      assert.match(task.test_output, /pass 1\n[^]*fail 1\n/);
    }

    const fix = await realSubmission(join(dir, 'fix'), { agent: 'fix', reuse: nothing.tasks });
    for (const task of await run('fix', fix)) {
      assert.deepEqual([task.passed, task.reward], [true, 1], task.test_output + task.agent_output);
      assert.ok(task.agent_patch.startsWith('diff --git '));
      assert.match(task.test_output, /pass 2\n[^]*fail 0\n/);
    }
  },
);
