import assert from 'node:assert/strict';
import { test } from 'node:test';
import { v7 } from 'uuid';
import type { Event } from '../../src/events.ts';
import { emptyHead } from '../../src/jetstream-log.ts';
import type { EventLog, Head } from '../../src/log.ts';
import { openProjections } from '../../src/projections/run.ts';
import type { FeedMessage, ReadModel } from '../../src/projections/read-model.ts';
import { subjectOf, subjects } from '../../src/streams.ts';
import { batchIdOf, make, sha256 } from '../support/events.ts';
import { startLog } from '../support/log.ts';
import { longStory } from './story.ts';

const BATCHES = 6;

async function appendAll(log: EventLog, events: readonly Event[], heads: Map<string, Head>): Promise<void> {
  for (const event of events) {
    const subject = subjectOf(event);
    const expected = new Map([[subject, heads.get(subject) ?? emptyHead(subject)]]);
    const appended = await log.append([event], expected, { actor: 'test', cause: v7(), nowMs: Date.now() });
    for (const [name, head] of appended.heads) heads.set(name, head);
  }
}

function answers(model: ReadModel): unknown {
  const ids = Array.from({ length: BATCHES }, (_, index) => batchIdOf(index + 1));
  return [
    model.totals(),
    model.batches({ limit: 100 }),
    ids.map((id) => [model.tasks(id), model.quorum(id), model.feed(id, 0)]),
  ];
}

test('the read models follow a real log over a restart of NATS and answer as one built afterwards', async (t) => {
  const { log, nats, another } = await startLog(t);
  const signal = AbortSignal.timeout(30_000);
  const errors: unknown[] = [];
  const open = () => openProjections({ file: ':memory:', log, signal, onError: (error) => errors.push(error) });
  const live = open();
  t.after(() => live.close());
  const seen: FeedMessage[] = [];
  live.model.subscribe(batchIdOf(1), (message) => seen.push(message));
  const events = longStory(BATCHES);
  const heads = new Map<string, Head>();
  const half = Math.floor(events.length / 2);

  await appendAll(log, events.slice(0, half), heads);
  await live.whenCaughtUp(signal);
  await nats.restart();
  await appendAll((await another()).log, events.slice(half), heads);
  await live.model.waitFor(events.length, signal);

  assert.equal(live.model.position(), events.length);
  assert.deepEqual(seen, live.model.feed(batchIdOf(1), 0));
  const afterwards = open();
  t.after(() => afterwards.close());
  await afterwards.whenCaughtUp(signal);
  assert.deepEqual(answers(afterwards.model), answers(live.model));
  assert.deepEqual(errors, []);
});

test("a batch's own subjects, as filters of a real log, find its events and no others", async (t) => {
  const { log } = await startLog(t);
  const events = [...longStory(2), make('TaskDispatched', { batchId: batchIdOf(1), taskId: 'task 0' })];
  await appendAll(log, events, new Map());
  const filters = subjects.ofBatch(batchIdOf(1), sha256('archive 1'));
  const last = Math.max(...(await Promise.all(filters.map((filter) => log.lastSeq(filter)))));
  assert.equal(last, events.length, 'the dispatch is the newest');
  const found: number[] = [];
  for await (const { entry, pending } of log.follow({ filters, after: 0, signal: t.signal })) {
    found.push(entry.seq);
    if (pending === 0 || entry.seq >= last) break;
  }
  const own = events.flatMap((event, index) =>
    ('batchId' in event.data && event.data.batchId === batchIdOf(1)) ||
    ('archiveHash' in event.data && event.data.archiveHash === sha256('archive 1'))
      ? [index + 1]
      : [],
  );
  assert.deepEqual(found, own);
});
