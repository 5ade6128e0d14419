/** Everything that can be wrong with a submission, against the real server: refused with its place, and without a trace. */
import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import { request } from 'node:http';
import { connect } from 'node:net';
import { test } from 'node:test';
import { GOOD, tarGz } from '../executors/archive-fixtures.ts';
import { makeValidators, startServer, waitFor, waitForEnd, type Answer, type Validator } from '../support/server.ts';
import { makeRepo, type TestRepo } from '../support/repos.ts';
import { makeSubmission, SOLVED_TEST } from '../support/submissions.ts';
import { temporaryDirectory } from '../support/tmp.ts';
import { BAD_ARCHIVES } from './bad-archives.ts';

const MAX_ARCHIVE_BYTES = 16 * 1024 ** 2;
const BOUNDARY = 'the-boundary';
const MULTIPART = { 'content-type': `multipart/form-data; boundary=${BOUNDARY}` };
const GOOD_BYTES = tarGz(GOOD);

type Headers = Readonly<Record<string, string | string[]>>;

interface Part {
  readonly field: string;
  readonly filename?: string;
  readonly content: string | Buffer;
}

interface Sending {
  readonly headers?: Headers;
  /** A function when it is large: made when it is sent. */
  readonly body?: Buffer | (() => Buffer);
  readonly query?: string;
}

interface BadInput extends Sending {
  readonly name: string;
  readonly status: number;
  readonly code: string;
  readonly says: RegExp;
}

const ARCHIVE: Part = { field: 'archive', filename: 'a.tar.gz', content: GOOD_BYTES };

function multipart(...parts: readonly Part[]): Buffer {
  const bytes = parts.flatMap(({ field, filename, content }) => [
    `--${BOUNDARY}\r\nContent-Disposition: form-data; name="${field}"`,
    `${filename === undefined ? '' : `; filename="${filename}"`}\r\n\r\n`,
    content,
    '\r\n',
  ]);
  return Buffer.concat([...bytes, `--${BOUNDARY}--\r\n`].map((piece) => Buffer.from(piece)));
}

/** One POST /submit exactly as given, headers that are sent twice included. */
function send(url: string, { headers = {}, body = Buffer.alloc(0), query = '' }: Sending): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const sent = request(`${url}/submit${query}`, { method: 'POST', headers, agent: false }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () => {
        const text = Buffer.concat(chunks).toString();
        resolve({ status: response.statusCode ?? 0, body: JSON.parse(text) as Record<string, unknown> });
      });
    });
    sent.on('error', reject);
    sent.end(typeof body === 'function' ? body() : body);
  });
}

function badHeaders(validator: Validator, other: Validator, stranger: Validator, spent: string): readonly BadInput[] {
  const good = validator.headers();
  const body = multipart(ARCHIVE);
  const bad = (name: string, code: string, says: RegExp, change: Headers, drop = ''): BadInput => {
    const merged: Headers = { ...MULTIPART, ...validator.headers(), ...change };
    const headers = Object.fromEntries(Object.entries(merged).filter(([header]) => header !== drop));
    return { name, status: 401, code, says, headers, body };
  };
  return [
    bad('no X-Hotkey', 'missing_auth', /X-Hotkey/, {}, 'x-hotkey'),
    bad('no X-Nonce', 'missing_auth', /X-Nonce/, {}, 'x-nonce'),
    bad('no X-Signature', 'missing_auth', /X-Signature/, {}, 'x-signature'),
    bad('an empty X-Nonce', 'missing_auth', /X-Nonce/, { 'x-nonce': '' }),
    bad('two X-Nonce', 'missing_auth', /X-Nonce: must be sent once/, {
      'x-nonce': ['a-first-nonce', 'a-second-nonce'],
    }),
    bad('a hotkey of 129 characters', 'missing_auth', /X-Hotkey.*128/, { 'x-hotkey': '5'.repeat(129) }),
    bad('a nonce of 257 characters', 'missing_auth', /X-Nonce.*256/, { 'x-nonce': 'n'.repeat(257) }),
    bad('a nonce that is not printable', 'missing_auth', /X-Nonce.*printable/, { 'x-nonce': 'a\u00fcnonce' }),
    bad('a signature of 257 characters', 'missing_auth', /X-Signature.*256/, { 'x-signature': 'a'.repeat(257) }),
    bad('a hotkey of nobody', 'unauthorized_hotkey', /X-Hotkey.*whitelist/, stranger.headers()),
    bad('a hotkey that is none', 'unauthorized_hotkey', /X-Hotkey/, { 'x-hotkey': 'constructor' }),
    bad("another validator's signature", 'invalid_signature', /X-Signature/, {
      'x-signature': other.headers('a-nonce-of-mine')['x-signature'] ?? '',
      'x-nonce': 'a-nonce-of-mine',
    }),
    bad("another validator's hotkey", 'invalid_signature', /X-Signature/, { 'x-hotkey': other.hotkey }),
    bad('a signature for another nonce', 'invalid_signature', /X-Signature/, {
      ...good,
      'x-nonce': `${good['x-nonce']}-x`,
    }),
    bad('a signature that is no hex', 'invalid_signature', /X-Signature.*hex/, { 'x-signature': 'z'.repeat(128) }),
    bad('a replayed nonce', 'nonce_reused', /X-Nonce/, validator.headers(spent)),
    {
      ...bad('an unknown version of signatures', 'invalid_request', /X-Signature-Version/, {
        'x-signature-version': '9',
      }),
      status: 400,
    },
  ];
}

