import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { GitError, classifyGitFailure, gitError } from '../../src/executors/git-run.ts';
import { type FetchOptions, checkout, fetchCommit } from '../../src/executors/git.ts';
import { type PatchOptions, patchSince } from '../../src/executors/patch.ts';
import { type TestRepo, makeRepo, runGit } from '../support/repos.ts';
import { temporaryDirectory } from '../support/tmp.ts';

const PATH = process.env['PATH'] ?? '';
const limits = () => ({ timeoutMs: 60_000, signal: new AbortController().signal, path: PATH, graceMs: 100 });

function fetchOptions(root: string, repo: string, commit?: string): FetchOptions {
  const rest = commit === undefined ? {} : { commit };
  return { ...limits(), repo, storeDir: join(root, 'store.git'), protocols: ['file'], hosts: [], ...rest };
}

async function checkedOut(t: TestContext, repo: TestRepo | string, commit?: string, more: Partial<FetchOptions> = {}) {
  const root = temporaryDirectory(t);
  const url = typeof repo === 'string' ? repo : repo.url;
  const fetched = await fetchCommit({ ...fetchOptions(root, url, commit), ...more });
  const dir = join(root, 'repo');
  const baseDir = join(root, 'base.git');
  await checkout({ ...limits(), fetched, dir, baseDir });
  const patch = async (maxBytes = 1_000_000, bounds: Partial<PatchOptions> = {}) => {
    const outFile = join(root, 'patch');
    const base = { ...limits(), dir, baseDir, baseCommit: fetched.commit, outFile, maxBytes };
    const kept = await patchSince({ ...base, ...bounds });
    return { ...kept, text: readFileSync(outFile, 'latin1'), outFile };
  };
  return { root, dir, baseDir, commit: fetched.commit, patch };
}

const code = (expected: string) => (error: unknown) => {
  assert.ok(error instanceof GitError, String(error));
  assert.equal(error.code, expected, error.message);
  return true;
};

test('a full commit is checked out alone: no later commit, no other ref, no remote, no reflog, no hook', async (t) => {
  const repo = makeRepo(temporaryDirectory(t), { a: '1' }, { a: '2' }, { a: 'fix' });
  repo.git('tag', 'v1', repo.commits[2] ?? '');
  const { dir } = await checkedOut(t, repo, repo.commits[1]);
  assert.equal(readFileSync(join(dir, 'a'), 'utf8'), '2');
  assert.equal(runGit(dir, 'rev-list', '--all', '--reflog', 'HEAD'), repo.commits[1]);
  assert.equal(runGit(dir, 'for-each-ref', '--format=%(refname)'), 'refs/heads/main');
  assert.equal(runGit(dir, 'remote'), '');
  assert.equal(
    runGit(dir, 'cat-file', '--batch-all-objects', '--batch-check=%(objecttype)').match(/commit/g)?.length,
    1,
  );
  assert.throws(() => runGit(dir, 'cat-file', '-e', repo.commits[2] ?? ''));
  for (const name of ['FETCH_HEAD', 'ORIG_HEAD', 'logs', 'hooks', 'packed-refs']) {
    assert.equal(existsSync(join(dir, '.git', name)), false, name);
  }
  assert.equal(runGit(dir, 'status', '--porcelain'), '');
});

test('short commits, tags, annotated tags, branches and the default branch are found', async (t) => {
  const repo = makeRepo(temporaryDirectory(t), { a: '1' }, { a: '2' }, { a: '3' });
  const [first = '', second = '', third = ''] = repo.commits;
  repo.git('tag', '--annotate', '--message', 'x', 'release', second);
  repo.git('branch', 'feature/x', first);
  for (const [name, expected] of [
    [second.slice(0, 10), second],
    ['release', second],
    ['feature/x', first],
    [undefined, third],
  ] as const) {
    const { commit, dir } = await checkedOut(t, repo, name);
    assert.equal(commit, expected, name);
    assert.equal(runGit(dir, 'rev-list', '--all'), expected);
  }
});

