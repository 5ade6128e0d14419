/** Temporary directories that tests cannot forget to remove. */
import { chmodSync, existsSync, lstatSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Whatever runs callbacks at its end: a TestContext, or the `after` of a suite. */
export interface Ending {
  after(callback: () => void): void;
}

/** A new directory that is removed when the test ends; also what the test made unreadable is removed. */
export function temporaryDirectory(test: Ending): string {
  const path = mkdtempSync(join(tmpdir(), 'term-executor-test-'));
  test.after(() => {
    if (existsSync(path)) unlock(path);
    rmSync(path, { recursive: true, force: true, maxRetries: 3 });
  });
  return path;
}

function unlock(directory: string): void {
  chmodSync(directory, 0o700);
  for (const name of readdirSync(directory)) {
    const path = join(directory, name);
    if (lstatSync(path).isDirectory()) unlock(path);
  }
}
