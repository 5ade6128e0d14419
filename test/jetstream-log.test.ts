import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, test, type TestContext } from 'node:test';
import { v7 } from 'uuid';
import { delay } from '../src/delay.ts';
import { emptyHead } from '../src/jetstream-log.ts';
import { InvalidEventError, LogConflictError, type EventLog, type Head, type LogEntry } from '../src/log.ts';
import type { Event } from '../src/events.ts';
import { subjects } from '../src/streams.ts';
import { startLog } from './support/log.ts';

const NETUID = 7;
const SUBJECT = subjects.whitelist(NETUID);

function failed(error: string, netuid = NETUID): Event {
  return { type: 'WhitelistRefreshFailed', data: { netuid, endpoint: null, error } };
}

function meta(): { actor: string; cause: string; nowMs: number } {
  return { actor: 'test', cause: v7(), nowMs: Date.now() };
}

async function appendAt(log: EventLog, head: Head, ...events: Event[]): Promise<Head> {
  const appended = await log.append(events, new Map([[SUBJECT, head]]), meta());
  return appended.heads.get(SUBJECT) ?? head;
}

function errors(entries: readonly LogEntry[]): string[] {
  return entries.map((entry) => (entry.type === 'WhitelistRefreshFailed' ? entry.data.error : String(entry.type)));
}

async function collect(
  log: EventLog,
  count: number,
  options: { after?: number; filters?: string[]; lastPerSubject?: boolean } = {},
): Promise<LogEntry[]> {
  const stop = new AbortController();
  const entries: LogEntry[] = [];
  const { after = 0, filters = [subjects.all], lastPerSubject = false } = options;
  const signal = AbortSignal.any([stop.signal, AbortSignal.timeout(20_000)]);
  for await (const { entry } of log.follow({ filters, after, lastPerSubject, signal })) {
    entries.push(entry);
    if (entries.length === count) stop.abort();
  }
  return entries;
}

