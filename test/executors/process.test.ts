import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { createProcessSandbox } from '../../src/executors/sandbox/process.ts';
import type { SandboxCommand } from '../../src/executors/sandbox/sandbox.ts';
import { temporaryDirectory } from '../support/tmp.ts';

const PATH = process.env['PATH'] ?? '';
const GRACE_MS = 150;

function stage(t: TestContext) {
  const dir = temporaryDirectory(t);
  const outputFile = join(dir, 'output');
  const sandbox = createProcessSandbox({ graceMs: GRACE_MS, path: PATH });
  const run = async (argv: readonly [string, ...string[]], more: Partial<SandboxCommand> = {}) => {
    const command = { argv, cwd: dir, env: {}, timeoutMs: 30_000, outputFile, writable: [], network: 'none' as const };
    const result = await sandbox.run({ ...command, signal: new AbortController().signal, ...more });
    return { ...result, output: readFileSync(outputFile, 'utf8') };
  };
  return { dir, run, bash: (script: string, more: Partial<SandboxCommand> = {}) => run(['bash', '-c', script], more) };
}

/** Live processes (no zombies) whose arguments hold a text. */
function processesWith(text: string): number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => {
      try {
        if (pid === process.pid || !Number.isInteger(pid)) return false;
        const dead = / [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'latin1').replace(/^.*\)/s, ''));
        return !dead && readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes(text);
      } catch {
        return false;
      }
    });
}

/** Numbers of seconds that no other test sleeps for, to find a process again. */
let unique = 500_000 + process.pid;
const marker = () => String((unique += 1));

test('exit code, signal and output are what the command made of them', async (t) => {
  const { bash } = stage(t);
  const ended = await bash('echo one; echo two >&2; echo three >/dev/stdout; echo four >/dev/stderr; exit 3');
  assert.equal(ended.output, 'one\ntwo\nthree\nfour\n');
  assert.deepEqual([ended.exitCode, ended.signal, ended.cause, ended.error], [3, null, null, null]);
  const killed = await bash('kill -SEGV $$');
  assert.deepEqual([killed.exitCode, killed.signal], [null, 'SIGSEGV']);
  assert.equal((await bash('exit 127')).exitCode, 127);
  assert.equal((await bash('exit 126')).cause, null);
});

test('the environment is made from nothing, and HOME and TMPDIR are fresh directories', async (t) => {
  process.env['TERM_EXECUTOR_TEST_SECRET'] = 'secret';
  t.after(() => delete process.env['TERM_EXECUTOR_TEST_SECRET']);
  const { run } = stage(t);
  const script =
    'import os; print(sorted(os.environ)); print(os.listdir(os.environ["HOME"]), os.listdir(os.environ["TMPDIR"]))';
  const { output } = await run(['python3', '-c', script], { env: { MINE: '1', LANG: 'C' } });
  assert.doesNotMatch(output, /secret/i);
  assert.match(output, /'HOME', 'LANG'.*'MINE', 'PATH'.*'TERM_EXECUTOR_STEP', 'TMPDIR'/);
  assert.match(output, /\n\[\] \[\]\n/);
});

test('the command inherits no descriptor but its three', async (t) => {
  const { run } = stage(t);
  const { output } = await run([
    'python3',
    '-c',
    'import os; print(sorted(map(int, os.listdir("/proc/self/fd")))[:4])',
  ]);
  assert.equal(output, '[0, 1, 2, 3]\n');
  const { output: third } = await run(['python3', '-c', 'import os; os.fstat(3)']);
  assert.match(third, /Bad file descriptor/);
});

test('a program that is missing, may not be executed or gets too long an argument is said to be so', async (t) => {
  const { dir, run } = stage(t);
  const missing = await run(['no-such-program']);
  assert.deepEqual([missing.exitCode, missing.cause], [null, 'sandbox']);
  assert.match(missing.error ?? '', /no-such-program is missing; install it on this executor/);
  writeFileSync(join(dir, 'plain'), 'x');
  chmodSync(join(dir, 'plain'), 0o644);
  assert.match((await run(['./plain'])).error ?? '', /may not be executed/);
  const long = await run(['echo', 'x'.repeat(3_000_000)]);
  assert.deepEqual([long.exitCode, long.cause], [null, 'sandbox']);
  assert.match(long.error ?? '', /E2BIG/);
  assert.equal((await run(['echo', 'a\0b'])).cause, 'sandbox');
  assert.match((await run(['true'], { cwd: join(dir, 'nowhere') })).error ?? '', /working directory/);
});

test('at the time limit everything is ended, gently first', async (t) => {
  const { bash } = stage(t);
  const gentle = await bash('trap "echo bye; exit 0" TERM; echo ready; while :; do sleep 0.01; done', {
    timeoutMs: 1_000,
  });
  assert.equal(gentle.cause, 'max-duration');
  assert.match(gentle.output, /^ready\n.*bye\n$/s);
  const seconds = marker();
  // The loop: killed after its children, a shell that only waits for them could still exit by itself.
  const script = `trap "" TERM; sleep ${seconds} & setsid sleep ${seconds} & while :; do wait; done`;
  const stubborn = await bash(script, { timeoutMs: 1_000 });
  assert.deepEqual([stubborn.cause, stubborn.signal], ['max-duration', 'SIGKILL']);
  assert.deepEqual(processesWith(`sleep\0${seconds}`), []);
});

