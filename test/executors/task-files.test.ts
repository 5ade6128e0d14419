import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { AGENT_ENTRIES, findAgentEntry } from '../../src/executors/agent-entry.ts';
import {
  ArchiveError,
  DEFAULT_ARCHIVE_LIMITS as LIMITS,
  type ArchiveLimits,
} from '../../src/executors/archive-limits.ts';
import { readPrompt, readTask } from '../../src/executors/task-files.ts';
import { checkCommit, checkRepo } from '../../src/executors/task-repo.ts';
import type { TaskSpec } from '../../src/executors/task-spec.ts';

const POLICY = { gitProtocols: ['https', 'http', 'ssh', 'git', 'file'], gitHosts: [] };
const FILES = { 'workspace.yaml': 'repo: o/n\n', 'prompt.md': 'Do it.', 'tests/t.sh': 'true' };

async function task(
  files: Readonly<Record<string, string | Buffer>>,
  prepare?: (dir: string) => Promise<void>,
  limits: ArchiveLimits = LIMITS,
): Promise<TaskSpec> {
  const dir = await mkdtemp(join(tmpdir(), 'task-test-'));
  try {
    for (const [path, body] of Object.entries(files)) {
      await mkdir(dirname(join(dir, path)), { recursive: true });
      await writeFile(join(dir, path), body);
    }
    await prepare?.(dir);
    return await readTask(dir, 'id', limits, POLICY);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

const nine = (item: string): string => Array.from({ length: 9 }, () => item).join();
const withYaml = (yaml: string): Promise<TaskSpec> => task({ ...FILES, 'workspace.yaml': yaml });

async function refuses(running: Promise<unknown>, message: string): Promise<void> {
  await assert.rejects(running, (error: unknown) => {
    assert.ok(error instanceof ArchiveError, String(error));
    assert.equal(error.message, message);
    return true;
  });
}

test('a workspace.yaml with every field becomes a TaskSpec', async () => {
  const spec = await withYaml(`
repo: owner/name
base_commit: 12345678
version: 1.0
language: python
install: [pip install -e ., "make"]
install_config: {install: ignored, python: 3.11}
fail_to_pass: [a]
pass_to_pass: []
difficulty: hard
difficulty_score: 0.5
patch: |
  diff
prompt: other
weight: 2
network: {agent: none}
resources: {memory: 1g}
timeouts: {clone: 10, install: 20.5, agent: 30, test: 40}
env: {A: text, B: 1.10, C: true, D: "", E: 0x10}
anything: [else, {is: kept}]
`);
  assert.deepEqual(spec, {
    taskId: 'id',
    repo: 'https://github.com/owner/name',
    baseCommit: '12345678',
    install: ['pip install -e .', 'make'],
    tests: [{ kind: 'script', name: 't.sh', path: 't.sh' }],
    testFiles: ['t.sh'],
    timeouts: { cloneSecs: 10, installSecs: 20.5, agentSecs: 30, testSecs: 40 },
    env: { A: 'text', B: '1.10', C: 'true', D: '', E: '0x10' },
  });
});

test('a commit is read as it is written, never as a number', async () => {
  for (const commit of [
    '0123456',
    '1234567',
    '1e12345',
    '0x1234567',
    '12345678901234567890123456789012345678901234567890',
    'v1.0',
    'release/2.x',
    '1_000_000',
  ]) {
    assert.equal((await withYaml(`repo: o/n\nbase_commit: ${commit}`)).baseCommit, commit);
    assert.equal((await withYaml(`repo: o/n\nbase_commit: "${commit}"`)).baseCommit, commit);
    assert.equal((await withYaml(`repo: o/n\nversion: &c ${commit}\nbase_commit: *c`)).baseCommit, commit);
  }
  for (const absent of ['', 'base_commit:', 'base_commit: ~', 'base_commit: null']) {
    assert.equal((await withYaml(`repo: o/n\n${absent}`)).baseCommit, undefined);
  }
});

test('install_config.install is used when there is no install', async () => {
  assert.deepEqual((await withYaml('repo: o/n\ninstall_config: {install: npm ci}')).install, ['npm ci']);
  assert.deepEqual((await withYaml('repo: o/n\ninstall_config: {install: [a, b]}')).install, ['a', 'b']);
  assert.deepEqual((await withYaml('repo: o/n\ninstall_config: {install: ~}\ninstall:')).install, []);
  assert.deepEqual((await withYaml('repo: o/n\ninstall: []\ninstall_config: {install: a}')).install, []);
  assert.deepEqual((await withYaml('repo: o/n\ninstall: npm ci')).install, ['npm ci']);
});

test('faults of workspace.yaml are named with line and field', async (t) => {
  const at = (line: number, text: string): string => `tasks/id/workspace.yaml:${line}: ${text}`;
  const env = 'must map names of letters, digits and underscores to text, numbers or booleans';
  const cases: [string, string][] = [
    ['', at(1, 'must be a mapping of fields, such as "repo: owner/name"')],
    ['- a', at(1, 'must be a mapping of fields, such as "repo: owner/name"')],
    ['a: 1', at(1, 'repo is required')],
    ['\n\nrepo: [a]', at(3, 'repo must be text')],
    ['repo: o/n\nversion: 1\nversion: 2', at(3, 'not valid YAML: duplicate key (column 1)')],
    ['repo: o/n\nversion: 1\n"version": 2', at(3, 'not valid YAML: duplicate key (column 1)')],
    ['repo: o/n\nx:\n  - a: {A: s3cret, A: 2}', at(3, 'not valid YAML: duplicate key (column 20)')],
    ['repo: o/n\n__proto__: 1\n__proto__: 2', at(3, 'not valid YAML: duplicate key (column 1)')],
    ['repo: o/n\n\tx: y', at(2, 'not valid YAML: tab as indent (column 1)')],
    ['repo: o/n\nx: [', at(2, 'not valid YAML: bad indent (column 5)')],
    ['repo: o/n\nx: !!js/function y', at(2, 'not valid YAML: tag resolve failed (column 4)')],
    ['repo: o/n\n---\nrepo: o/m', at(2, 'not valid YAML: multiple docs (column 1)')],
    ['repo: o/n\ninstall:\n  - a\n  - 5', at(4, 'install.1 must be a command: text that is not empty')],
    ['repo: o/n\ninstall:\n  - a\n  - "  "', at(4, 'install.1 must not be blank')],
    ['repo: o/n\ninstall: {a: b}', at(2, 'install must be a list of strings')],
    ['repo: o/n\ninstall_config: x', at(2, 'install_config must be a mapping')],
    [
      'repo: o/n\nfail_to_pass: npm test',
      at(2, 'fail_to_pass must be a list of strings, or a JSON list of strings in one string'),
    ],
    [
      "repo: o/n\npass_to_pass: '[1]'",
      at(2, 'pass_to_pass must be a list of strings, or a JSON list of strings in one string'),
    ],
    [
      'repo: o/n\ntimeouts:\n  clone: 1\n  agent: 0',
      at(4, 'timeouts.agent must be one of clone, install, agent, test, a number of seconds over 0'),
    ],
    [
      'repo: o/n\ntimeouts:\n  build: 5',
      at(3, 'timeouts.build must be one of clone, install, agent, test, a number of seconds over 0'),
    ],
    [
      'repo: o/n\ntimeouts: {test: .inf}',
      at(2, 'timeouts.test must be one of clone, install, agent, test, a number of seconds over 0'),
    ],
    ['repo: o/n\nbase_commit: [x]', at(2, 'base_commit must be text')],
    [
      'repo: o/n\nbase_commit: --upload-pack=x',
      at(2, 'base_commit must be a commit (7 to 64 hex digits) or the name of a branch or tag'),
    ],
    ['repo: -x', at(1, 'repo must not begin with a dash')],
    ['repo: o/n\ndifficulty_score: x', at(2, 'difficulty_score must be a number')],
    ['repo: o/n\nenv:\n  A: s3cret\n  PATH: s3cret', at(4, 'env.PATH is reserved; choose another name')],
    ['repo: o/n\nenv:\n  GIT_DIR: s3cret', at(3, 'env.GIT_DIR is reserved; choose another name')],
    ['repo: o/n\nenv:\n  A: [s3cret]', at(3, 'env.A must be text')],
    ['repo: o/n\nenv:\n  A: "s3cret\\0"', at(3, 'env.A must not contain NUL')],
    ['repo: o/n\nenv:\n  A=s3cret: x', at(3, `env ${env}`)],
    ['repo: o/n\nenv:\n  A=s3cret: [x]', at(3, `env ${env}`)],
    ['repo: o/n\nenv: [s3cret]', at(2, `env ${env}`)],
    ['repo: o/n\nenv:\n  A: "s3cret" "s3cret"', at(3, 'not valid YAML: unexpected token (column 15)')],
    [`repo: o/n\nx: ${'['.repeat(100_000)}`, 'not checked'],
    [
      `repo: o/n\na: &a [x,x,x,x,x,x,x,x,x]\nb: &b [${nine('*a')}]\nc: &c [${nine('*b')}]\nd: [${nine('*c')}]`,
      at(1, 'not valid YAML: too many aliases'),
    ],
  ];
  for (const [yaml, message] of cases) {
    await t.test(yaml.slice(0, 60), async () => {
      if (message === 'not checked') await assert.rejects(withYaml(yaml), ArchiveError);
      else await refuses(withYaml(yaml), message);
      await withYaml(yaml).catch((error: unknown) => assert.doesNotMatch(String(error), /s3cret/));
    });
  }
});

test('a file of thousands of keys is read in a moment, not in minutes', { timeout: 30_000 }, async () => {
  const keys = Array.from({ length: 4000 }, (_, index) => `k${index}:\n`).join('');
  assert.equal((await withYaml(`repo: o/n\n${keys}`)).repo, 'https://github.com/o/n');
  await refuses(
    withYaml(`repo: o/n\n${keys}k7:\n`),
    'tasks/id/workspace.yaml:4002: not valid YAML: duplicate key (column 1)',
  );
});

test(
  'a workspace.yaml that would keep the parser busy is refused before it is parsed',
  { timeout: 30_000 },
  async (t) => {
    const tokens = 'tasks/id/workspace.yaml: has over 20000 YAML tokens; put long lists into files under tests/';
    const fill = (text: string): string => text.repeat(250_000 / text.length);
    for (const part of ['[', '{', ' 1,', '- ', '? ', 'k:\n', '#\n', '---\n', '\n']) {
      await t.test(JSON.stringify(part), () => refuses(withYaml(`repo: o/n\nx: [\n${fill(part)}`), tokens));
    }
    await t.test('aliases', async () => {
      const yaml = (count: number): string => {
        const numbers = Array.from({ length: count }, (_, index) => index);
        return `repo: o/n\nx: [${numbers.map((n) => `&a${n} ${n}`).join(', ')}, ${numbers.map((n) => `*a${n}`).join(', ')}]`;
      };
      await withYaml(yaml(100));
      await refuses(withYaml(yaml(101)), 'tasks/id/workspace.yaml:1: not valid YAML: too many aliases');
    });
    await t.test('a long patch and lists of thousands of tests are fine', async () => {
      const patch = Array.from({ length: 3000 }, (_, line) => `  +  call([${line}, {a: "b"}], *args)  # "x"\n\n`).join(
        '',
      );
      const names = Array.from({ length: 3000 }, (_, index) => `tests/test_a.py::test_${index}`);
      const spec = await withYaml(
        `repo: o/n\npatch: |\n${patch}fail_to_pass:\n${names.map((name) => `  - ${name}\n`).join('')}`,
      );
      assert.equal(spec.repo, 'https://github.com/o/n');
      assert.ok((await withYaml(`repo: o/n\npatch: |\n  * a\n${'  * b\n'.repeat(200)}`)).repo);
    });
  },
);

test('repository addresses: what is meant plainly is taken, everything else refused', async (t) => {
  const accepted = [
    'https://github.com/o/n.git',
    'http://example.org:8080/x',
    'ssh://git@example.org/x',
    'git://example.org/x',
    'file:///srv/repos/x.git',
    'git@github.com:o/n.git',
    'https://[2001:db8::1]/x',
  ];
  for (const repo of accepted) assert.deepEqual(checkRepo(repo, POLICY), { value: repo });
  assert.deepEqual(checkRepo('o/n.js', POLICY), { value: 'https://github.com/o/n.js' });
  assert.deepEqual(checkRepo('HTTPS://GitHub.com/O/n', POLICY), { value: 'https://GitHub.com/O/n' });
  assert.deepEqual(checkRepo('File:///srv/x', POLICY), { value: 'file:///srv/x' });
  const refused: [string, RegExp][] = [
    ['', /empty/],
    ['https://host:65536/x', /port over 65535/],
    ['-uo/n', /dash/],
    ['--upload-pack=x', /dash/],
    ['ext::sh -c x', /spaces/],
    ['ext::sh', /must be owner/],
    ['o/..', /must be owner/],
    ['../x', /must be owner/],
    ['/etc', /must be owner/],
    ['a/b/c', /must be owner/],
    ['https://user:p4ss@github.com/x', /credentials/],
    ['https://t0ken@github.com/x', /credentials/],
    ['ssh://git:p4ss@github.com/x', /credentials/],
    ['https://github.com\\@evil.org/x', /backslash/],
    ['https://a@b@c/x', /must be owner/],
    ['ssh://-oProxyCommand=x/y', /must be owner|host/],
    ['git@-oProxyCommand:x', /must be owner/],
    ['git@host:-x', /must be owner/],
    ['https:///x', /no valid host/],
    ['https://h%6fst/x', /must be owner/],
    ['https://github.com/x?token=t0ken', /query/],
    ['file://host/x', /no valid host/],
    ['ftp://host/x', /GIT_PROTOCOLS/],
    ['https://x/\u0000', /control/],
    [`https://x/${'y'.repeat(3000)}`, /2048/],
  ];
  for (const [repo, fault] of refused) {
    await t.test(repo.slice(0, 40) || 'empty', () => {
      const result = checkRepo(repo, POLICY);
      assert.ok('fault' in result, 'accepted');
      assert.match(result.fault, fault);
      assert.doesNotMatch(result.fault, /p4ss|t0ken/);
    });
  }
});

test('GIT_PROTOCOLS and GIT_HOSTS decide, and the fault names them', () => {
  const policy = { gitProtocols: ['https'], gitHosts: ['github.com'] };
  assert.deepEqual(checkRepo('https://GitHub.com/o/n', policy), { value: 'https://GitHub.com/o/n' });
  assert.deepEqual(checkRepo('git@github.com:o/n', policy), {
    fault: 'uses ssh, which GIT_PROTOCOLS of this server does not allow (allowed: https)',
  });
  assert.deepEqual(checkRepo('https://example.org/o/n', policy), {
    fault: 'is at example.org, which GIT_HOSTS of this server does not allow',
  });
  assert.ok('fault' in checkRepo('o/n', { gitProtocols: ['file'], gitHosts: [] }));
  assert.ok('fault' in checkRepo('o/n', { gitProtocols: ['https'], gitHosts: ['gitlab.com'] }));
});

test('commits: hashes and ref names only', () => {
  for (const good of ['a'.repeat(40), 'main', 'feature/x-1', 'v1.2.3', 'fix@home'])
    assert.deepEqual(checkCommit(good), { value: good });
  for (const bad of [
    '',
    '-x',
    'a b',
    'a..b',
    'a~1',
    'a^',
    'a:b',
    'a@{1}',
    '@',
    'a//b',
    '/a',
    'a/',
    'a.',
    '.a',
    'a/.b',
    'a.lock',
    'a.lock/b',
    'a*',
    'a?',
    'a[',
    'a\\b',
    'a\nb',
    'x'.repeat(256),
  ]) {
    assert.ok('fault' in checkCommit(bad), bad);
  }
});

test('scripts come first, then checks.txt, then fail_to_pass and pass_to_pass', async () => {
  const base = { 'prompt.md': 'x', 'workspace.yaml': 'repo: o/n\nfail_to_pass: \'["a b", "c"]\'\npass_to_pass: [d]\n' };
  const checks = { 'checks.txt': '# comment\r\nmake check\n\n  ./run --all  \n  # more\n' };
  const scripts = await task({
    ...base,
    ...checks,
    'tests/b.sh': '',
    'tests/a/c.sh': '',
    'tests/a.txt': '',
    'tests/B.sh': '',
  });
  assert.deepEqual(
    scripts.tests,
    ['B.sh', 'a/c.sh', 'b.sh'].map((path) => ({ kind: 'script', name: path, path })),
  );
  assert.deepEqual(scripts.testFiles, ['B.sh', 'a.txt', 'a/c.sh', 'b.sh']);
  assert.deepEqual((await task({ ...base, ...checks, 'tests/data.txt': '' })).tests, [
    { kind: 'command', name: 'check_1.sh', command: 'make check' },
    { kind: 'command', name: 'check_3.sh', command: './run --all' },
  ]);
  assert.deepEqual((await task({ ...base, 'checks.txt': '# nothing\n' })).tests, [
    { kind: 'command', name: 'fail_to_pass_0.sh', command: 'a b' },
    { kind: 'command', name: 'fail_to_pass_1.sh', command: 'c' },
    { kind: 'command', name: 'pass_to_pass_2.sh', command: 'd' },
  ]);
});

test('faults of the other files of a task are named', async () => {
  const { 'tests/t.sh': _script, ...noTests } = FILES;
  await refuses(task(noTests), 'tasks/id: has no tests; add tests/*.sh, checks.txt or fail_to_pass');
  await refuses(task({ ...noTests, tests: 'x' }), 'tasks/id/tests: must be a directory');
  await refuses(
    task({ ...FILES, 'tests/a/.GIT/config': '' }),
    'tasks/id/tests/a/.GIT/config: tests must not write into .git of the repository',
  );
  await refuses(
    task({ ...FILES, 'prompt.md': ' \n' }),
    'tasks/id/prompt.md: must not be empty; it is what the agent is asked to do',
  );
  await refuses(task({ ...FILES, 'prompt.md': Buffer.from([0xff]) }), 'tasks/id/prompt.md: is not valid UTF-8');
  await refuses(task({ ...FILES, 'prompt.md': 'a\0b' }), 'tasks/id/prompt.md: must not contain NUL');
  await refuses(
    task({ ...FILES, 'prompt.md': 'x'.repeat(100_001) }),
    'tasks/id/prompt.md: must be at most 100000 bytes',
  );
  await refuses(
    task({ ...FILES, 'workspace.yaml': 'x'.repeat(256 * 1024 + 1) }),
    'tasks/id/workspace.yaml: must be at most 262144 bytes',
  );
  await refuses(
    task({ ...noTests, 'checks.txt': '#'.repeat(64 * 1024 + 1) }),
    'tasks/id/checks.txt: must be at most 65536 bytes',
  );
  await refuses(task({ 'prompt.md': 'x' }), 'tasks/id/workspace.yaml: is missing');
  await refuses(task({ 'workspace.yaml/x': '' }), 'tasks/id/workspace.yaml: must be a file');
  await refuses(task({ 'workspace.yaml': 'repo: o/n' }), 'tasks/id/prompt.md: is missing');
  await refuses(
    task({ ...noTests, 'checks.txt': `ok\n${'x'.repeat(1001)}` }, undefined, { ...LIMITS, maxPromptBytes: 1000 }),
    'tasks/id/checks.txt:2: must be at most 1000 bytes',
  );
  await refuses(
    task({ 'workspace.yaml': 'repo: o/n' }, (dir) => symlink('/etc/hostname', join(dir, 'prompt.md'))),
    'tasks/id/prompt.md: must be a file, not a link',
  );
  await assert.rejects(
    task(FILES, (dir) => symlink('/etc', join(dir, 'tests/link'))),
    /tests\/link: only files and directories/,
  );
  await assert.rejects(readTask('/nowhere', '../x', LIMITS, POLICY), /not a task id/);
  await assert.rejects(readPrompt('/nowhere', 'x', LIMITS), /tasks\/x\/prompt.md: is missing/);
});

test('the agent entry is the first known name, else the only file of a known kind', () => {
  for (const [index, name] of AGENT_ENTRIES.entries()) {
    assert.equal(findAgentEntry(AGENT_ENTRIES.slice(index).toReversed()), name);
  }
  assert.equal(findAgentEntry(['solver.rb', 'README.md', 'requirements.txt']), 'solver.rb');
  assert.equal(findAgentEntry(['a.py', 'b.py']), null);
  assert.equal(findAgentEntry(['a.py', 'main.go', 'b.py']), 'main.go');
  assert.equal(findAgentEntry(['.py', 'agent', 'AGENT.PY']), null);
  assert.equal(findAgentEntry([]), null);
});
