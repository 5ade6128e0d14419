import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { CodedError } from '../../src/errors.ts';
import { refusalOf } from '../../src/http/errors.ts';
import { get } from './get.ts';
import { BATCH_ID, batchRow, listen, rig, taskRow } from './support.ts';

describe('about the server', () => {
  it('answers health, live, version, status and instance with the fields of the contract', async (t) => {
    const { app } = await rig(t, { env: { IMAGE: 'image:1' } });
    assert.deepEqual((await get(app, '/health')).json(), { status: 'ok', slug: 'term-executor', version: '1.2.3' });
    assert.deepEqual((await get(app, '/live')).json(), { status: 'ok' });
    const version = (await get(app, '/version')).json();
    assert.deepEqual([version.api_version, version.challenge_version, version.sdk_version], ['1.0', '1.2.3', '1.0.0']);
    assert.ok(Array.isArray(version.capabilities));
    assert.deepEqual((await get(app, '/status')).json(), {
      version: '1.2.3',
      uptime_secs: 60,
      active_batches: 1,
      total_batches: 5,
      completed_batches: 3,
      tasks_passed: 7,
      tasks_failed: 4,
      max_concurrent_tasks: 8,
      has_active_batch: true,
      queued_batches: 1,
      open_vote_rounds: 1,
      executors_alive: null,
      log_position: 100,
      log_reachable: true,
    });
    const instance = (await get(app, '/instance')).json();
    assert.ok(instance.hostname.length > 0);
    delete instance.hostname;
    assert.deepEqual(instance, {
      version: '1.2.3',
      image: 'image:1',
      image_digest: null,
      uptime_secs: 60,
      max_concurrent_tasks: 8,
      netuid: 100,
      sandbox: 'process',
    });
  });

  it('is ready while the log can be reached', async (t) => {
    let reachable = true;
    const { app } = await rig(t, { ports: { logReachable: () => reachable } });
    assert.equal((await get(app, '/ready')).status, 200);
    reachable = false;
    const refused = await get(app, '/ready');
    assert.deepEqual([refused.status, refused.json().error], [503, 'not_ready']);
    assert.equal((await get(app, '/health')).status, 200);
  });

  it('exports the metrics under the names of the contract', async (t) => {
    const { app } = await rig(t);
    await get(app, '/health');
    const { text, headers } = await get(app, '/metrics');
    assert.match(String(headers['content-type']), /text\/plain; version=0\.0\.4/);
    const expected = {
      batches_total: 5,
      batches_active: 1,
      batches_completed: 3,
      tasks_total: 11,
      tasks_passed: 7,
      tasks_failed: 4,
      duration_ms_sum: 1234,
    };
    for (const [name, value] of Object.entries(expected)) {
      assert.match(text, new RegExp(`^term_executor_${name} ${value}$`, 'm'));
    }
    assert.match(text, /http_request_duration_seconds_count\{method="GET",route="\/health",status="2xx"\} 1/);
  });

  it('documents every route', async (t) => {
    const { app } = await rig(t);
    const openapi = (await get(app, '/openapi.json')).json();
    const paths = Object.keys(openapi.paths).toSorted();
    assert.deepEqual(paths, [
      '/batch/{id}',
      '/batch/{id}/cancel',
      '/batch/{id}/events',
      '/batch/{id}/task/{taskId}',
      '/batch/{id}/task/{taskId}/patch',
      '/batch/{id}/task/{taskId}/steps/{n}/output',
      '/batch/{id}/tasks',
      '/batches',
      '/docs',
      '/events',
      '/health',
      '/instance',
      '/live',
      '/metrics',
      '/openapi.json',
      '/ready',
      '/status',
      '/submit',
      '/verify/{id}',
      '/version',
      '/ws',
    ]);
    const page = await get(app, '/docs');
    assert.match(String(page.headers['content-type']), /text\/html/);
    for (const path of paths) assert.ok(page.text.includes(path), path);
    assert.ok(!/https?:\/\/|src=/.test(page.text), 'nothing is loaded from elsewhere');
  });
});