test('abort ends the command as a time limit does; one that is aborted already never starts', async (t) => {
  const { dir, bash } = stage(t);
  const abort = new AbortController();
  const seconds = marker();
  const running = bash(`touch started; sleep ${seconds}`, { signal: abort.signal });
  while (!existsSync(join(dir, 'started'))) await sleep(5);
  abort.abort();
  assert.equal((await running).cause, 'cancelled');
  assert.deepEqual(processesWith(`sleep\0${seconds}`), []);
  assert.equal((await bash('touch again', { signal: abort.signal })).cause, 'cancelled');
  assert.equal(existsSync(join(dir, 'again')), false);
});

for (const [name, script] of [
  ['in the background', 'sleep N &'],
  ['in a session of its own', 'setsid sleep N & sleep 0.1'],
  ['by a double fork', '(setsid bash -c "sleep N & sleep N &" &) ; sleep 0.1'],
  ['with an empty environment', 'env -i setsid bash -c "sleep N & exec sleep N" & sleep 0.1'],
  [
    'with closed descriptors, an empty environment and a double fork',
    '(env -i setsid bash -c "(sleep N &)" <&- >&- 2>&- &) ; sleep 0.1',
  ],
  ['ignoring SIGTERM', '(trap "" TERM HUP; sleep N & sleep N &)'],
  ['stopped', '(sleep N & kill -STOP $!)'],
] as const) {
  test(`what a command leaves behind ${name} is dead when run returns, also after a normal exit`, async (t) => {
    const { bash } = stage(t);
    const seconds = marker();
    const result = await bash(`${script.replaceAll('N', seconds)}\necho done; exit 4`);
    assert.deepEqual([result.exitCode, result.cause, result.output], [4, null, 'done\n']);
    assert.deepEqual(processesWith(`sleep\0${seconds}`), []);
  });
}

test('a process whose first thread ended while another runs is found', async (t) => {
  const { run } = stage(t);
  const script = `
import ctypes, os, threading, time
child = os.fork()
if child == 0:
    os.setsid()
    threading.Thread(target=lambda: time.sleep(600)).start()
    ctypes.CDLL(None).pthread_exit(None)
while open(f"/proc/{child}/stat").read().split(") ")[1][0] != "Z" or len(os.listdir(f"/proc/{child}/task")) < 2:
    time.sleep(0.005)
print(child, flush=True)
os._exit(0)`;
  const { output, cause } = await run(['python3', '-c', script]);
  assert.equal(cause, null);
  const threads = `/proc/${Number(output)}/task`;
  assert.ok(!existsSync(threads) || readdirSync(threads).length <= 1);
});

test('processes that keep making more are all ended', async (t) => {
  const { bash } = stage(t);
  const tag = marker();
  const result = await bash(`cat > again.sh <<'E'
setsid bash "$0" "$1" & exit
E
setsid bash again.sh ${tag} & sleep 0.2; echo done`);
  assert.deepEqual([result.cause, result.output], [null, 'done\n']);
  assert.deepEqual(processesWith(tag), []);
});

test('two commands at once do not end each other', async (t) => {
  const [one, two] = [stage(t), stage(t)];
  const [first, second] = await Promise.all([one.bash('setsid sleep 100 & exit 1'), two.bash('sleep 0.3; echo whole')]);
  assert.equal(first.exitCode, 1);
  assert.equal(second.output, 'whole\n');
});

test('200 MB of output are counted, and their beginning and end are kept', async (t) => {
  const { bash } = stage(t);
  const result = await bash('echo start; head -c 200000000 /dev/zero | tr "\\0" x; echo; echo end');
  assert.equal(result.exitCode, 0);
  assert.ok(result.outputBytes < 1_048_576 + 64);
  assert.match(result.output, /^start\nx/);
  assert.match(result.output, /x\nend\n$/);
  assert.ok(result.omittedBytes > 198_000_000);
});

test('when this process is killed with SIGKILL, the command and its daemons die too', async (t) => {
  const dir = temporaryDirectory(t);
  const seconds = marker();
  const program = `
import { createProcessSandbox } from ${JSON.stringify(new URL('../../src/executors/sandbox/process.ts', import.meta.url).href)};
await createProcessSandbox({ path: process.env.PATH }).run({
  argv: ['bash', '-c', 'trap "" TERM HUP; sleep ${seconds} & env -i setsid sleep ${seconds} & touch started; wait'],
  cwd: ${JSON.stringify(dir)}, env: {}, timeoutMs: 60000, outputFile: ${JSON.stringify(join(dir, 'out'))},
  signal: new AbortController().signal, writable: [], network: 'none',
});`;
  const parent = spawn(process.execPath, ['--input-type=module-typescript', '-e', program], {
    env: { PATH, TMPDIR: dir },
    stdio: 'inherit',
  });
  t.after(() => parent.kill('SIGKILL'));
  while (!existsSync(join(dir, 'started')) || processesWith(`sleep\0${seconds}`).length < 2) {
    assert.equal(parent.exitCode, null);
    await sleep(10);
  }
  parent.kill('SIGKILL');
  await once(parent, 'exit');
  while (processesWith(seconds).length > 0) await sleep(20);
});

test('the sandbox leaves no process, no descriptor and no directory behind', async (t) => {
  const { dir, bash } = stage(t);
  const descriptors = () => readdirSync('/proc/self/fd').length;
  await bash('true');
  const before = descriptors();
  for (let count = 0; count < 5; count += 1) await bash('echo x');
  assert.ok(descriptors() <= before, `${descriptors()} descriptors, ${before} before`);
  const children = spawnSync('ps', ['--ppid', String(process.pid), '-o', 'args='], { encoding: 'utf8' }).stdout;
  assert.doesNotMatch(children, /watcher|bash/);
  assert.deepEqual(readdirSync(dir), ['output']);
});
