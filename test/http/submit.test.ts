import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { describe, it, type TestContext } from 'node:test';
import { CodedError } from '../../src/errors.ts';
import type { HttpPorts } from '../../src/http/ports.ts';
import { LogUnavailableError } from '../../src/log.ts';
import { ARCHIVE_SHA256, alice, archive, leavesNothing, refused, submit } from './submission.ts';
import { BATCH_ID, batchRow, form, rig, signedHeaders } from './support.ts';

describe('POST /submit: concurrent_tasks', () => {
  for (const query of ['0', '-1', '1e9', 'x', '', '1.5', '9', '0x2', ' 1', '1&concurrent_tasks=2']) {
    it(`refuses ${JSON.stringify(query)} before the nonce is spent`, async (t) => {
      const parts = await rig(t);
      const sent = await submit(parts.app, { query: `?concurrent_tasks=${query}` });
      refused(sent, 400, 'invalid_concurrent_tasks');
      assert.match(String(sent.body['message']), /1 to 8/);
      assert.equal(parts.usedNonces.size, 0);
      leavesNothing(parts);
    });
  }

  it('is MAX_CONCURRENT_TASKS unless given', async (t) => {
    const parts = await rig(t);
    await submit(parts.app);
    await submit(parts.app, { query: '?concurrent_tasks=3&unknown=1' });
    assert.deepEqual(
      parts.votes.map((vote) => vote.concurrentTasks),
      [8, 3],
    );
  });
});

