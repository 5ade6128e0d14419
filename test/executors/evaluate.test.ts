import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type TaskInput, evaluateTask } from '../../src/executors/evaluate.ts';
import { createProcessSandbox } from '../../src/executors/sandbox/process.ts';
import type { StepEnd, StepStart } from '../../src/executors/steps.ts';
import type { TaskSpec } from '../../src/executors/task-spec.ts';
import { type RepoFile, makeRepo } from '../support/repos.ts';
import { temporaryDirectory } from '../support/tmp.ts';

const PATH = process.env['PATH'] ?? '';
const TIMEOUTS = { cloneMs: 60_000, installMs: 60_000, agentMs: 60_000, testMs: 60_000 };
const SOLVED = { kind: 'script', name: 'solved.sh', path: 'solved.sh' } as const;
const SOLVED_SH = 'grep -q fixed answer.txt\n';

interface Scene {
  readonly agent: Readonly<Record<string, string>>;
  readonly spec?: Partial<TaskSpec>;
  readonly repo?: Readonly<Record<string, RepoFile>>;
  readonly tests?: Readonly<Record<string, string>>;
  readonly input?: Partial<TaskInput>;
  /** Called with each step that starts or ends. */
  readonly onStep?: (step: StepStart | StepEnd) => void;
}

/** Runs one attempt; by default it passes when the agent writes `fixed` into answer.txt. */
async function play(t: TestContext, scene: Scene) {
  const root = temporaryDirectory(t);
  const repo = makeRepo(root, { 'answer.txt': 'broken\n', ...scene.repo });
  const [bundleDir, agentDir, workDir] = ['bundle', 'agent', 'work'].map((name) => join(root, name)) as [
    string,
    string,
    string,
  ];
  const tests = scene.tests ?? { 'solved.sh': SOLVED_SH };
  const write = (base: string, files: Readonly<Record<string, string>>) => {
    for (const [name, text] of Object.entries(files)) {
      mkdirSync(dirname(join(base, name)), { recursive: true });
      writeFileSync(join(base, name), text);
    }
  };
  write(bundleDir, { 'prompt.md': 'Write fixed.\n' });
  write(join(bundleDir, 'tests'), tests);
  write(agentDir, scene.agent);
  mkdirSync(workDir);
  const started: StepStart[] = [];
  const steps: (StepEnd & { output: string })[] = [];
  const spec: TaskSpec = {
    taskId: 'task-1',
    repo: repo.url,
    baseCommit: repo.commits[0] ?? '',
    install: [],
    tests: [SOLVED],
    testFiles: Object.keys(tests),
    timeouts: {},
    env: {},
    ...scene.spec,
  };
  const outcome = await evaluateTask(
    {
      spec,
      bundleDir,
      agentDir,
      workDir,
      timeouts: { defaults: TIMEOUTS, maxima: TIMEOUTS },
      gitProtocols: ['file'],
      gitHosts: [],
      nodeBinary: process.execPath,
      path: PATH,
      signal: new AbortController().signal,
      ...scene.input,
    },
    {
      sandbox: createProcessSandbox({ path: PATH, graceMs: 100 }),
      now: () => performance.now(),
      reporter: {
        async stepStarted(step) {
          started.push(step);
          scene.onStep?.(step);
        },
        async stepFinished(step) {
          steps.push({ ...step, output: step.outputFile === null ? '' : readFileSync(step.outputFile, 'utf8') });
          scene.onStep?.(step);
        },
      },
    },
  );
  assert.deepEqual(
    steps.map(({ step }) => step),
    steps.map((_, index) => index),
  );
  assert.deepEqual(
    started.map(({ name }) => name),
    steps.map(({ name }) => name),
  );
  const patch = outcome.patch ? readFileSync(outcome.patch.file, 'utf8') : null;
  return { outcome, steps, kinds: steps.map(({ kind }) => kind), patch, root, workDir, spec };
}

