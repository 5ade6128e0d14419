/**
 * What a task's tests are worth. Exit codes decide whether it passed; a test may add a partial reward through a file,
 * which is read as something a stranger wrote. And a test program that exits 0 because it found no test at all is
 * recognised, since that counts as a pass and is none.
 */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { messageOf } from '../errors.ts';
import type { TestSpec } from './task-spec.ts';

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
  if (!passed && fileValue !== null && fileValue >= 1) return 0;
  return fileValue ?? (passed ? 1 : 0);
}

const REWARD_VARIABLE = 'REWARD_DIR';
const MAX_SCRIPT_BYTES = 1024 * 1024;

/**
 * Whether a test's own text mentions REWARD_DIR: its command, or the first MiB of its script below `testsDir`. Only such
 * a test may give a reward; in any other, a reward file could only come from the code under test.
 */
export async function givesReward(test: TestSpec, testsDir: string): Promise<boolean> {
  switch (test.kind) {
    case 'command':
      return test.command.includes(REWARD_VARIABLE);
    case 'script': {
      await using file = await open(join(testsDir, test.path), constants.O_RDONLY | constants.O_NOFOLLOW);
      const { size } = await file.stat();
      const buffer = Buffer.alloc(Math.min(size, MAX_SCRIPT_BYTES));
      const { bytesRead } = await file.read(buffer, 0, buffer.length, 0);
      return buffer.subarray(0, bytesRead).includes(REWARD_VARIABLE);
    }
  }
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

/** What a line says when a test program ran nothing, and a sign in any line that something did run after all. */
const NOTHING_RAN: readonly (readonly [program: string, nothing: RegExp, something: RegExp | null])[] = [
  ['unittest', /^Ran 0 tests in /, /^Ran [1-9]\d* tests? in /],
  ['pytest', /^(?:=+ )?no tests ran\b/, /\b[1-9]\d{0,9} passed\b/],
  ['node:test', /^(?:#|ℹ) tests 0$/, /^(?:#|ℹ) tests [1-9]/],
  ['mocha', /^\s*0 passing\b/, /^\s*[1-9]\d* passing\b/],
  [
    'go test',
    /\[no test files\]|^testing: warning: no tests to run$|\[no tests to run\]/,
    /^ok\s(?!.*\[no tests to run\])/,
  ],
  ['jest', /^No tests found/, /^Tests:.*\b[1-9]\d{0,9} passed/],
];

/** How much of each end of an output is looked at, and the longest line: a stranger chose what the patterns meet. */
const LOOKED_AT_CHARACTERS = 16_384;
const MAX_LINE_CHARACTERS = 400;

/** A warning if the output of a test that exited 0 says, near one of its ends, that it ran no test; else null. */
export function zeroTestsWarning(output: string): string | null {
  const lines = linesAtEnds(output);
  const says = (pattern: RegExp) => lines.some((line) => pattern.test(line));
  const hit = NOTHING_RAN.find(([, nothing, something]) => says(nothing) && !(something && says(something)));
  return hit ? `${hit[0]} exited 0 without running any test` : null;
}

function linesAtEnds(output: string): string[] {
  const whole = output.length <= 2 * LOOKED_AT_CHARACTERS;
  const ends = whole ? [output] : [output.slice(0, LOOKED_AT_CHARACTERS), output.slice(-LOOKED_AT_CHARACTERS)];
  return ends.flatMap((end) => end.split(/\r?\n/)).filter((line) => line !== '' && line.length <= MAX_LINE_CHARACTERS);
}
