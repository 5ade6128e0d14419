import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, it } from 'node:test';
import { get } from './get.ts';
import { ARCHIVE_HASH, BATCH_ID, CREATED_AT, batchRow, rig, stepRow, store, taskRow } from './support.ts';

const GREETING = 'Grüße, 世界 🌍\n';

describe('batches', () => {
  it('are listed newest first, filtered and paged by the Link header', async (t) => {
    const { app, readModel } = await rig(t);
    for (let n = 1; n <= 7; n += 1) {
      const status = n % 2 === 0 ? 'completed' : 'running';
      readModel.rows.set(`b${n}`, batchRow({ batchId: `b${n}`, firstSeq: n, status }));
    }
    const seen: string[] = [];
    let url: string | undefined = '/batches?limit=3';
    while (url !== undefined) {
      const page = await get(app, url);
      seen.push(...page.json().map((row: { batch_id: string }) => row.batch_id));
      url = /<([^>]+)>; rel="next"/.exec(String(page.headers['link'] ?? ''))?.[1];
    }
    assert.deepEqual(seen, ['b7', 'b6', 'b5', 'b4', 'b3', 'b2', 'b1']);
    const first = await get(app, '/batches?status=completed&limit=2');
    assert.deepEqual(first.json(), [
      { batch_id: 'b6', created_at: CREATED_AT, status: 'completed' },
      { batch_id: 'b4', created_at: CREATED_AT, status: 'completed' },
    ]);
    assert.match(String(first.headers['link']), /status=completed/);
    assert.equal(first.headers['x-log-sequence'], '100');
  });

  it('show the fields of the contract', async (t) => {
    const { app, readModel } = await rig(t);
    readModel.rows.set(BATCH_ID, batchRow({ status: 'completed', aggregateReward: 0.5, durationMs: 12 }));
    assert.deepEqual((await get(app, `/batch/${BATCH_ID}`)).json(), {
      batch_id: BATCH_ID,
      status: 'completed',
      total_tasks: 2,
      completed_tasks: 0,
      passed_tasks: 0,
      failed_tasks: 0,
      aggregate_reward: 0.5,
      error: null,
      duration_ms: 12,
      archive_hash: ARCHIVE_HASH,
      created_at: CREATED_AT,
      concurrent_tasks: 2,
    });
  });

  it('are verified by a hash over ids and results that anybody can compute', async (t) => {
    const { app, readModel } = await rig(t, { ports: { chainHead: async () => ({ seq: 20, hash: 'f'.repeat(64) }) } });
    readModel.rows.set(BATCH_ID, batchRow({ status: 'completed', passedTasks: 1, failedTasks: 2 }));
    readModel.taskRows.set(BATCH_ID, [
      taskRow('b', { passed: true, reward: 1, status: 'completed', durationMs: 3 }),
      // In UTF-16 order the emoji comes before the ideograph; in bytes after it.
      taskRow('🌍', { passed: false, reward: 0.25 }),
      taskRow('\uff00', { passed: false, reward: 0 }),
      taskRow('a.b *>', { passed: null, reward: 0 }),
    ]);
    readModel.proof = {
      archiveHash: ARCHIVE_HASH,
      round: 1,
      voters: ['5a'],
      required: 1,
      validators: ['5a', '5b'],
      threshold: { numerator: 5, denominator: 10 },
      seq: 9,
      votes: [{ hotkey: '5a', nonce: 'n', signature: '0xff', signatureVersion: 1, seq: 8, votedAt: CREATED_AT }],
    };
    const hex = [
      Buffer.from(BATCH_ID).toString('hex'),
      '612e62202a3e' + '30' + '0000000000000000',
      '62' + '31' + '000000000000f03f',
      'efbc80' + '30' + '0000000000000000',
      'f09f8c8d' + '30' + '000000000000d03f',
    ];
    const body = (await get(app, `/verify/${BATCH_ID}`)).json();
    assert.equal(
      body.results_hash,
      createHash('sha256')
        .update(Buffer.from(hex.join(''), 'hex'))
        .digest('hex'),
    );
    assert.deepEqual(Object.keys(body), [
      'batch_id',
      'status',
      'total_tasks',
      'passed_tasks',
      'failed_tasks',
      'aggregate_reward',
      'results_hash',
      'task_summaries',
      'executor_version',
      'uptime_secs',
      'quorum',
      'log',
    ]);
    assert.deepEqual(body.task_summaries[0], { task_id: 'b', passed: true, reward: 1, duration_ms: 3 });
    assert.deepEqual(body.log, { first_seq: 10, last_seq: 20, chain_head: { seq: 20, sha256: 'f'.repeat(64) } });
    assert.equal(body.quorum.votes[0].signature, '0xff');
    assert.deepEqual(body.quorum.threshold, { numerator: 5, denominator: 10 });
  });
});