const missing = (program: string) => spawnSync(program, ['--help'], { timeout: 20_000 }).error !== undefined;
const needs = (program: string) => (missing(program) ? { skip: `${program} is not installed` } : {});

const AGENTS: readonly (readonly [string, string, Readonly<Record<string, string>>])[] = [
  [
    'Python in several files',
    'python3',
    {
      'agent.py':
        'import sys, os\nfrom lib.help import solve\nassert sys.argv[1:] == ["--instruction", open(os.environ["TASK_PROMPT"]).read()]\nsolve()\n',
      'lib/__init__.py': '',
      'lib/help.py': 'def solve():\n    open("answer.txt", "w").write("fixed\\n")\n',
    },
  ],
  [
    'JavaScript in several files',
    process.execPath,
    {
      'agent.js': 'import { solve } from "./help.js"; solve();',
      'help.js': 'import fs from "node:fs"; export const solve = () => fs.writeFileSync("answer.txt", "fixed\\n");',
      'package.json': '{"type":"module"}',
    },
  ],
  [
    'TypeScript in several files',
    process.execPath,
    {
      'agent.ts': 'import { solve } from "./help.ts"; const text: string = "fixed"; solve(text);',
      'help.ts':
        'import fs from "node:fs"; export const solve = (text: string): void => fs.writeFileSync("answer.txt", text);',
    },
  ],
  [
    'shell in several files',
    'bash',
    { 'agent.sh': '. "$(dirname "$0")/help.sh"; solve', 'help.sh': 'solve() { echo fixed > "$REPO_DIR/answer.txt"; }' },
  ],
  [
    'Go in several files',
    'go',
    {
      'agent.go': 'package main\nfunc main() { solve() }\n',
      'help.go': 'package main\nimport "os"\nfunc solve() { os.WriteFile("answer.txt", []byte("fixed\\n"), 0644) }\n',
    },
  ],
  [
    'Ruby in several files',
    'ruby',
    { 'agent.rb': 'require_relative "help"\nsolve', 'help.rb': 'def solve; File.write("answer.txt", "fixed\\n"); end' },
  ],
];
for (const [name, program, agent] of AGENTS) {
  test(`an agent in ${name} solves a task`, needs(program), async (t) => {
    const { outcome, kinds, patch, steps } = await play(t, { agent });
    assert.deepEqual(
      [outcome.passed, outcome.reward, outcome.cause, outcome.error],
      [true, 1, null, null],
      steps.at(-2)?.output,
    );
    assert.deepEqual(
      kinds.filter((kind) => kind !== 'install'),
      ['clone', 'checkout', 'agent', 'tests'],
    );
    assert.match(patch ?? '', /^diff --git a\/answer\.txt b\/answer\.txt\n.*\+fixed/s);
    assert.deepEqual([outcome.testsTotal, outcome.testsPassed, outcome.warnings], [1, 1, []]);
  });
}

test('install commands run before the agent, with the variables of the task, and a test command sees what they made', async (t) => {
  const { outcome, steps } = await play(t, {
    agent: { 'agent.sh': 'test "$COLOR" = blue && test -f "$HOME/made" && cp made answer.txt; touch "$HOME/mine"' },
    spec: {
      env: { COLOR: 'blue' },
      install: ['echo fixed > made', 'touch "$HOME/made"; test "$COLOR" = blue'],
      tests: [
        {
          kind: 'command',
          name: 'first',
          command: 'test "$COLOR" = blue; test -f "$HOME/made"; test ! -e "$HOME/mine"',
        },
        { kind: 'command', name: 'second', command: 'grep fixed answer.txt | cat' },
      ],
    },
  });
  assert.equal(outcome.passed, true, outcome.error ?? '');
  assert.deepEqual(steps.map(({ kind, name }) => `${kind} ${name}`).slice(2), [
    'install echo fixed > made',
    'install touch "$HOME/made"; test "$COLOR" = blue',
    'agent agent.sh',
    'tests first',
    'tests second',
  ]);
});

