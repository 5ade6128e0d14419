import assert from 'node:assert/strict';
import { request } from 'node:http';
import { describe, it } from 'node:test';
import { ed25519PairFromSeed, ed25519Sign, encodeAddress, sr25519Sign } from '@polkadot/util-crypto';
import * as scure from '@scure/sr25519';
import { pino } from 'pino';
import { alice, archive, leavesNothing, refused, submit } from './submission.ts';
import { listen, rig, signedHeaders, validator } from './support.ts';

describe('POST /submit: authentication', () => {
  const cases: [string, Record<string, string>][] = [
    ['without X-Hotkey', { 'x-hotkey': '' }],
    ['without X-Nonce', { 'x-nonce': '' }],
    ['without X-Signature', { 'x-signature': '' }],
    ['with a hotkey over 128 characters', { 'x-hotkey': '5'.repeat(129) }],
    ['with a nonce over 256 characters', { 'x-nonce': 'n'.repeat(257) }],
    ['with a nonce that is not printable', { 'x-nonce': 'caf\u00e9' }],
    ['with a signature over 256 characters', { 'x-signature': 'a'.repeat(257) }],
  ];
  for (const [name, headers] of cases) {
    it(`is missing ${name}`, async (t) => {
      const parts = await rig(t);
      refused(await submit(parts.app, { headers }), 401, 'missing_auth');
      leavesNothing(parts);
    });
  }

  it('is missing when a header comes twice', async (t) => {
    const { app } = await rig(t);
    const port = await listen(app);
    const headers = { ...signedHeaders(alice, 'twice'), ...archive.headers };
    const status = await new Promise((resolve) => {
      const list = Object.entries(headers).concat([['x-nonce', 'other']]);
      request({ port, method: 'POST', path: '/submit', headers: ['host', 'x', ...list.flat()] }, (response) => {
        response.resume();
        resolve(response.statusCode);
      }).end(archive.payload);
    });
    assert.equal(status, 401);
  });

  it('comes before the whitelist, and the whitelist before the signature', async (t) => {
    const { app } = await rig(t, { ports: { validators: () => [] } });
    refused(await submit(app, { headers: { 'x-nonce': '' } }), 401, 'missing_auth');
    const sent = await submit(app, { headers: { 'x-signature': 'ff' } });
    refused(sent, 503, 'whitelist_not_ready');
    assert.ok(Number(sent.headers['retry-after']) > 0);
  });

  it('refuses a hotkey that is not whitelisted, whatever else is wrong with it', async (t) => {
    const { app } = await rig(t);
    refused(await submit(app, { headers: signedHeaders(validator(9), 'n') }), 401, 'unauthorized_hotkey');
    refused(await submit(app, { headers: { 'x-hotkey': 'nonsense' } }), 401, 'unauthorized_hotkey');
  });

  it('refuses a whitelisted hotkey that is no SS58 address', async (t) => {
    const valid = alice.hotkey;
    const wrongChecksum = valid.slice(0, -1) + (valid.endsWith('a') ? 'b' : 'a');
    const bad = [wrongChecksum, valid.slice(0, -2), `${valid}1`, '5', encodeAddress(alice.publicKey, 0), '5O0Il'];
    const { app } = await rig(t, { ports: { validators: () => bad } });
    for (const hotkey of bad) {
      refused(await submit(app, { headers: { 'x-hotkey': hotkey } }), 401, 'invalid_hotkey');
    }
  });

  it('refuses everything that is not an sr25519 signature over hotkey and nonce', async (t) => {
    const parts = await rig(t);
    const good = signedHeaders(alice, 'n')['x-signature'] ?? '';
    const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
    const message = `${alice.hotkey}n`;
    const bad = {
      mutated: good.slice(0, 10) + (good[10] === '0' ? '1' : '0') + good.slice(11),
      truncated: good.slice(0, -2),
      longer: `${good}00`,
      'not hex': good.replace(/.$/, 'g'),
      'another nonce': signedHeaders(alice, 'm')['x-signature'] ?? '',
      "another validator's": hex(sr25519Sign(message, validator(2))),
      wrapped: hex(sr25519Sign(`<Bytes>${message}</Bytes>`, alice)),
      ed25519: hex(ed25519Sign(message, ed25519PairFromSeed(new Uint8Array(32).fill(1)))),
      'all zeros': '0'.repeat(128),
      'all ones': 'f'.repeat(128),
    };
    for (const [name, signature] of Object.entries(bad)) {
      const sent = await submit(parts.app, {
        headers: { 'x-hotkey': alice.hotkey, 'x-nonce': 'n', 'x-signature': signature },
      });
      assert.equal(sent.body['error'], 'invalid_signature', name);
      assert.equal(sent.status, 401);
    }
    assert.equal(parts.usedNonces.size, 0, 'no nonce is spent without a valid signature');
    leavesNothing(parts);
  });

  it('accepts the signature of another implementation, upper case, with and without 0x', async (t) => {
    const { app } = await rig(t);
    for (const [nonce, prefix] of [
      ['one', '0x'],
      ['two', ''],
      ['unicode no, spaces yes', '0x'],
    ] as const) {
      const message = new TextEncoder().encode(alice.hotkey + nonce);
      const signature = Buffer.from(scure.sign(alice.secretKey, message)).toString('hex').toUpperCase();
      const sent = await submit(app, {
        headers: { 'x-hotkey': alice.hotkey, 'x-nonce': nonce, 'x-signature': prefix + signature },
      });
      assert.equal(sent.status, 202, JSON.stringify(sent.body));
    }
  });

  it('refuses a nonce that was used, per hotkey', async (t) => {
    const { app } = await rig(t);
    assert.equal((await submit(app, { headers: signedHeaders(alice, 'same') })).status, 202);
    refused(await submit(app, { headers: signedHeaders(alice, 'same') }), 401, 'nonce_reused');
    assert.equal((await submit(app, { headers: signedHeaders(validator(2), 'same') })).status, 202);
  });

  it('refuses when nonces cannot be checked', async (t) => {
    const parts = await rig(t, { ports: { useNonce: async () => Promise.reject(new Error('nats: no responders')) } });
    refused(await submit(parts.app), 503, 'log_unavailable');
    leavesNothing(parts);
  });

  it('does not take bound signatures for what they are not', async (t) => {
    const { app } = await rig(t);
    refused(await submit(app, { headers: { 'x-signature-version': '2' } }), 400, 'invalid_request');
    refused(await submit(app, { headers: { 'x-signature-version': '7' } }), 400, 'invalid_request');
    assert.equal((await submit(app, { headers: { 'x-signature-version': '1' } })).status, 202);
  });

  it('leaves nothing of a refused request in the log but code and id', async (t) => {
    const lines: string[] = [];
    const logger = pino({ level: 'trace' }, { write: (line: string) => lines.push(line) });
    const { app } = await rig(t, { options: { logger } });
    const headers = signedHeaders(alice, 'secret-nonce');
    const sent = await submit(app, { headers: { ...headers, 'x-signature': 'abcd' }, query: '?token=secret-query' });
    const text = lines.join('');
    assert.match(text, /"code":"invalid_signature"/);
    assert.ok(text.includes(String(sent.headers['x-request-id'])));
    for (const secret of [alice.hotkey, 'secret-nonce', 'abcd', 'secret-query'])
      assert.ok(!text.includes(secret), secret);
  });
});
