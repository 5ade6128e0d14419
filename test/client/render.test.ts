import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { findDifferences } from '../../src/client/compare.ts';
import { describeMessage, formatDuration, isGood, renderResult, renderTable } from '../../src/client/render.ts';
import { safeJson, sanitize } from '../../src/client/sanitize.ts';

const plain = (_style: string, text: string): string => text;
const batch = {
  batch_id: 'b',
  status: 'completed',
  total_tasks: 2,
  completed_tasks: 2,
  passed_tasks: 1,
  failed_tasks: 1,
  aggregate_reward: 0.5,
};

test('nothing that acts on a terminal survives sanitizing', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      const shown = sanitize(text);
      assert.equal(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/u.test(shown), false);
    }),
  );
  assert.equal(sanitize('a\u001b[2Jb\nc\u009b\u202e\u{e0041}'), 'a\\x1b[2Jb\\nc\\x9b\\u202e\\u{e0041}');
  assert.equal(sanitize('Größe 😀 中'), 'Größe 😀 中');
});

test('what is too long is cut between characters and says so', () => {
  assert.equal(sanitize('😀😀😀😀', 3), '😀😀…');
  assert.equal(sanitize('😀😀😀', 3), '😀😀😀');
});

test('safe JSON parses to the same value and holds no control or format character', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      const json = safeJson({ text });
      assert.deepEqual(JSON.parse(json), { text });
      assert.equal(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u.test(json), false);
    }),
  );
});

test('a hostile task id reaches neither progress lines nor the table unescaped', () => {
  const id = 'x\u001b]0;title\u0007';
  const line = describeMessage({ event: 'task_started', batch_id: 'b', task_id: id, data: {} }, plain);
  const table = renderResult(
    { ...batch, error: '\u001b[31m' },
    [{ task_id: id, status: 'failed', passed: false, reward: 0, error: 'e\u001b[2J\r' }],
    plain,
  ).join('');
  for (const text of [line ?? '', table]) assert.equal(/\p{Cc}/u.test(text), false);
});

test('columns are as wide as their widest cell', () => {
  assert.deepEqual(
    renderTable(
      [
        ['a', 'b'],
        ['long', 'x'],
        ['😀', 'y'],
      ],
      plain,
    ),
    ['a     b', 'long  x', '😀     y'],
  );
});

test('durations are shown in the unit that fits', () => {
  assert.deepEqual([0, 999, 1000, 59_900, 60_000, 245_000].map(formatDuration), [
    '0 ms',
    '999 ms',
    '1.0 s',
    '59.9 s',
    '1 min 00 s',
    '4 min 05 s',
  ]);
});

test('a batch is good only if it completed and every task passed', () => {
  assert.equal(isGood({ ...batch, passed_tasks: 2 }), true);
  assert.equal(isGood(batch), false);
  assert.equal(isGood({ ...batch, passed_tasks: 2, status: 'cancelled' }), false);
  assert.equal(isGood({ ...batch, passed_tasks: 0, total_tasks: 0 }), false);
});

test('differences name the task, also one that is missing or one too many', () => {
  const expected = [
    { taskId: 'a', passed: true, reward: 1, cause: null },
    { taskId: 'b', passed: false, reward: 0.3, cause: 'tests' },
    { taskId: 'c', passed: true, reward: 1, cause: null },
  ];
  const task = (task_id: string, passed: boolean, reward: number, cause: string | null) => ({
    task_id,
    status: 'completed',
    passed,
    reward,
    cause,
  });
  assert.deepEqual(
    findDifferences(expected.slice(0, 2), [task('a', true, 1, null), task('b', false, 0.1 + 0.2, 'tests')]),
    [],
  );
  assert.deepEqual(
    findDifferences(expected, [task('a', false, 1, null), task('b', false, 0.3, 'agent'), task('d', true, 1, null)]),
    [
      'a: passed is false, expected is true',
      'b: cause is agent, expected is tests',
      'c: there is no result',
      'd: was not expected at all',
    ],
  );
});