describe('errors', () => {
  const cases: [string, string, number, string][] = [
    ['GET', '/nothing', 404, 'not_found'],
    ['GET', '/batch/', 404, 'batch_not_found'],
    ['DELETE', '/health', 405, 'method_not_allowed'],
    ['GET', '/submit', 405, 'method_not_allowed'],
    ['GET', `/batch/${BATCH_ID}/cancel`, 405, 'method_not_allowed'],
    ['GET', '/batch/%', 400, 'invalid_request'],
    ['GET', '/batch/%ff', 400, 'invalid_request'],
    ['GET', '/batch/unknown', 404, 'batch_not_found'],
    ['GET', '/batch/unknown/tasks', 404, 'batch_not_found'],
    ['GET', '/batch/unknown/task/a', 404, 'batch_not_found'],
    ['GET', '/batch/unknown/events', 404, 'batch_not_found'],
    ['GET', '/verify/unknown', 404, 'batch_not_found'],
    ['GET', `/batch/${BATCH_ID}/task/none`, 404, 'task_not_found'],
    ['GET', `/batch/${BATCH_ID}/task/none/steps/0/output`, 404, 'task_not_found'],
    ['GET', `/batch/${BATCH_ID}/task/a/steps/7/output`, 404, 'output_not_found'],
    ['GET', `/batch/${BATCH_ID}/task/a/steps/x/output`, 400, 'invalid_request'],
    ['GET', `/batch/${BATCH_ID}/task/${'x'.repeat(5000)}`, 414, 'uri_too_long'],
    ['GET', `/verify/${BATCH_ID}`, 409, 'batch_not_finished'],
    ['GET', '/batches?limit=0', 400, 'invalid_request'],
    ['GET', '/batches?limit=1001', 400, 'invalid_request'],
    ['GET', '/batches?limit=1.5', 400, 'invalid_request'],
    ['GET', '/batches?limit=', 400, 'invalid_request'],
    ['GET', '/batches?limit=1&limit=2', 400, 'invalid_request'],
    ['GET', '/batches?status=odd', 400, 'invalid_request'],
    ['GET', '/batches?cursor=odd', 400, 'invalid_request'],
    ['GET', '/events?after=-1', 400, 'invalid_request'],
    ['GET', '/events?follow=maybe', 400, 'invalid_request'],
    ['GET', '/events?subject=other.>', 400, 'invalid_request'],
    ['GET', '/events?subject=ev.a%20b', 400, 'invalid_request'],
    ['GET', '/events?subject=ev.>.x', 400, 'invalid_request'],
    ['GET', '/ws?batch_id=x', 426, 'upgrade_required'],
    ['GET', '/ws', 400, 'invalid_request'],
  ];
  for (const [method, url, status, code] of cases) {
    it(`${method} ${url.slice(0, 60)} is ${status} ${code}`, async (t) => {
      const { app, readModel } = await rig(t);
      readModel.rows.set(BATCH_ID, batchRow());
      readModel.taskRows.set(BATCH_ID, [taskRow('a')]);
      const response = await app.inject({ method: method === 'DELETE' ? 'DELETE' : 'GET', url });
      const body = response.json();
      assert.deepEqual([response.statusCode, body.error], [status, code], response.body);
      assert.deepEqual(Object.keys(body), ['error', 'message']);
      assert.match(String(response.headers['x-request-id']), /^[0-9a-f-]{36}$/);
      if (status === 405) assert.match(String(response.headers['allow']), /GET|POST/);
    });
  }

  it('have their shape also for what is no HTTP', async (t) => {
    const { app } = await rig(t);
    const socket = connect(await listen(app), '127.0.0.1');
    socket.write('nonsense\r\n\r\n');
    const text = (await socket.toArray()).join('');
    assert.match(text, /^HTTP\/1\.1 400 /);
    assert.deepEqual(JSON.parse(text.slice(text.indexOf('{'))), {
      error: 'invalid_request',
      message: 'the request could not be read',
    });
  });

  for (const [head, status, code] of [
    ['GET /health HTTP/1.1\r\n', 400, 'invalid_request'],
    ['GET /health HTTP/1.1\r\nHost: x\r\nExpect: a-cake\r\n', 417, 'expectation_failed'],
  ] as const) {
    it(`have their shape also for what node would refuse without a body: ${JSON.stringify(head)}`, async (t) => {
      const { app } = await rig(t);
      const socket = connect(await listen(app), '127.0.0.1');
      socket.write(`${head}Connection: close\r\n\r\n`);
      const text = (await socket.toArray()).join('');
      assert.match(text, new RegExp(`^HTTP/1\\.1 ${status} `));
      assert.match(text, new RegExp(`\\{"error":"${code}","message":"[^"]+"\\}`));
    });
  }

  it('that pass are 503 and say when to try again', () => {
    for (const code of ['blob_unavailable', 'read_model_closed', 'nonces_unavailable', 'contention']) {
      const refusal = refusalOf(new CodedError(code, 'not now'), 'id');
      assert.deepEqual([refusal.status, refusal.code, refusal.retryAfterSecs], [503, code, 5]);
    }
  });

  it('are answered also while the read models are closed', async (t) => {
    const { app, readModel } = await rig(t);
    readModel.position = () => {
      throw new Error('database is not open');
    };
    const response = await app.inject('/ready');
    assert.deepEqual([response.statusCode, response.json().error], [503, 'not_ready']);
    assert.equal((await app.inject('/live')).statusCode, 200);
  });
});

it(
  'connections are probed by TCP while they are silent',
  { timeout: 10_000, skip: !existsSync('/proc/net/tcp') && 'needs /proc' },
  async (t) => {
    const { app } = await rig(t);
    const port = await listen(app);
    const socket = connect(port, '127.0.0.1');
    t.after(() => socket.destroy());
    socket.write('GET /live HTTP/1.1\r\nHost: x\r\n\r\n');
    await once(socket, 'data');
    // Fields: number, local address, remote address, state (01 is established), queues, timer (02 is keepalive).
    // Source: https://www.kernel.org/doc/html/latest/networking/proc_net_tcp.html
    const local = `0100007F:${port.toString(16).toUpperCase().padStart(4, '0')}`;
    const timerOf = (): string | undefined =>
      readFileSync('/proc/net/tcp', 'utf8')
        .split('\n')
        .map((line) => line.trim().split(/\s+/))
        .find(([, address, , state]) => address === local && state === '01')?.[5];
    while (!timerOf()?.startsWith('02:')) await delay(5);
  },
);