describe('POST /submit: the upload', () => {
  const file = (name: string, content: string | Buffer = 'archive bytes') => ({ name, filename: 'a.zip', content });

  it('is taken from the field archive or file, with or without a file name', async (t) => {
    const parts = await rig(t);
    for (const body of [
      form(file('archive')),
      form(file('file')),
      form({ name: 'archive', content: 'archive bytes' }),
    ]) {
      assert.equal((await submit(parts.app, { body })).body['archive_hash'], ARCHIVE_SHA256);
    }
    assert.deepEqual(readdirSync(parts.uploads), []);
  });

  const cases: [string, typeof archive, number, string][] = [
    ['no file', form({ name: 'comment', content: 'x' }), 400, 'missing_archive'],
    ['a file in another field only', form(file('other')), 400, 'missing_archive'],
    ['an empty form', form(), 400, 'missing_archive'],
    ['two files', form(file('archive'), file('file')), 400, 'upload_failed'],
    ['the same field twice', form(file('archive'), file('archive', 'x'.repeat(300_000))), 400, 'upload_failed'],
    ['a field of the prototype', form({ name: '__proto__', content: 'x' }, file('archive')), 400, 'upload_failed'],
    [
      'too many fields',
      form(...Array.from({ length: 40 }, () => ({ name: 'f', content: 'x' })), file('archive')),
      400,
      'upload_failed',
    ],
    ['a body that ends early', { ...archive, payload: archive.payload.subarray(0, -20) }, 400, 'upload_failed'],
    ['a body that ends in the headers', { ...archive, payload: archive.payload.subarray(0, 40) }, 400, 'upload_failed'],
    [
      'another boundary',
      { ...archive, headers: { 'content-type': 'multipart/form-data; boundary=zzz' } },
      400,
      'upload_failed',
    ],
    ['no boundary', { ...archive, headers: { 'content-type': 'multipart/form-data' } }, 400, 'upload_failed'],
    ['another content type', { ...archive, headers: { 'content-type': 'application/zip' } }, 400, 'upload_failed'],
    ['JSON', { payload: Buffer.from('{"a"'), headers: { 'content-type': 'application/json' } }, 400, 'upload_failed'],
    ['a content type that is none', { ...archive, headers: { 'content-type': '///' } }, 400, 'upload_failed'],
    [
      'no body',
      { payload: Buffer.alloc(0), headers: {} as Record<string, string> & { 'content-type': string } },
      400,
      'missing_archive',
    ],
    ['a file over the limit', form(file('archive', Buffer.alloc(20_001))), 413, 'archive_too_large'],
    ['a body far over the limit', form(file('archive', Buffer.alloc(3_000_000))), 413, 'archive_too_large'],
    [
      'ignored files over the limit',
      form(file('other', Buffer.alloc(3_000_000)), file('archive')),
      413,
      'archive_too_large',
    ],
  ];
  for (const [name, body, status, code] of cases) {
    it(`refuses ${name} with ${status} ${code}`, async (t) => {
      const parts = await rig(t, { env: { MAX_ARCHIVE_BYTES: '20000' } });
      refused(await submit(parts.app, { body }), status, code);
      leavesNothing(parts);
    });
  }

  it('may be exactly as large as the limit', async (t) => {
    const { app } = await rig(t, { env: { MAX_ARCHIVE_BYTES: '20000' } });
    assert.equal((await submit(app, { body: form(file('archive', Buffer.alloc(20_000))) })).status, 202);
  });

  it('ignores other fields and files beside it', async (t) => {
    const { app } = await rig(t);
    const body = form(
      { name: 'comment', content: 'x' },
      file('logo', Buffer.alloc(200_000)),
      file('archive'),
      file('more'),
    );
    assert.equal((await submit(app, { body })).body['archive_hash'], ARCHIVE_SHA256);
  });

  it('that is no archive of tasks spends no vote, and says where it is wrong', async (t) => {
    const inspectArchive: HttpPorts['inspectArchive'] = async (path) => {
      assert.equal(readFileSync(path, 'utf8'), 'archive bytes');
      throw new CodedError('extraction_failed', 'tasks/a/workspace.yaml line 3: bad indentation');
    };
    const parts = await rig(t, { ports: { inspectArchive } });
    const sent = await submit(parts.app);
    refused(sent, 400, 'extraction_failed');
    assert.match(String(sent.body['message']), /workspace\.yaml line 3/);
    leavesNothing(parts);
  });

  it('is validated and stored once', async (t: TestContext) => {
    let inspected = 0;
    const stored: string[] = [];
    const { app } = await rig(t, {
      ports: {
        archiveKnown: async (sha) => stored.includes(sha),
        inspectArchive: async () => ({ taskCount: (inspected += 1) }),
        storeArchive: async (_file, sha) => void stored.push(sha),
      },
    });
    await submit(app);
    await submit(app);
    assert.deepEqual([inspected, stored], [1, [ARCHIVE_SHA256]]);
  });

  it('is refused while the log cannot be reached, with nonce and disk untouched', async (t) => {
    const parts = await rig(t, { ports: { logReachable: () => false } });
    const sent = await submit(parts.app);
    refused(sent, 503, 'log_unavailable');
    assert.ok(Number(sent.headers['retry-after']) > 0);
    assert.equal(parts.usedNonces.size, 0);
    leavesNothing(parts);
  });

  it('is refused when too many are under way', async (t) => {
    const { promise: held, resolve: letGo } = Promise.withResolvers<void>();
    const started = Promise.withResolvers<void>();
    const inspectArchive: HttpPorts['inspectArchive'] = async () => {
      started.resolve();
      await held;
      return { taskCount: 1 };
    };
    const { app } = await rig(t, { ports: { inspectArchive }, options: { limits: { uploadsAtOnce: 1 } } });
    const first = submit(app);
    await started.promise;
    const second = await submit(app);
    refused(second, 503, 'busy');
    assert.ok(Number(second.headers['retry-after']) > 0);
    letGo();
    assert.equal((await first).status, 202);
    assert.equal((await submit(app)).status, 202);
  });
});

