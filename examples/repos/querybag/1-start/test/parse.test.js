import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parse } from '../src/index.js';

test('names and values are read', () => {
  assert.deepEqual({ ...parse('?a=1&b=2') }, { a: '1', b: '2' });
});

test('a repeated name makes a list', () => {
  assert.deepEqual({ ...parse('a=1&a=2&a=3') }, { a: ['1', '2', '3'] });
});

test('percent encoding is decoded, broken encoding is kept', () => {
  assert.deepEqual({ ...parse('caf%C3%A9=1&x=%zz') }, { café: '1', x: '%zz' });
});
