import assert from 'node:assert/strict';
import { existsSync, readFileSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { BoundedOutput, firstCharacterStart, wholeCharactersEnd } from '../../src/executors/output.ts';
import { temporaryDirectory } from '../support/tmp.ts';

const textOf = (output: BoundedOutput) => Buffer.concat(output.contents().parts).toString('utf8');

test('what fits is kept as it is, byte for byte', async (t) => {
  const file = join(temporaryDirectory(t), 'out');
  const output = new BoundedOutput(10);
  output.write(Buffer.from([0, 255, 128]));
  output.write(Buffer.from('1234567'));
  assert.deepEqual(await output.writeTo(file), { bytes: 10, omittedBytes: 0 });
  assert.deepEqual(readFileSync(file), Buffer.concat([Buffer.from([0, 255, 128]), Buffer.from('1234567')]));
});

test('of what does not fit the beginning and the end are kept, and a line says how much is missing', async (t) => {
  const file = join(temporaryDirectory(t), 'out');
  const output = new BoundedOutput(10);
  output.write(Buffer.from('abcdefghijklmnopqrstuvwxyz'));
  const kept = await output.writeTo(file);
  assert.equal(readFileSync(file, 'utf8'), 'abcde\n[16 bytes left out]\nvwxyz');
  assert.deepEqual(kept, { bytes: readFileSync(file).length, omittedBytes: 16 });
});

test('characters are never cut in two', () => {
  const output = new BoundedOutput(14);
  output.write(Buffer.from('aé€😀'.repeat(10)));
  const text = textOf(output);
  assert.doesNotMatch(text, /\uFFFD/);
  assert.equal(Buffer.byteLength(text.replace(/\n\[.*\]\n/, '')) + output.contents().omittedBytes, 100);
});

test('however the stream is cut into chunks, the result is the same', () => {
  fc.assert(
    fc.property(
      fc.string({ unit: 'grapheme', maxLength: 60 }),
      fc.array(fc.nat(7)),
      fc.integer({ min: 2, max: 40 }),
      (text, cuts, limit) => {
        const bytes = Buffer.from(text);
        const whole = new BoundedOutput(limit);
        whole.write(bytes);
        const pieces = new BoundedOutput(limit);
        let at = 0;
        for (const size of cuts) {
          pieces.write(bytes.subarray(at, at + size));
          at = Math.min(bytes.length, at + size);
        }
        pieces.write(bytes.subarray(at));
        assert.deepEqual(pieces.contents(), whole.contents());
        const { omittedBytes, parts } = whole.contents();
        if (bytes.length <= limit) assert.deepEqual(Buffer.concat(parts), bytes);
        else assert.ok(omittedBytes >= bytes.length - limit);
      },
    ),
  );
});

test('bytes that are no UTF-8 are left alone', () => {
  assert.equal(wholeCharactersEnd(Buffer.from([0x80, 0x80, 0x80, 0x80, 0x80])), 5);
  assert.equal(wholeCharactersEnd(Buffer.from([0x61, 0xf0, 0x9f, 0x98])), 1);
  assert.equal(wholeCharactersEnd(Buffer.from([])), 0);
  assert.equal(firstCharacterStart(Buffer.from([0x80, 0x80, 0x80, 0x80])), 3);
});

test('a gigabyte goes through without being held', () => {
  const output = new BoundedOutput();
  const chunk = Buffer.alloc(1_048_576, 'x');
  const before = process.memoryUsage.rss();
  for (let count = 0; count < 1024; count += 1) output.write(chunk);
  assert.equal(output.contents().omittedBytes, 1023 * 1_048_576);
  assert.ok(process.memoryUsage.rss() - before < 64 * 1_048_576);
});

test('a link where the file goes is replaced, not followed', async (t) => {
  const directory = temporaryDirectory(t);
  symlinkSync(join(directory, 'elsewhere'), join(directory, 'out'));
  const output = new BoundedOutput();
  output.write(Buffer.from('x'));
  await output.writeTo(join(directory, 'out'));
  assert.equal(existsSync(join(directory, 'elsewhere')), false);
});
