import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { chmod, mkdir, mkdtemp, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { test, type TestContext } from 'node:test';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { lockDataDir } from '../../src/data-dir.ts';
import { CodedError } from '../../src/errors.ts';
import { connectNats } from '../../src/nats/connect.ts';
import { type EmbeddedNats, type EmbeddedNatsOptions, startEmbeddedNats } from '../../src/nats/embedded.ts';
import { findNatsServer } from '../../src/nats/find-server.ts';
import { isAlive, seenDead } from '../../src/nats/server-process.ts';
import { ensureStreams } from '../../src/nats/setup.ts';

const SOURCE = join(import.meta.dirname, '..', '..', 'src');
const DEATH_TIMEOUT_MS = 20_000;

test('it starts, keeps what it stored over a restart, and is gone after close', async (t) => {
  // A name that needs quoting in the configuration.
  const dataDir = join(await tempDir(t), 'data "ü" $x');
  const first = await start(t, dataDir);
  await store(first, 'ev.submission.a');
  const pid = await pidOf(dataDir);
  await first.close();
  await first.close();
  assert.equal(await isAlive(pid), false);
  const second = await start(t, dataDir);
  assert.notEqual(second.token, first.token);
  assert.equal(await lastSeq(second), 1);
});

test('its token is in a file that only we can read, and neither on a command line nor in the log', async (t) => {
  const dataDir = join(await tempDir(t), 'data');
  const nats = await start(t, dataDir);
  assert.match(nats.token, /^[0-9a-f]{64}$/);
  const config = join(dataDir, 'nats', 'nats.conf');
  assert.ok((await readFile(config, 'utf8')).includes(nats.token));
  assert.equal((await stat(config)).mode & 0o777, 0o600);
  assert.equal((await stat(dirname(config))).mode & 0o777, 0o700);
  assert.ok(!(await readFile(join(dataDir, 'nats', 'nats.log'), 'utf8')).includes(nats.token));
  assert.ok(!(await readFile(`/proc/${await pidOf(dataDir)}/cmdline`, 'utf8')).includes(nats.token));
  await assert.rejects(connectNats({ url: nats.url, token: 'x' }, { name: 't', timeoutMs: 5000 }), {
    code: 'nats_auth_failed',
  });
});

test('its death is reported once', async (t) => {
  const dataDir = join(await tempDir(t), 'data');
  const deaths: CodedError[] = [];
  const died = Promise.withResolvers<void>();
  const nats = await start(t, dataDir, {
    onDeath: (error) => {
      deaths.push(error);
      died.resolve();
    },
  });
  process.kill(await pidOf(dataDir), 'SIGKILL');
  await died.promise;
  await nats.close();
  assert.deepEqual(
    deaths.map(({ code }) => code),
    ['nats_died'],
  );
});

test('when its owner is killed it dies too, and the next owner finds everything', async (t) => {
  const dataDir = join(await tempDir(t), 'data');
  const owner = spawn(process.execPath, ['--input-type=module-typescript', '-e', ownerProgram(dataDir)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.after(() => owner.kill('SIGKILL'));
  for await (const line of createInterface({ input: owner.stdout })) {
    assert.equal(line, 'ready');
    break;
  }
  assert.throws(() => lockDataDir(dataDir), { code: 'data_dir_in_use' });
  const pid = await pidOf(dataDir);
  owner.kill('SIGKILL');
  await new Promise((resolve) => owner.once('close', resolve));
  // At once, while the old server may still be there: the start waits for its end.
  using _lock = lockDataDir(dataDir);
  const next = await start(t, dataDir);
  assert.equal(await lastSeq(next), 1);
  assert.ok(await seenDead(pid, DEATH_TIMEOUT_MS));
});

test('a process that took the number of a dead server is left alone', async (t) => {
  const dataDir = join(await tempDir(t), 'data');
  await mkdir(join(dataDir, 'nats'), { recursive: true });
  const stranger = spawn('sleep', ['60']);
  t.after(() => stranger.kill('SIGKILL'));
  await writeFile(join(dataDir, 'nats', 'nats.pid'), String(stranger.pid));
  await start(t, dataDir);
  assert.ok(await isAlive(stranger.pid ?? 0));
});

test('the data directory has one owner, also within one process, until it is released', async (t) => {
  const dataDir = join(await tempDir(t), 'deep', 'data');
  const lock = lockDataDir(dataDir);
  assert.equal((await stat(dataDir)).mode & 0o777, 0o700);
  assert.throws(() => lockDataDir(dataDir), { code: 'data_dir_in_use' });
  lock.release();
  lock.release();
  lockDataDir(dataDir).release();
});

test('a data directory that cannot be written is an error that names it and its variable', async (t) => {
  const file = join(await tempDir(t), 'file');
  await writeFile(file, '');
  const matching = (error: unknown): boolean =>
    error instanceof CodedError && error.code === 'data_dir_not_writable' && /DATA_DIR.*file/.test(error.message);
  assert.throws(() => lockDataDir(join(file, 'data')), matching);
  await assert.rejects(start(t, join(file, 'data')), matching);
});

test('a port that is taken, a store that is none and an old or missing server each have their error', async (t) => {
  const dir = await tempDir(t);
  const running = await start(t, join(dir, 'one'));
  const taken = start(t, join(dir, 'two'), { port: Number(new URL(running.url).port) });
  await assert.rejects(taken, (error) => {
    return error instanceof CodedError && error.code === 'nats_port_taken' && error.message.includes('127.0.0.1');
  });

  await mkdir(join(dir, 'three', 'nats'), { recursive: true });
  await writeFile(join(dir, 'three', 'nats', 'jetstream'), 'a file where a directory must be');
  await assert.rejects(start(t, join(dir, 'three')), (error) => {
    return (
      error instanceof CodedError && error.code === 'nats_start_failed' && /storage directory/i.test(error.message)
    );
  });

  await assert.rejects(findNatsServer(join(dir, 'absent')), { code: 'nats_not_found' });
  await writeFile(join(dir, 'text'), 'no program');
  await assert.rejects(findNatsServer(join(dir, 'text')), { code: 'nats_not_found' });
});

test('an old nats-server on PATH is refused by version and path before it starts', async (t) => {
  const dir = await tempDir(t);
  const old = join(dir, 'nats-server');
  await writeFile(old, '#!/bin/sh\necho "nats-server: v2.10.29"\n');
  await chmod(old, 0o755);
  // A copy of the sources where no npm package is near, so that PATH is all there is.
  await symlink(join(SOURCE, 'errors.ts'), join(dir, 'errors.ts'));
  await mkdir(join(dir, 'nats'));
  await writeFile(join(dir, 'nats', 'find-server.ts'), await readFile(join(SOURCE, 'nats', 'find-server.ts')));
  const program = `import { findNatsServer } from ${JSON.stringify(join(dir, 'nats', 'find-server.ts'))};
    await findNatsServer(null).catch((error) => console.log(error.code, error.message));`;
  const child = spawn(process.execPath, ['--input-type=module-typescript', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { PATH: dir },
  });
  const output = (await Array.fromAsync(child.stdout)).join('');
  assert.match(output, /^nats_too_old .*nats-server.*2\.10\.29.*2\.14\.0/);
  assert.ok(output.includes(old));
});

test('an aborted start leaves nothing running', async (t) => {
  const dataDir = join(await tempDir(t), 'data');
  const reason = new Error('shutting down');
  await assert.rejects(start(t, dataDir, { signal: AbortSignal.abort(reason) }), reason);
});

async function start(t: TestContext, dataDir: string, more: Partial<EmbeddedNatsOptions> = {}): Promise<EmbeddedNats> {
  const nats = await startEmbeddedNats({
    dataDir,
    natsServer: null,
    onDeath: (error) => assert.fail(error.message),
    ...more,
  });
  t.after(() => nats.close());
  return nats;
}

function ownerProgram(dataDir: string): string {
  const from = (file: string): string => `from ${JSON.stringify(join(SOURCE, file))}`;
  return `
    import { jetstream } ${`from ${JSON.stringify(import.meta.resolve('@nats-io/jetstream'))}`};
    import { lockDataDir } ${from('data-dir.ts')};
    import { connectNats } ${from('nats/connect.ts')};
    import { startEmbeddedNats } ${from('nats/embedded.ts')};
    import { ensureStreams } ${from('nats/setup.ts')};
    const dataDir = ${JSON.stringify(dataDir)};
    const lock = lockDataDir(dataDir);
    const nats = await startEmbeddedNats({ dataDir, natsServer: null, onDeath: console.error });
    const nc = await connectNats(nats.access, { name: 'owner', timeoutMs: 5000 });
    await ensureStreams(nc, { replicas: 1, nonceTtlSecs: 300 });
    await jetstream(nc).publish('ev.submission.a', 'x');
    console.log('ready');
    setInterval(() => lock.path, 1000);
  `;
}

async function store(nats: EmbeddedNats, subject: string): Promise<void> {
  const nc = await connectNats(nats.access, { name: 'test', timeoutMs: 5000 });
  await ensureStreams(nc, { replicas: 1, nonceTtlSecs: 300 });
  await jetstream(nc).publish(subject, 'x');
  await nc.close();
}

async function lastSeq(nats: EmbeddedNats): Promise<number> {
  const nc = await connectNats(nats.access, { name: 'test', timeoutMs: 5000 });
  const { state } = await (await jetstreamManager(nc)).streams.info('EVENTS');
  await nc.close();
  return state.last_seq;
}

async function pidOf(dataDir: string): Promise<number> {
  return Number(await readFile(join(dataDir, 'nats', 'nats.pid'), 'utf8'));
}

async function tempDir(t: TestContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'embedded-test-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return dir;
}
