import assert from 'node:assert/strict';
import { test } from 'node:test';
import { announceExecutor, watchExecutors } from '../../src/nats/liveness.ts';
import { freshLogNats } from '../support/nats.ts';
import { waitFor } from '../support/server.ts';

test('executors that live are counted, one that leaves is not counted any more', async (t) => {
  const { nc } = await freshLogNats(t);
  const [first, second, watching] = [new AbortController(), new AbortController(), new AbortController()];
  const announced = [
    announceExecutor(nc, { executorId: 'host.1', session: 'a' }, first.signal),
    announceExecutor(nc, { executorId: 'host.1', session: 'b' }, second.signal),
  ];
  const view = watchExecutors(nc, watching.signal);
  const counted = (expected: number): Promise<true> =>
    waitFor(
      async () => (view.count() === expected ? true : null),
      () => `${view.count()} instead of ${expected}`,
    );
  await counted(2);
  first.abort();
  await counted(1);
  second.abort();
  await counted(0);
  watching.abort();
  await Promise.all([...announced, view.ended]);
  assert.equal(view.count(), 0);
});