/** Well signed, but the body is not one archive. */
function badBodies(validator: Validator): readonly BadInput[] {
  const bad = (
    name: string,
    code: string,
    says: RegExp,
    body: Sending['body'],
    headers: Headers = MULTIPART,
  ): BadInput => {
    const status = code === 'archive_too_large' ? 413 : 400;
    return { name, status, code, says, ...(body ? { body } : {}), headers: { ...headers, ...validator.headers() } };
  };
  const whole = multipart(ARCHIVE);
  const large = multipart({ ...ARCHIVE, content: Buffer.alloc(MAX_ARCHIVE_BYTES + 1) });
  const chunked = { ...MULTIPART, 'transfer-encoding': 'chunked' };
  const both = multipart(ARCHIVE, { ...ARCHIVE, field: 'file' });
  return [
    bad('no body', 'missing_archive', /field archive or file/, Buffer.alloc(0), {}),
    bad('no part', 'missing_archive', /field archive or file/, multipart()),
    bad('no file', 'missing_archive', /field/, multipart({ field: 'note', content: 'x' })),
    bad(
      'a file in another field',
      'missing_archive',
      /field archive or file/,
      multipart({ ...ARCHIVE, field: 'other' }),
    ),
    bad(
      'a file in __proto__',
      'upload_failed',
      /prototype property.* as field name/,
      multipart({ ...ARCHIVE, field: '__proto__' }),
    ),
    bad('two files in one field', 'upload_failed', /more than one file/, multipart(ARCHIVE, ARCHIVE)),
    bad('two files in two fields', 'upload_failed', /archive and file/, both),
    bad('a form without its end', 'upload_failed', /multipart body/, whole.subarray(0, -BOUNDARY.length - 8)),
    bad('a form cut off in the file', 'upload_failed', /multipart body/, whole.subarray(0, 200)),
    bad('a form with another boundary', 'upload_failed', /multipart/, whole, {
      'content-type': 'multipart/form-data; boundary=another',
    }),
    bad('a form without a boundary', 'upload_failed', /multipart/, whole, { 'content-type': 'multipart/form-data' }),
    bad('JSON', 'upload_failed', /Content-Type/, Buffer.from('{}'), { 'content-type': 'application/json' }),
    bad('the bare archive', 'upload_failed', /Content-Type/, GOOD_BYTES, { 'content-type': 'application/gzip' }),
    bad('a type that is none', 'upload_failed', /Content-Type/, GOOD_BYTES, { 'content-type': ';;' }),
    bad('a byte too many', 'archive_too_large', new RegExp(`${MAX_ARCHIVE_BYTES} bytes`), large, chunked),
    bad(
      'far too many bytes',
      'archive_too_large',
      /MAX_ARCHIVE_BYTES/,
      multipart({ ...ARCHIVE, content: Buffer.alloc(MAX_ARCHIVE_BYTES + 2 * 1024 ** 2) }),
    ),
    ...BAD_ARCHIVES.map(({ name, says, bytes }) =>
      bad(`an archive that is or has ${name}`, 'extraction_failed', says, () =>
        multipart({ ...ARCHIVE, content: bytes() }),
      ),
    ),
  ];
}

