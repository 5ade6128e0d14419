import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Outputs } from '../../src/http/outputs.ts';

const bytes = Buffer.from('äöü');
const stored = { digest: 'a'.repeat(64), bytes: bytes.length, omittedBytes: 0 };

describe('stored outputs as text', () => {
  it('are read once and then kept', async () => {
    let reads = 0;
    const outputs = new Outputs(async function* () {
      reads += 1;
      for (const byte of bytes) yield Uint8Array.of(byte);
    });
    assert.equal(await outputs.text(stored, 100, '/all'), 'äöü');
    assert.equal(await outputs.text(stored, 100, '/all'), 'äöü');
    assert.equal(reads, 1);
    assert.equal(await outputs.text(stored, 3, '/all'), 'ä… [4 bytes left out; GET /all for all]');
    assert.equal(await outputs.text(stored, 0, '/all'), '… [6 bytes left out; GET /all for all]');
    assert.equal(reads, 2);
  });

  it('are read to their end, so that a digest that does not match shows', async () => {
    const outputs = new Outputs(async function* () {
      yield bytes;
      throw new Error('digest mismatch');
    });
    assert.match(await outputs.text(stored, 100, '/all'), /^\[this output cannot be shown/);
  });

  it('are not kept when they could not be read', async () => {
    let broken = true;
    const outputs = new Outputs(async function* () {
      if (broken) throw new Error('no answer');
      yield bytes;
    });
    assert.match(await outputs.text(stored, 100, '/all'), /cannot be shown/);
    broken = false;
    assert.equal(await outputs.text(stored, 100, '/all'), 'äöü');
  });

  it('are read a few at a time', async () => {
    let now = 0;
    let most = 0;
    const outputs = new Outputs(async function* () {
      most = Math.max(most, (now += 1));
      await new Promise((resolve) => setImmediate(resolve));
      now -= 1;
      yield bytes;
    });
    const digests = Array.from({ length: 50 }, (_, n) => ({ ...stored, digest: String(n).padStart(64, '0') }));
    await Promise.all(digests.map((each) => outputs.text(each, 100, '/all')));
    assert.equal(most, 8);
  });
});
