import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { StoredOutput } from '../../src/events.ts';
import { jsonBytes, Outputs, textOf } from '../../src/http/outputs.ts';

const bytes = Buffer.from('äöü');
const stored = { digest: 'a'.repeat(64), bytes: bytes.length, omittedBytes: 0 };

async function text(outputs: Outputs, from: StoredOutput, maxBytes: number): Promise<string> {
  return textOf(await outputs.head(from, maxBytes), 1_000_000, '/all');
}

describe('stored outputs as text', () => {
  it('are read once and then kept', async () => {
    let reads = 0;
    const outputs = new Outputs(async function* () {
      reads += 1;
      for (const byte of bytes) yield Uint8Array.of(byte);
    });
    assert.equal(await text(outputs, stored, 100), 'äöü');
    assert.equal(await text(outputs, stored, 100), 'äöü');
    assert.equal(reads, 1);
    assert.equal(await text(outputs, stored, 3), 'ä… [4 bytes left out; GET /all for all]');
    assert.equal(await text(outputs, stored, 0), '… [6 bytes left out; GET /all for all]');
    assert.equal(reads, 2);
  });

  it('are read to their end, so that a digest that does not match shows', async () => {
    const outputs = new Outputs(async function* () {
      yield bytes;
      throw new Error('digest mismatch');
    });
    assert.match(await text(outputs, stored, 100), /^\[this output cannot be shown/);
  });

  it('are not kept when they could not be read', async () => {
    let broken = true;
    const outputs = new Outputs(async function* () {
      if (broken) throw new Error('no answer');
      yield bytes;
    });
    assert.match(await text(outputs, stored, 100), /cannot be shown/);
    broken = false;
    assert.equal(await text(outputs, stored, 100), 'äöü');
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
    await Promise.all(digests.map((each) => text(outputs, each, 100)));
    assert.equal(most, 8);
  });

  it('that are no UTF-8 state how many of their own bytes are left out', async () => {
    const invalid = Buffer.alloc(100, 0xff);
    const outputs = new Outputs(async function* () {
      yield invalid;
    });
    const shown = await text(outputs, { ...stored, bytes: 101 }, 100);
    assert.equal(shown, `${'\ufffd'.repeat(100)}… [1 bytes left out; GET /all for all]`);
  });

  it('are cut to what they take in JSON, and between characters', async () => {
    const contents = ['\0'.repeat(100), '"\\\n\x1b[0m'.repeat(20), '世'.repeat(50), 'plain', Buffer.alloc(60, 0xc3)];
    for (const content of contents) {
      const all = Buffer.from(content);
      const outputs = new Outputs(async function* () {
        yield all;
      });
      const head = await outputs.head({ ...stored, bytes: all.length }, all.length);
      for (const limit of [0, 1, 2, 7, 40, 100]) {
        const shown = textOf(head, limit, '/all').replace(/… \[\d+ bytes left out.*$/s, '');
        const size = Buffer.byteLength(JSON.stringify(shown)) - 2;
        assert.ok(size <= limit, `${size} > ${limit}`);
        assert.ok(all.toString().startsWith(shown));
      }
      const whole = textOf(head, jsonBytes(head), '/all');
      assert.equal(whole, all.toString());
      assert.ok(Buffer.byteLength(JSON.stringify(whole)) - 2 <= jsonBytes(head));
    }
  });
});
