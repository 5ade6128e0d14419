/** The real program as a child process, and validators that talk to it with nothing but fetch. */
import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { openAsBlob } from 'node:fs';
import { createInterface } from 'node:readline';
import type { TestContext } from 'node:test';
import { cryptoWaitReady, encodeAddress, sr25519PairFromSeed, sr25519Sign } from '@polkadot/util-crypto';
import { v4 } from 'uuid';
import { delay } from '../../src/delay.ts';
import { temporaryDirectory } from './tmp.ts';

const CLI = new URL('../../src/cli.ts', import.meta.url).pathname;
const READY_TIMEOUT_MS = 60_000;
const POLL_MS = 50;

export interface Validator {
  readonly hotkey: string;
  /** The three headers of a version 1 signature, with a fresh nonce unless one is given. */
  headers(nonce?: string): Record<string, string>;
}

/** Deterministic sr25519 keys. */
export async function makeValidators(count: number): Promise<readonly Validator[]> {
  await cryptoWaitReady();
  return Array.from({ length: count }, (_, index) => {
    const pair = sr25519PairFromSeed(new Uint8Array(32).fill(index + 1));
    const hotkey = encodeAddress(pair.publicKey, 42);
    return {
      hotkey,
      headers(nonce = v4()) {
        const signature = sr25519Sign(new TextEncoder().encode(hotkey + nonce), pair);
        return { 'x-hotkey': hotkey, 'x-nonce': nonce, 'x-signature': Buffer.from(signature).toString('hex') };
      },
    };
  });
}

export interface ServerOptions {
  readonly validators: readonly Validator[];
  readonly dataDir: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly args?: readonly string[];
  /** `pipe`: stdin stays open until the test closes `process.stdin`. Default: none. */
  readonly stdin?: 'pipe';
}

export interface TestServer {
  readonly url: string;
  readonly process: ChildProcess;
  readonly pid: number;
  /** SIGKILL, then seen dead. */
  kill(): Promise<void>;
  /** SIGTERM; resolves to the exit code. */
  stop(): Promise<number | null>;
  /** What it wrote to stderr. */
  log(): string;
  get<T = Record<string, unknown>>(path: string): Promise<T>;
}

/** Starts `serve` (or the command in `args`) and waits until it says that it is ready. Ended with the test. */
export async function startServer(t: TestContext, options: ServerOptions): Promise<TestServer> {
  const home = temporaryDirectory(t);
  const child = spawn(process.execPath, [CLI, ...(options.args ?? ['serve']), '--json'], {
    stdio: [options.stdin ?? 'ignore', 'pipe', 'pipe'],
    env: {
      PATH: process.env['PATH'],
      HOME: home,
      TMPDIR: process.env['TMPDIR'],
      TRUSTED_VALIDATORS: options.validators.map(({ hotkey }) => hotkey).join(','),
      GIT_PROTOCOLS: 'https,file',
      SANDBOX: 'process',
      DATA_DIR: options.dataDir,
      WORKSPACE_BASE: `${options.dataDir}-sessions`,
      PORT: '0',
      LOG_LEVEL: 'info',
      DRAIN_TIMEOUT_SECS: '1',
      ACK_WAIT_SECS: '3',
      ...options.env,
    },
  });
  const ended = once(child, 'exit');
  let log = '';
  assert.ok(child.stdout && child.stderr);
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    log = (log + text).slice(-200_000);
  });
  const kill = async (signal: NodeJS.Signals): Promise<number | null> => {
    if (child.exitCode === null && child.signalCode === null) child.kill(signal);
    await ended;
    return child.exitCode;
  };
  t.after(() => kill('SIGKILL'));
  const lines = createInterface({ input: child.stdout });
  const ready = Promise.withResolvers<string | null>();
  lines.on('line', (line) => {
    if (line.startsWith('{"ready":true')) ready.resolve((JSON.parse(line) as { url: string | null }).url);
  });
  void ended.then(() => ready.reject(new Error(`the server ended (${child.exitCode}): ${log}`)));
  const late = setTimeout(() => ready.reject(new Error(`the server is not ready: ${log}`)), READY_TIMEOUT_MS);
  const url = await ready.promise.finally(() => clearTimeout(late));
  return {
    url: url ?? '',
    process: child,
    pid: child.pid ?? 0,
    kill: async () => void (await kill('SIGKILL')),
    stop: () => kill('SIGTERM'),
    log: () => log,
    async get<T>(path: string): Promise<T> {
      const response = await fetch(url + path);
      if (!response.ok) throw new Error(`GET ${path}: ${response.status} ${await response.text()}`);
      return (await response.json()) as T;
    },
  };
}

export interface Answer {
  readonly status: number;
  readonly body: Record<string, unknown>;
}

/** One POST /submit of a file. */
export async function submit(
  url: string,
  validator: Validator,
  file: string,
  options: { query?: string; headers?: Record<string, string>; field?: string } = {},
): Promise<Answer> {
  const form = new FormData();
  form.append(options.field ?? 'archive', await openAsBlob(file), 'archive.tar.gz');
  return post(`${url}/submit${options.query ?? ''}`, form, { ...validator.headers(), ...options.headers });
}

export async function post(url: string, body: RequestInit['body'], headers: Record<string, string>): Promise<Answer> {
  const response = await fetch(url, { method: 'POST', headers, body: body ?? null });
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
}

export interface BatchView extends Record<string, unknown> {
  readonly status: string;
  readonly total_tasks: number;
  readonly completed_tasks: number;
}

const ENDED = ['completed', 'failed', 'cancelled'];

/** Polls GET /batch/:id until it has ended. */
export async function waitForEnd(server: Pick<TestServer, 'get' | 'log'>, batchId: string): Promise<BatchView> {
  return waitFor(
    async () => {
      const batch = await server.get<BatchView>(`/batch/${batchId}`);
      return ENDED.includes(batch.status) ? batch : null;
    },
    () => `batch ${batchId} does not end: ${server.log()}`,
  );
}

/** Repeats until there is something; bounded. */
export async function waitFor<T>(ask: () => Promise<T | null>, what: () => string, timeoutMs = 90_000): Promise<T> {
  for (let waitedMs = 0; waitedMs < timeoutMs; waitedMs += POLL_MS) {
    const answer = await ask();
    if (answer !== null) return answer;
    await delay(POLL_MS);
  }
  throw new Error(what());
}

/** Lets validators vote until the batch exists; returns its id. */
export async function vote(
  server: Pick<TestServer, 'url'>,
  validators: readonly Validator[],
  file: string,
  query = '',
): Promise<string> {
  for (const validator of validators) {
    const { status, body } = await submit(server.url, validator, file, { query });
    if (status !== 202) throw new Error(`vote refused: ${status} ${JSON.stringify(body)}`);
    if (typeof body['batch_id'] === 'string') return body['batch_id'];
  }
  throw new Error('no quorum');
}