test('a clone, a checkout or an install that fails ends the task and says which', async (t) => {
  const agent = { 'agent.sh': 'echo fixed > answer.txt' };
  const unknown = await play(t, { agent, spec: { baseCommit: '0123456789012345678901234567890123456789' } });
  assert.deepEqual([unknown.outcome.passed, unknown.outcome.cause, unknown.kinds], [false, 'git', ['clone']]);
  assert.match(unknown.outcome.error ?? '', /^clone: .*base_commit/);
  const install = await play(t, { agent, spec: { install: ['exit 7', 'true'] } });
  assert.deepEqual([install.outcome.cause, install.kinds], ['install', ['clone', 'checkout', 'install']]);
  assert.match(install.outcome.error ?? '', /^install exit 7: exited with code 7$/);
  const slow = await play(t, { agent, spec: { install: ['sleep 60'], timeouts: { installSecs: 0.2 } } });
  assert.deepEqual([slow.outcome.cause, slow.kinds.length], ['max-duration', 3]);
});

test('an agent that crashes, runs out of time or changes nothing is told apart, and the tests run all the same', async (t) => {
  const crashed = await play(t, { agent: { 'agent.sh': 'echo half > answer.txt; exit 9' } });
  assert.deepEqual([crashed.outcome.cause, crashed.outcome.reward, crashed.kinds.at(-1)], ['agent', 0, 'tests']);
  const slow = await play(t, {
    agent: { 'agent.sh': 'echo half > answer.txt; sleep 60' },
    spec: { timeouts: { agentSecs: 1.5 } },
  });
  assert.deepEqual(
    [slow.outcome.cause, slow.steps[2]?.cause, slow.kinds.at(-1)],
    ['max-duration', 'max-duration', 'tests'],
  );
  const idle = await play(t, { agent: { 'agent.sh': 'true' } });
  assert.deepEqual([idle.outcome.cause, idle.patch], ['no-changes', '']);
  const wrong = await play(t, { agent: { 'agent.sh': 'echo wrong > answer.txt' } });
  assert.deepEqual([wrong.outcome.cause, wrong.steps.at(-1)?.cause], ['tests', 'tests']);
  const late = await play(t, {
    agent: { 'agent.sh': 'echo fixed > answer.txt; sleep 60' },
    spec: { timeouts: { agentSecs: 1.5 } },
  });
  assert.deepEqual([late.outcome.passed, late.outcome.cause, late.outcome.warnings.length], [true, null, 1]);
});

test('every test runs even if one fails, and a file can give a partial reward but never a pass', async (t) => {
  const { outcome, steps } = await play(t, {
    agent: { 'agent.sh': 'echo half > answer.txt' },
    tests: { 'a.sh': 'echo 0.5 > "$REWARD_DIR/reward.txt"; exit 1', 'b.sh': 'echo "Ran 0 tests in 0.1s"' },
    spec: {
      tests: [
        { kind: 'script', name: 'a.sh', path: 'a.sh' },
        { kind: 'script', name: 'b.sh', path: 'b.sh' },
      ],
    },
  });
  assert.deepEqual([outcome.passed, outcome.reward, outcome.cause], [false, 0.5, 'tests']);
  assert.deepEqual([outcome.testsTotal, outcome.testsPassed], [2, 1]);
  assert.deepEqual(
    steps.slice(-2).map(({ exitCode }) => exitCode),
    [1, 0],
  );
  assert.match(outcome.warnings.join(), /b\.sh: unittest exited 0 without running any test/);
  assert.match(outcome.warnings.join(), /partial reward 0\.5 from a\.sh on a task that failed/);
});

test('code under test cannot give itself a reward in a test that does not speak of rewards', async (t) => {
  const { outcome, steps } = await play(t, {
    agent: {
      'agent.sh': `cat > answer.sh <<'END'
echo "got [$REWARD_DIR]"; mkdir -p ../reward; echo 0.99 > "\${REWARD_DIR:-../reward}/reward.txt"; exit 1
END`,
    },
    tests: { 'solved.sh': 'bash answer.sh' },
  });
  assert.deepEqual([outcome.passed, outcome.reward, outcome.warnings], [false, 0, []]);
  assert.match(steps.at(-1)?.output ?? '', /got \[\]/);
});

