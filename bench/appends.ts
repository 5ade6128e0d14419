/**
 * Guarded appends through the event log against raw publishes of messages of the same size that carry the same
 * expectation: what schemas, envelope and hash chain cost. One at a time, as one aggregate's writer appends, and
 * atomic batches. Run: node bench/appends.ts [events]
 */
import { headers, type NatsConnection } from '@nats-io/transport-node';
import { v7 } from 'uuid';
import type { Event } from '../src/events.ts';
import { emptyHead, openJetStreamLog } from '../src/jetstream-log.ts';
import { withNats } from './nats.ts';
import { printReport } from './report.ts';

const BATCH = 100;
const count = Number(process.argv[2] ?? '2000');

await withNats(async (_, nc) => {
  const value = (seconds: number): number => count / seconds;
  printReport(
    `${count} appends, sync_interval always`,
    [
      { name: 'raw guarded publish', value: value(await raw(nc)), unit: 'events/s' },
      { name: 'log, one at a time', value: value(await logged(nc, 101, 1)), unit: 'events/s' },
      { name: `log, atomic ${BATCH}`, value: value(await logged(nc, 102, BATCH)), unit: 'events/s' },
    ],
    'raw guarded publish',
  );
});

function event(netuid: number): Event {
  return { type: 'WhitelistRefreshFailed', data: { netuid, endpoint: null, error: 'a text of some forty characters' } };
}

async function raw(nc: NatsConnection): Promise<number> {
  const payload = JSON.stringify({ ...event(100), id: v7(), prev: 'f'.repeat(64), time: new Date(), cause: v7() });
  const started = performance.now();
  for (let index = 0, last = 0; index < count; index += 1) {
    const expected = headers();
    expected.set('Nats-Expected-Last-Subject-Sequence', String(last));
    expected.set('Nats-Msg-Id', v7());
    last = (await nc.request('ev.whitelist.100', payload, { headers: expected, timeout: 5_000 })).json<{
      seq: number;
    }>().seq;
  }
  return (performance.now() - started) / 1000;
}

async function logged(nc: NatsConnection, netuid: number, size: number): Promise<number> {
  const log = await openJetStreamLog(nc, { newId: () => v7() });
  const subject = `ev.whitelist.${netuid}`;
  let heads: ReadonlyMap<string, { seq: number; hash: string }> = new Map([[subject, emptyHead(subject)]]);
  const started = performance.now();
  for (let index = 0; index < count; index += size) {
    const events = Array.from({ length: size }, () => event(netuid));
    ({ heads } = await log.append(events, heads, { actor: 'bench', cause: v7(), nowMs: Date.now() }));
  }
  return (performance.now() - started) / 1000;
}
