import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, symlink, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { packDirectory, PackError } from '../src/pack.ts';

async function workDir(): Promise<AsyncDisposable & { dir: string }> {
  const dir = await mkdtemp(join(tmpdir(), 'pack-test-'));
  return { dir, [Symbol.asyncDispose]: () => rm(dir, { recursive: true, force: true }) };
}

async function write(dir: string, files: Readonly<Record<string, string | Buffer>>): Promise<string> {
  for (const [path, body] of Object.entries(files)) {
    await mkdir(dirname(join(dir, path)), { recursive: true });
    await writeFile(join(dir, path), body);
  }
  return dir;
}

const FILES = {
  'agent_code/agent.py': 'print()',
  'agent_code/run.sh': 'true',
  'tasks/ünï/prompt.md': 'x'.repeat(70_000),
  [`tasks/long/${'d/'.repeat(60)}${'f'.repeat(200)}`]: '',
  'README.md': 'r',
};

test('packing depends on names, contents and the executable bit alone', async () => {
  await using work = await workDir();
  const one = await write(join(work.dir, 'one'), {
    ...FILES,
    '.git/config': 'a',
    'tasks/.DS_Store': 'b',
    'agent_code/sub/.git': 'gitdir: x',
  });
  const two = await write(join(work.dir, 'two'), Object.fromEntries(Object.entries(FILES).reverse()));
  await mkdir(join(two, 'agent_code/empty'));
  await utimes(join(two, 'README.md'), 1, 1);
  await chmod(join(two, 'README.md'), 0o600);
  await chmod(join(one, 'agent_code/run.sh'), 0o755);
  await chmod(join(two, 'agent_code/run.sh'), 0o700);
  const first = await packDirectory(one, join(work.dir, '1.tar.gz'));
  const second = await packDirectory(two, join(work.dir, '2.tar.gz'));
  assert.deepEqual(first, second);
  const bytes = await readFile(join(work.dir, '1.tar.gz'));
  assert.ok(bytes.equals(await readFile(join(work.dir, '2.tar.gz'))));
  assert.deepEqual(first, { sha256: createHash('sha256').update(bytes).digest('hex'), bytes: bytes.length });
  // A change of these bytes splits the votes of validators with different versions: it needs a note in the CHANGELOG.
  assert.equal(first.sha256, 'b45c98c7cfd740f55b3cba913da68fea92d466fce1d23c9a6f2a90f93d2a55ac');
});

test('other programs read what was packed', async () => {
  await using work = await workDir();
  const source = await write(join(work.dir, 'source'), FILES);
  await chmod(join(source, 'agent_code/run.sh'), 0o755);
  await packDirectory(source, join(work.dir, 'out.tar.gz'));
  const listing = execFileSync('tar', ['-tvzf', join(work.dir, 'out.tar.gz'), '--quoting-style=literal'], {
    encoding: 'utf8',
    env: { ...process.env, LC_ALL: 'C.UTF-8' },
    timeout: 10_000,
  });
  const lines = listing.trim().split('\n');
  assert.deepEqual(
    lines.map((line) => line.split(/ \d\d:\d\d /)[1]),
    Object.keys(FILES).sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b))),
  );
  assert.match(lines.find((line) => line.includes('run.sh')) ?? '', /^-rwxr-xr-x 0\/0 /);
  assert.match(lines[0] ?? '', /^-rw-r--r-- 0\/0 /);
  await mkdir(join(work.dir, 'unpacked'));
  execFileSync('tar', ['-xzf', join(work.dir, 'out.tar.gz'), '-C', join(work.dir, 'unpacked')], { timeout: 10_000 });
  for (const [path, body] of Object.entries(FILES))
    assert.equal(await readFile(join(work.dir, 'unpacked', path), 'utf8'), body);
});

test('what cannot be packed is named and leaves no file', async () => {
  await using work = await workDir();
  const source = await write(join(work.dir, 'source'), FILES);
  const out = join(work.dir, 'out.tar.gz');
  const refused = async (target: string, message: RegExp): Promise<void> => {
    await assert.rejects(packDirectory(source, target), (error: unknown) => {
      assert.ok(error instanceof PackError, String(error));
      assert.match(error.message, message);
      return true;
    });
    assert.deepEqual(await readdir(work.dir), ['source']);
  };
  await refused(join(source, 'out.tar.gz'), /inside of what is packed/);
  await symlink('agent.py', join(source, 'agent_code/link.py'));
  await refused(out, /source\/agent_code\/link\.py: only files and directories/);
  await rm(join(source, 'agent_code/link.py'));
  execFileSync('mkfifo', [join(source, 'tasks/pipe')], { timeout: 10_000 });
  await refused(out, /tasks\/pipe: only files/);
  await rm(join(source, 'tasks/pipe'));
  await writeFile(Buffer.concat([Buffer.from(join(source, 'tasks/')), Buffer.from([0xff])]), '');
  await refused(out, /not valid UTF-8/);
  await rm(join(source, 'tasks'), { recursive: true });
  await refused(out, /source\/tasks: must be a directory/);
});
