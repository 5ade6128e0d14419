/** How the program ends when it is asked to: what runs is finished or handed back, and nothing is left behind. */
import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { once } from 'node:events';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { seenDead } from '../../src/nats/server-process.ts';
import { countByTask, eventsOf, onceEach } from '../support/program.ts';
import { makeValidators, startServer, vote, waitFor, waitForEnd, type TestServer } from '../support/server.ts';
import { makeSubmission, slowTasks } from '../support/submissions.ts';
import { temporaryDirectory } from '../support/tmp.ts';

const TASKS = 4;
const RUNNING = 2;
const DEAD_TIMEOUT_MS = 10_000;
// Long enough that only a task that was handed back, not one that was forgotten, is run again within the test.
const ACK_WAIT_SECS = '600';

interface Scene {
  readonly server: TestServer;
  readonly batchId: string;
  /** Lets all agents go on. */
  release(): Promise<void>;
  /** Process ids of the agents that have run and of what they left in the background. */
  agents(): Promise<readonly number[]>;
  restart(): Promise<TestServer>;
  readonly sessions: string;
}

/** A server with a batch of which RUNNING agents have started; they wait for release(). */
async function running(
  t: TestContext,
  options: { env: Readonly<Record<string, string>>; stdin?: 'pipe'; args?: readonly string[] },
): Promise<Scene> {
  const dir = temporaryDirectory(t);
  const marks = join(dir, 'marks');
  await mkdir(marks);
  const validators = await makeValidators(1);
  const dataDir = join(dir, 'data');
  const base = { validators, dataDir };
  const env = { ACK_WAIT_SECS, ...options.env };
  const server = await startServer(t, { ...base, ...options, env });
  const agent = `
setsid sleep 600 & echo $! > "${marks}/$TASK_ID.background.$$"
echo $$ > "${marks}/$TASK_ID.agent.$$"
until [ -e "${marks}/go" ]; do sleep 0.05; done
echo "solved $TASK_ID" > solved.txt
`;
  const { file } = await makeSubmission(dir, { ...slowTasks(TASKS, 0), agent: { 'agent.sh': agent } });
  const batchId = await vote(server, validators, file, `?concurrent_tasks=${RUNNING}`);
  const pidFiles = async (): Promise<string[]> => (await readdir(marks)).filter((name) => name !== 'go');
  await waitFor(
    async () => ((await pidFiles()).filter((name) => name.includes('.agent.')).length >= RUNNING ? true : null),
    () => server.log(),
  );
  return {
    server,
    batchId,
    sessions: `${dataDir}-sessions`,
    release: () => writeFile(join(marks, 'go'), ''),
    restart: () => startServer(t, { ...base, env }),
    async agents() {
      return Promise.all((await pidFiles()).map(async (name) => Number(await readFile(join(marks, name), 'utf8'))));
    },
  };
}

/** No agent lives, and no directory of a task is left. */
async function assertNothingLeft({ agents, sessions }: Scene): Promise<void> {
  const pids = await agents();
  assert.ok(pids.length >= 2 * RUNNING && pids.every((pid) => pid > 1));
  for (const pid of pids) assert.ok(await seenDead(pid, DEAD_TIMEOUT_MS), `process ${pid} lives`);
  assert.deepEqual(await readdir(sessions), []);
}

/** The batch ends well; each task has as many attempts as said and counts once. */
async function assertCompletes(server: TestServer, batchId: string, attempts: readonly number[]): Promise<void> {
  const batch = await waitForEnd(server, batchId);
  assert.deepEqual([batch.status, batch['passed_tasks']], ['completed', TASKS]);
  const events = await eventsOf(server, batchId);
  for (const type of ['TaskFinished', 'BatchTaskFinished']) {
    assert.deepEqual(countByTask(events, type), onceEach(TASKS), type);
  }
  assert.deepEqual(
    Object.values(countByTask(events, 'TaskStarted')).toSorted((a, b) => a - b),
    attempts,
  );
}

test('SIGTERM: tasks longer than the drain are handed back, and the next start runs them at once', async (t) => {
  const scene = await running(t, { env: { DRAIN_TIMEOUT_SECS: '1' } });
  assert.equal(await scene.server.stop(), 0);
  await assertNothingLeft(scene);
  await scene.release();
  const again = await scene.restart();
  await assertCompletes(again, scene.batchId, [1, 1, 2, 2]);
  assert.equal(await again.stop(), 0);
  await assertNothingLeft(scene);
});

test('SIGTERM: tasks that end within the drain count, and no other is started', async (t) => {
  const scene = await running(t, { env: { DRAIN_TIMEOUT_SECS: '60' } });
  const { server, batchId } = scene;
  const ended = server.stop();
  await waitFor(
    async () => (server.log().includes('shutting down') ? true : null),
    () => server.log(),
  );
  await scene.release();
  assert.equal(await ended, 0);
  await assertNothingLeft(scene);
  assert.equal((await scene.agents()).length, 2 * RUNNING);
  await assertCompletes(await scene.restart(), batchId, [1, 1, 1, 1]);
});

test('a second SIGTERM hands everything back at once', async (t) => {
  const scene = await running(t, { env: { DRAIN_TIMEOUT_SECS: '600' } });
  const { server } = scene;
  const ended = server.stop();
  await waitFor(
    async () => (server.log().includes('shutting down') ? true : null),
    () => server.log(),
  );
  server.process.kill('SIGTERM');
  assert.equal(await ended, 0);
  await assertNothingLeft(scene);
});

test('--until-stdin-ends: closing stdin stops it as a signal does', async (t) => {
  const args = ['serve', '--until-stdin-ends'];
  const scene = await running(t, { env: { DRAIN_TIMEOUT_SECS: '1' }, stdin: 'pipe', args });
  const ended = once(scene.server.process, 'exit');
  scene.server.process.stdin?.end();
  assert.deepEqual(await ended, [0, null]);
  await assertNothingLeft(scene);
});
