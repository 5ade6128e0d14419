import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CodedError } from '../../src/errors.ts';
import { createNonces } from '../../src/nats/nonces.ts';
import { freshLogNats, until } from '../support/nats.ts';

const HOTKEY = '5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY';

test('of two hundred uses of one nonce at once, over two connections, exactly one is the first', async (t) => {
  const nats = await freshLogNats(t);
  const one = createNonces(nats.nc);
  const other = createNonces(await nats.connect());
  const answers = await Promise.all(
    Array.from({ length: 200 }, (_, i) => (i % 2 === 0 ? one : other).use(HOTKEY, 'n-1')),
  );
  assert.equal(answers.filter((answer) => answer === true).length, 1);
  assert.equal(answers.filter((answer) => answer === false).length, 199);
});

test('a nonce belongs to its hotkey, and is any text', async (t) => {
  const { nc } = await freshLogNats(t);
  const nonces = createNonces(nc);
  for (const nonce of ['a', 'A', 'a.b', '*', '>', 'é', ' ', 'x'.repeat(256)]) {
    for (const hotkey of [HOTKEY, 'other', 'a.*.>']) {
      assert.equal(await nonces.use(hotkey, nonce), true, `${hotkey} ${nonce}`);
      assert.equal(await nonces.use(hotkey, nonce), false, `${hotkey} ${nonce}`);
    }
  }
});

test('a used nonce stays used when the server is killed and started again', async (t) => {
  const nats = await freshLogNats(t);
  assert.equal(await createNonces(nats.nc).use(HOTKEY, 'n-1'), true);
  await nats.restart();
  assert.equal(await createNonces(await nats.connect()).use(HOTKEY, 'n-1'), false);
});

test('a nonce can be used again when its lifetime is over', async (t) => {
  const { nc } = await freshLogNats(t, 1);
  const nonces = createNonces(nc);
  assert.equal(await nonces.use(HOTKEY, 'n-1'), true);
  assert.equal(await nonces.use(HOTKEY, 'n-1'), false);
  await until(() => nonces.use(HOTKEY, 'n-1'));
});

test('without NATS the answer is an error, neither used nor unused', async (t) => {
  const nats = await freshLogNats(t);
  const nonces = createNonces(nats.nc);
  await nats.nc.close();
  await assert.rejects(nonces.use(HOTKEY, 'n-1'), (error) => {
    return error instanceof CodedError && error.code === 'nonces_unavailable' && !error.message.includes(HOTKEY);
  });
});
