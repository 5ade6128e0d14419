import assert from 'node:assert/strict';
import { test } from 'node:test';
import { GitError } from '../../src/executors/git-run.ts';
import { fetchCommit } from '../../src/executors/git.ts';
import { addressesOf, isPublicAddress } from '../../src/executors/public-address.ts';
import { temporaryDirectory } from '../support/tmp.ts';

const PUBLIC = ['1.1.1.1', '8.8.8.8', '172.32.0.1', '192.0.1.1', '198.20.0.1', '223.255.255.254'];
const PUBLIC_V6 = ['2606:4700::1111', '2001:200::1', '2001:4860:4860::8888', '2a01::1', '3ffe::1'];

const NOT_PUBLIC: readonly (readonly [name: string, ...addresses: string[]])[] = [
  ['this network', '0.0.0.0', '0.1.2.3', '::'],
  ['loopback', '127.0.0.1', '127.255.255.255', '::1'],
  ['private', '10.1.2.3', '172.16.0.1', '172.31.255.255', '192.168.0.1'],
  ['shared', '100.64.0.1', '100.127.255.255'],
  ['link-local', '169.254.169.254', 'fe80::1', 'febf::1', 'fe80::1%eth0'],
  ['protocol assignments', '192.0.0.8', '192.0.0.255', '2001:1ff::1'],
  ['documentation', '192.0.2.1', '198.51.100.1', '203.0.113.1', '2001:db8::1', '3fff::1'],
  ['benchmarks', '198.18.0.1', '198.19.255.255', '2001:2::1'],
  ['multicast', '224.0.0.1', '239.255.255.255', 'ff02::1'],
  ['reserved', '240.0.0.1', '255.255.255.255', '4000::1', '8000::1'],
  ['6to4', '192.88.99.1', '2002:7f00:1::', '2002:a9fe:a9fe::1'],
  ['NAT64', '64:ff9b::7f00:1', '64:ff9b::8.8.8.8', '64:ff9b:1::a00:1'],
  ['Teredo', '2001::1', '2001:0:4136:e378:8000:63bf:3fff:fdd2'],
  ['unique local', 'fc00::1', 'fd00::1', 'fdff::1'],
  ['site-local', 'fec0::1', 'feff::1'],
  ['mapped and translated', '::ffff:127.0.0.1', '::ffff:8.8.8.8', '::ffff:a00:1', '::ffff:0:7f00:1', '::127.0.0.1'],
  ['discard and segment routing', '100::1', '5f00::1'],
  ['no address', '', 'x', '1.2.3', '0x7f.1', '2130706433', 'localhost'],
];

test('public addresses count as public', () => {
  for (const address of [...PUBLIC, ...PUBLIC_V6]) assert.equal(isPublicAddress(address), true, address);
});

for (const [name, ...addresses] of NOT_PUBLIC) {
  test(`${name}: not public`, () => {
    for (const address of addresses) assert.equal(isPublicAddress(address), false, address);
  });
}

test('a host at a private address is refused without telling the address', async (t) => {
  const storeDir = `${temporaryDirectory(t)}/store.git`;
  const fetched = fetchCommit({
    repo: 'https://localhost/a/b',
    storeDir,
    protocols: ['https'],
    hosts: [],
    timeoutMs: 30_000,
    signal: new AbortController().signal,
  });
  await assert.rejects(fetched, (error) => {
    assert.ok(error instanceof GitError);
    assert.equal(error.code, 'git_refused');
    assert.match(error.message, /localhost/);
    assert.doesNotMatch(error.message, /127\.|::1/);
    return true;
  });
});

test('the search for an address ends at its time limit or with its cancellation, whatever the name server does', async () => {
  const silent = () => new Promise<string[]>(() => {});
  const abort = new AbortController();
  const isTimeout = (error: unknown) => error instanceof GitError && error.code === 'git_timeout';
  await assert.rejects(addressesOf('h', { timeoutMs: 5, signal: abort.signal }, silent), isTimeout);
  const pending = addressesOf('h', { timeoutMs: 30_000, signal: abort.signal }, silent);
  abort.abort(new Error('stop'));
  await assert.rejects(pending, /^Error: stop$/);
  const limits = { timeoutMs: 30_000, signal: new AbortController().signal };
  assert.deepEqual(await addressesOf('h', limits, async () => ['8.8.8.8']), ['8.8.8.8']);
  const isNetwork = (error: unknown) => error instanceof GitError && error.code === 'git_network';
  await assert.rejects(
    addressesOf('h', limits, async () => []),
    isNetwork,
  );
  await assert.rejects(
    addressesOf('h', limits, () => Promise.reject(new Error('ENOTFOUND'))),
    isNetwork,
  );
});