describe('tasks', () => {
  const ODD_ID = "a.b c*>/..?#'%41é" + '世'.repeat(200);

  it('are found whatever their id is', async (t) => {
    const { app, readModel, blobs } = await rig(t);
    readModel.rows.set(BATCH_ID, batchRow());
    const output = store(blobs, GREETING);
    readModel.taskRows.set(BATCH_ID, [taskRow(ODD_ID, { steps: [stepRow(0, 'tests', { output })] })]);
    const url = `/batch/${BATCH_ID}/task/${encodeURIComponent(ODD_ID)}`;
    const task = (await get(app, url)).json();
    assert.equal(task.task_id, ODD_ID);
    assert.equal((await get(app, task.steps[0].output.url)).text, GREETING);
  });

  it('show tests, agent and patch with their stored texts', async (t) => {
    const { app, readModel, blobs } = await rig(t);
    readModel.rows.set(BATCH_ID, batchRow());
    readModel.taskRows.set(BATCH_ID, [
      taskRow('one', {
        status: 'failed',
        passed: false,
        reward: 0.5,
        cause: 'tests',
        error: 'a test failed',
        warnings: ['ran 0 tests'],
        durationMs: 50,
        patch: store(blobs, 'diff --git'),
        steps: [
          stepRow(0, 'clone'),
          stepRow(1, 'agent', { output: store(blobs, GREETING) }),
          stepRow(2, 'tests', { name: 'a.sh', output: store(blobs, 'ok\n') }),
          stepRow(3, 'tests', { name: 'b.sh', exitCode: 2, cause: 'tests', output: store(blobs, 'no newline') }),
          stepRow(4, 'tests', { name: 'c.sh', exitCode: null, signal: 'SIGKILL', cause: 'max-duration' }),
        ],
      }),
    ]);
    const task = (await get(app, `/batch/${BATCH_ID}/task/one`)).json();
    const testOutput =
      '=== a.sh (exit 0) ===\nok\nPASS\n\n=== b.sh (exit 2) ===\nno newline\nFAIL\n\n=== c.sh (exit none) ===\nFAIL';
    const shared = {
      task_id: 'one',
      status: 'failed',
      passed: false,
      reward: 0.5,
      test_output: testOutput,
      agent_output: GREETING,
      agent_patch: 'diff --git',
      error: 'a test failed',
      duration_ms: 50,
      cause: 'tests',
    };
    assert.deepEqual((await get(app, `/batch/${BATCH_ID}/tasks`)).json(), { batch_id: BATCH_ID, tasks: [shared] });
    const { steps, attempts, test_results: testResults, ...rest } = task;
    assert.deepEqual(rest, { batch_id: BATCH_ID, ...shared, attempt: 1, warnings: ['ran 0 tests'] });
    assert.deepEqual(testResults[1], { name: 'b.sh', passed: false, output: 'no newline', exit_code: 2 });
    assert.equal(testResults[2].exit_code, null);
    assert.equal(steps.length, 5);
    assert.deepEqual(attempts, [{ attempt: 1, executor_id: 'executor-1', sandbox: 'process', started_at: CREATED_AT }]);
  });

  it('that have not run show nulls', async (t) => {
    const { app, readModel } = await rig(t);
    readModel.rows.set(BATCH_ID, batchRow());
    readModel.taskRows.set(BATCH_ID, [taskRow('one')]);
    const task = (await get(app, `/batch/${BATCH_ID}/task/one`)).json();
    const { passed, test_output: tests, agent_output: agent, agent_patch: patch } = task;
    assert.deepEqual([passed, tests, agent, patch], [null, null, null, null]);
  });

  it('are listed with long outputs cut between characters, the cut stated, and shown whole alone', async (t) => {
    const { app, readModel, blobs } = await rig(t);
    readModel.rows.set(BATCH_ID, batchRow());
    const long = `x${'世'.repeat(30_000)}`;
    const output = store(blobs, long);
    readModel.taskRows.set(BATCH_ID, [taskRow('one', { steps: [stepRow(0, 'agent', { output })] })]);
    const [listed] = (await get(app, `/batch/${BATCH_ID}/tasks`)).json().tasks;
    const kept = `x${'世'.repeat(21_845)}`;
    assert.equal(Buffer.byteLength(kept), 64 * 1024);
    const url = `/batch/${BATCH_ID}/task/one/steps/0/output?attempt=1`;
    const left = Buffer.byteLength(long) - Buffer.byteLength(kept);
    assert.equal(listed.agent_output, `${kept}… [${left} bytes left out; GET ${url} for all]`);
    assert.equal((await get(app, `/batch/${BATCH_ID}/task/one`)).json().agent_output, long);
    assert.equal((await get(app, url)).text, long);
  });

  it('share one allowance in a list, so that no batch is too large to list', async (t) => {
    const { app, readModel, blobs } = await rig(t);
    readModel.rows.set(BATCH_ID, batchRow());
    const output = store(blobs, 'y'.repeat(64 * 1024));
    const tasks = Array.from({ length: 300 }, (_, n) => taskRow(`t${n}`, { steps: [stepRow(0, 'agent', { output })] }));
    readModel.taskRows.set(BATCH_ID, tasks);
    const { status, text } = await get(app, `/batch/${BATCH_ID}/tasks`);
    assert.equal(status, 200);
    assert.ok(text.length < 8.2 * 1024 ** 2, String(text.length));
    const shown: string[] = JSON.parse(text).tasks.map((task: { agent_output: string }) => task.agent_output);
    const cuts = shown.map((each) => each.indexOf('…'));
    assert.ok(Math.max(...cuts) - Math.min(...cuts) <= 1, 'all are cut alike');
    assert.match(shown[299] ?? '', /^y{27000,}… \[\d+ bytes left out; GET \/batch\/.*\/task\/t299\/steps\/0\/output/);
  });

  it('share one allowance in the view of one task, counted as they are in JSON, and are whole elsewhere', async (t) => {
    const { app, readModel, blobs } = await rig(t);
    readModel.rows.set(BATCH_ID, batchRow());
    const small = store(blobs, 'all is well');
    const nul = store(blobs, Buffer.alloc(3 * 1024 ** 2));
    const invalid = store(blobs, Buffer.alloc(1024 ** 2, 0xff));
    const patch = store(blobs, 'p'.repeat(5 * 1024 ** 2));
    const steps = [
      stepRow(0, 'agent', { output: small }),
      stepRow(1, 'tests', { output: nul }),
      stepRow(2, 'tests', { output: invalid }),
    ];
    readModel.taskRows.set(BATCH_ID, [taskRow('one', { patch, steps })]);
    const url = `/batch/${BATCH_ID}/task/one`;
    const { status, text, json } = await get(app, url);
    assert.equal(status, 200);
    assert.ok(Buffer.byteLength(text) < 4 * 1024 ** 2 + 10_000, String(text.length));
    const task = json();
    assert.equal(task.agent_output, 'all is well');
    for (const n of [0, 1]) {
      assert.match(task.test_results[n].output, /… \[\d+ bytes left out; GET .*\/output\?attempt=1 for all\]$/);
      assert.ok(task.test_output.includes(task.test_results[n].output));
    }
    assert.ok(task.agent_patch.endsWith(`bytes left out; GET ${url}/patch for all]`));
    assert.equal((await get(app, `${url}/patch`)).text.length, patch.bytes);
  });

  it('are made a few at a time where they are large, and one that waits too long is refused', async (t) => {
    const started = Promise.withResolvers<void>();
    const gate = Promise.withResolvers<void>();
    const { app, readModel } = await rig(t, {
      options: { limits: { largeViews: 1, largeViewWaitMs: 20 } },
      ports: {
        readOutput: async function* () {
          started.resolve();
          await gate.promise;
          yield Buffer.alloc(1024 ** 2, 'x');
        },
      },
    });
    readModel.rows.set(BATCH_ID, batchRow());
    const output = { digest: 'e'.repeat(64), bytes: 1024 ** 2, omittedBytes: 0 };
    readModel.taskRows.set(BATCH_ID, [
      taskRow('large', { steps: [stepRow(0, 'agent', { output })] }),
      taskRow('small'),
    ]);
    const first = get(app, `/batch/${BATCH_ID}/task/large`);
    await started.promise;
    const second = await get(app, `/batch/${BATCH_ID}/tasks`);
    assert.deepEqual([second.status, second.json().error, second.headers['retry-after']], [503, 'busy', '10']);
    assert.equal((await get(app, `/batch/${BATCH_ID}/task/small`)).status, 200);
    gate.resolve();
    assert.equal((await first).json().agent_output.length, 1024 ** 2);
    assert.equal((await get(app, `/batch/${BATCH_ID}/tasks`)).status, 200);
  });

  it('are shown with a note in the place of an output that is gone', async (t) => {
    const { app, readModel } = await rig(t);
    readModel.rows.set(BATCH_ID, batchRow());
    const output = { digest: 'd'.repeat(64), bytes: 7, omittedBytes: 0 };
    readModel.taskRows.set(BATCH_ID, [taskRow('one', { steps: [stepRow(0, 'agent', { output })] })]);
    const task = (await get(app, `/batch/${BATCH_ID}/task/one`)).json();
    assert.match(task.agent_output, /cannot be shown \(blob_not_found\)/);
    const alone = await get(app, `/batch/${BATCH_ID}/task/one/steps/0/output`);
    assert.deepEqual([alone.status, alone.json().error], [404, 'blob_not_found']);
  });

  it('serve outputs as plain text that no browser interprets', async (t) => {
    const { app, readModel, blobs } = await rig(t);
    readModel.rows.set(BATCH_ID, batchRow());
    const output = store(blobs, '<script>alert(1)</script>');
    readModel.taskRows.set(BATCH_ID, [
      taskRow('one', { attempt: 2, steps: [stepRow(0, 'agent', { output, attempt: 2 })] }),
    ]);
    const { headers, text } = await get(app, `/batch/${BATCH_ID}/task/one/steps/0/output`);
    assert.equal(headers['content-type'], 'text/plain; charset=utf-8');
    assert.equal(headers['x-content-type-options'], 'nosniff');
    assert.equal(text, '<script>alert(1)</script>');
  });

  it('find the output of an earlier attempt on the log', async (t) => {
    const { app, readModel, blobs, entries } = await rig(t);
    readModel.rows.set(BATCH_ID, batchRow());
    readModel.taskRows.set(BATCH_ID, [taskRow('one', { attempt: 2 })]);
    const envelope = { id: 'i', version: 1, time: CREATED_AT, actor: 'a', cause: 'c', prev: '0'.repeat(64) };
    const data = {
      batchId: BATCH_ID,
      taskId: 'one',
      attempt: 1,
      step: 0,
      kind: 'agent',
      name: 'agent',
      exitCode: 1,
      signal: null,
      durationMs: 1,
      cause: null,
      error: null,
      output: store(blobs, 'first try'),
    } as const;
    entries.push({ type: 'StepFinished', data, ...envelope, seq: 12, subject: `ev.task.${BATCH_ID}.one` });
    const url = `/batch/${BATCH_ID}/task/one/steps/0/output?attempt=1`;
    assert.equal((await get(app, url)).text, 'first try');
    assert.equal((await get(app, url.replace('attempt=1', 'attempt=3'))).status, 404);
  });
});
