import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parse } from '../src/index.js';

test('a plus sign in a name or value is a space', () => {
  assert.deepEqual({ ...parse('q=red+shoes&the+size=9') }, { q: 'red shoes', 'the size': '9' });
});

test('an encoded plus sign stays a plus sign', () => {
  assert.deepEqual({ ...parse('sum=1%2B1') }, { sum: '1+1' });
});