function badNumbers(validator: Validator): readonly BadInput[] {
  return [
    '0',
    '-1',
    '1e9',
    '1000000000',
    'x',
    '1.5',
    '0x2',
    '',
    '%201',
    '1&concurrent_tasks=2',
    '99999999999999999999',
  ].map((value) => ({
    name: `concurrent_tasks=${value}`,
    status: 400,
    code: 'invalid_concurrent_tasks',
    says: /concurrent_tasks: .*from 1 to/,
    query: `?concurrent_tasks=${value}`,
    headers: { ...MULTIPART, ...validator.headers() },
    body: multipart(ARCHIVE),
  }));
}

const ODD_IDS = [
  'with a space',
  '...',
  '*',
  '>',
  '$JS.*.%2e%2e.>',
  '__proto__',
  'ünïcødé 任务 🧪',
  `-rf '"$(id)`,
  'x'.repeat(255),
];

interface FailingTask {
  readonly workspace: string;
  readonly cause: string;
  readonly says: RegExp;
}

/** Accepted as they are, since only running them shows the fault. */
function failingTasks({ url, commits: [commit] }: TestRepo): Readonly<Record<string, FailingTask>> {
  return {
    'unreachable host': {
      workspace: 'repo: https://127.0.0.1:1/o/n.git\nbase_commit: main\n',
      cause: 'git',
      says: /clone: clone of https:\/\/127\.0\.0\.1:1\/o\/n\.git failed/,
    },
    'no repository': {
      workspace: 'repo: file:///nowhere/at/all\nbase_commit: main\n',
      cause: 'git',
      says: /clone: clone of file:\/\/\/nowhere\/at\/all failed/,
    },
    'unknown commit': {
      workspace: `repo: ${url}\nbase_commit: ${'f'.repeat(40)}\n`,
      cause: 'git',
      says: /clone: .*f{40}.*base_commit/,
    },
    'failing install': {
      workspace: `repo: ${url}\nbase_commit: ${commit}\ninstall: ["true", "echo installing; exit 7"]\n`,
      cause: 'install',
      says: /install echo installing; exit 7: exited with code 7/,
    },
  };
}

