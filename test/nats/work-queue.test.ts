import assert from 'node:assert/strict';
import { describe, test, type TestContext } from 'node:test';
import { openWorkQueue, type Delivery, type WorkQueue } from '../../src/nats/work-queue.ts';
import { emptyHead } from '../../src/jetstream-log.ts';
import { subjects } from '../../src/streams.ts';
import { startLog, type TestLog } from '../support/log.ts';

const options = { durable: 'test', filter: 'ev.whitelist.*', ackWaitMs: 2_000 };

async function append(log: TestLog['log'], netuid: number): Promise<void> {
  const subject = subjects.whitelist(netuid);
  const event = { type: 'WhitelistRefreshFailed', data: { netuid, endpoint: null, error: 'e' } } as const;
  const meta = { actor: 'test', cause: 'c', nowMs: 0 };
  await log.append([event], new Map([[subject, emptyHead(subject)]]), meta);
}

async function take(queue: WorkQueue): Promise<Delivery> {
  for (let tries = 0; tries < 20; tries += 1) {
    const delivery = await queue.next();
    if (delivery) return delivery;
  }
  throw new Error('nothing was delivered');
}

describe('a work queue', () => {
  test('gives each message to one of several processes, and again when it is handed back', async (t: TestContext) => {
    const { log, nats } = await startLog(t);
    const [first, second] = [
      await openWorkQueue(await nats.connect(), options),
      await openWorkQueue(await nats.connect(), options),
    ];
    await append(log, 1);
    await append(log, 2);
    const [a, b] = await Promise.all([take(first), take(second)]);
    assert.deepEqual(
      [a.entry.seq, b.entry.seq].toSorted((x, y) => x - y),
      [1, 2],
    );
    a.ack();
    b.retryLater(0);
    const again = await take(first);
    assert.deepEqual([again.entry.seq, again.deliveries], [b.entry.seq, 2]);
    again.ack();
    assert.equal(await second.next(), null);
  });

  test('delivers again what showed no sign of life, and not what did', async (t: TestContext) => {
    const { log, nats } = await startLog(t);
    const queue = await openWorkQueue(await nats.connect(), options);
    await append(log, 1);
    await append(log, 2);
    const silent = await take(queue);
    const busy = await take(queue);
    const heartbeat = setInterval(() => busy.working(), 300);
    try {
      const again = await take(queue);
      assert.equal(again.entry.seq, silent.entry.seq);
      again.ack();
      busy.ack();
    } finally {
      clearInterval(heartbeat);
    }
  });

  test('can be opened with another ack wait than it was made with', async (t: TestContext) => {
    const { nats } = await startLog(t);
    const nc = await nats.connect();
    await openWorkQueue(nc, options);
    await openWorkQueue(nc, { ...options, ackWaitMs: 5_000 });
    const info = await nc.request('$JS.API.CONSUMER.INFO.EVENTS.test');
    assert.equal(info.json<{ config: { ack_wait: number } }>().config.ack_wait, 5_000_000_000);
  });
});
