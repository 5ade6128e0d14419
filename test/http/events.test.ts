import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { describe, it } from 'node:test';
import { get } from './get.ts';
import type { LogEntry } from '../../src/log.ts';
import { ARCHIVE_HASH, BATCH_ID, CREATED_AT, batchRow, listen, rig } from './support.ts';

function entry(seq: number, subject: string, type: 'BatchCancelled' | null = null): LogEntry {
  if (type === null) return { type: null, seq, subject, reason: 'unknown type X' };
  const envelope = { id: `id-${seq}`, version: 1, time: CREATED_AT, actor: 'server', cause: 'c', prev: '0'.repeat(64) };
  return { type, data: { batchId: BATCH_ID, by: '5x', reason: 'r' }, ...envelope, seq, subject };
}

describe('events', () => {
  const lines = (text: string): { seq: number }[] =>
    text
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line));

  it('come as NDJSON after a sequence and within a subject', async (t) => {
    const { app, entries } = await rig(t);
    entries.push(
      entry(1, 'ev.submission.a'),
      entry(2, `ev.batch.${BATCH_ID}`, 'BatchCancelled'),
      entry(3, 'ev.whitelist.1'),
    );
    const all = await get(app, '/events');
    assert.match(String(all.headers['content-type']), /application\/x-ndjson/);
    assert.deepEqual(
      lines(all.text).map(({ seq }) => seq),
      [1, 2, 3],
    );
    assert.deepEqual(lines(all.text)[1], entries[1]);
    assert.deepEqual(
      lines((await get(app, '/events?after=2')).text).map(({ seq }) => seq),
      [3],
    );
    assert.deepEqual(
      lines((await get(app, `/events?subject=ev.batch.${BATCH_ID}`)).text).map(({ seq }) => seq),
      [2],
    );
    assert.equal((await get(app, '/events?after=3')).text, '');
  });

  it('come as Server-Sent Events that resume by their id', async (t) => {
    const { app, entries } = await rig(t);
    entries.push(entry(1, 'ev.submission.a'), entry(2, `ev.batch.${BATCH_ID}`, 'BatchCancelled'));
    const accept = { accept: 'text/event-stream' };
    const url = `http://127.0.0.1:${await listen(app)}/events`;
    const until = async (response: Response, wanted: RegExp): Promise<string> => {
      assert.match(response.headers.get('content-type') ?? '', /text\/event-stream/);
      let text = '';
      for await (const chunk of response.body ?? []) {
        text += Buffer.from(chunk).toString();
        if (wanted.test(text)) return text;
      }
      return text;
    };
    const text = await until(await fetch(url, { headers: accept }), /id: 2\n.*\n.*\n\n/);
    assert.match(text, /\n\nid: 1\nevent: unknown\ndata: \{.*\}\n\nid: 2\nevent: BatchCancelled\ndata: /);
    const resumed = await fetch(url, { headers: { ...accept, 'last-event-id': '1' } });
    entries.push(entry(3, 'ev.whitelist.1'));
    const rest = await until(resumed, /id: 3\n/);
    assert.ok(!rest.includes('id: 1\n') && rest.includes('id: 2\n'), 'from after the id, and what comes live');
  });

  it('of one batch are its own, its votes and its tasks, up to its end', async (t) => {
    const { app, readModel, entries } = await rig(t);
    readModel.rows.set(BATCH_ID, batchRow({ status: 'completed', firstSeq: 3, lastSeq: 7 }));
    const vote = { hotkey: '5a', nonce: 'n', signature: 's', signatureVersion: 1, seq: 1, votedAt: CREATED_AT };
    readModel.proof = {
      archiveHash: ARCHIVE_HASH,
      round: 1,
      votes: [vote],
      voters: [],
      required: 1,
      validators: [],
      seq: 2,
      threshold: { numerator: 1, denominator: 2 },
    };
    entries.push(
      entry(1, `ev.submission.${ARCHIVE_HASH}`),
      entry(2, `ev.submission.${'b'.repeat(64)}`),
      entry(3, `ev.batch.${BATCH_ID}`),
      entry(4, `ev.dispatch.default.${BATCH_ID}.one`),
      entry(5, `ev.task.${BATCH_ID}.one`),
      entry(6, `ev.task.other.${'one'}`),
      entry(7, `ev.batch.${BATCH_ID}`, 'BatchCancelled'),
      entry(8, `ev.task.${BATCH_ID}.one`),
    );
    const { text } = await get(app, `/batch/${BATCH_ID}/events`);
    assert.deepEqual(
      lines(text).map(({ seq }) => seq),
      [1, 3, 4, 5, 7],
    );
  });

  it('that follow begin at once, also when there is nothing yet', async (t) => {
    const { app } = await rig(t);
    const url = `http://127.0.0.1:${await listen(app)}/events?follow=true`;
    const stop = new AbortController();
    assert.equal((await fetch(url, { signal: stop.signal })).status, 200);
    stop.abort();
  });

  it('that follow show now and then that they are alive, as NDJSON and as Server-Sent Events', async (t) => {
    const { app } = await rig(t, { options: { limits: { heartbeatMs: 5 } } });
    const url = `http://127.0.0.1:${await listen(app)}/events?follow=true`;
    for (const [accept, beats] of [
      ['application/x-ndjson', /^\n\n/],
      ['text/event-stream', /: ping\n\n: ping\n\n/],
    ] as const) {
      const response = await fetch(url, { headers: { accept } });
      let text = '';
      for await (const chunk of response.body ?? []) {
        text += Buffer.from(chunk).toString();
        if (beats.test(text)) break;
      }
      assert.match(text, beats);
    }
  });

  it('are read by one address a limited number of times at once', async (t) => {
    const { app } = await rig(t, { options: { limits: { eventStreamsPerAddress: 1 } } });
    const url = `http://127.0.0.1:${await listen(app)}/events?follow=true`;
    const stop = new AbortController();
    assert.equal((await fetch(url, { signal: stop.signal })).status, 200);
    const refused = await fetch(url);
    assert.deepEqual([refused.status, refused.headers.get('retry-after')], [503, '10']);
    assert.match(await refused.text(), /"busy"/);
    stop.abort();
  });

  it('of one batch are asked for by its own subjects', async (t) => {
    const asked: (readonly string[])[] = [];
    const { app, readModel } = await rig(t, {
      ports: {
        readEvents: ({ filters }) => {
          asked.push(filters);
          return Readable.from([]);
        },
      },
    });
    readModel.rows.set('a.b', batchRow({ batchId: 'a.b' }));
    assert.equal((await get(app, '/batch/a.b/events')).status, 200);
    assert.deepEqual(asked, [
      [`ev.submission.${ARCHIVE_HASH}`, 'ev.batch.a%2Eb', 'ev.dispatch.*.a%2Eb.>', 'ev.task.a%2Eb.>'],
    ]);
  });

  it('end with the app, also while they follow', async (t) => {
    const { app, entries } = await rig(t);
    entries.push(entry(1, 'ev.submission.a'));
    const response = await fetch(`http://127.0.0.1:${await listen(app)}/events?follow=true`);
    const reader = response.body?.getReader();
    assert.match(Buffer.from((await reader?.read())?.value ?? []).toString(), /"seq":1/);
    const closed = app.close();
    assert.equal((await reader?.read())?.done, true);
    await closed;
  });

  it('are refused while the log cannot be reached', async (t) => {
    const { app } = await rig(t, { ports: { logReachable: () => false } });
    const { status, json } = await get(app, '/events');
    assert.deepEqual([status, json().error], [503, 'log_unavailable']);
  });
});
