/**
 * Runs one task of a submission the way the archive contract says, with nothing of the executor's own code: clone,
 * checkout, install, agent, tests. It is the second opinion on what a task set comes to, so it shares no line with
 * what it is compared with.
 */
import { spawn } from 'node:child_process';
import { cp, mkdir, readdir, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { parse } from 'yaml';

export interface HandRun {
  /** null: the agent was not run. */
  readonly agentExitCode: number | null;
  readonly tests: readonly { readonly name: string; readonly exitCode: number | null; readonly output: string }[];
  readonly passed: boolean;
  readonly reward: number;
  /** What the clone and the agent left on their standard output and error. */
  readonly output: string;
  readonly repoDir: string;
}

export interface HandRunOptions {
  readonly submissionDir: string;
  readonly taskId: string;
  /** An empty directory; everything is written below it. The caller removes it. */
  readonly workDir: string;
  /** `submission`: the entry of agent_code; `null`: no agent at all. */
  readonly agent: 'submission' | 'null';
  /** Start here instead of at base_commit. */
  readonly commit?: string;
}

const STEP_TIMEOUT_MS = 120_000;
const OUTPUT_LIMIT_CHARS = 256 * 1024;

/**
 * Runs a command in a process group of its own. Resolves with the exit code (null: a signal or the time limit) and the
 * output, stdout and stderr as they came; nothing of the group is left then. Rejects when it cannot be started.
 */
export async function run(
  argv: readonly [string, ...string[]],
  cwd: string,
  env: Readonly<Record<string, string | undefined>>,
  timeoutMs = STEP_TIMEOUT_MS,
): Promise<{ exitCode: number | null; output: string }> {
  const [command, ...args] = argv;
  const child = spawn(command, args, { cwd, env, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      if (output.length > OUTPUT_LIMIT_CHARS) return;
      output += text;
      if (output.length > OUTPUT_LIMIT_CHARS) output += '\n[the rest of the output was left out]\n';
    });
  }
  const killGroup = (): void => {
    if (child.pid === undefined) return;
    try {
      process.kill(-child.pid, 'SIGKILL');
    } catch {
      // Nothing of the group is left.
    }
  };
  const timer = setTimeout(killGroup, timeoutMs);
  try {
    // 'exit' comes before 'close', which would wait for grandchildren that hold the pipes.
    child.once('exit', killGroup);
    const exitCode = await new Promise<number | null>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code) => resolve(code));
    });
    return { exitCode, output };
  } finally {
    clearTimeout(timer);
  }
}

/** Runs one task. Rejects when the repository cannot be cloned or installed; a failing test is a result. */
export async function runByHand(options: HandRunOptions): Promise<HandRun> {
  const taskDir = join(options.submissionDir, 'tasks', options.taskId);
  const workspace = parse(await readFile(join(taskDir, 'workspace.yaml'), 'utf8')) as {
    repo: string;
    base_commit: string;
    install?: string[];
    env?: Record<string, string>;
    fail_to_pass?: string[];
    pass_to_pass?: string[];
  };
  const repoDir = join(options.workDir, 'repo');
  const rewardDir = join(options.workDir, 'reward');
  const home = join(options.workDir, 'home');
  await mkdir(rewardDir, { recursive: true });
  await mkdir(home, { recursive: true });
  const env = {
    PATH: process.env['PATH'] ?? '/usr/bin:/bin',
    HOME: home,
    LANG: 'C.UTF-8',
    GIT_CONFIG_NOSYSTEM: '1',
    GIT_CONFIG_GLOBAL: '/dev/null',
    REPO_DIR: repoDir,
    TASK_ID: options.taskId,
    ...workspace.env,
  };

  let output = '';
  const must = async (argv: readonly [string, ...string[]], cwd: string): Promise<void> => {
    const result = await run(argv, cwd, env);
    output += result.output;
    if (result.exitCode !== 0) throw new Error(`${options.taskId}: ${argv.join(' ')} failed: ${result.output}`);
  };
  await must(['git', 'clone', '--quiet', '--no-checkout', workspace.repo, repoDir], options.workDir);
  await must(['git', 'checkout', '--quiet', '--detach', options.commit ?? workspace.base_commit], repoDir);
  for (const command of workspace.install ?? []) await must(['bash', '-c', command], repoDir);

  let agentExitCode: number | null = null;
  if (options.agent === 'submission') {
    const agentDir = join(options.submissionDir, 'agent_code');
    const prompt = join(taskDir, 'prompt.md');
    const python = (await readdir(agentDir)).includes('agent.py');
    const result = await run(
      python
        ? ['python3', join(agentDir, 'agent.py'), '--instruction', await readFile(prompt, 'utf8')]
        : ['bash', join(agentDir, 'agent.sh')],
      repoDir,
      // The submission is read by several tests at once; it stays as it was packed.
      { ...env, TASK_PROMPT: prompt, PYTHONDONTWRITEBYTECODE: '1' },
    );
    output += result.output;
    agentExitCode = result.exitCode;
  }

  const commands = await testCommands(taskDir, repoDir, workspace);
  const tests: { name: string; exitCode: number | null; output: string }[] = [];
  for (const command of commands) {
    const argv: [string, ...string[]] = command.endsWith('.sh') ? ['bash', command] : ['bash', '-c', command];
    const result = await run(argv, repoDir, { ...env, REWARD_DIR: rewardDir });
    tests.push({ name: command, ...result });
  }
  const passed = tests.length > 0 && tests.every((test) => test.exitCode === 0);
  const written = await readFile(join(rewardDir, 'reward.txt'), 'utf8').catch(() => null);
  return {
    agentExitCode,
    tests,
    passed,
    reward: written === null ? Number(passed) : Number(written),
    output,
    repoDir,
  };
}

/** Copies tests/** into the repository; returns the scripts among them, else checks.txt, else the listed commands. */
async function testCommands(
  taskDir: string,
  repoDir: string,
  workspace: { fail_to_pass?: string[]; pass_to_pass?: string[] },
): Promise<string[]> {
  const testsDir = join(taskDir, 'tests');
  const entries = await readdir(testsDir, { recursive: true, withFileTypes: true }).catch(() => []);
  const scripts: string[] = [];
  for (const entry of entries.filter((each) => each.isFile())) {
    const path = join(entry.parentPath, entry.name).slice(testsDir.length + 1);
    await mkdir(dirname(join(repoDir, path)), { recursive: true });
    await cp(join(testsDir, path), join(repoDir, path));
    if (path.endsWith('.sh')) scripts.push(path);
  }
  if (scripts.length > 0) return scripts.toSorted();
  const checks = await readFile(join(taskDir, 'checks.txt'), 'utf8').catch(() => '');
  const lines = checks
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '');
  return lines.length > 0 ? lines : [...(workspace.fail_to_pass ?? []), ...(workspace.pass_to_pass ?? [])];
}
