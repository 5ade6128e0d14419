/** The deployment files are read by other programs; here they are read first, so that a typo is found before them. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { parse } from 'yaml';
import { readConfig } from '../../src/config.ts';
import { findNatsServer } from '../../src/nats/find-server.ts';

interface Service {
  readonly command: readonly string[];
  readonly init: boolean;
  readonly environment: Readonly<Record<string, string>>;
  readonly depends_on?: Readonly<Record<string, { readonly condition: string }>>;
  readonly healthcheck: { readonly test?: readonly string[]; readonly disable?: boolean };
  readonly volumes?: readonly string[];
  readonly networks: readonly string[];
}

const exec = promisify(execFile);
const TIMEOUT_MS = 30_000;
const root = fileURLToPath(new URL('../../', import.meta.url));
const read = (path: string): Promise<string> => readFile(join(root, path), 'utf8');
const compose = await read('docker-compose.yml');
const parsed = parse(compose, { merge: true }) as {
  readonly services: Readonly<Record<string, Service>>;
  readonly volumes: Readonly<Record<string, unknown>>;
  readonly networks: Readonly<Record<string, unknown>>;
};

/** Variables that compose itself uses, which never reach our program. */
const COMPOSE_ONLY = new Set(['PUBLISH']);
/** Every variable that src/config.ts reads stands there in quotes. */
const configSource = await read('src/config.ts');
const isConfigName = (name: string): boolean => configSource.includes(`'${name}'`);
const required = { NATS_TOKEN: 'tsecret', TRUSTED_VALIDATORS: '5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY' };

/** What compose makes of `${NAME}`, `${NAME:-default}` and `${NAME:?message}` with these variables set. */
function interpolate(text: string, variables: Readonly<Record<string, string>>): string {
  return text.replace(/\$\{(\w+)(?::([-?])([^}]*))?\}/g, (_, name: string, kind?: string, rest?: string) => {
    const value = variables[name];
    if (value !== undefined && value !== '') return value;
    if (kind === '?') throw new Error(`${name} is required`);
    return rest ?? '';
  });
}

test('there are a NATS server, a server and an executor, each started with a command we have', () => {
  const { services } = parsed;
  assert.deepEqual(Object.keys(services).toSorted(), ['executor', 'nats', 'server']);
  assert.deepEqual(services['server']?.command, ['serve', '--roles', 'http,planner']);
  assert.deepEqual(services['executor']?.command, ['work']);
  for (const service of Object.values(services)) assert.equal(service.init, true);
});

test('what is waited for has a health check', () => {
  for (const [name, service] of Object.entries(parsed.services)) {
    for (const [other, { condition }] of Object.entries(service.depends_on ?? {})) {
      assert.equal(condition, 'service_healthy', `${name} depends on ${other}`);
      assert.ok(parsed.services[other]?.healthcheck.test, `${other} has a health check`);
    }
  }
});

test('every volume and network that is used is declared', () => {
  for (const service of Object.values(parsed.services)) {
    for (const network of service.networks) assert.ok(network in parsed.networks, network);
    for (const volume of service.volumes ?? []) {
      const source = volume.split(':')[0] ?? '';
      assert.ok(source.startsWith('./') || source in parsed.volumes, source);
    }
  }
});

test('every variable exists in src/config.ts, under the name by which compose takes it', () => {
  for (const name of ['server', 'executor']) {
    const environment = parsed.services[name]?.environment ?? {};
    for (const [variable, value] of Object.entries(environment)) {
      assert.ok(isConfigName(variable), `${name}: ${variable} is no variable of src/config.ts`);
      const taken = /^\$\{(\w+)/.exec(value)?.[1];
      if (taken !== undefined) assert.equal(taken, variable);
    }
  }
});

test('the defaults of compose are accepted by the program, and equal its own', () => {
  const machine = { hostname: 'host', pid: 1 };
  for (const name of ['server', 'executor']) {
    const environment = Object.fromEntries(
      Object.entries(parsed.services[name]?.environment ?? {}).map(([variable, value]) => [
        variable,
        interpolate(value, required),
      ]),
    );
    const config = readConfig(environment, machine);
    assert.equal(config.nats?.token, required.NATS_TOKEN);
    const plain = readConfig({ SANDBOX: 'process' }, machine);
    const changed = ['nats', 'image', 'trustedValidators'];
    for (const [key, value] of Object.entries(config)) {
      if (!changed.includes(key)) assert.deepEqual(value, Reflect.get(plain, key), `${name}: ${key}`);
    }
  }
});

test('secrets are required and have no default', () => {
  assert.throws(() => interpolate(compose, {}), /is required/);
  assert.throws(() => interpolate(compose, { NATS_TOKEN: 't' }), /TRUSTED_VALIDATORS is required/);
  assert.doesNotMatch(compose, /\$\{\w*(?:TOKEN|PASSWORD|SECRET|KEY)\w*:-/);
});

test('.env.example names exactly the variables that docker-compose.yml takes', async () => {
  const offered = [...(await read('.env.example')).matchAll(/^#?([A-Z_]+)=/gm)].map((match) => match[1] ?? '');
  const taken = new Set([...compose.matchAll(/\$\{(\w+)/g)].map((match) => match[1] ?? ''));
  assert.deepEqual(offered.toSorted(), [...taken].toSorted());
  for (const name of taken) assert.ok(isConfigName(name) || COMPOSE_ONLY.has(name), name);
});

test('nats-server accepts nats.conf, and syncs before it acknowledges', async () => {
  const { path } = await findNatsServer(process.env['NATS_SERVER'] ?? null);
  const file = join(root, 'ops/nats/nats.conf');
  const env = { PATH: process.env['PATH'] ?? '', NATS_TOKEN: 'tsecret' };
  await exec(path, ['-t', '-c', file], { env, timeout: TIMEOUT_MS });
  await assert.rejects(exec(path, ['-t', '-c', file], { env: { PATH: env.PATH }, timeout: TIMEOUT_MS }), /NATS_TOKEN/);
  assert.match(await read('ops/nats/nats.conf'), /^ {2}sync_interval: always$/m);
});

test('the image copies what exists, and the build context holds it', async () => {
  const dockerfile = await read('ops/Dockerfile');
  const ignore = (await read('.dockerignore')).split('\n');
  const sources = [...dockerfile.matchAll(/^COPY (?!--from)(.+) \S+$/gm)].flatMap(
    (match) => match[1]?.split(' ') ?? [],
  );
  assert.deepEqual([...new Set(sources)].toSorted(), [
    'LICENSE',
    'examples',
    'package-lock.json',
    'package.json',
    'src',
  ]);
  for (const source of sources) assert.ok(ignore.includes(`!${source}`), source);
});

const composeMissing = await exec('docker', ['compose', 'version'], { timeout: TIMEOUT_MS }).then(
  () => false as const,
  () => 'docker compose is not installed',
);

test('docker compose accepts docker-compose.yml', { skip: composeMissing }, async (t) => {
  const home = await mkdtemp(join(tmpdir(), 'compose-test-'));
  t.after(() => rm(home, { recursive: true, force: true }));
  const env = { PATH: process.env['PATH'] ?? '', HOME: home };
  const args = ['compose', '-f', join(root, 'docker-compose.yml'), '--env-file', '/dev/null', 'config', '--quiet'];
  await exec('docker', args, { env: { ...env, ...required }, timeout: TIMEOUT_MS });
  await assert.rejects(exec('docker', args, { env, timeout: TIMEOUT_MS }), /NATS_TOKEN/);
});
