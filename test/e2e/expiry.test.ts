import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { makeSubmission, slowTasks } from '../support/submissions.ts';
import { makeValidators, startServer, submit, vote, waitFor, waitForEnd } from '../support/server.ts';
import { temporaryDirectory } from '../support/tmp.ts';

describe('time', () => {
  test('that runs out ends a vote round by an event, and the archive can be voted on anew', async (t) => {
    const dir = temporaryDirectory(t);
    const validators = await makeValidators(2);
    const [first, second] = validators;
    assert.ok(first && second);
    const env = { CONSENSUS_TTL_SECS: '1', CONSENSUS_THRESHOLD: '1' };
    const server = await startServer(t, { validators, dataDir: `${dir}/data`, env });
    const { file } = await makeSubmission(dir, { tasks: { a: {} } });
    const { body } = await submit(server.url, first, file);
    const path = `${server.url}/events?subject=ev.submission.${String(body['archive_hash'])}`;
    const expired = async (): Promise<true | null> =>
      (await (await fetch(path)).text()).includes('Expired') ? true : null;
    await waitFor(expired, () => server.log());
    const later = await submit(server.url, second, file);
    assert.deepEqual([later.body['status'], later.body['votes']], ['pending_consensus', 1]);
  });

  test('that runs out ends a batch by an event, stops its tasks and lets the next one start', async (t) => {
    const dir = temporaryDirectory(t);
    const validators = await makeValidators(1);
    const env = { SESSION_TTL_SECS: '2' };
    const server = await startServer(t, { validators, dataDir: `${dir}/data`, env });
    const slow = await makeSubmission(dir, slowTasks(2, 600));
    const batchId = await vote(server, validators, slow.file, '?concurrent_tasks=1');
    const quick = await makeSubmission(temporaryDirectory(t), { tasks: { quick: {} } });
    const nextId = await vote(server, validators, quick.file);
    const batch = await waitForEnd(server, batchId);
    assert.equal(batch.status, 'failed');
    assert.match(String(batch['error']), /within its time/);
    const { tasks } = await server.get<{ tasks: { status: string }[] }>(`/batch/${batchId}/tasks`);
    assert.deepEqual(
      tasks.map(({ status }) => status),
      ['failed', 'failed'],
    );
    assert.equal((await waitForEnd(server, nextId)).status, 'completed');
  });
});
