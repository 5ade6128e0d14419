import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { removeForced, writeTestFiles } from '../../src/executors/test-files.ts';
import { temporaryDirectory } from '../support/tmp.ts';

function stage(t: TestContext) {
  const root = temporaryDirectory(t);
  const [source, repo, elsewhere] = ['source', 'repo', 'elsewhere'].map((name) => join(root, name)) as [
    string,
    string,
    string,
  ];
  mkdirSync(join(source, 'tests/deep'), { recursive: true });
  writeFileSync(join(source, 'tests/test_x.py'), 'hidden');
  writeFileSync(join(source, 'tests/deep/data'), 'data');
  writeFileSync(join(source, 'run.sh'), 'script');
  mkdirSync(repo);
  mkdirSync(elsewhere);
  const files = [
    { path: 'tests/test_x.py', executable: false },
    { path: 'tests/deep/data', executable: false },
    { path: 'run.sh', executable: true },
  ];
  return {
    root,
    source,
    repo,
    elsewhere,
    write: () => writeTestFiles(source, repo, files),
    assertWritten() {
      for (const [path, text] of [
        ['tests/test_x.py', 'hidden'],
        ['tests/deep/data', 'data'],
        ['run.sh', 'script'],
      ] as const) {
        assert.ok(lstatSync(join(repo, path)).isFile());
        assert.equal(readFileSync(join(repo, path), 'utf8'), text);
      }
      for (const path of ['.', 'tests', 'tests/deep']) assert.ok(lstatSync(join(repo, path)).isDirectory());
      assert.equal(statSync(join(repo, 'run.sh')).mode & 0o777, 0o755);
      assert.deepEqual(readdirSync(elsewhere), []);
    },
  };
}

test('tests are written over existing ones, and other files beside them stay', async (t) => {
  const { repo, write, assertWritten } = stage(t);
  mkdirSync(join(repo, 'tests'));
  writeFileSync(join(repo, 'tests/test_x.py'), 'visible and longer than the hidden one');
  writeFileSync(join(repo, 'tests/other.py'), 'other');
  await write();
  assertWritten();
  assert.equal(readFileSync(join(repo, 'tests/other.py'), 'utf8'), 'other');
});

for (const [name, prepare] of [
  ['a link out of the repository where a directory goes', (repo, out) => symlinkSync(out, join(repo, 'tests'))],
  ['a dangling link where a file goes', (repo, out) => symlinkSync(join(out, 'new'), join(repo, 'run.sh'))],
  ['a link in a loop where a directory goes', (repo) => symlinkSync('tests', join(repo, 'tests'))],
  ['a file where a directory goes', (repo) => writeFileSync(join(repo, 'tests'), 'x')],
  ['a full directory where a file goes', (repo) => mkdirSync(join(repo, 'run.sh/deep/er'), { recursive: true })],
  ['a FIFO where a file goes', (repo) => execFileSync('mkfifo', [join(repo, 'run.sh')])],
  ['a FIFO where a directory goes', (repo) => execFileSync('mkfifo', [join(repo, 'tests')])],
  [
    'a link where the repository was',
    (repo, out) => {
      execFileSync('rm', ['-r', repo]);
      symlinkSync(out, repo);
    },
  ],
  ['nothing where the repository was', (repo) => execFileSync('rm', ['-r', repo])],
  [
    'a hard link to a file of ours',
    (repo, out) => {
      writeFileSync(join(out, '..', 'ours'), 'ours');
      execFileSync('ln', [join(out, '..', 'ours'), join(repo, 'run.sh')]);
    },
  ],
] as const satisfies readonly (readonly [string, (repo: string, elsewhere: string) => void])[]) {
  test(`${name} is replaced and not followed`, async (t) => {
    const { root, repo, elsewhere, write, assertWritten } = stage(t);
    prepare(repo, elsewhere);
    await write();
    assertWritten();
    const ours = spawnSync('cat', [join(root, 'ours')], { encoding: 'utf8' }).stdout;
    assert.ok(ours === '' || ours === 'ours');
  });
}

test('locked directories do not keep the tests out, also when we are not root', async (t) => {
  const { root, source, repo, assertWritten } = stage(t);
  mkdirSync(join(repo, 'tests/deep'), { recursive: true });
  mkdirSync(join(repo, 'run.sh/locked'), { recursive: true });
  writeFileSync(join(repo, 'run.sh/locked/file'), 'x');
  const uid = process.getuid?.() === 0 ? 65_534 : undefined;
  if (uid !== undefined) {
    chmodSync(root, 0o755);
    for (const path of ['', ...(readdirSync(root, { recursive: true }) as string[])])
      chownSync(join(root, path), uid, uid);
  }
  for (const path of ['run.sh/locked', 'tests/deep', 'tests', '']) chmodSync(join(repo, path), 0o000);
  const program = `
    process.setuid?.(${uid ?? 'process.getuid()'});
    await writeTestFiles(${JSON.stringify(source)}, ${JSON.stringify(repo)}, [
      { path: 'tests/test_x.py', executable: false },
      { path: 'tests/deep/data', executable: false },
      { path: 'run.sh', executable: true },
    ]);`;
  // Imported before the user changes: the new one may not be allowed to read our sources.
  const url = new URL('../../src/executors/test-files.ts', import.meta.url).href;
  const code = `import { writeTestFiles } from ${JSON.stringify(url)};${program}`;
  const run = spawnSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8', timeout: 20_000 });
  assert.equal(run.status, 0, run.stderr);
  assertWritten();
});

test('paths that leave the repository or lead into .git are refused before anything is written', async (t) => {
  const { source, repo } = stage(t);
  for (const path of [
    '../x',
    '/x',
    'a/../../x',
    '',
    'a//b',
    './a',
    '.git/hooks/pre-commit',
    'sub/.GIT/config',
    'a\0b',
  ]) {
    const files = [
      { path: 'run.sh', executable: true },
      { path, executable: false },
    ];
    await assert.rejects(writeTestFiles(source, repo, files), { code: 'bad_test_path' });
  }
  assert.deepEqual(readdirSync(repo), []);
});

test('a locked tree can be removed', async (t) => {
  const { repo } = stage(t);
  mkdirSync(join(repo, 'a/b'), { recursive: true });
  chmodSync(join(repo, 'a'), 0);
  await removeForced(repo);
  await removeForced(repo);
  assert.equal(statSync(repo, { throwIfNoEntry: false }), undefined);
});