describe('POST /submit: the answer', () => {
  const answer = (result: Awaited<ReturnType<HttpPorts['castVote']>>['result']): Partial<HttpPorts> => ({
    castVote: async () => ({ result, seq: 150 }),
  });
  const approvedVote = { kind: 'approved', batchId: BATCH_ID, votes: 2, required: 2, concurrentTasks: 4 } as const;

  it('is pending_consensus with the votes so far, and carries what was voted', async (t) => {
    const parts = await rig(t);
    const headers = signedHeaders(alice, 'n1');
    const sent = await submit(parts.app, { headers });
    assert.equal(sent.status, 202);
    assert.deepEqual(sent.body, {
      status: 'pending_consensus',
      archive_hash: ARCHIVE_SHA256,
      votes: 1,
      required: 2,
      total_validators: 2,
    });
    assert.deepEqual(parts.votes, [
      {
        archiveHash: ARCHIVE_SHA256,
        archiveBytes: 13,
        hotkey: alice.hotkey,
        nonce: 'n1',
        signature: headers['x-signature'],
        concurrentTasks: 8,
      },
    ]);
    assert.equal(sent.headers['x-log-sequence'], '101', 'the answer waits until its write can be read');
  });

  it('says so when the vote was there before', async (t) => {
    const { app } = await rig(t, {
      ports: answer({ kind: 'pending', votes: 1, required: 2, totalValidators: 2, repeated: true }),
    });
    assert.equal((await submit(app)).body['note'], 'Your vote was already recorded');
  });

  it('names the batch when the vote completes the quorum', async (t) => {
    const { app } = await rig(t, { ports: answer({ ...approvedVote, late: false, repeated: false }) });
    const sent = await submit(app);
    assert.equal(sent.status, 202);
    assert.deepEqual(sent.body, {
      batch_id: BATCH_ID,
      total_tasks: 3,
      concurrent_tasks: 4,
      ws_url: `/ws?batch_id=${BATCH_ID}`,
      consensus_reached: true,
      votes: 2,
      required: 2,
    });
  });

  it('names the same batch for a late vote, with its task count from the read model or the archive', async (t) => {
    const ports = { ...answer({ ...approvedVote, late: true, repeated: false }), archiveKnown: async () => true };
    const { app, readModel } = await rig(t, { ports });
    readModel.rows.set(BATCH_ID, batchRow({ totalTasks: 9 }));
    const known = await submit(app);
    assert.equal(known.body['total_tasks'], 9);
    assert.match(String(known.body['note']), /quorum was reached before/);
    readModel.rows.clear();
    assert.equal((await submit(app)).body['total_tasks'], 3);
  });

  it('is too_many_pending when no further round may open', async (t) => {
    const { app } = await rig(t, { ports: answer({ kind: 'too-many-pending' }) });
    const sent = await submit(app);
    refused(sent, 503, 'too_many_pending');
    assert.ok(Number(sent.headers['retry-after']) > 0);
  });

  it('is unauthorized_hotkey when the hotkey left the whitelist meanwhile', async (t) => {
    const { app } = await rig(t, { ports: answer({ kind: 'not-whitelisted' }) });
    refused(await submit(app), 401, 'unauthorized_hotkey');
  });

  it('is log_unavailable when the vote could not be written', async (t) => {
    const castVote = async () => Promise.reject(new LogUnavailableError('append timed out'));
    const { app, uploads } = await rig(t, { ports: { castVote } });
    refused(await submit(app), 503, 'log_unavailable');
    assert.deepEqual(readdirSync(uploads), []);
  });

  it('hides what is inside when something unforeseen fails', async (t) => {
    const castVote = async () => Promise.reject(new Error('SQLITE_CORRUPT in /var/secret'));
    const { app } = await rig(t, { ports: { castVote } });
    const sent = await submit(app);
    refused(sent, 500, 'internal_error');
    assert.ok(!JSON.stringify(sent.body).includes('secret'));
    assert.ok(String(sent.body['message']).includes(String(sent.headers['x-request-id'])));
  });
});