test('bad input', { timeout: 120_000 }, async (t) => {
  const dir = temporaryDirectory(t);
  const dataDir = `${dir}/data`;
  const [first, second, third, stranger] = await makeValidators(4);
  assert.ok(first && second && third && stranger);
  const secrets = new Set([first.hotkey, second.hotkey, third.hotkey]);
  const server = await startServer(t, {
    validators: [first, second, third],
    dataDir,
    args: ['serve', '--roles', 'http,planner,executor'],
    env: { MAX_ARCHIVE_BYTES: String(MAX_ARCHIVE_BYTES), GIT_HOSTS: '127.0.0.1,github.com', LOG_LEVEL: 'trace' },
  });

  const ask = (sending: Sending): Promise<Answer> => {
    for (const name of ['x-hotkey', 'x-nonce', 'x-signature']) {
      for (const value of [sending.headers?.[name] ?? ''].flat()) if (value.length > 8) secrets.add(value);
    }
    return send(server.url, sending);
  };
  const votes = async (): Promise<string> => (await fetch(`${server.url}/events?subject=ev.submission.*`)).text();
  const leavesNothing = async (): Promise<void> => {
    assert.equal(await votes(), '', 'no vote was spent');
    assert.deepEqual(await server.get('/batches'), [], 'no batch');
    for (const name of ['uploads', 'scratch']) assert.deepEqual(await readdir(`${dataDir}/${name}`), [], name);
  };

  const spent = await ask({ headers: first.headers('a-spent-nonce') });
  assert.equal(spent.body['error'], 'missing_archive');
  const inputs = [...badHeaders(first, second, stranger, 'a-spent-nonce'), ...badBodies(first), ...badNumbers(first)];
  for (const input of inputs) {
    await t.test(`${input.name} is refused with ${input.status} ${input.code}`, async () => {
      const { status, body } = await ask(input);
      assert.deepEqual([status, body['error']], [input.status, input.code], JSON.stringify(body));
      assert.match(String(body['message']), input.says);
      assert.deepEqual(Object.keys(body), ['error', 'message']);
      await leavesNothing();
    });
  }

  await t.test('a client that goes away in the middle of its upload leaves nothing', async () => {
    const headers = { ...MULTIPART, ...first.headers(), host: 'server', 'content-length': '1000000' };
    const { hostname, port } = new URL(server.url);
    const socket = connect(Number(port), hostname);
    const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
    socket.write(`POST /submit HTTP/1.1\r\n${lines.join('')}\r\n`);
    socket.write(multipart({ ...ARCHIVE, content: Buffer.alloc(100_000) }).subarray(0, -40));
    const uploads = (): Promise<string[]> => readdir(`${dataDir}/uploads`);
    await waitFor(
      async () => ((await uploads()).length === 1 ? true : null),
      () => 'the upload does not begin',
    );
    socket.destroy();
    await waitFor(
      async () => ((await uploads()).length === 0 ? true : null),
      () => 'the upload stays',
    );
    await leavesNothing();
  });

  const approve = async (file: string): Promise<string> => {
    const body = multipart({ ...ARCHIVE, content: await readFile(file) });
    const pending = await ask({ body, headers: { ...MULTIPART, ...first.headers() } });
    assert.deepEqual([pending.status, pending.body['votes']], [202, 1], JSON.stringify(pending.body));
    const approved = await ask({ body, headers: { ...MULTIPART, ...second.headers() } });
    assert.deepEqual([approved.status, approved.body['consensus_reached']], [202, true], JSON.stringify(approved.body));
    return String(approved.body['batch_id']);
  };

  await t.test('odd task ids run; what only shows when it runs fails with its cause and place', async () => {
    const failing = Object.entries(failingTasks(makeRepo(dir, { 'README.md': 'x' })));
    const { file } = await makeSubmission(dir, {
      tasks: Object.fromEntries([
        ...ODD_IDS.map((id) => [id, {}]),
        ...failing.map(([id, { workspace }]) => [id, { files: { ...SOLVED_TEST, 'workspace.yaml': workspace } }]),
      ]),
    });
    const batchId = await approve(file);
    const batch = await waitForEnd(server, batchId);
    assert.deepEqual(
      [batch.status, batch['passed_tasks'], batch['failed_tasks']],
      ['completed', ODD_IDS.length, failing.length],
      JSON.stringify(await server.get(`/batch/${batchId}/tasks`)),
    );
    const task = (id: string) => server.get(`/batch/${batchId}/task/${encodeURIComponent(id)}`);
    for (const id of ODD_IDS) {
      const { task_id: taskId, status, passed } = await task(id);
      assert.deepEqual([taskId, status, passed], [id, 'completed', true]);
    }
    for (const [id, { cause, says }] of failing) {
      const found = await task(id);
      assert.deepEqual([found['status'], found['cause'], found['reward']], ['failed', cause, 0], JSON.stringify(found));
      assert.match(String(found['error']), says);
    }
  });

  await t.test('afterwards a good submission completes', async () => {
    const { file } = await makeSubmission(temporaryDirectory(t), { tasks: { good: {} } });
    const batch = await waitForEnd(server, await approve(file));
    assert.deepEqual([batch.status, batch['passed_tasks']], ['completed', 1]);
    for (const name of ['uploads', 'scratch']) assert.deepEqual(await readdir(`${dataDir}/${name}`), [], name);
  });

  await t.test('no hotkey, nonce or signature was logged', async () => {
    assert.equal(await server.stop(), 0);
    const log = server.log();
    assert.match(log, /missing_archive.*missing_auth/s, 'the log is there from the first request on');
    assert.deepEqual(
      [...secrets].filter((secret) => log.includes(secret)),
      [],
    );
  });
});
