import assert from 'node:assert/strict';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { EXIT } from '../../src/cli/exit-codes.ts';
import { type Ended, runClient, type RunOptions, tempDir } from './run-client.ts';
import type { StandIn } from './stand-in-serve.ts';

const STAND_IN = new URL('stand-in-serve.ts', import.meta.url).href;

/** Runs the demo with a stand-in for the server, in a temporary directory that is seen empty afterwards. */
async function runDemo(
  t: TestContext,
  standIn: StandIn,
  args: string[] = [],
  options: RunOptions = {},
): Promise<Ended> {
  const dir = await tempDir(t);
  const cli = join(dir, 'cli.mjs');
  await writeFile(cli, `import { serve } from '${STAND_IN}';\nawait serve(${JSON.stringify(standIn)});\n`);
  const temp = await tempDir(t);
  const ended = await runClient(['demo', ...args], { ...options, env: { DEMO_CLI: cli, TMPDIR: temp } });
  assert.deepEqual(await readdir(temp), []);
  return ended;
}

test('the demo shows votes, quorum and the expected results, and leaves nothing behind', async (t) => {
  const { code, stdout, stderr } = await runDemo(t, {});
  assert.equal(code, EXIT.ok, stderr);
  assert.match(stdout, /validator 1, 5\w{47}: vote taken: 1 vote, 2 needed, 3 validators/);
  assert.match(stdout, /validator 2, 5\w{47}: quorum: 2 votes, 2 needed; batch 0198f0a2-\S+, 7 tasks/);
  assert.match(stdout, /validator 3, .*\(The batch exists already\)/);
  assert.match(stdout, /^node crash report +failed 0 agent +failed 0 agent +10 ms$/m);
  assert.match(stdout, /^results_hash [0-9a-f]{64} \(computed here: the same\)$/m);
  assert.match(stdout, /every result is the expected one/);
});

test('the demo exits 1 and names what is not as expected', async (t) => {
  const { code, json } = await runDemo(t, { first: { reward: 1, cause: 'disk-full' } }, ['--json']);
  assert.equal(code, EXIT.failed);
  const documents = json() as { differences?: string[]; vote?: unknown }[];
  assert.equal(documents.filter(({ vote }) => vote !== undefined).length, 3);
  assert.deepEqual(documents.at(-1)?.differences, [
    'c-ring-partial: reward is 1, expected is 0.5',
    'c-ring-partial: cause is disk-full, expected is tests',
  ]);
});

test('the demo says why a server does not start', async (t) => {
  const { code, stderr } = await runDemo(t, { dies: 'no nats-server here' });
  assert.equal(code, EXIT.unreachable);
  assert.match(stderr, /the server ended \(exit code 3\): no nats-server here/);
});

test('a second interrupt kills the server and all that descends from it, and removes the directory', async (t) => {
  const pids = join(await tempDir(t), 'pids');
  let interrupts = 0;
  const interrupt = (kill: (signal: NodeJS.Signals) => void): void => {
    interrupts += 1;
    kill('SIGINT');
  };
  const { code } = await runDemo(t, { hangs: pids }, [], {
    onStdout: (stdout, kill) => {
      if (interrupts === 0 && stdout.includes('started: 7 tasks')) interrupt(kill);
    },
    onStderr: (stderr, kill) => {
      if (interrupts === 1 && stderr.includes('a second signal')) interrupt(kill);
    },
  });
  assert.equal(code, EXIT.interrupted);
  for (const pid of (await readFile(pids, 'utf8')).split(' ').map(Number)) await seenDead(pid);
});

/** Resolves when the process is gone or a zombie; fails after a bounded number of looks. */
async function seenDead(pid: number): Promise<void> {
  for (let look = 0; look < 500; look++) {
    const state = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => null);
    if (state === null || state.slice(state.lastIndexOf(')') + 2).startsWith('Z')) return;
    await sleep(10);
  }
  assert.fail(`process ${pid} is still alive`);
}
