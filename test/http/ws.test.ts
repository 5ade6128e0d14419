import assert from 'node:assert/strict';
import { once } from 'node:events';
import { get, type IncomingMessage } from 'node:http';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { WebSocket } from 'ws';
import type { FeedMessage } from '../../src/projections/read-model.ts';
import { BATCH_ID, type Rig, batchRow, listen, rig, taskRow } from './support.ts';

interface Message {
  readonly event?: string;
  readonly error?: string;
  readonly seq?: number;
  readonly data?: Record<string, unknown>;
}

interface Client {
  readonly socket: WebSocket;
  readonly messages: Message[];
  readonly closed: Promise<number>;
}

function connect(t: TestContext, port: number, query: string): Client {
  const socket = new WebSocket(`ws://127.0.0.1:${port}/ws?${query}`);
  const messages: Message[] = [];
  socket.on('message', (text: Buffer) => messages.push(JSON.parse(text.toString())));
  const closed = once(socket, 'close').then(([code]) => Number(code));
  t.after(() => socket.terminate());
  return { socket, messages, closed };
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await delay(5);
}

function message(seq: number, event = 'step_started', data: Record<string, unknown> = {}): FeedMessage {
  return { seq, event, batch_id: BATCH_ID, task_id: 'one', data };
}

function end(readModel: Rig['readModel'], seq: number): void {
  readModel.rows.set(BATCH_ID, batchRow({ status: 'completed' }));
  readModel.publish({ seq, event: 'batch_complete', batch_id: BATCH_ID, data: { status: 'completed' } });
}

async function started(t: TestContext, limits: Record<string, number> = {}): Promise<Rig & { port: number }> {
  const parts = await rig(t, { options: { limits } });
  parts.readModel.rows.set(BATCH_ID, batchRow());
  parts.readModel.taskRows.set(BATCH_ID, [taskRow('one', { status: 'running_agent' })]);
  return { ...parts, port: await listen(parts.app) };
}

