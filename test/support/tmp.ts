/** Temporary directories that tests cannot forget to remove. */
import { chmodSync, existsSync, lstatSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Whatever runs callbacks at its end: a TestContext, or the `after` of a suite. */
export interface Ending {
  after(callback: () => void): void;
}

/**
 * Directories of this process. Node runs `after` in the order of registration: what a server, which is ended after its
 * directory was removed, writes there in between is removed when the process ends.
 */
const made = new Set<string>();
process.once('exit', () => made.forEach(removeDirectory));

/** A new directory that is removed when the test ends; also what the test made unreadable is removed. */
export function temporaryDirectory(test: Ending): string {
  const path = mkdtempSync(join(tmpdir(), 'term-executor-test-'));
  made.add(path);
  test.after(() => removeDirectory(path));
  return path;
}

function removeDirectory(path: string): void {
  try {
    if (existsSync(path)) unlock(path);
    rmSync(path, { recursive: true, force: true, maxRetries: 3 });
  } catch {
    // A server still writes in there: the end of the process comes after it. What stays then is reported by test/run.ts.
  }
}

function unlock(directory: string): void {
  chmodSync(directory, 0o700);
  for (const name of readdirSync(directory)) {
    const path = join(directory, name);
    if (lstatSync(path).isDirectory()) unlock(path);
  }
}
