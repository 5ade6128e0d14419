/** The program and its NATS: what can be wrong with it at the start, its death in between, and the ways to get in. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, test, type TestContext } from 'node:test';
import { createUser } from '@nats-io/nkeys';
import { EXIT } from '../../src/cli/exit-codes.ts';
import { seenDead } from '../../src/nats/server-process.ts';
import { startNats } from '../support/nats.ts';
import { countByTask, eventsOf, onceEach, runToEnd } from '../support/program.ts';
import { makeValidators, startServer, submit, vote, waitFor, waitForEnd, type TestServer } from '../support/server.ts';
import { makeSubmission, slowTasks } from '../support/submissions.ts';
import { temporaryDirectory } from '../support/tmp.ts';

const SECRET = 'hunter2';
const TASKS = 6;
const RUNNING = 2;
const DEAD_TIMEOUT_MS = 10_000;
const END_TIMEOUT_MS = 40_000;

describe('a start that cannot be ends with its exit code and says what to do', { concurrency: 3 }, () => {
  const fails = async (
    t: TestContext,
    env: Readonly<Record<string, string>>,
    code: number,
    message: RegExp,
    args?: readonly string[],
  ): Promise<void> => {
    const ended = await runToEnd(t, env, args);
    assert.match(ended.stderr, message);
    assert.equal(ended.code, code, ended.stderr);
    assert.ok(!ended.stderr.includes(SECRET));
    assert.doesNotMatch(ended.stderr, /^ +at |this is a defect/m, 'a message, not a stack');
    assert.equal(ended.stdout, '');
  };

  test('NATS_SERVER names nothing', (t) =>
    fails(t, { NATS_SERVER: '/nowhere/nats-server' }, EXIT.nats, /NATS_SERVER names \/nowhere\/nats-server/));

  test('NATS_SERVER names one that is too old', async (t) => {
    const old = join(temporaryDirectory(t), 'nats-server');
    await writeFile(old, '#!/bin/sh\necho "nats-server: v2.9.0"\n', { mode: 0o755 });
    await fails(t, { NATS_SERVER: old }, EXIT.nats, /2\.9\.0; install nats-server 2\.14\.0 or newer/);
  });

  test('DATA_DIR is a file', async (t) => {
    const file = join(temporaryDirectory(t), 'data');
    await writeFile(file, '');
    await fails(t, { DATA_DIR: file }, EXIT.config, /DATA_DIR: cannot write to .*set DATA_DIR to another directory/);
  });

  test('DATA_DIR or PORT is in use', async (t) => {
    const dataDir = join(temporaryDirectory(t), 'data');
    const server = await startServer(t, { validators: [], dataDir });
    await fails(t, { DATA_DIR: dataDir }, EXIT.config, /is in use by another term-executor/);
    const { port } = new URL(server.url);
    await fails(t, { PORT: port }, EXIT.config, new RegExp(`PORT: 127.0.0.1:${port} is in use`));
    assert.equal((await server.get('/health'))['status'], 'ok', 'the other server is none the worse');
  });

  test('nobody listens at NATS_URL', async (t) => {
    const port = await closedPort();
    const message = new RegExp(`cannot connect to NATS at nats://127.0.0.1:${port} within .*check NATS_URL`);
    await fails(t, { NATS_URL: `nats://bob:${SECRET}@127.0.0.1:${port}` }, EXIT.unreachable, message);
  });

  test('NATS refuses the credentials', async (t) => {
    const { url } = await startNats(t);
    const env = { NATS_URL: url, NATS_TOKEN: SECRET };
    await fails(t, env, EXIT.unreachable, /refuses these credentials; check NATS_TOKEN/);
    await fails(t, { NATS_URL: url }, EXIT.unreachable, /refuses these credentials/, ['work']);
    await fails(t, { ...env, NATS_NKEY: '/nowhere/user.nk' }, EXIT.unreachable, /NATS_NKEY: cannot read/);
  });

  test('NATS has no JetStream', async (t) => {
    const { url, token } = await startNats(t, { jetstream: false });
    await fails(t, { NATS_URL: url, NATS_TOKEN: token }, EXIT.nats, /offers no JetStream.*jetstream \{\}/);
  });

  const bad: Readonly<Record<string, string>> = {
    PORT: 'abc',
    CONSENSUS_THRESHOLD: '0',
    TRUSTED_VALIDATORS: SECRET,
    SANDBOX: 'none',
    GIT_PROTOCOLS: 'https,gopher',
    LOG_LEVEL: 'loud',
    EXECUTOR_ID: 'a b',
    MAX_CONCURRENT_TASKS: '0',
    ACK_WAIT_SECS: '1.5',
  };
  for (const [name, value] of Object.entries(bad)) {
    test(`${name} does not fit`, (t) => fails(t, { [name]: value }, EXIT.config, new RegExp(`^error: ${name}: `)));
  }

  test('a client certificate without its key', (t) => {
    const env = { NATS_URL: 'nats://127.0.0.1:1', NATS_TLS_CERT: '/nowhere/cert.pem' };
    return fails(t, env, EXIT.config, /NATS_TLS_CERT: must be set together with NATS_TLS_KEY/);
  });
});

test('without TRUSTED_VALIDATORS it starts, and a vote is answered 503 whitelist_not_ready', async (t) => {
  const dir = temporaryDirectory(t);
  const server = await startServer(t, { validators: [], dataDir: join(dir, 'data') });
  const [stranger] = await makeValidators(1);
  assert.ok(stranger);
  const { file } = await makeSubmission(dir, { tasks: { a: {} } });
  const { status, body } = await submit(server.url, stranger, file);
  assert.deepEqual([status, body['error']], [503, 'whitelist_not_ready']);
});

interface Held {
  readonly batchId: string;
  /** Process ids of the agents that have started. */
  agents(): Promise<readonly number[]>;
  release(): Promise<void>;
}

