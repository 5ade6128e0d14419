import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { sweepOrphans } from '../../src/nats/blob-sweep.ts';
import { openBlobs } from '../../src/jetstream-blobs.ts';
import { freshLogNats, until } from '../support/nats.ts';

test('chunks of a killed upload are removed when they are old enough, and whole blobs are kept', async (t) => {
  const { nc } = await freshLogNats(t);
  const blobs = await openBlobs(nc, 'bundles');
  const digests: string[] = [];
  // More than one batch of meta data.
  for (let i = 0; i < 300; i += 1) digests.push((await blobs.put(Readable.from([randomBytes(100)]))).digest);
  const js = jetstream(nc);
  for (const chunk of ['a', 'b']) await js.publish('$O.bundles.C.orphan', chunk);
  assert.equal(await sweepOrphans(nc, 'bundles'), 0);
  await until(async () => (await sweepOrphans(nc, 'bundles', 1)) === 1);
  assert.equal(await sweepOrphans(nc, 'bundles', 0), 0);
  const { state } = await (await jetstreamManager(nc)).streams.info('OBJ_bundles');
  assert.equal(state.messages, 600);
  for (const digest of digests.slice(-3)) assert.ok(await blobs.has(digest));
});
