/** The main job on the NATS that operators run: the official image of docker-compose.yml, in a container. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { parse } from 'yaml';
import { countByTask, eventsOf, onceEach } from '../support/program.ts';
import { makeValidators, startServer, vote, waitForEnd } from '../support/server.ts';
import { makeSubmission, slowTasks } from '../support/submissions.ts';
import { temporaryDirectory } from '../support/tmp.ts';

const TASKS = 4;
const PROBE_TIMEOUT_MS = 10_000;
/** The image may have to be downloaded first. */
const START_TIMEOUT_MS = 180_000;

const compose = parse(await readFile(new URL('../../docker-compose.yml', import.meta.url), 'utf8')) as {
  readonly services: { readonly nats: { readonly image: string } };
};

test('two of three votes run a batch on the official NATS image', { skip: await missingEngine() }, async (t) => {
  const dir = temporaryDirectory(t);
  // It leaves a lock file in the temporary directory that it finds when it is loaded.
  process.env['TMPDIR'] = dir;
  const { GenericContainer, Wait } = await import('testcontainers');
  const token = `t${randomBytes(16).toString('hex')}`;
  await using nats = await new GenericContainer(compose.services.nats.image)
    .withCommand(['-js', '--auth', token])
    .withExposedPorts(4222)
    .withWaitStrategy(Wait.forLogMessage(/Server is ready/))
    .withStartupTimeout(START_TIMEOUT_MS)
    .start();
  const validators = await makeValidators(3);
  const server = await startServer(t, {
    validators,
    dataDir: `${dir}/data`,
    env: { NATS_URL: `nats://${nats.getHost()}:${nats.getMappedPort(4222)}`, NATS_TOKEN: token },
  });
  const { file } = await makeSubmission(dir, slowTasks(TASKS, 0));
  const batchId = await vote(server, validators, file, '?concurrent_tasks=2');
  const batch = await waitForEnd(server, batchId);
  assert.deepEqual([batch.status, batch['passed_tasks']], ['completed', TASKS]);
  assert.deepEqual(countByTask(await eventsOf(server, batchId), 'BatchTaskFinished'), onceEach(TASKS));
  assert.equal(await server.stop(), 0);
});

/** Why no container can be started here; false if one can. */
async function missingEngine(): Promise<string | false> {
  try {
    const options = { timeout: PROBE_TIMEOUT_MS, killSignal: 'SIGKILL' } as const;
    await promisify(execFile)('docker', ['info', '--format', '{{.ServerVersion}}'], options);
    return false;
  } catch {
    return 'no container engine answers to `docker info`';
  }
}