describe('the WebSocket', { timeout: 60_000 }, () => {
  it('says that a batch is unknown, and closes', async (t) => {
    const { port } = await started(t);
    const { messages, closed } = connect(t, port, 'batch_id=unknown');
    assert.equal(await closed, 1008);
    assert.deepEqual(messages, [{ error: 'batch_not_found', batch_id: 'unknown' }]);
  });

  it('is the only upgrade: other offers are not taken, and the request is answered', async (t) => {
    const { port } = await started(t);
    for (const offer of ['h2c', 'h2c, websocket', 'TLS/1.0']) {
      const headers = { connection: 'Upgrade', upgrade: offer };
      const [response] = (await once(get({ port, path: '/health', headers }), 'response')) as [IncomingMessage];
      response.resume();
      assert.equal(response.statusCode, 200, offer);
    }
  });

  it('sends a snapshot, then every message once, then closes with the batch', async (t) => {
    const { port, readModel } = await started(t);
    const { messages, closed } = connect(t, port, `batch_id=${BATCH_ID}`);
    await until(() => messages.length === 1);
    assert.deepEqual(messages[0], {
      event: 'snapshot',
      batch_id: BATCH_ID,
      seq: 100,
      data: {
        status: 'running',
        total_tasks: 2,
        completed_tasks: 0,
        passed_tasks: 0,
        failed_tasks: 0,
        aggregate_reward: 0,
        error: null,
        duration_ms: null,
        tasks: [{ task_id: 'one', status: 'running_agent', passed: null, reward: 0 }],
      },
    });
    readModel.publish(message(101));
    readModel.publish({ ...message(102), batch_id: 'other' });
    readModel.publish(message(103));
    end(readModel, 104);
    assert.equal(await closed, 1000);
    assert.deepEqual(
      messages.slice(1).map(({ event, seq }) => [event, seq]),
      [
        ['step_started', 101],
        ['step_started', 103],
        ['batch_complete', 104],
        ['stream_closed', 104],
      ],
    );
    assert.deepEqual(messages.at(-1), { event: 'stream_closed', batch_id: BATCH_ID, seq: 104, data: {} });
    assert.equal(readModel.listeners.size, 0);
  });

  it('has no gap and no repeat however the connection falls between the messages', async (t) => {
    const { port, readModel } = await started(t);
    const clients: Client[] = [];
    for (let seq = 101; seq <= 400; seq += 1) {
      if (seq % 10 === 0) clients.push(connect(t, port, `batch_id=${BATCH_ID}${seq % 20 === 0 ? '&after=101' : ''}`));
      readModel.publish(message(seq));
      if (seq % 3 === 0) await delay(0);
    }
    await until(() => clients.every(({ messages }) => messages.length > 0));
    end(readModel, 401);
    await Promise.all(clients.map(({ closed }) => closed));
    for (const { messages } of clients) {
      const isSnapshot = messages[0]?.event === 'snapshot';
      const first = isSnapshot ? (messages[0]?.seq ?? 0) : 101;
      const got = messages.slice(isSnapshot ? 1 : 0, -1).map(({ seq }) => seq);
      assert.deepEqual(
        got,
        Array.from({ length: 401 - first }, (_, n) => first + 1 + n),
      );
    }
  });

  it('resumes after a sequence, and follows', async (t) => {
    const { port, readModel } = await started(t);
    for (let seq = 101; seq <= 105; seq += 1) readModel.publish(message(seq));
    const { messages, closed } = connect(t, port, `batch_id=${BATCH_ID}&after=103`);
    await until(() => messages.length === 2);
    end(readModel, 106);
    assert.equal(await closed, 1000);
    assert.deepEqual(
      messages.map(({ seq }) => seq),
      [104, 105, 106, 106],
    );
  });

  it('begins with a snapshot where the sequence is beyond the log', async (t) => {
    const { port, readModel } = await started(t);
    const { messages, closed } = connect(t, port, `batch_id=${BATCH_ID}&after=999`);
    await until(() => messages.length === 1);
    end(readModel, 101);
    assert.equal(await closed, 1000);
    assert.deepEqual(
      messages.map(({ event, seq }) => [event, seq]),
      [
        ['snapshot', 100],
        ['batch_complete', 101],
        ['stream_closed', 101],
      ],
    );
  });

  it('reads a long history in pages, without a gap or a repeat', async (t) => {
    const { port, readModel } = await started(t);
    const limits: (number | undefined)[] = [];
    const feed = readModel.feed.bind(readModel);
    readModel.feed = (batchId, after, limit) => {
      limits.push(limit);
      return feed(batchId, after, limit);
    };
    for (let seq = 101; seq <= 1_100; seq += 1) readModel.publish(message(seq));
    const { messages, closed } = connect(t, port, `batch_id=${BATCH_ID}&after=100`);
    await until(() => messages.length >= 1_000);
    for (let seq = 1_101; seq <= 1_110; seq += 1) readModel.publish(message(seq));
    end(readModel, 1_111);
    assert.equal(await closed, 1000);
    assert.deepEqual(
      messages.filter(({ event }) => event === 'step_started' || event === 'batch_complete').map(({ seq }) => seq),
      Array.from({ length: 1_011 }, (_, n) => 101 + n),
    );
    assert.ok(limits.length >= 3 && limits.every((limit) => limit === 500), String(limits));
  });

  it('is open to one address a limited number of times', async (t) => {
    const { port } = await started(t, { webSocketsPerAddress: 1 });
    const first = connect(t, port, `batch_id=${BATCH_ID}`);
    await until(() => first.messages.length === 1);
    assert.equal(await connect(t, port, `batch_id=${BATCH_ID}`).closed, 1013);
    first.socket.close();
    await first.closed;
    await until(() => first.socket.readyState === WebSocket.CLOSED);
    const again = connect(t, port, `batch_id=${BATCH_ID}`);
    await until(() => again.messages.length === 1);
  });

  it('of a batch that has ended sends what there is and closes', async (t) => {
    const { port, readModel } = await started(t);
    readModel.publish(message(101));
    end(readModel, 102);
    const snapshot = connect(t, port, `batch_id=${BATCH_ID}`);
    const resumed = connect(t, port, `batch_id=${BATCH_ID}&after=101`);
    assert.deepEqual(await Promise.all([snapshot.closed, resumed.closed]), [1000, 1000]);
    assert.deepEqual(
      snapshot.messages.map(({ event }) => event),
      ['snapshot', 'stream_closed'],
    );
    assert.deepEqual(
      resumed.messages.map(({ event }) => event),
      ['batch_complete', 'stream_closed'],
    );
  });

  it('tells a slow reader, and misses and repeats nothing', async (t) => {
    const { port, app, readModel } = await started(t, { webSocketBufferBytes: 64 * 1024 });
    const { socket, messages, closed } = connect(t, port, `batch_id=${BATCH_ID}`);
    await until(() => messages.length === 1);
    socket.pause();
    const filler = { text: 'x'.repeat(10_000) };
    const last = 101 + 2_000;
    for (let seq = 101; seq <= last; seq += 1) {
      readModel.publish(message(seq, 'output', filler));
      if (seq % 100 === 0) await delay(0);
    }
    const [onServer] = app.websocketServer.clients;
    assert.ok((onServer?.bufferedAmount ?? 0) < 200_000, 'what is not sent yet is not kept in memory');
    socket.resume();
    end(readModel, last + 1);
    assert.equal(await closed, 1000);
    const sequences = messages.filter(({ event }) => event === 'output').map(({ seq }) => seq);
    assert.deepEqual(
      sequences,
      Array.from({ length: last - 100 }, (_, n) => 101 + n),
    );
    const resyncs = messages.flatMap((each, index) => (each.event === 'resync' ? [index] : []));
    assert.ok(resyncs.length > 0);
    for (const index of resyncs) assert.equal(messages[index]?.data?.['after'], messages[index - 1]?.seq);
  });

  it('ends a peer that no longer answers, and keeps one that does', async (t) => {
    const { port, app } = await started(t, { pingMs: 50 });
    const dead = connect(t, port, `batch_id=${BATCH_ID}`);
    dead.socket.once('open', () => dead.socket.pause());
    const living = connect(t, port, `batch_id=${BATCH_ID}`);
    let pings = 0;
    living.socket.on('ping', () => (pings += 1));
    await until(() => pings > 4);
    assert.equal(app.websocketServer.clients.size, 1);
    assert.equal(living.socket.readyState, WebSocket.OPEN);
  });

  it('takes no large messages and no connection elsewhere', async (t) => {
    const { port } = await started(t);
    const { socket, closed } = connect(t, port, `batch_id=${BATCH_ID}`);
    await once(socket, 'open');
    socket.send('x'.repeat(5000));
    assert.ok([1006, 1009].includes(await closed));
    for (const path of ['health', 'ws?after=1', 'nothing']) {
      const refused = new WebSocket(`ws://127.0.0.1:${port}/${path}`);
      const [error] = await once(refused, 'error');
      assert.match(String(error), /Unexpected server response: 4\d\d/);
    }
  });

  it('closes with the app', async (t) => {
    const { port, app } = await started(t);
    const { messages, closed } = connect(t, port, `batch_id=${BATCH_ID}`);
    await until(() => messages.length === 1);
    await app.close();
    assert.equal(await closed, 1001);
  });
});
