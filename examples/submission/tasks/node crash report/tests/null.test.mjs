import assert from 'node:assert/strict';
import { test } from 'node:test';
import { format } from './src/index.js';

test('null and undefined are left out', () => {
  assert.equal(format({ a: null, b: 1, c: undefined, d: [null, 2] }), 'b=1&d=2');
});
