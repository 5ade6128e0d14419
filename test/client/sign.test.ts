import assert from 'node:assert/strict';
import { test } from 'node:test';
import { verify } from '@scure/sr25519';
import { decodeAddress, sr25519Verify } from '@polkadot/util-crypto';
import { isDevelopmentUri, newNonce, signVote, signerFromUri, isDevelopmentAddress } from '../../src/client/sign.ts';

const DEV_PHRASE = 'bottom drive obey lake curtain smoke basket hold race lonely fit walk';

test('development keys have the addresses that everybody knows', async () => {
  const addresses = {
    '//Alice': '5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY',
    '//Bob': '5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty',
    '//Charlie': '5FLSigC9HGRKVhB9FiEo4Y3koPsNmBmLJbpXg2mp1hXcS59Y',
    '//Dave': '5DAAnrj7VHTznn2AWBemMuyBwZWs6FNFjdyVXUeYum3PTXFy',
  };
  for (const [uri, address] of Object.entries(addresses)) {
    assert.equal((await signerFromUri(uri)).address, address);
    assert.equal((await signerFromUri(DEV_PHRASE + uri)).address, address);
  }
});

test('a phrase and a seed that belong together give the same key', async () => {
  // The development phrase's mini secret, as Substrate's `subkey inspect` shows it.
  const seed = '0xfac7959dbfe72f052e5a0c3c8d6530f202b02fd8f9f5ca3580ec8deb7797479e';
  const byPhrase = await signerFromUri(DEV_PHRASE);
  assert.equal((await signerFromUri(seed)).address, byPhrase.address);
  assert.equal(byPhrase.address, '5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzV');
});

test('a vote verifies over hotkey and nonce with two independent implementations', async () => {
  const signer = await signerFromUri('//Alice');
  const headers = signVote(signer, newNonce());
  const message = new TextEncoder().encode(headers['x-hotkey'] + headers['x-nonce']);
  const signature = Buffer.from(headers['x-signature'].slice(2), 'hex');
  assert.equal(headers['x-hotkey'], signer.address);
  assert.match(headers['x-signature'], /^0x[0-9a-f]{128}$/);
  const publicKey = decodeAddress(headers['x-hotkey']);
  assert.equal(sr25519Verify(message, signature, publicKey), true);
  assert.equal(verify(message, signature, publicKey), true);
  const other = new TextEncoder().encode(`${headers['x-hotkey']}${headers['x-nonce']}0`);
  assert.equal(verify(other, signature, publicKey), false);
});

test('nonces are 128 random bits in hex', () => {
  const nonces = Array.from({ length: 100 }, newNonce);
  assert.equal(new Set(nonces).size, 100);
  for (const nonce of nonces) assert.match(nonce, /^[0-9a-f]{32}$/);
});

test('development keys are recognised however they are written', () => {
  for (const uri of ['//Alice', '//Bob//stash', DEV_PHRASE, `${DEV_PHRASE}//Eve`])
    assert.equal(isDevelopmentUri(uri), true);
  for (const uri of ['/etc/key.json', 'key.json', './key']) assert.equal(isDevelopmentUri(uri), false);
});

test('a secret that is none is refused without being repeated', async () => {
  for (const uri of ['bottom drive obey', `${DEV_PHRASE} walk`, '0x1234', 'secret!!']) {
    await assert.rejects(signerFromUri(uri), (error: Error & { code?: string }) => {
      assert.equal(error.code, 'key_invalid');
      assert.equal(error.message.includes(uri), false);
      return true;
    });
  }
});

test('a development account is recognised by its address, when only its seed is written down', async () => {
  const alice = await signerFromUri('0xe5be9a5092b81bca64be81d212e7f2f9eba183bb7a90954f7b76361f6edb5c0a');
  assert.ok(await isDevelopmentAddress(alice.address));
  assert.ok(!(await isDevelopmentAddress((await signerFromUri(`0x${'17'.repeat(32)}`)).address)));
});
