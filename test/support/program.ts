/** What end-to-end tests need besides a server that runs: a program that ends by itself, and what stands on the log. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import type { TestContext } from 'node:test';
import { waitFor, type TestServer } from './server.ts';
import { temporaryDirectory } from './tmp.ts';

const CLI = new URL('../../src/cli.ts', import.meta.url).pathname;
const END_TIMEOUT_MS = 60_000;

export interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the program until it ends by itself; killed, and an error, if it does not. The environment is `env` alone. */
export async function runToEnd(
  t: TestContext,
  env: Readonly<Record<string, string>>,
  args: readonly string[] = ['serve'],
): Promise<Ended> {
  const dir = temporaryDirectory(t);
  const child = spawn(process.execPath, [CLI, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: END_TIMEOUT_MS,
    killSignal: 'SIGKILL',
    env: {
      PATH: process.env['PATH'],
      HOME: dir,
      TMPDIR: process.env['TMPDIR'],
      SANDBOX: 'process',
      DATA_DIR: `${dir}/data`,
      WORKSPACE_BASE: `${dir}/sessions`,
      PORT: '0',
      ...env,
    },
  });
  const ended = once(child, 'close');
  t.after(async () => {
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL');
    await ended;
  });
  const said = { stdout: '', stderr: '' };
  for (const stream of ['stdout', 'stderr'] as const) {
    child[stream].setEncoding('utf8').on('data', (text: string) => {
      said[stream] = (said[stream] + text).slice(-20_000);
    });
  }
  await ended;
  if (child.exitCode === null) throw new Error(`it does not end by itself: ${said.stdout}${said.stderr}`);
  return { code: child.exitCode, ...said };
}

export interface LoggedEvent {
  readonly type: string;
  readonly data: {
    readonly batchId?: string;
    readonly taskId?: string;
    readonly attempt?: number;
    readonly executorId?: string;
  };
}

/** The events of one batch, oldest first. */
export async function eventsOf(server: Pick<TestServer, 'url'>, batchId: string): Promise<readonly LoggedEvent[]> {
  const text = await waitFor(
    async () => {
      const response = await fetch(`${server.url}/events`);
      const body = await response.text();
      // Until the server has its NATS again.
      if (response.status === 503) return null;
      if (!response.ok) throw new Error(`GET /events: ${response.status} ${body}`);
      return body;
    },
    () => 'GET /events: 503 all the time',
  );
  return text
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as LoggedEvent)
    .filter(({ data }) => data.batchId === batchId);
}

/** How many events of this type each task has. */
export function countByTask(events: readonly LoggedEvent[], type: string): Readonly<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (const event of events) {
    const { taskId } = event.data;
    if (event.type === type && taskId !== undefined) counts[taskId] = (counts[taskId] ?? 0) + 1;
  }
  return counts;
}

/** What `countByTask` gives if each of the tasks of `slowTasks(count, …)` has one. */
export function onceEach(count: number): Readonly<Record<string, number>> {
  return Object.fromEntries(Array.from({ length: count }, (_, index) => [`task-${index + 1}`, 1]));
}