test('the last test with a valid reward decides, each starts with an empty directory, and a failed task never gets 1', async (t) => {
  const command = (name: string, text: string) => ({ kind: 'command', name, command: text }) as const;
  const play3 = (...tests: ReturnType<typeof command>[]) =>
    play(t, { agent: { 'agent.sh': 'echo fixed > answer.txt' }, spec: { tests } });
  const first = command('first', 'echo 0.25 > "$REWARD_DIR/reward.txt"');
  const silent = command('silent', 'test -z "$(ls -A "$REWARD_DIR")"');
  const wrong = command('wrong', 'echo 7 > "$REWARD_DIR/reward.txt"');
  const passed = await play3(command('zero', 'echo 0.1 > "$REWARD_DIR/reward.txt"'), first, silent, wrong);
  assert.deepEqual([passed.outcome.passed, passed.outcome.reward], [true, 0.25]);
  assert.match(passed.outcome.warnings.join(), /^wrong: reward\.txt is ignored/);
  const failed = await play3(first, command('full', 'echo 1 > "$REWARD_DIR/reward.txt"; exit 1'));
  assert.deepEqual([failed.outcome.passed, failed.outcome.reward], [false, 0]);
  assert.match(failed.outcome.warnings.join(), /partial reward 1 from full on a task that failed, which counts as 0/);
});

test('pipes and sockets in HOME and a directory where a step wants its own do not stop an attempt', async (t) => {
  const listen = `require("net").createServer().listen("sock", () => process.kill(process.pid, "SIGKILL"))`;
  const { outcome, steps } = await play(t, {
    agent: {
      'agent.sh': `test -L "$HOME/link" && test -f "$HOME/dir/file" && test ! -e "$HOME/pipe" && echo fixed > answer.txt
mkdir -p "$TMPDIR/../4/x"; chmod 0 "$TMPDIR/../4"`,
    },
    tests: { 'solved.sh': `${SOLVED_SH}test -z "$(ls -A "$TMPDIR")"` },
    spec: {
      install: [
        `cd "$HOME"; mkfifo pipe; ${process.execPath} -e '${listen}' || true; test -S sock; ln -s nowhere link; mkdir dir; touch dir/file`,
      ],
    },
  });
  assert.deepEqual([outcome.passed, outcome.error], [true, null], JSON.stringify(steps));
});

test('a task without tests does not pass', async (t) => {
  const { outcome } = await play(t, { agent: { 'agent.sh': 'echo fixed > answer.txt' }, spec: { tests: [] } });
  assert.deepEqual([outcome.passed, outcome.reward], [false, 0]);
});

test('the agent finds neither the hidden tests nor the way to them', async (t) => {
  const { outcome, steps } = await play(t, {
    agent: {
      'agent.sh':
        'env; ls -A "$REPO_DIR" "$(dirname "$TASK_PROMPT")"; git log --oneline --all; echo fixed > answer.txt',
    },
  });
  assert.equal(outcome.passed, true);
  assert.doesNotMatch(steps[2]?.output ?? '', /solved|bundle/);
});

test('a daemon of the agent is dead before the tests, and traps it set for them are removed', async (t) => {
  const { outcome, root, steps } = await play(t, {
    agent: {
      'agent.sh': `
(env -i setsid bash -c 'while :; do echo x >> beat; mkdir -p ../reward; echo 1 > ../reward/reward.txt; sleep 0.01; done' >/dev/null 2>&1 &)
while ! test -s beat; do sleep 0.01; done
ln -s "$PWD/../.." tests; ln -s ../../evil solved.sh
mkdir -p .git/hooks; printf '#!/bin/sh\\ntouch "$PWD/hooked"\\n' > .git/hooks/post-index-change; chmod +x .git/hooks/*`,
    },
    tests: {
      'solved.sh':
        'before=$(wc -c < beat); sleep 0.2; test "$(wc -c < beat)" = "$before" && test ! -e hooked && test -z "$(ls "$REWARD_DIR")"',
      'tests/hidden.txt': 'x',
    },
  });
  assert.equal(outcome.passed, true, JSON.stringify(steps.slice(-2)));
  assert.ok(!existsSync(join(root, 'evil')) && !existsSync(join(root, 'hidden.txt')));
});

