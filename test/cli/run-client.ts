/** Runs the client commands as the processes they are, with everything they wrote and how they ended. */
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';

const ENTRY = fileURLToPath(new URL('client-entry.ts', import.meta.url));
const TIMEOUT_MS = 60_000;

export interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
  /** stdout as NDJSON. */
  readonly json: () => unknown[];
}

export interface RunOptions {
  readonly env?: NodeJS.ProcessEnv;
  readonly entry?: string;
  /** Called with everything on stdout so far, whenever there is more. */
  readonly onStdout?: (stdout: string, kill: (signal: NodeJS.Signals) => void) => void;
  readonly onStderr?: (stderr: string, kill: (signal: NodeJS.Signals) => void) => void;
}

export async function runClient(args: readonly string[], options: RunOptions = {}): Promise<Ended> {
  const child = spawn(process.execPath, [options.entry ?? ENTRY, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...options.env },
    timeout: TIMEOUT_MS,
    killSignal: 'SIGKILL',
  });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
    options.onStdout?.(stdout, (signal) => child.kill(signal));
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
    options.onStderr?.(stderr, (signal) => child.kill(signal));
  });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  const json = (): unknown[] =>
    stdout
      .split('\n')
      .filter((line) => line !== '')
      .map((line): unknown => JSON.parse(line));
  return { code, stdout, stderr, json };
}

/** A directory that is removed when the test ends. */
export async function tempDir(t: TestContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'client-test-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return dir;
}
