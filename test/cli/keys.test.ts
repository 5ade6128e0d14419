import assert from 'node:assert/strict';
import { chmod, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { EXIT } from '../../src/cli/exit-codes.ts';
import { runClient, tempDir } from './run-client.ts';

const ALICE = '5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY';
const ALICE_PUBLIC = '0xd43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d';
const DEV_PHRASE = 'bottom drive obey lake curtain smoke basket hold race lonely fit walk';

test('keys new writes a file only its owner can read, shows no phrase and replaces nothing', async (t) => {
  const file = join(await tempDir(t), 'key.json');
  const made = await runClient(['keys', 'new', '--out', file, '--json']);
  assert.equal(made.code, EXIT.ok, made.stderr);
  const content = JSON.parse(await readFile(file, 'utf8')) as Record<string, string>;
  assert.deepEqual(made.json(), [{ address: content['address'], publicKey: content['publicKey'], file }]);
  assert.equal((await stat(file)).mode & 0o777, 0o600);
  assert.equal(content['secretPhrase']?.split(' ').length, 12);
  assert.equal((made.stdout + made.stderr).includes(content['secretPhrase'] ?? ''), false);

  const again = await runClient(['keys', 'new', '--out', file]);
  assert.equal(again.code, EXIT.usage);
  assert.match(again.stderr, /exists/);
  assert.deepEqual(JSON.parse(await readFile(file, 'utf8')), content);

  const inspected = await runClient(['keys', 'inspect', file, '--json']);
  assert.deepEqual(inspected.json(), [
    { address: content['address'], publicKey: content['publicKey'], prefix: 42, valid: true, source: 'file' },
  ]);
  assert.equal(inspected.stdout.includes(content['secretPhrase'] ?? ''), false);
});

test('keys new shows the phrase only when asked', async (t) => {
  const file = join(await tempDir(t), 'key.json');
  const made = await runClient(['keys', 'new', '--out', file, '--show']);
  const content = JSON.parse(await readFile(file, 'utf8')) as Record<string, string>;
  assert.match(made.stdout, new RegExp(`phrase +${content['secretPhrase']}`));
});

test('keys inspect tells the public key of an address, and what is wrong with one', async () => {
  const good = await runClient(['keys', 'inspect', ALICE, '--json']);
  assert.deepEqual(good.json(), [
    { address: ALICE, publicKey: ALICE_PUBLIC, prefix: 42, valid: true, source: 'address' },
  ]);
  const typo = await runClient(['keys', 'inspect', ALICE.replace('Grwv', 'Grww'), '--json']);
  assert.equal(typo.code, EXIT.failed);
  assert.equal((typo.json()[0] as { valid: boolean }).valid, false);
  // The same key with Polkadot's prefix 0.
  const foreign = await runClient(['keys', 'inspect', '15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5']);
  assert.equal(foreign.code, EXIT.failed);
  assert.match(foreign.stdout, /not valid.*[Pp]refix/);
});

test('development keys need --dev, also when a file holds them', async (t) => {
  const refused = await runClient(['keys', 'inspect', '//Alice']);
  assert.equal(refused.code, EXIT.usage);
  assert.match(refused.stderr, /--dev/);
  const allowed = await runClient(['keys', 'inspect', '//Alice', '--dev', '--json']);
  assert.deepEqual(allowed.json(), [
    { address: ALICE, publicKey: ALICE_PUBLIC, prefix: 42, valid: true, source: 'development' },
  ]);
  const file = join(await tempDir(t), 'key.json');
  await writeFile(file, JSON.stringify({ secretPhrase: `${DEV_PHRASE}//Alice` }), { mode: 0o600 });
  const inFile = await runClient(['keys', 'inspect', file]);
  assert.equal(inFile.code, EXIT.config);
  assert.match(inFile.stderr, /--dev/);
});

test('a secret on the command line is refused and not repeated', async () => {
  for (const secret of [DEV_PHRASE, `0x${'ab'.repeat(32)}`]) {
    const { code, stdout, stderr } = await runClient(['keys', 'inspect', secret, '--json']);
    assert.equal(code, EXIT.usage);
    assert.match(stderr, /key file/);
    assert.equal((stdout + stderr).includes(secret), false);
  }
});

test('a key file that others can read is used with a warning', async (t) => {
  const file = join(await tempDir(t), 'key.json');
  await runClient(['keys', 'new', '--out', file]);
  await chmod(file, 0o644);
  const { code, stderr } = await runClient(['keys', 'inspect', file]);
  assert.equal(code, EXIT.ok);
  assert.match(stderr, /warning: .*chmod 600/);
});

test('a broken key file is a configuration error that does not quote it', async (t) => {
  const file = join(await tempDir(t), 'key.json');
  const contents = ['top secret words', '{"secretPhrase": 5}', '{}', '{"secretPhrase":"top secret words"}'];
  for (const content of [...contents, JSON.stringify({ address: ALICE, secretSeed: `0x${'01'.repeat(32)}` })]) {
    await writeFile(file, content, { mode: 0o600 });
    const { code, stderr } = await runClient(['keys', 'inspect', file]);
    assert.equal(code, EXIT.config, content);
    assert.equal(stderr.includes('top secret'), false);
  }
});