test('cancelling stops the running step at once, and nothing after it starts', async (t) => {
  const abort = new AbortController();
  const { outcome, kinds, steps } = await play(t, {
    agent: { 'agent.sh': 'echo fixed > answer.txt; sleep 60' },
    input: { signal: abort.signal },
    onStep: (step) => {
      if (step.kind === 'agent' && !('cause' in step)) void sleep(50).then(() => abort.abort());
    },
  });
  assert.deepEqual([outcome.cause, outcome.passed, steps.at(-1)?.cause], ['cancelled', false, 'cancelled']);
  assert.deepEqual(kinds, ['clone', 'checkout', 'agent']);
  const before = await play(t, { agent: { 'agent.sh': 'true' }, input: { signal: abort.signal } });
  assert.deepEqual([before.outcome.cause, before.kinds], ['cancelled', []]);
});

test('a reporter that fails ends the attempt with its error', async (t) => {
  const onStep = (step: StepStart | StepEnd) => {
    if (step.kind === 'agent') throw new Error('log is gone');
  };
  await assert.rejects(play(t, { agent: { 'agent.sh': 'true' }, onStep }), /^Error: log is gone$/);
});

test('an agent that destroys the repository loses, and the patch says what it deleted', async (t) => {
  const { outcome, patch } = await play(t, { agent: { 'agent.sh': 'cd ..; rm -rf repo; ln -s / repo' } });
  assert.deepEqual([outcome.passed, outcome.cause], [false, 'tests']);
  assert.match(patch ?? '', /deleted file mode 100644/);
  assert.doesNotMatch(patch ?? '', /root:x/);
});

test('a program that this executor lacks is its own failure, not the tests’', async (t) => {
  const { outcome, kinds } = await play(t, {
    agent: { 'agent.ts': '1' },
    input: { nodeBinary: '/nowhere/node' },
  });
  assert.deepEqual([outcome.cause, kinds.at(-1)], ['sandbox', 'agent']);
  assert.match(outcome.error ?? '', /\/nowhere\/node is missing/);
});

test(
  'requirements of a Python agent are installed beside it, and a failing installation ends the task',
  needs('python3'),
  async (t) => {
    const pip = spawnSync('python3', ['-m', 'pip', '--version'], { timeout: 20_000 });
    if (pip.status !== 0) return t.skip('pip is not installed');
    const root = temporaryDirectory(t);
    const wheel = join(root, 'answer-1.0-py3-none-any.whl');
    execFileSync('python3', [
      '-c',
      `import zipfile
z = zipfile.ZipFile(${JSON.stringify(wheel)}, "w")
z.writestr("answer.py", 'TEXT = "fixed"')
z.writestr("answer-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: answer\\nVersion: 1.0\\n")
z.writestr("answer-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
z.writestr("answer-1.0.dist-info/RECORD", "")
z.close()`,
    ]);
    const agent = { 'agent.py': 'import answer\nopen("answer.txt", "w").write(answer.TEXT)\n' };
    const solved = await play(t, { agent: { ...agent, 'requirements.txt': `${wheel}\n` } });
    assert.equal(solved.outcome.passed, true, solved.steps[2]?.output);
    assert.equal(solved.steps[2]?.name, 'agent requirements');
    const failed = await play(t, { agent: { ...agent, 'requirements.txt': `${root}/no-such.whl\n` } });
    assert.deepEqual([failed.outcome.cause, failed.kinds.at(-1)], ['install', 'install']);
  },
);
