/**
 * What a task's tests are worth. Exit codes decide whether it passed; a test may add a partial reward through a file,
 * which is read as something a stranger wrote. And a test program that exits 0 because it found no test at all is
 * recognised, since that counts as a pass and is none.
 */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { messageOf } from '../errors.ts';

/** A partial reward from 0 to 1; null when no valid one was given. */
export interface FileReward {
  readonly value: number | null;
  readonly warning: string | null;
}

/** Where tests may leave a reward, the first that exists counts. reward.json is `{"reward": <number>}`. */
export const REWARD_FILES = ['reward.txt', 'reward.json'] as const;
const MAX_REWARD_FILE_BYTES = 1024;
const DECIMAL = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?$/i;

/** Reads the reward that the tests left in `directory`. Never rejects for what they wrote. */
export async function readReward(directory: string): Promise<FileReward> {
  for (const name of REWARD_FILES) {
    const found = await readSmallFile(join(directory, name));
    if (found === null) continue;
    if ('fault' in found) return { value: null, warning: `${name} is ignored: ${found.fault}` };
    const value = name === 'reward.txt' ? parseText(found.text) : parseJson(found.text);
    if (value !== null && value >= 0 && value <= 1) return { value, warning: null };
    return { value: null, warning: `${name} is ignored: it must hold a number from 0 to 1` };
  }
  return { value: null, warning: null };
}

/**
 * The reward of a task: what the file says, else 1 if every test exited 0, else 0. Without every test passed it is
 * never 1, whatever a file says: a full reward that a failing test claims counts as none.
 */
export function rewardOf(passed: boolean, fileValue: number | null): number {
  if (!passed && fileValue === 1) return 0;
  return fileValue ?? (passed ? 1 : 0);
}

async function readSmallFile(path: string): Promise<{ text: string } | { fault: string } | null> {
  try {
    // O_NONBLOCK: a FIFO of that name must not make us wait for a writer.
    await using file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    if (!(await file.stat()).isFile()) return { fault: 'it is no regular file' };
    const buffer = Buffer.alloc(MAX_REWARD_FILE_BYTES + 1);
    const { bytesRead } = await file.read(buffer, 0, buffer.length, 0);
    if (bytesRead > MAX_REWARD_FILE_BYTES) return { fault: `it is longer than ${MAX_REWARD_FILE_BYTES} bytes` };
    return { text: buffer.toString('utf8', 0, bytesRead) };
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
    return { fault: messageOf(error) };
  }
}

function parseText(text: string): number | null {
  const trimmed = text.trim();
  return DECIMAL.test(trimmed) ? Number(trimmed) : null;
}

function parseJson(text: string): number | null {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    return null;
  }
  const value: unknown = typeof parsed === 'object' && parsed !== null ? Reflect.get(parsed, 'reward') : null;
  return typeof value === 'number' ? value : null;
}

/** What test programs print when they ran nothing, and a sign that something did run after all. */
const NOTHING_RAN: readonly (readonly [program: string, nothing: RegExp, something: RegExp | null])[] = [
  ['unittest', /^Ran 0 tests in /m, /^Ran [1-9]\d* tests? in /m],
  ['pytest', /^(?:=+ )?no tests ran\b/m, /\b[1-9]\d* passed\b/],
  ['node:test', /^(?:#|ℹ) tests 0$/m, /^(?:#|ℹ) tests [1-9]/m],
  ['mocha', /^\s*0 passing\b/m, /^\s*[1-9]\d* passing\b/m],
  [
    'go test',
    /\[no test files\]|^testing: warning: no tests to run$|\[no tests to run\]/m,
    /^ok\s(?!.*\[no tests to run\])/m,
  ],
  ['jest', /^No tests found/m, /^Tests:.*[1-9]\d* passed/m],
];

/** A warning if the output of a test that exited 0 says that it ran no test; else null. */
export function zeroTestsWarning(output: string): string | null {
  const hit = NOTHING_RAN.find(([, nothing, something]) => nothing.test(output) && !something?.test(output));
  return hit ? `${hit[0]} exited 0 without running any test` : null;
}
