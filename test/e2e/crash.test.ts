import assert from 'node:assert/strict';
import { readdir, rm } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { makeSubmission, slowTasks } from '../support/submissions.ts';
import { makeValidators, startServer, vote, waitFor, waitForEnd, type TestServer } from '../support/server.ts';
import { temporaryDirectory } from '../support/tmp.ts';

interface LoggedEvent {
  readonly type: string;
  readonly data: { readonly taskId?: string };
}

async function events(server: TestServer): Promise<readonly LoggedEvent[]> {
  const text = await (await fetch(`${server.url}/events`)).text();
  return text
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as LoggedEvent);
}

async function readEverything(server: TestServer, batchId: string): Promise<unknown> {
  const { tasks } = await server.get<{ tasks: { task_id: string }[] }>(`/batch/${batchId}/tasks`);
  const paths = [
    `/batch/${batchId}`,
    '/batches',
    `/batch/${batchId}/events`,
    ...tasks.map(({ task_id: id }) => `/batch/${batchId}/task/${encodeURIComponent(id)}`),
  ];
  const answers = await Promise.all(paths.map(async (path) => (await fetch(server.url + path)).text()));
  const { uptime_secs: _, ...verified } = await server.get<Record<string, unknown>>(`/verify/${batchId}`);
  const { uptime_secs: __, ...status } = await server.get<Record<string, unknown>>('/status');
  return { tasks, answers, verified, status };
}

describe('kill -9 of serve', () => {
  test('in the middle of a batch loses nothing and counts no task twice, with or without its database', async (t) => {
    const dir = temporaryDirectory(t);
    const dataDir = `${dir}/data`;
    const validators = await makeValidators(1);
    let server = await startServer(t, { validators, dataDir });
    const { file } = await makeSubmission(dir, slowTasks(8, 1));
    const batchId = await vote(server, validators, file, '?concurrent_tasks=3');
    // Some tasks done, and an agent at work: killing it then must cost an attempt.
    const inTheMiddle = (completed: number): Promise<true> =>
      waitFor(
        async () => {
          const { tasks } = await server.get<{ tasks: { status: string }[] }>(`/batch/${batchId}/tasks`);
          const count = (status: string): number => tasks.filter((task) => task.status === status).length;
          return count('completed') >= completed && count('running_agent') > 0 ? true : null;
        },
        () => server.log(),
      );

    await inTheMiddle(1);
    await server.kill();
    server = await startServer(t, { validators, dataDir });
    await inTheMiddle(4);
    await server.kill();
    for (const name of await readdir(dataDir)) if (name.startsWith('read-models')) await rm(`${dataDir}/${name}`);
    server = await startServer(t, { validators, dataDir });
    const batch = await waitForEnd(server, batchId);
    assert.deepEqual([batch.status, batch.completed_tasks, batch['passed_tasks']], ['completed', 8, 8]);

    const log = await events(server);
    const count = (type: string): Record<string, number> =>
      log
        .filter((event) => event.type === type)
        .reduce<Record<string, number>>((counts, { data }) => {
          const key = data.taskId ?? '';
          return { ...counts, [key]: (counts[key] ?? 0) + 1 };
        }, {});
    const once = Object.fromEntries(Array.from({ length: 8 }, (_, index) => [`task-${index + 1}`, 1]));
    assert.deepEqual(count('TaskFinished'), once);
    assert.deepEqual(count('BatchTaskFinished'), once);
    assert.deepEqual(count('BatchCompleted'), { '': 1 });
    assert.ok(log.filter(({ type }) => type === 'TaskStarted').length > 8, 'some task was taken over');

    const before = await readEverything(server, batchId);
    assert.equal(await server.stop(), 0);
    for (const name of await readdir(dataDir)) if (name.startsWith('read-models')) await rm(`${dataDir}/${name}`);
    server = await startServer(t, { validators, dataDir });
    assert.deepEqual(await readEverything(server, batchId), before);
    assert.equal(await server.stop(), 0);
    assert.deepEqual(await readdir(`${dataDir}-sessions`), [], 'no work directory is left');
    assert.deepEqual(await readdir(`${dataDir}/scratch`), []);
  });

  test('during a vote round keeps the votes', async (t) => {
    const dir = temporaryDirectory(t);
    const dataDir = `${dir}/data`;
    const validators = await makeValidators(3);
    const server = await startServer(t, { validators, dataDir });
    const { file } = await makeSubmission(dir, { tasks: { a: {} } });
    await assert.rejects(vote(server, validators.slice(0, 1), file), /no quorum/);
    await server.kill();
    const again = await startServer(t, { validators, dataDir });
    const batchId = await vote(again, validators.slice(1, 2), file);
    assert.equal((await waitForEnd(again, batchId)).status, 'completed');
  });
});