describe('the event log on JetStream', () => {
  test('each event carries the hash of the one before, and the first the hash of its subject', async (t) => {
    const { log, nc } = await startLog(t);
    let head = emptyHead(SUBJECT);
    head = await appendAt(log, head, failed('a'));
    head = await appendAt(log, head, failed('b'), failed('c'));

    const { entries, head: loaded } = await log.load(SUBJECT);
    assert.deepEqual(errors(entries), ['a', 'b', 'c']);
    assert.deepEqual(loaded, head);
    let prev = createHash('sha256').update(SUBJECT).digest('hex');
    for (const entry of entries) {
      assert.ok(entry.type !== null);
      assert.equal(entry.prev, prev);
      const stored = await nc.request(`$JS.API.DIRECT.GET.EVENTS`, JSON.stringify({ seq: entry.seq }));
      prev = createHash('sha256').update(stored.data).digest('hex');
    }
    assert.equal(prev, head.hash);
  });

  test('of two appends that expect the same head one wins and the other conflicts', async (t) => {
    const { log } = await startLog(t);
    const head = emptyHead(SUBJECT);
    const results = await Promise.allSettled(
      Array.from({ length: 20 }, (_, index) => appendAt(log, head, failed(String(index)))),
    );
    assert.equal(results.filter(({ status }) => status === 'fulfilled').length, 1);
    for (const result of results) {
      if (result.status === 'rejected') assert.ok(result.reason instanceof LogConflictError, String(result.reason));
    }
    assert.equal((await log.load(SUBJECT)).entries.length, 1);
  });

  test('an append to several subjects is all or nothing, whichever of the expectations is wrong', async (t) => {
    const { log } = await startLog(t);
    const other = subjects.whitelist(8);
    const both = [failed('a'), failed('b', 8)];
    const empty = new Map([SUBJECT, other].map((subject) => [subject, emptyHead(subject)]));
    const appended = await log.append(both, empty, meta());
    assert.deepEqual(
      appended.recorded.map(({ seq }) => seq),
      [1, 2],
    );
    for (const stale of [SUBJECT, other]) {
      const heads = new Map([...appended.heads, [stale, emptyHead(stale)]]);
      await assert.rejects(log.append(both, heads, meta()), LogConflictError);
    }
    assert.equal(await log.lastSeq(), 2);
  });

  test('the newest sequence is known of the whole log and of any subject filter', async (t) => {
    const { log } = await startLog(t);
    await appendAt(log, emptyHead(SUBJECT), failed('a'), failed('b'));
    const other = subjects.whitelist(NETUID + 1);
    await log.append([failed('c', NETUID + 1)], new Map([[other, emptyHead(other)]]), meta());
    const filters = [
      undefined,
      subjects.all,
      SUBJECT,
      other,
      'ev.whitelist.*',
      'ev.submission.*',
      'ev.*.8',
      'ev.batch.x',
    ];
    const found = await Promise.all(filters.map((filter) => log.lastSeq(filter)));
    assert.deepEqual(found, [3, 3, 2, 3, 3, 0, 3, 0]);
  });

  test('five hundred events go into one atomic append and come back in order', async (t) => {
    const { log } = await startLog(t);
    const events = Array.from({ length: 500 }, (_, index) => failed(String(index)));
    const head = await appendAt(log, emptyHead(SUBJECT), ...events);
    assert.equal(head.seq, 500);
    const { entries } = await log.load(SUBJECT);
    assert.deepEqual(
      errors(entries),
      events.map((_, index) => String(index)),
    );
    assert.deepEqual(errors((await log.load(SUBJECT, { seq: 498, hash: '' })).entries), ['498', '499']);
  });

  test('an event that does not match its schema, or is too large, is never written', async (t) => {
    const { log } = await startLog(t);
    const heads = new Map([[SUBJECT, emptyHead(SUBJECT)]]);
    const wrong = failed('x', -1);
    await assert.rejects(log.append([wrong], heads, meta()), (error: unknown) => {
      assert.ok(error instanceof InvalidEventError);
      assert.match(error.message, /WhitelistRefreshFailed: data\/netuid/);
      return true;
    });
    const validators = Array.from({ length: 20_000 }, (_, i) => ({
      hotkey: `5${String(i).padStart(47, 'x')}`,
      trusted: true,
      stake: null,
    }));
    const large: Event = {
      type: 'WhitelistChanged',
      data: { netuid: NETUID, source: 'static', endpoint: null, block: null, validators },
    };
    await assert.rejects(log.append([failed('y'), large], heads, meta()), /bytes are more than/);
    assert.equal(await log.lastSeq(), 0);
  });

  test('the server refuses to change or remove what was written', async (t) => {
    const { log, nc } = await startLog(t);
    await appendAt(log, emptyHead(SUBJECT), failed('a'));
    for (const [api, body] of [
      ['STREAM.PURGE.EVENTS', {}],
      ['STREAM.MSG.DELETE.EVENTS', { seq: 1 }],
    ] as const) {
      const answer = await nc.request(`$JS.API.${api}`, JSON.stringify(body));
      assert.match(answer.string(), /not permitted|denied|deny/i);
    }
    assert.equal((await log.load(SUBJECT)).entries.length, 1);
  });

  test('an unknown type and a newer version are read past, also by load', async (t) => {
    const { log, nc } = await startLog(t);
    const head = await appendAt(log, emptyHead(SUBJECT), failed('a'));
    const envelope = { id: 'x', time: new Date().toISOString(), actor: 'x', cause: 'x', prev: head.hash };
    await nc.request(SUBJECT, JSON.stringify({ ...envelope, type: 'NotYetInvented', version: 1, data: {} }));
    const newer = { ...envelope, type: 'WhitelistRefreshFailed', version: 2, data: { n: 1 } };
    await nc.request(SUBJECT, JSON.stringify(newer));
    await nc.request(SUBJECT, 'no JSON');
    const loaded = await log.load(SUBJECT);
    assert.deepEqual(errors(loaded.entries), ['a', 'null', 'null', 'null']);
    const next = await appendAt(log, loaded.head, failed('b'));
    assert.equal(next.seq, 5);
    assert.deepEqual(errors(await collect(log, 5)), ['a', 'null', 'null', 'null', 'b']);
  });

  test('following resumes after a sequence and sees what is appended later', async (t) => {
    const { log } = await startLog(t);
    let head = await appendAt(log, emptyHead(SUBJECT), failed('0'), failed('1'));
    const following = collect(log, 4, { after: 1 });
    for (const text of ['2', '3', '4']) head = await appendAt(log, head, failed(text));
    assert.deepEqual(errors(await following), ['1', '2', '3', '4']);
  });

  test('following can begin with the newest event of each subject', async (t) => {
    const { log } = await startLog(t);
    await appendAt(log, emptyHead(SUBJECT), failed('0'), failed('1'));
    const other = subjects.whitelist(8);
    await log.append([failed('other', 8)], new Map([[other, emptyHead(other)]]), meta());
    const entries = await collect(log, 2, { lastPerSubject: true, filters: ['ev.whitelist.*'] });
    assert.deepEqual(errors(entries), ['1', 'other']);
  });

  test('a follower survives kill -9 of the server without gap or repeat', async (t: TestContext) => {
    const { log, nats } = await startLog(t);
    let head = await appendAt(log, emptyHead(SUBJECT), failed('0'));
    const following = collect(log, 6);
    for (let index = 1; index < 6; index += 1) {
      if (index === 1 || index === 4) await nats.restart();
      head = await appendThroughRestart(log, head, String(index));
    }
    assert.deepEqual(errors(await following), ['0', '1', '2', '3', '4', '5']);
  });
});

/** An append whose answer the restart swallowed may have been stored: whoever retries has to look. */
async function appendThroughRestart(log: EventLog, head: Head, text: string): Promise<Head> {
  for (let attempt = 0; attempt < 200; attempt += 1) {
    try {
      const loaded = await log.load(SUBJECT, head);
      if (errors(loaded.entries).at(-1) === text) return loaded.head;
      return await appendAt(log, head, failed(text));
    } catch (error) {
      if (error instanceof LogConflictError) throw error;
      await delay(50);
    }
  }
  throw new Error('the server did not come back');
}