test('a server that does not give single commits is asked for everything, and only the commit is kept', async (t) => {
  const parent = temporaryDirectory(t);
  const repo = makeRepo(parent, { a: '1' }, { a: '2' });
  const bare = join(parent, 'bare.git');
  runGit(parent, 'clone', '--quiet', '--bare', repo.dir, bare);
  runGit(bare, 'update-server-info');
  // A plain file server: git's dumb HTTP protocol, which knows neither depth nor wishes.
  const server = createServer((request, response) => {
    const path = join(parent, new URL(request.url ?? '/', 'http://x').pathname);
    if (!existsSync(path)) response.writeHead(404).end();
    else response.end(readFileSync(path));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  const address = server.address();
  assert.ok(address && typeof address === 'object');
  const url = `http://127.0.0.1:${address.port}/bare.git`;
  const over = { protocols: ['http'], hosts: ['127.0.0.1'] };
  const { dir } = await checkedOut(t, url, repo.commits[0], over);
  assert.equal(readFileSync(join(dir, 'a'), 'utf8'), '1');
  assert.equal(runGit(dir, 'rev-list', '--all'), repo.commits[0]);

  const root = temporaryDirectory(t);
  const options = { ...fetchOptions(root, url, repo.commits[0]), ...over };
  await assert.rejects(fetchCommit({ ...options, hosts: [] }), code('git_refused'));
  await assert.rejects(fetchCommit({ ...options, hosts: ['example.com'] }), code('git_refused'));
  await assert.rejects(fetchCommit({ ...options, protocols: ['https'] }), code('git_refused'));
  await assert.rejects(fetchCommit({ ...options, repo: `${url}x` }), code('git_not_found'));
});

test('an unreachable host, a missing repository, a missing commit and a damaged repository are told apart', async (t) => {
  const parent = temporaryDirectory(t);
  const repo = makeRepo(parent, { a: 'some content\n' });
  const attempt = (url: string, commit?: string, more: Partial<FetchOptions> = {}) =>
    fetchCommit({ ...fetchOptions(temporaryDirectory(t), url, commit), ...more });
  await assert.rejects(
    attempt('http://127.0.0.1:1/a', undefined, { protocols: ['http'], hosts: ['127.0.0.1'] }),
    code('git_network'),
  );
  await assert.rejects(attempt(`file://${parent}/nowhere`), code('git_not_found'));
  await assert.rejects(attempt(repo.url, '0123456789012345678901234567890123456789'), code('git_bad_commit'));
  await assert.rejects(attempt(repo.url, 'no-such-branch'), code('git_bad_commit'));
  await assert.rejects(attempt(repo.url, '--upload-pack=touch'), code('git_bad_commit'));
  await assert.rejects(attempt('--upload-pack=touch'), code('git_refused'));
  await assert.rejects(attempt('ext::sh -c true'), code('git_refused'));
  const blob = repo.git('rev-parse', 'HEAD:a');
  const object = join(repo.dir, '.git/objects', blob.slice(0, 2), blob.slice(2));
  chmodSync(object, 0o600);
  writeFileSync(object, 'garbage');
  await assert.rejects(attempt(repo.url, repo.commits[0]), code('git_corrupt'));
});

test('a fetch that takes too long is ended with everything it started; one that is cancelled rejects with the reason', async (t) => {
  const server = createServer(() => {}).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const address = server.address();
  assert.ok(address && typeof address === 'object');
  const url = `http://127.0.0.1:${address.port}/a`;
  const options = { ...fetchOptions(temporaryDirectory(t), url), protocols: ['http'], hosts: ['127.0.0.1'] };
  await assert.rejects(fetchCommit({ ...options, timeoutMs: 400 }), code('git_timeout'));
  const abort = new AbortController();
  server.once('request', () => abort.abort(new Error('stop')));
  await assert.rejects(
    fetchCommit({ ...options, storeDir: `${options.storeDir}2`, signal: abort.signal }),
    /^Error: stop$/,
  );
});

test('what git prints is classified, and credentials never reach the message', () => {
  assert.equal(
    classifyGitFailure("fatal: could not read Username for 'https://github.com': terminal prompts disabled"),
    'git_auth',
  );
  assert.equal(classifyGitFailure("fatal: repository 'https://x/y/' not found"), 'git_not_found');
  assert.equal(classifyGitFailure('fatal: unable to access x: Could not resolve host: x'), 'git_network');
  assert.equal(classifyGitFailure('fatal: something new'), 'git_failed');
  const { message } = gitError(
    'git_failed',
    'clone of https://u:hunter2@h/x',
    `fatal: https://u:hunter2@h/x ${'y'.repeat(5000)}`,
  );
  assert.doesNotMatch(message, /hunter2/);
  assert.ok(message.length < 1000);
});

test('submodules stay empty and files of LFS stay pointers', async (t) => {
  const parent = temporaryDirectory(t);
  const inner = makeRepo(parent, { x: '1' });
  const repo = makeRepo(parent, {
    '.gitattributes': '*.bin filter=lfs diff=lfs merge=lfs -text\n',
    'a.bin': 'version https://git-lfs\n',
  });
  repo.git('-c', 'protocol.file.allow=always', 'submodule', '--quiet', 'add', inner.url, 'sub');
  repo.git('commit', '--quiet', '--message', 'sub');
  const { dir, patch } = await checkedOut(t, repo);
  assert.deepEqual(readdirSync(join(dir, 'sub')), []);
  assert.equal(readFileSync(join(dir, 'a.bin'), 'utf8'), 'version https://git-lfs\n');
  assert.equal((await patch()).bytes, 0);
});

test('the patch holds committed, staged, unstaged, untracked, binary, deleted, linked and renamed files and applies', async (t) => {
  const repo = makeRepo(temporaryDirectory(t), {
    'committed.txt': 'a\n',
    'staged.txt': 'a\n',
    'unstaged.txt': 'a\n',
    'deleted.txt': 'a\n',
    'becomes-dir': 'a\n',
    'dir/becomes-file': 'a\n',
    'dir2/x': 'a\n',
    '.gitignore': '*.log\n',
  });
  const { dir, patch, root, commit } = await checkedOut(t, repo);
  writeFileSync(join(dir, 'committed.txt'), 'b\n');
  runGit(dir, 'checkout', '--quiet', '-b', 'work');
  runGit(dir, '-c', 'user.useConfigOnly=true', 'commit', '--quiet', '--all', '--message', 'mine');
  writeFileSync(join(dir, 'staged.txt'), 'b\n');
  runGit(dir, 'add', 'staged.txt');
  writeFileSync(join(dir, 'unstaged.txt'), 'b\n');
  writeFileSync(join(dir, 'new ü\n.txt'), 'b\n');
  writeFileSync(join(dir, 'binary'), Buffer.from([0, 1, 2, 255, 0]));
  writeFileSync(join(dir, 'ignored.log'), 'b\n');
  symlinkSync('/etc/passwd', join(dir, 'link'));
  rmSync(join(dir, 'deleted.txt'));
  rmSync(join(dir, 'becomes-dir'));
  mkdirSync(join(dir, 'becomes-dir'));
  writeFileSync(join(dir, 'becomes-dir/x'), 'b\n');
  rmSync(join(dir, 'dir'), { recursive: true });
  writeFileSync(join(dir, 'dir'), 'b\n');
  rmSync(join(dir, 'dir2'), { recursive: true });
  symlinkSync('/etc', join(dir, 'dir2'));
  execFileSync('mkfifo', [join(dir, 'fifo')]);
  const { outFile, omittedBytes, text } = await patch();
  assert.equal(omittedBytes, 0);
  assert.doesNotMatch(text, /ignored\.log|fifo|root:x/);

  const fresh = join(root, 'fresh');
  runGit(root, 'clone', '--quiet', repo.dir, fresh);
  runGit(fresh, 'checkout', '--quiet', commit);
  runGit(fresh, 'apply', '--index', outFile);
  rmSync(join(dir, 'fifo'));
  rmSync(join(dir, 'ignored.log'));
  assert.equal(execFileSync('diff', ['-r', '--no-dereference', '-x', '.git', dir, fresh], { encoding: 'utf8' }), '');
});

test('nothing the agent writes into .git is obeyed: filters, monitors, hooks, drivers, nested repositories', async (t) => {
  const repo = makeRepo(temporaryDirectory(t), { 'a.txt': 'a\n', 'b.txt': 'b\n' });
  const { dir, patch, root } = await checkedOut(t, repo);
  const marker = join(root, 'obeyed');
  const command = `touch ${marker}; cat`;
  for (const key of [
    'filter.x.clean',
    'filter.x.process',
    'core.fsmonitor',
    'diff.x.textconv',
    'diff.x.command',
    'diff.external',
  ]) {
    runGit(dir, 'config', key, command);
  }
  writeFileSync(join(dir, '.gitattributes'), '* filter=x diff=x\n');
  writeFileSync(join(dir, 'a.txt'), 'changed\n');
  mkdirSync(join(dir, 'nested'));
  runGit(join(dir, 'nested'), 'init', '--quiet');
  writeFileSync(join(dir, 'nested/inner.txt'), 'inner\n');
  runGit(join(dir, 'nested'), 'add', '.');
  runGit(join(dir, 'nested'), 'commit', '--quiet', '--message', 'x');
  for (const key of ['filter.x.clean', 'core.fsmonitor']) runGit(join(dir, 'nested'), 'config', key, command);
  mkdirSync(join(dir, '.git/hooks'), { recursive: true });
  writeFileSync(join(dir, '.git/hooks/post-index-change'), `#!/bin/sh\ntouch ${marker}\n`, { mode: 0o755 });
  const { text } = await patch();
  assert.match(text, /\+changed/);
  assert.match(text, /\+inner/);
  assert.equal(existsSync(marker), false);

  rmSync(join(dir, '.git'), { recursive: true });
  assert.match((await patch()).text, /\+changed/);
});

test('a patch over the limit is cut and the rest is counted', async (t) => {
  const repo = makeRepo(temporaryDirectory(t), { a: 'a\n' });
  const { dir, patch } = await checkedOut(t, repo);
  writeFileSync(join(dir, 'big'), 'line\n'.repeat(100_000));
  const whole = await patch(10_000_000);
  const cut = await patch(1000);
  assert.deepEqual([cut.bytes, cut.text.length], [1000, 1000]);
  assert.equal(cut.bytes + cut.omittedBytes, whole.bytes);
});

test('a patch of too many files, too long names or too much time is an error of git, and it can be cancelled', async (t) => {
  const repo = makeRepo(temporaryDirectory(t), { a: 'a\n' });
  const { dir, patch } = await checkedOut(t, repo);
  mkdirSync(join(dir, 'plain'));
  const fill = (place: string) => {
    for (let number = 0; number < 1500; number += 1) writeFileSync(join(dir, place, `f${number}`), '');
  };
  const tooMany = (error: unknown) => code('git_failed')(error) && /too many files/.test(String(error));
  fill('plain');
  await assert.rejects(patch(1_000_000, { maxPaths: 1000 }), tooMany);
  runGit(dir, 'init', '--quiet', 'nested');
  rmSync(join(dir, 'plain'), { recursive: true });
  fill('nested');
  mkdirSync(join(dir, 'nested/dü'));
  const odd = Buffer.concat([Buffer.from(`${dir}/nested/dü/`), Buffer.from([0xff])]);
  await assert.rejects(patch(1_000_000, { maxPaths: 1000 }), tooMany);
  await assert.rejects(patch(1_000_000, { maxPathBytes: 5000 }), tooMany);
  await assert.rejects(patch(1_000_000, { timeoutMs: 1 }), code('git_timeout'));
  const abort = new AbortController();
  const cancelled = patch(1_000_000, { signal: abort.signal });
  abort.abort(new Error('stop'));
  await assert.rejects(cancelled, /^Error: stop$/);
  writeFileSync(odd, 'odd\n');
  const { text } = await patch().finally(() => rmSync(odd));
  assert.equal(text.match(/^diff --git /gm)?.length, 1501);
  assert.match(text, /nested\/d\\303\\274\/\\377/);
});

test('concurrent clones of one repository do not disturb each other', async (t) => {
  const repo = makeRepo(temporaryDirectory(t), { a: '1' });
  const results = await Promise.all([1, 2, 3].map(() => checkedOut(t, repo, repo.commits[0])));
  assert.deepEqual(new Set(results.map(({ commit }) => commit)), new Set(repo.commits));
});

test('the server side of a hostile local repository runs no hook and no configured command', async (t) => {
  const parent = temporaryDirectory(t);
  const repo = makeRepo(parent, { a: '1' });
  const marker = join(parent, 'obeyed');
  repo.git('config', 'uploadpack.packObjectsHook', `touch ${marker}; git pack-objects`);
  repo.git('config', 'core.fsmonitor', `touch ${marker}`);
  mkdirSync(join(repo.dir, '.git/hooks'), { recursive: true });
  writeFileSync(join(repo.dir, '.git/hooks/post-checkout'), `#!/bin/sh\ntouch ${marker}\n`, { mode: 0o755 });
  await checkedOut(t, repo);
  assert.equal(existsSync(marker), false);
});