/** A batch of TASKS tasks whose agents wait for release(); resolves when RUNNING of them do. */
async function holdBatch(t: TestContext, server: TestServer): Promise<Held> {
  const dir = temporaryDirectory(t);
  const marks = join(dir, 'marks');
  await mkdir(marks);
  const agent = `echo $$ > "${marks}/$TASK_ID.$$"\nuntil [ -e "${dir}/go" ]; do sleep 0.05; done\necho "solved $TASK_ID" > solved.txt\n`;
  const { file } = await makeSubmission(dir, { ...slowTasks(TASKS, 0), agent: { 'agent.sh': agent } });
  const batchId = await vote(server, await makeValidators(1), file, `?concurrent_tasks=${RUNNING}`);
  await waitFor(
    async () => ((await readdir(marks)).length === RUNNING ? true : null),
    () => server.log(),
  );
  return {
    batchId,
    agents: async () =>
      Promise.all((await readdir(marks)).map(async (name) => Number(await readFile(join(marks, name), 'utf8')))),
    release: () => writeFile(join(dir, 'go'), ''),
  };
}

async function assertCompleted(server: TestServer, batchId: string): Promise<void> {
  const batch = await waitForEnd(server, batchId);
  assert.deepEqual([batch.status, batch['passed_tasks']], ['completed', TASKS]);
  const events = await eventsOf(server, batchId);
  for (const type of ['TaskFinished', 'BatchTaskFinished']) {
    assert.deepEqual(countByTask(events, type), onceEach(TASKS), type);
  }
  assert.equal(events.filter(({ type }) => type === 'BatchCompleted').length, 1);
}

test('the embedded nats-server is killed: the program ends with its exit code, and works when started again', async (t) => {
  const dataDir = join(temporaryDirectory(t), 'data');
  const options = { validators: await makeValidators(1), dataDir };
  const server = await startServer(t, options);
  const { batchId, agents, release } = await holdBatch(t, server);
  process.kill(Number(await readFile(join(dataDir, 'nats', 'nats.pid'), 'utf8')), 'SIGKILL');
  const ended = await waitFor(
    async () => server.process.exitCode,
    () => `it does not end: ${server.log()}`,
    END_TIMEOUT_MS,
  );
  assert.equal(ended, EXIT.nats, server.log());
  assert.match(server.log(), /the embedded nats-server died \(.*\); restart/);
  for (const pid of await agents()) assert.ok(await seenDead(pid, DEAD_TIMEOUT_MS), `agent ${pid} lives`);
  await release();
  await assertCompleted(await startServer(t, options), batchId);
});

