import assert from 'node:assert/strict';
import { test } from 'node:test';
import { format } from '../src/index.js';

test('names and values are written', () => {
  assert.equal(format({ a: 1, b: 'x y' }), 'a=1&b=x%20y');
});

test('lists become repeated names', () => {
  assert.equal(format({ a: ['1', '2'] }), 'a=1&a=2');
});
