import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type AgentInput, planAgent } from '../../src/executors/agent.ts';

function input(entry: string, more: Partial<AgentInput> = {}): AgentInput {
  return {
    entry,
    agentDir: '/a',
    names: [entry],
    requirements: null,
    packageJson: null,
    repoDir: '/r',
    promptFile: '/p/prompt.md',
    promptText: 'do it',
    taskId: 't 1',
    nodeBinary: '/bin/node',
    ...more,
  };
}

test('each language is started its own way, in the repository, with the prompt beside it', () => {
  for (const [entry, argv] of [
    ['agent.py', ['python3', '/a/agent.py', '--instruction', 'do it']],
    ['main.js', ['/bin/node', '/a/main.js']],
    ['agent.mjs', ['/bin/node', '/a/agent.mjs']],
    ['agent.ts', ['/bin/node', '/a/agent.ts']],
    ['agent.sh', ['bash', '/a/agent.sh']],
    ['agent.rb', ['ruby', '/a/agent.rb']],
    ['agent.go', ['/a/.bin/agent']],
  ] as const) {
    const { run } = planAgent(input(entry));
    assert.deepEqual(run.argv, argv);
    assert.equal(run.cwd, '/r');
    const { TASK_PROMPT, REPO_DIR, TASK_ID } = run.env;
    assert.deepEqual([TASK_PROMPT, REPO_DIR, TASK_ID], ['/p/prompt.md', '/r', 't 1']);
  }
  assert.throws(() => planAgent(input('agent.exe')), /agent\.exe/);
});

test('requirements.txt is installed beside the agent unless it holds comments alone', () => {
  const { prepare, run } = planAgent(input('agent.py', { requirements: '# x\nrequests==2\n' }));
  assert.equal(prepare[0]?.cwd, '/a');
  assert.deepEqual(prepare[0]?.argv.slice(0, 4), ['python3', '-m', 'pip', 'install']);
  assert.deepEqual(prepare[0]?.argv.slice(-4), ['--target', '/a/.deps', '-r', 'requirements.txt']);
  assert.equal(run.env['PYTHONPATH'], '/a/.deps');
  assert.deepEqual(planAgent(input('agent.py', { requirements: '\n # nothing\n' })).prepare, []);
});

test('package.json is installed if it has dependencies, by its lock file if there is one', () => {
  const plan = (packageJson: string, names: string[] = []) =>
    planAgent(input('agent.ts', { packageJson, names: ['agent.ts', ...names] })).prepare.map(({ argv }) =>
      argv.slice(0, 2).join(' '),
    );
  assert.deepEqual(plan('{"dependencies":{"a":"1"}}'), ['npm install']);
  assert.deepEqual(plan('{"dependencies":{"a":"1"}}', ['package-lock.json']), ['npm ci']);
  assert.deepEqual(plan('{"dependencies":{},"devDependencies":{"a":"1"},"type":"module"}'), []);
  assert.deepEqual(plan('null'), []);
  assert.deepEqual(plan('{broken'), ['npm install']);
});

test('Go is built first: the module if there is one, else the files, without tests', () => {
  const build = (names: string[]) => planAgent(input('agent.go', { names })).prepare[0]?.argv.slice(3);
  assert.deepEqual(build(['b.go', 'agent.go', 'agent_test.go']), ['-o', '/a/.bin/agent', 'agent.go', 'b.go']);
  assert.deepEqual(build(['agent.go', 'go.mod']), ['-o', '/a/.bin/agent', '.']);
});

test('a prompt that no argument can hold is replaced by where it lies', () => {
  const instruction = (promptText: string) => planAgent(input('agent.py', { promptText })).run.argv.at(-1);
  assert.equal(instruction('a\0b'), 'ab');
  assert.match(instruction('€'.repeat(100_000)) ?? '', /\/p\/prompt\.md/);
});