test('an external NATS is killed and comes back, twice in a batch: running attempts go on, each task counts once', async (t) => {
  const dataDir = join(temporaryDirectory(t), 'data');
  const nats = await startNats(t);
  const env = { NATS_URL: nats.url, NATS_TOKEN: nats.token, ACK_WAIT_SECS: '10' };
  const server = await startServer(t, { validators: await makeValidators(1), dataDir, env });
  const { batchId, agents, release } = await holdBatch(t, server);
  const running = Object.keys(countByTask(await eventsOf(server, batchId), 'TaskStarted'));
  assert.equal(running.length, RUNNING);
  await nats.restart();
  assert.equal((await agents()).length, RUNNING);
  await release();
  await waitFor(
    async () =>
      (await server.get<{ completed_tasks: number }>(`/batch/${batchId}`)).completed_tasks > 0 ? true : null,
    () => server.log(),
  );
  // Whatever the others are at just now.
  await nats.restart();
  await assertCompleted(server, batchId);
  const attempts = countByTask(await eventsOf(server, batchId), 'TaskStarted');
  for (const taskId of running) assert.equal(attempts[taskId], 1, taskId);
  assert.equal(await server.stop(), 0);
});

describe('ways into an external NATS', () => {
  const work = (t: TestContext, env: Readonly<Record<string, string>>): Promise<TestServer> =>
    startServer(t, { validators: [], dataDir: join(temporaryDirectory(t), 'data'), args: ['work'], env });

  test('a user with a password, and an nkey', async (t) => {
    const user = createUser();
    const { url } = await startNats(t, {
      authorization: `authorization { users = [
        { user: "alice", password: "${SECRET}" }
        { nkey: "${user.getPublicKey()}" }
      ] }`,
    });
    const seed = join(temporaryDirectory(t), 'user.nk');
    await writeFile(seed, `${new TextDecoder().decode(user.getSeed())}\n`, { mode: 0o600 });
    const servers = await Promise.all([
      work(t, { NATS_URL: url, NATS_USER: 'alice', NATS_PASSWORD: SECRET }),
      work(t, { NATS_URL: url, NATS_NKEY: seed }),
    ]);
    for (const server of servers) {
      assert.equal(await server.stop(), 0);
      assert.ok(!server.log().includes(SECRET));
    }
  });

  test('TLS with a certificate authority of our own', { skip: missingOpenssl() }, async (t) => {
    const dir = temporaryDirectory(t);
    const [key, cert] = [join(dir, 'key.pem'), join(dir, 'cert.pem')];
    const request = ['req', '-x509', '-nodes', '-newkey', 'rsa:2048', '-days', '2', '-subj', '/CN=nats.test'];
    // The client checks the name localhost for an address without a name.
    const names = ['-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1'];
    execFileSync('openssl', [...request, ...names, '-keyout', key, '-out', cert], { stdio: 'pipe', timeout: 30_000 });
    const config = `tls { cert_file: "${cert}", key_file: "${key}" }`;
    const { port, token } = await startNats(t, { config, tlsCa: cert });
    const env = { NATS_URL: `tls://127.0.0.1:${port}`, NATS_TOKEN: token };
    const [server, untrusting] = await Promise.all([
      work(t, { ...env, NATS_TLS_CA: cert }),
      runToEnd(t, env, ['work']),
    ]);
    assert.equal(await server.stop(), 0);
    assert.equal(untrusting.code, EXIT.unreachable);
    assert.match(untrusting.stderr, /self-signed certificate.*NATS_TLS_\*/);
  });
});

function missingOpenssl(): string | false {
  try {
    execFileSync('openssl', ['version'], { stdio: 'pipe', timeout: 10_000 });
    return false;
  } catch {
    return 'there is no openssl to make a certificate with';
  }
}

/** A port at which nobody listens. */
async function closedPort(): Promise<number> {
  const server = createServer();
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  assert.ok(address !== null && typeof address === 'object');
  return address.port;
}
