import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { givesReward, readReward, rewardOf, zeroTestsWarning } from '../../src/executors/reward.ts';
import type { TestSpec } from '../../src/executors/task-spec.ts';
import { temporaryDirectory } from '../support/tmp.ts';

test('a reward is a decimal number from 0 to 1 in reward.txt, or in reward.json', async (t) => {
  const dir = temporaryDirectory(t);
  assert.deepEqual(await readReward(dir), { value: null, warning: null });
  for (const [name, text, value] of [
    ['reward.json', '{"reward": 0.25, "more": 1}', 0.25],
    ['reward.txt', ' 0.75\n', 0.75],
    ['reward.txt', '1', 1],
    ['reward.txt', '.5', 0.5],
    ['reward.txt', '1e-2', 0.01],
  ] as const) {
    writeFileSync(join(dir, name), text);
    assert.deepEqual(await readReward(dir), { value, warning: null });
  }
});

test('everything else is ignored with a warning', async (t) => {
  const dir = temporaryDirectory(t);
  const txt = join(dir, 'reward.txt');
  for (const text of ['', 'NaN', 'Infinity', '-0.1', '1.01', '0x1', '1 1', '0,5', '0'.repeat(2000)]) {
    writeFileSync(txt, text);
    const { value, warning } = await readReward(dir);
    assert.equal(value, null, text);
    assert.match(warning ?? '', /^reward\.txt is ignored/);
  }
  for (const make of [
    () => symlinkSync('/proc/self/stat', txt),
    () => mkdirSync(txt),
    () => execFileSync('mkfifo', [txt]),
  ]) {
    rmSync(txt, { recursive: true, force: true });
    make();
    const { value, warning } = await readReward(dir);
    assert.deepEqual([value, warning !== null], [null, true]);
  }
  rmSync(txt);
  for (const text of ['[]', 'null', '{"reward":"1"}', '{"reward":1e999}', '{']) {
    writeFileSync(join(dir, 'reward.json'), text);
    assert.match((await readReward(dir)).warning ?? '', /^reward\.json is ignored/);
  }
});

test('exit codes decide unless a valid file says more', () => {
  assert.deepEqual(
    [rewardOf(true, null), rewardOf(false, null), rewardOf(false, 0.5), rewardOf(true, 0.5), rewardOf(false, 1)],
    [1, 0, 0.5, 0.5, 0],
  );
});

test('a test program that ran nothing is recognised by what it prints', () => {
  for (const nothing of [
    'Ran 0 tests in 0.000s\n\nOK\n',
    '===== no tests ran in 0.01s =====\n',
    'no tests ran in 0.01s\n',
    '# tests 0\n# pass 0\n',
    'ℹ tests 0\nℹ suites 0\n',
    '\n  0 passing (1ms)\n',
    '?   \texample.com/x\t[no test files]\n',
    'testing: warning: no tests to run\nPASS\nok  \tx\t0.1s [no tests to run]\n',
    'No tests found, exiting with code 0\n',
    `Ran 0 tests in 0.000s\r\n${'x\n'.repeat(200_000)}`,
    `${'x\n'.repeat(200_000)}No tests found`,
  ]) {
    assert.match(zeroTestsWarning(nothing) ?? '', /without running any test/, nothing);
  }
  for (const something of [
    '',
    'OK\n',
    'Ran 10 tests in 0.1s\n\nOK\n',
    '# tests 10\n',
    '  10 passing (1ms)\n',
    'ok  \tx\t0.1s\n?   \ty\t[no test files]\n',
    'Ran 0 tests in 0.0s\nRan 2 tests in 0.0s\n',
    '3 passed in 0.1s\n',
    'No tests found\nTests:       1 failed, 10 passed, 11 total\n',
  ]) {
    assert.equal(zeroTestsWarning(something), null, something);
  }
});

test('no output takes a search for such a sign long', () => {
  for (const one of ['\n', ' ', '1', '\r', '\t\n', 'Tests: 1 ', '=', 'ok [no tests to run] ']) {
    const flood = one.repeat(1_048_576 / one.length);
    assert.equal(zeroTestsWarning(`${flood}\n`), null);
    assert.match(zeroTestsWarning(`No tests found\nTests: ${flood}`) ?? '', /^jest/);
    assert.match(zeroTestsWarning(`ℹ tests 0\nok ${flood}`) ?? '', /^node:test/);
  }
});

test('a test may give a reward if its own text mentions REWARD_DIR', async (t) => {
  const dir = temporaryDirectory(t);
  writeFileSync(join(dir, 'a.sh'), 'echo 1 > "$REWARD_DIR/reward.txt"\n');
  writeFileSync(join(dir, 'b.sh'), '');
  const gives = (spec: TestSpec) => givesReward(spec, dir);
  assert.equal(await gives({ kind: 'script', name: 'a', path: 'a.sh' }), true);
  assert.equal(await gives({ kind: 'script', name: 'b', path: 'b.sh' }), false);
  assert.equal(await gives({ kind: 'command', name: 'c', command: 'cp score ${REWARD_DIR}/reward.txt' }), true);
  assert.equal(await gives({ kind: 'command', name: 'd', command: 'make test' }), false);
});
