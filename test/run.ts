/**
 * Runs the tests: every `*.test.ts` below test/, or the files named as arguments. Beyond the verdicts it fails the run
 * when something was left behind (a process, a temporary directory), and it ends with the skipped tests and their
 * reasons and one line of totals, because what was not tested must not look like what was.
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';
import { setTimeout as sleep } from 'node:timers/promises';

const FILE_TIMEOUT_MS = 300_000;
const CONCURRENT_FILES = 2;
const LEAK_GRACE_MS = 5_000;

const runDir = mkdtempSync(join(tmpdir(), 'term-executor-tests-'));
// Some tests give up being root, and must still get to their own directories.
chmodSync(runDir, 0o755);
// Every temporary directory of the tests lies in here, and every process they start has it in its environment.
process.env['TMPDIR'] = runDir;

const named = process.argv.slice(2);
const files = named.length > 0 ? { files: named } : { globPatterns: ['test/**/*.test.ts'] };
const counts = { passed: 0, failed: 0, skipped: [] as string[] };
const stream = run({ ...files, concurrency: CONCURRENT_FILES, timeout: FILE_TIMEOUT_MS });
stream.on('test:pass', (test) => {
  if (test.details.type === 'suite') return;
  if (test.skip !== undefined) counts.skipped.push(`${test.name}: ${String(test.skip)}`);
  else counts.passed += 1;
});
stream.on('test:fail', (test) => {
  if (test.details.type !== 'suite') counts.failed += 1;
});
const output = stream.compose(spec);
output.pipe(process.stdout);
await new Promise((resolve) => output.once('end', resolve));

const leaks = await findLeaks();
rmSync(runDir, { recursive: true, force: true });
for (const leak of leaks) say(`LEFT BEHIND: ${leak}`);
for (const skipped of counts.skipped) say(`SKIPPED ${skipped}`);
const failed = counts.failed + leaks.length;
say(`${counts.passed} passed, ${failed} failed, ${counts.skipped.length} skipped`);
process.exitCode = failed > 0 || counts.passed === 0 ? 1 : 0;

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** What still stands or lives after a moment of grace. */
async function findLeaks(): Promise<readonly string[]> {
  for (let waitedMs = 0; waitedMs < LEAK_GRACE_MS && leftBehind().length > 0; waitedMs += 200) await sleep(200);
  return leftBehind();
}

function leftBehind(): readonly string[] {
  // Node's own cache of compiled modules is no test's.
  const dirs = readdirSync(runDir).filter((name) => name !== 'node-compile-cache');
  return [...dirs.map((name) => `directory ${name}`), ...processesOfThisRun()];
}

function processesOfThisRun(): readonly string[] {
  if (process.platform !== 'linux') return [];
  return readdirSync('/proc')
    .filter((pid) => /^\d+$/.test(pid) && Number(pid) !== process.pid)
    .flatMap((pid) => {
      try {
        const mine = readFileSync(`/proc/${pid}/environ`, 'utf8').includes(runDir);
        if (!mine) return [];
        return [`process ${execFileSync('ps', ['-o', 'pid=,args=', '-p', pid], { encoding: 'utf8' }).trim()}`];
      } catch {
        // It ended while we looked.
        return [];
      }
    });
}
