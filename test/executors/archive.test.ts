import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { chmod, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { createReadStream } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { extractBundle, inspectArchive, splitArchive } from '../../src/executors/archive.ts';
import {
  ArchiveError,
  DEFAULT_ARCHIVE_LIMITS as LIMITS,
  type ArchiveLimits,
} from '../../src/executors/archive-limits.ts';
import { byBytes } from '../../src/executors/archive-names.ts';
import { Unpacker } from '../../src/executors/archive-unpack.ts';
import { readTask } from '../../src/executors/task-files.ts';
import { packDirectory } from '../../src/pack.ts';
import {
  GOOD,
  put,
  rawZip,
  tarBytes,
  tarGz,
  treeEntries,
  workDir,
  zerosTarGz,
  zerosZip,
  zip,
  zipTree,
  type TarEntry,
  type Tree,
  type ZipEntry,
} from './archive-fixtures.ts';

/** Expects the refusal of these bytes by inspect and by split, with nothing left on disk. */
async function refused(bytes: Buffer, message: RegExp, limits: ArchiveLimits = LIMITS): Promise<void> {
  await using work = await workDir();
  const file = await put(work.dir, bytes);
  const outDir = join(work.dir, 'out');
  const matches = (error: unknown): boolean => {
    assert.ok(error instanceof ArchiveError, String(error));
    assert.equal(error.code, 'extraction_failed');
    assert.match(error.message, message);
    return true;
  };
  await assert.rejects(inspectArchive(file, limits, work.options), matches);
  assert.deepEqual(await work.left(), []);
  await assert.rejects(splitArchive(file, limits, { ...work.options, outDir }), matches);
  assert.deepEqual(await work.left(), []);
  assert.deepEqual((await readdir(work.dir)).sort(), ['scratch', 'upload']);
}

const without = (tree: Tree, prefix: string): Tree =>
  Object.fromEntries(Object.entries(tree).filter(([path]) => !path.startsWith(prefix)));
const below = (directory: string, tree: Tree): Tree =>
  Object.fromEntries(Object.entries(tree).map(([path, body]) => [`${directory}/${path}`, body]));

for (const [format, make] of [
  ['tar.gz', async (tree: Tree) => tarGz(tree)],
  ['zip', (tree: Tree) => zip(tree)],
  ['zip64', (tree: Tree) => zip(tree, { zip64: true })],
  ['stored zip', (tree: Tree) => zip(tree, { compress: false })],
  ['zip with a long comment', async (tree: Tree) => rawZip(zipTree(tree), 'c'.repeat(60_000))],
] as const) {
  test(`a ${format} is read at its root, one directory down, and with what macOS adds`, async () => {
    await using work = await workDir();
    const junk = { '__MACOSX/._x': 'x', 'tasks/._one': 'x', 'tasks/.DS_Store': 'x', 'agent_code/._agent.py': 'x' };
    for (const tree of [
      GOOD,
      below('repo-main', GOOD),
      { ...GOOD, ...junk },
      { ...below('a', GOOD), '__MACOSX/x': '' },
    ]) {
      const found = await inspectArchive(await put(work.dir, await make(tree)), LIMITS, work.options);
      assert.deepEqual(found, { taskCount: 1, agentEntry: 'agent.py' });
      assert.deepEqual(await work.left(), []);
    }
  });
}

test('what is no complete archive is refused', async (t) => {
  const tar = tarGz({
    ...GOOD,
    'agent_code/data': Buffer.from(Array.from({ length: 5000 }, (_, i) => (i * i * 7919) % 251)),
  });
  const zipped = await zip(GOOD);
  const flipped = Buffer.from(tar);
  flipped[tar.length - 6] = (flipped[tar.length - 6] ?? 0) ^ 1;
  const cases: [string, Buffer, RegExp][] = [
    ['nothing', Buffer.alloc(0), /the archive is empty/],
    ['text', Buffer.from('hello, world'), /not an archive/],
    ['a plain tar', tarBytes(treeEntries(GOOD)), /not an archive/],
    ['a gzip of text', gzipSync('hello'), /damaged tar|cut off/],
    ['a gzip of nothing', gzipSync(''), /empty/],
    ['a gzip of a longer text', gzipSync('hello '.repeat(400)), /damaged tar/],
    ['a gzip of a gzip', gzipSync(tar), /compressed twice/],
    ['a tar without entries', gzipSync(Buffer.alloc(1024)), /no tasks\/ and no agent_code/],
    ['half a gzip', tar.subarray(0, tar.length / 2), /cut off/],
    ['a gzip without its last byte', tar.subarray(0, -1), /cut off/],
    ['a gzip with a wrong checksum', flipped, /damaged gzip/],
    ['half a tar', gzipSync(tarBytes(treeEntries(GOOD)).subarray(0, 900)), /cut off|Truncated/],
    ['a tar without its end', gzipSync(tarBytes(treeEntries(GOOD)).subarray(0, -1024)), /no end marker/],
    ['half a zip', zipped.subarray(0, zipped.length / 2), /cut off/],
    ['a zip without its last byte', zipped.subarray(0, -1), /cut off/],
    ['an empty zip', rawZip([]), /the archive is empty/],
  ];
  for (const [name, bytes, message] of cases) await t.test(name, () => refused(bytes, message));
});

test('an archive must have tasks/ and agent_code/ with an entry', async (t) => {
  const cases: [string, Tree, RegExp][] = [
    ['no tasks', without(GOOD, 'tasks/'), /has no tasks\//],
    ['no agent_code', without(GOOD, 'agent_code/'), /has no agent_code\//],
    ['neither', { 'a/b/c': 'x', d: 'y' }, /no tasks\/ and no agent_code\/ .*found "a", "d"/],
    ['two directories down', below('a/b', GOOD), /no tasks\/ and no agent_code/],
    ['two roots', { ...below('a', GOOD), ...below('b', GOOD) }, /more than one directory/],
    ['tasks is a file', { ...without(GOOD, 'tasks/'), tasks: 'x' }, /^tasks: must be a directory/],
    ['agent_code is a file', { ...without(GOOD, 'agent_code/'), agent_code: 'x' }, /^agent_code: must be a directory/],
    [
      'no agent entry',
      { ...without(GOOD, 'agent_code/'), 'agent_code/README': '' },
      /agent_code\/: has no entry; add one of agent\.py/,
    ],
    ['a file under tasks', { ...GOOD, 'tasks/notes.txt': 'x' }, /^tasks\/notes\.txt: is a file/],
    [
      'a bad task beside a good one',
      { ...GOOD, 'tasks/two/prompt.md': 'x' },
      /^tasks\/two\/workspace\.yaml: is missing/,
    ],
    [
      'a task id that ends with a space',
      { ...GOOD, 'tasks/two /prompt.md': 'x' },
      /tasks\/"two ": not a task id: it begins or ends with a space/,
    ],
  ];
  for (const [name, tree, message] of cases) {
    await t.test(name, async () => {
      await refused(tarGz(tree), message);
      await refused(rawZip(zipTree(tree)), message);
    });
  }
  await t.test('empty agent_code and tasks directories', async () => {
    await refused(
      tarGz(without(GOOD, 'agent_code/'), [{ path: 'agent_code/', type: 'Directory' }]),
      /agent_code\/: is empty/,
    );
    await refused(tarGz(without(GOOD, 'tasks/'), [{ path: 'tasks/', type: 'Directory' }]), /tasks\/: is empty/);
  });
});

test('names that lead out of the archive or have no plain meaning are refused', async (t) => {
  const cases: [string, string | Buffer, RegExp][] = [
    ['absolute', '/etc/passwd', /"\/etc\/passwd": the path is absolute/],
    ['up', '../evil', /"\.\.\/evil": the path leads out/],
    ['up in the middle', 'tasks/one/../../../evil', /leads out/],
    ['up at the end', 'tasks/..', /leads out/],
    ['backslash', '..\\evil', /backslash/],
    ['drive letter', 'C:/evil', /drive letter/],
    ['newline', 'tasks/a\nb', /"tasks\/a\\nb": the name contains a control character/],
    ['escape', 'tasks/\u001b[2J', /control character/],
    ['C1 control', 'tasks/\u009bx', /"tasks\/\\u009bx": the name contains a control/],
    ['invalid UTF-8', Buffer.from([0x61, 0xff, 0xfe]), /not valid UTF-8/],
    ['long component', `tasks/${'x'.repeat(300)}/prompt.md`, /over 255 bytes/],
    ['long in bytes', `tasks/${'é'.repeat(200)}/prompt.md`, /over 255 bytes/],
    ['long path', `tasks/${'abcdefgh/'.repeat(120)}x`, /over 1024 bytes/],
    ['deep', `tasks/${'d/'.repeat(40)}x`, /over 32 directories deep/],
    ['not under a file', 'agent_code/agent.py/x', /"agent_code\/agent\.py" is a file and a directory/],
    ['twice', 'agent_code/agent.py', /is there twice/],
    ['twice after normalisation', './agent_code//./agent.py', /is there twice/],
    ['a file where a directory is', 'tasks', /"tasks": is a file and a directory/],
    ['the root as a file', '.', /the root cannot be a file/],
  ];
  for (const [name, path, message] of cases) {
    await t.test(`${name}, in a zip`, () => refused(rawZip([...zipTree(GOOD), { name: path, body: 'x' }]), message));
    if (typeof path !== 'string') continue;
    await t.test(`${name}, in a tar`, () => refused(tarGz(GOOD, [{ path, body: 'x' }]), message));
  }
  await t.test('a NUL in a zip', () =>
    refused(rawZip([...zipTree(GOOD), { name: 'tasks/a\0b', body: 'x' }]), /control character/),
  );
  await t.test('no name in a zip', () =>
    refused(rawZip([...zipTree(GOOD), { name: '', body: 'x' }]), /without a name/),
  );
  await t.test('invalid UTF-8 in a tar', () => {
    const bytes = tarBytes([...treeEntries(GOOD), { path: 'aXX', body: 'x' }]);
    const at = bytes.indexOf('aXX');
    bytes[at + 1] = 0xff;
    bytes[at + 2] = 0xfe;
    // Keep the header's checksum right, so that the name is what is refused.
    const sum = 'aXX'.charCodeAt(1) * 2;
    const old = Number.parseInt(bytes.toString('latin1', at + 148, at + 154), 8);
    bytes.write((old - sum + 0xff + 0xfe).toString(8).padStart(6, '0'), at + 148, 'latin1');
    return refused(gzipSync(bytes), /not valid UTF-8/);
  });
});

test('links and special files are refused by name', async (t) => {
  const entries: TarEntry[] = [
    { path: 'agent_code/link', type: 'SymbolicLink', linkpath: '/etc/passwd' },
    { path: 'agent_code/link', type: 'SymbolicLink', linkpath: 'agent.py' },
    { path: 'agent_code/link', type: 'Link', linkpath: 'agent_code/agent.py' },
    { path: 'agent_code/link', type: 'CharacterDevice' },
    { path: 'agent_code/link', type: 'FIFO' },
  ];
  for (const entry of entries) {
    await t.test(`${entry.type} in a tar`, () =>
      refused(tarGz(GOOD, [entry]), /"agent_code\/link": (links|only files)/),
    );
  }
  for (const mode of [0o120777, 0o020666, 0o060666, 0o010666, 0o140777]) {
    await t.test(`mode ${mode.toString(8)} in a zip`, () =>
      refused(
        rawZip([...zipTree(GOOD), { name: 'agent_code/link', body: '/etc', mode }]),
        /"agent_code\/link": (links|only files)/,
      ),
    );
  }
});

test('a zip whose entries are not what they declare is refused', async (t) => {
  const cases: [string, ZipEntry, RegExp][] = [
    ['encrypted', { name: 'x', body: 'abc', flags: 1 }, /"x": encrypted/],
    ['bzip2', { name: 'x', body: 'abc', method: 12 }, /unknown compression method 12/],
    ['wrong CRC', { name: 'x', body: 'abc', crc: 1 }, /checksum/],
    ['no deflate stream', { name: 'x', body: 'abc', method: 0 }, /damaged/],
    ['smaller than declared', { name: 'x', body: 'abc', declaredSize: 4 }, /damaged/],
    ['a larger file declared small', { name: 'x', body: 'abc'.repeat(1000), declaredSize: 1 }, /damaged/],
    ['missing data', { name: 'x', declaredSize: 5 }, /data is missing/],
    ['directory with content', { name: 'x/', body: 'abc' }, /a directory cannot have content/],
  ];
  for (const [name, entry, message] of cases)
    await t.test(name, () => refused(rawZip([...zipTree(GOOD), entry]), message));
  await t.test('an end record within the window of another', () => {
    const bytes = rawZip([...zipTree(GOOD), { name: 'PK\u0005\u0006', flags: 0 }]);
    return refused(bytes, /control character|no valid end record/);
  });
  await t.test('damage at every place is an error or harmless, never a crash', async () => {
    await using work = await workDir();
    const bytes = await zip(GOOD);
    for (let at = 0; at < bytes.length; at += 7) {
      const damaged = Buffer.from(bytes);
      damaged[at] = (damaged[at] ?? 0) ^ 0xff;
      const file = await put(work.dir, damaged);
      await inspectArchive(file, LIMITS, work.options).catch((error: unknown) =>
        assert.ok(error instanceof ArchiveError, `${at}: ${String(error)}`),
      );
    }
    assert.deepEqual(await work.left(), []);
  });
});

test('every limit is kept', async (t) => {
  const many: Tree = {
    ...GOOD,
    ...Object.fromEntries(Array.from({ length: 20 }, (_, i) => [`agent_code/lib/${i}`, `${i}`])),
  };
  const incompressible = Buffer.from(Array.from({ length: 3000 }, (_, i) => (i * i * 7919) % 251));
  const cases: [string, Partial<ArchiveLimits>, Tree, RegExp][] = [
    ['entries', { maxEntries: 20 }, many, /more than 20 entries/],
    [
      'bytes of an entry',
      { maxEntryBytes: 2999 },
      { ...GOOD, 'agent_code/x': incompressible },
      /"agent_code\/x": over 2999 bytes/,
    ],
    ['bytes in all', { maxTotalBytes: 3000 }, { ...GOOD, 'agent_code/x': incompressible }, /over 3000 bytes unpacked/],
    ['bytes of the archive', { maxArchiveBytes: 100 }, GOOD, /archive is over 100 bytes/],
    ['ratio', {}, { ...GOOD, 'agent_code/x': Buffer.alloc(2 * 1024 ** 2) }, /over 200 times its own size/],
    ['tasks', { maxTasks: 1 }, { ...GOOD, 'tasks/two/prompt.md': 'x' }, /more than 1 tasks/],
    ['tests', { maxTestsPerTask: 1 }, { ...GOOD, 'tasks/one/tests/b.sh': '' }, /has 2 tests; at most 1/],
    ['workspace.yaml', { maxWorkspaceBytes: 10 }, GOOD, /workspace\.yaml: must be at most 10 bytes/],
    ['YAML tokens', { maxYamlTokens: 5 }, GOOD, /workspace\.yaml: has over 5 YAML tokens/],
    [
      'checks.txt',
      { maxChecksBytes: 3 },
      { ...without(GOOD, 'tasks/one/tests/'), 'tasks/one/checks.txt': 'true' },
      /checks\.txt: must be at most 3 bytes/,
    ],
    [
      'texts in all',
      { maxTextTotalBytes: 60 },
      { ...GOOD, ...below('tasks/two', { 'workspace.yaml': 'repo: o/n', 'prompt.md': 'x'.repeat(30) }) },
      /"tasks\/two\/prompt\.md": workspace\.yaml, prompt\.md and checks\.txt of all tasks are over 60 bytes together/,
    ],
    ['prompt', { maxPromptBytes: 3 }, GOOD, /prompt\.md: must be at most 3 bytes/],
  ];
  for (const [name, limits, tree, message] of cases) {
    await t.test(name, async () => {
      await refused(tarGz(tree), message, { ...LIMITS, ...limits });
      await refused(await zip(tree), message, { ...LIMITS, ...limits });
    });
  }
  await t.test('directories that come of few entries', () => {
    const deep = Object.fromEntries(Array.from({ length: 5 }, (_, i) => [`agent_code/${i}/a/b/c/d/e/f/x`, '']));
    return refused(tarGz({ ...GOOD, ...deep }), /more than 30 entries/, { ...LIMITS, maxEntries: 30 });
  });
});

test('100,000 entries are refused early, as tar and as zip', async () => {
  const entries = Array.from({ length: 100_000 }, (_, i) => ({ name: `agent_code/${i}` }));
  await refused(rawZip(entries), /more than 60000 entries/);
  await refused(rawZip(entries.slice(0, 100), '', 4), /its size and its count differ/);
  await using work = await workDir();
  const parts = Array.from({ length: 100_000 }, (_, i) => tarBytes([{ path: `agent_code/${i}` }]).subarray(0, 512));
  const file = await put(work.dir, gzipSync(Buffer.concat([...parts, Buffer.alloc(1024)]), { level: 1 }));
  const limits = { ...LIMITS, maxEntries: 5000 };
  await assert.rejects(inspectArchive(file, limits, work.options), /more than 5000 entries/);
  assert.deepEqual(await work.left(), []);
});

for (const [format, make] of [
  ['tar.gz', zerosTarGz],
  ['zip', zerosZip],
] as const) {
  test(`10 GB of zeros in a ${format} are refused with the default limits`, async () => {
    await using work = await workDir();
    const file = await put(work.dir, make(10 * 1024 ** 3));
    await assert.rejects(
      inspectArchive(file, LIMITS, work.options),
      /"tasks\/one\/tests\/zeros": over 536870912 bytes unpacked/,
    );
    assert.deepEqual(await work.left(), []);
  });
}

test('zeros after the end of a tar and headers without files are refused', async () => {
  const limits = { ...LIMITS, maxEntries: 100 };
  const tail = gzipSync(Buffer.concat([tarBytes(treeEntries(GOOD)), Buffer.alloc(8 * 1024 ** 2)]));
  await refused(tail, /far more than its files hold/, limits);
  const longName = tarBytes([{ path: 'x', type: 'OldGnuLongPath', body: 'x'.repeat(2 * 1024 ** 2) }]);
  await refused(gzipSync(longName), /header is too large|far more/, limits);
});

test('an aborted inspection ends with the reason and leaves nothing', async () => {
  await using work = await workDir();
  for (const bytes of [tarGz(GOOD), await zip(GOOD)]) {
    const file = await put(work.dir, bytes);
    for (const delay of [0, 1, 2, 3, 5]) {
      const controller = new AbortController();
      const reason = new Error('shutting down');
      const running = inspectArchive(file, LIMITS, { ...work.options, signal: controller.signal });
      if (delay === 0) controller.abort(reason);
      else setTimeout(() => controller.abort(reason), delay);
      await running.then(
        () => assert.notEqual(delay, 0),
        (error: unknown) => assert.equal(error, reason),
      );
      assert.deepEqual(await work.left(), []);
    }
  }
});

test('an inspection that is aborted between two tasks ends with the reason, not with the fault of the next', async () => {
  await using work = await workDir();
  const file = await put(work.dir, tarGz({ ...GOOD, 'tasks/two/prompt.md': 'x' }));
  const controller = new AbortController();
  const reason = new Error('shutting down');
  const options = {
    ...work.options,
    signal: controller.signal,
    get gitProtocols(): string[] {
      controller.abort(reason);
      return ['https'];
    },
  };
  await assert.rejects(inspectArchive(file, LIMITS, options), reason);
  assert.deepEqual(await work.left(), []);
});

test('an inspection writes only what says what a task is, and of that no more than its limit', async () => {
  await using work = await workDir();
  const inspect = async (tree: Tree): Promise<unknown> => {
    const limits = { ...LIMITS, maxPromptBytes: 1000, maxTextTotalBytes: 2000 };
    return inspectArchive(await put(work.dir, tarGz(tree)), limits, work.options);
  };
  const large = 'x'.repeat(100_000);
  const elsewhere = [
    'agent_code/prompt.md',
    'agent_code/x/prompt.md',
    'agent_code/tasks/one/prompt.md',
    'tasks/one/tests/prompt.md',
    'tasks/one/tests/workspace.yaml',
    'prompt.md',
  ];
  const others = Object.fromEntries(elsewhere.map((path) => [path, large]));
  assert.deepEqual(await inspect({ ...GOOD, ...others }), { taskCount: 1, agentEntry: 'agent.py' });
  assert.deepEqual(await inspect(below('a', { ...GOOD, ...others })), { taskCount: 1, agentEntry: 'agent.py' });
  // The total is not reached: what is over the prompt's own limit is not kept.
  const tooLong = { ...GOOD, 'tasks/one/prompt.md': large };
  await assert.rejects(inspect(tooLong), /^ArchiveError: tasks\/one\/prompt\.md: must be at most 1000 bytes/);
  await assert.rejects(inspect(below('a', tooLong)), /prompt\.md: must be at most 1000 bytes/);

  const root = join(work.dir, 'unpacked');
  await mkdir(root);
  const maxTextBytes = (path: readonly string[]): number | null => (path.at(-1) === 'text' ? 4 : null);
  await using unpacker = new Unpacker(root, { limits: LIMITS, archiveBytes: null, keep: 'texts', maxTextBytes });
  for (const name of ['text', 'other']) {
    await unpacker.begin({ name, kind: 'file', executable: false });
    for (const chunk of ['abc', 'def', 'ghi']) await unpacker.data(Buffer.from(chunk));
    await unpacker.end();
  }
  assert.equal(await readFile(join(root, 'text'), 'utf8'), 'abcde');
  assert.equal(await readFile(join(root, 'other'), 'utf8'), '');
});

test('a file that is not read because of others is bundled whole, however long', async () => {
  await using work = await workDir();
  const file = await put(work.dir, tarGz({ ...GOOD, 'tasks/one/checks.txt': 'x'.repeat(70_000) }));
  assert.equal((await inspectArchive(file, LIMITS, work.options)).taskCount, 1);
  const { tasks } = await splitArchive(file, LIMITS, { ...work.options, outDir: join(work.dir, 'out') });
  assert.ok(tasks[0]);
  const bundle = join(work.dir, 'bundle');
  await extractBundle(createReadStream(tasks[0].file), bundle, LIMITS, work.options.signal);
  assert.equal((await stat(join(bundle, 'checks.txt'))).size, 70_000);
});

test('odd task ids are accepted and sorted by their bytes', async () => {
  await using work = await workDir();
  const ids = ['a b', 'a.b', '*', '>', 'ünïcode-日本', '日'.repeat(85), '..x', '-x', '$(x)', "it's", 'Z', 'a'];
  const tasks = ids.flatMap((id) =>
    Object.entries(below(`tasks/${id}`, { 'workspace.yaml': 'repo: o/n', 'prompt.md': 'x', 'checks.txt': 'true' })),
  );
  const tree = { 'agent_code/agent.sh': '', ...Object.fromEntries(tasks) };
  const sorted = ids.toSorted((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  for (const bytes of [tarGz(tree), await zip(tree)]) {
    const outDir = join(work.dir, 'out');
    const split = await splitArchive(await put(work.dir, bytes), LIMITS, { ...work.options, outDir });
    assert.deepEqual(
      split.tasks.map((task) => task.taskId),
      sorted,
    );
  }
});

test('PAX names with characters of several bytes survive every chunk boundary', async () => {
  await using work = await workDir();
  const files = Object.fromEntries(
    Array.from({ length: 400 }, (_, i) => [
      `tasks/one/tests/${'日本語é'.repeat(40).slice(0, 60)}/${'界'.repeat(60)}${i}`,
      `${i}`,
    ]),
  );
  const bytes = tarGz({ ...GOOD, ...files });
  const outDir = join(work.dir, 'out');
  const { tasks } = await splitArchive(await put(work.dir, bytes), LIMITS, { ...work.options, outDir });
  assert.ok(tasks[0]);
  const bundle = join(work.dir, 'bundle');
  await extractBundle(createReadStream(tasks[0].file), bundle, LIMITS, work.options.signal);
  const { testFiles } = await readTask(bundle, 'one', LIMITS, work.options);
  assert.deepEqual(
    testFiles,
    ['test.sh', ...Object.keys(files).map((path) => path.slice('tasks/one/tests/'.length))].sort(byBytes),
  );
});

test('a gzip of several members is one archive', async () => {
  await using work = await workDir();
  const bytes = tarBytes(treeEntries(GOOD));
  const file = await put(work.dir, Buffer.concat([gzipSync(bytes.subarray(0, 700)), gzipSync(bytes.subarray(700))]));
  assert.equal((await inspectArchive(file, LIMITS, work.options)).taskCount, 1);
});

test('equal trees split to equal bundles, from zip, tar.gz and a packed directory', async () => {
  await using work = await workDir();
  const tree: Tree = {
    ...GOOD,
    'agent_code/lib/ünï.py': 'x = 1\n',
    'agent_code/empty': '',
    'agent_code/big.bin': Buffer.from(Array.from({ length: 200_000 }, (_, i) => (i * i * 31) % 253)),
    [`tasks/two/tests/${'long/'.repeat(22)}${'n'.repeat(120)}.sh`]: 'exit 0',
    'tasks/two/workspace.yaml': 'repo: owner/two\n',
    'tasks/two/prompt.md': 'Two',
  };
  const reversed = Object.fromEntries(Object.entries(tree).reverse());
  const source = join(work.dir, 'source');
  for (const [path, body] of Object.entries(tree)) {
    await mkdir(join(source, path, '..'), { recursive: true });
    await writeFile(join(source, path), body);
    if (path.endsWith('.sh')) await chmod(join(source, path), 0o711);
  }
  await packDirectory(source, join(work.dir, 'packed.tar.gz'));
  const uploads = [
    tarGz(tree),
    tarGz(below('x', reversed)),
    await zip(reversed),
    await readFile(join(work.dir, 'packed.tar.gz')),
  ];
  const results: Record<string, string>[] = [];
  for (const [index, bytes] of uploads.entries()) {
    const file = await put(work.dir, bytes);
    const outDir = join(work.dir, `out${index}`);
    const split = await splitArchive(file, LIMITS, { ...work.options, outDir });
    assert.deepEqual(
      split.tasks.map((task) => [task.taskId, task.file]),
      [
        ['one', join(outDir, 'task-0.tar.gz')],
        ['two', join(outDir, 'task-1.tar.gz')],
      ],
    );
    assert.equal(split.agent.file, join(outDir, 'agent.tar.gz'));
    assert.deepEqual((await readdir(outDir)).sort(), ['agent.tar.gz', 'task-0.tar.gz', 'task-1.tar.gz']);
    results.push(
      Object.fromEntries(
        await Promise.all(
          (await readdir(outDir)).map(async (name) => [name, (await readFile(join(outDir, name))).toString('base64')]),
        ),
      ),
    );
    assert.deepEqual(await work.left(), []);
  }
  for (const result of results) assert.deepEqual(result, results[0]);

  const bundle = join(work.dir, 'bundle');
  await extractBundle(createReadStream(join(work.dir, 'out0', 'task-1.tar.gz')), bundle, LIMITS, work.options.signal);
  const script = `tests/${'long/'.repeat(22)}${'n'.repeat(120)}.sh`;
  assert.equal(await readFile(join(bundle, script), 'utf8'), 'exit 0');
  assert.equal((await stat(join(bundle, script))).mode & 0o100, 0o100);
  assert.equal((await stat(join(bundle, 'prompt.md'))).mode & 0o111, 0);
});

test('a part may be denser than its archive: a bundle of an accepted archive is accepted', async () => {
  await using work = await workDir();
  const random = randomBytes(60_000);
  const file = await put(
    work.dir,
    tarGz({ ...GOOD, 'agent_code/noise': random, 'tasks/one/tests/zeros': Buffer.alloc(3 * 1024 ** 2) }),
  );
  const split = await splitArchive(file, LIMITS, { ...work.options, outDir: join(work.dir, 'out') });
  const [task] = split.tasks;
  assert.ok(task);
  const bundle = join(work.dir, 'bundle');
  await extractBundle(createReadStream(task.file), bundle, LIMITS, work.options.signal);
  assert.equal((await stat(join(bundle, 'tests/zeros'))).size, 3 * 1024 ** 2);
});

test('a hostile or cut bundle is refused and its directory removed', async () => {
  await using work = await workDir();
  const bundle = join(work.dir, 'bundle');
  const bytes = [
    tarGz({ '../evil': 'x' }),
    tarGz(GOOD).subarray(0, 200),
    tarGz({}, [{ path: 'a', type: 'SymbolicLink', linkpath: '/' }]),
  ];
  for (const part of bytes) {
    const source = async function* (): AsyncGenerator<Buffer> {
      yield part;
    };
    await assert.rejects(extractBundle(source(), bundle, LIMITS, work.options.signal), ArchiveError);
    assert.deepEqual(await readdir(work.dir), []);
  }
});

test('200 tasks are inspected and split', async () => {
  await using work = await workDir();
  const tree = Object.fromEntries(
    Array.from({ length: 200 }, (_, i) =>
      Object.entries(
        below(`tasks/t${i}`, { 'workspace.yaml': 'repo: o/n\n', 'prompt.md': `Task ${i}`, 'checks.txt': 'true' }),
      ),
    ).flat(),
  );
  const file = await put(work.dir, tarGz({ 'agent_code/agent.sh': '', ...tree }));
  const split = await splitArchive(file, LIMITS, { ...work.options, outDir: join(work.dir, 'out') });
  assert.equal(split.tasks.length, 200);
  assert.equal(new Set(split.tasks.map((task) => task.file)).size, 200);
});
