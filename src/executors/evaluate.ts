/**
 * Runs one attempt of one task on this machine: clone, checkout, install, agent, tests, each a step that is reported
 * when it starts and when it ends. It knows nothing of the log: what happened goes to the reporter, the verdict to
 * the caller. The hidden tests are written when the agent's processes are dead, as far as the sandbox can find them: in
 * SANDBOX=process one that sheds every mark on purpose can survive its step.
 */
import { constants } from 'node:fs';
import { copyFile, cp, lstat, mkdir, readFile, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { messageOf } from '../errors.ts';
import type { FailureCause } from '../events.ts';
import { findAgentEntry } from './agent-entry.ts';
import { type AgentCommand, type AgentPlan, planAgent } from './agent.ts';
import { GitError, type GitLimits } from './git-run.ts';
import { checkout, fetchCommit } from './git.ts';
import { patchSince } from './patch.ts';
import { givesReward, readReward, rewardOf } from './reward.ts';
import { Ended, type StepPorts, StepRunner, cutText } from './steps.ts';
import type { TaskSpec, TestSpec } from './task-spec.ts';
import { ensureRealDirectory, removeForced, writeTestFiles } from './test-files.ts';

/** Time limits of the steps, in milliseconds; each install command and each test has its own. */
export interface StepTimeouts {
  readonly cloneMs: number;
  readonly installMs: number;
  readonly agentMs: number;
  readonly testMs: number;
}

export interface TaskInput {
  readonly spec: TaskSpec;
  /** The extracted bundle of the task: prompt.md and tests/. The agent is never told where it is. */
  readonly bundleDir: string;
  /** The extracted agent, private to this attempt. */
  readonly agentDir: string;
  /** Empty and ours; the caller removes it afterwards (removeForced). */
  readonly workDir: string;
  /** What a task gets that asks for nothing, and the most it can ask for. */
  readonly timeouts: { readonly defaults: StepTimeouts; readonly maxima: StepTimeouts };
  readonly gitProtocols: readonly string[];
  readonly gitHosts: readonly string[];
  /** The Node program for agents in JavaScript and TypeScript. */
  readonly nodeBinary: string;
  /** PATH of git and its helpers. */
  readonly path?: string;
  /** A longer patch is cut. */
  readonly maxPatchBytes?: number;
  readonly signal: AbortSignal;
}

/** The verdict on an attempt. `patch.file` lies in the work directory. */
export interface TaskOutcome {
  readonly passed: boolean;
  readonly reward: number;
  readonly cause: FailureCause | null;
  readonly error: string | null;
  readonly warnings: readonly string[];
  readonly patch: { readonly file: string; readonly bytes: number; readonly omittedBytes: number } | null;
  readonly testsTotal: number;
  readonly testsPassed: number;
}

/**
 * Runs the attempt. Resolves with a verdict for everything the task, its repository or its agent can do; rejects only
 * when this executor fails (disk full, the reporter), so that the caller may hand the task to another one.
 */
export async function evaluateTask(input: TaskInput, ports: StepPorts): Promise<TaskOutcome> {
  const attempt = new Attempt(input, ports);
  try {
    return await attempt.run();
  } catch (error) {
    if (error instanceof Ended) return attempt.failed(error.cause, error.message);
    throw error;
  }
}

const PATCH_TIMEOUT_MS = 120_000;
const DEFAULT_MAX_PATCH_BYTES = 10 * 1024 * 1024;
const MAX_AGENT_MANIFEST_BYTES = 1024 * 1024;
const MAX_WARNINGS = 50;

class Attempt {
  readonly #input: TaskInput;
  readonly #runner: StepRunner;
  readonly #dirs;
  readonly #warnings: string[] = [];
  #patch: TaskOutcome['patch'] = null;
  #testsPassed = 0;
  /** The last valid reward that a test gave, and which test that was. */
  #given: { readonly value: number; readonly by: string } | null = null;

  constructor(input: TaskInput, ports: StepPorts) {
    this.#input = input;
    const at = (name: string) => join(input.workDir, name);
    this.#dirs = {
      repo: at('repo'),
      store: at('store.git'),
      base: at('base.git'),
      prompt: at('prompt'),
      home: at('home'),
      agentHome: at('agent-home'),
      tmp: at('tmp'),
      reward: at('reward'),
      out: at('out'),
    };
    this.#runner = new StepRunner(
      {
        env: { ...input.spec.env, REPO_DIR: this.#dirs.repo, TASK_ID: input.spec.taskId },
        tmpDir: this.#dirs.tmp,
        outDir: this.#dirs.out,
        signal: input.signal,
      },
      ports,
    );
  }

  async run(): Promise<TaskOutcome> {
    const { spec } = this.#input;
    const dirs = this.#dirs;
    for (const path of [dirs.prompt, dirs.home, dirs.tmp, dirs.out]) await mkdir(path, { recursive: true });
    const commit = await this.#prepareRepository();
    const installMs = this.#timeoutMs('installMs', spec.timeouts.installSecs);
    for (const command of spec.install) {
      await this.#install({ name: command, argv: ['sh', '-e', '-c', command], cwd: dirs.repo, env: {} }, installMs, {
        home: dirs.home,
        writable: [dirs.repo],
      });
    }
    await this.#copyHome();
    const agentFault = await this.#runAgent(installMs);
    const changed = await this.#takePatch(commit);
    await this.#writeTests();
    return this.#judge(await this.#runTests(), agentFault, changed);
  }

  /** The outcome of an attempt that did not pass and has no partial reward. */
  failed(cause: FailureCause, error: string, reward = 0): TaskOutcome {
    return this.#outcome({ passed: false, reward, cause, error: cutText(error) });
  }

  #outcome(verdict: Pick<TaskOutcome, 'passed' | 'reward' | 'cause' | 'error'>): TaskOutcome {
    return {
      ...verdict,
      warnings: this.#warnings.slice(0, MAX_WARNINGS).map(cutText),
      patch: this.#patch,
      testsTotal: this.#input.spec.tests.length,
      testsPassed: this.#testsPassed,
    };
  }

  #timeoutMs(key: keyof StepTimeouts, askedSecs: number | undefined): number {
    const { defaults, maxima } = this.#input.timeouts;
    return Math.min(askedSecs === undefined ? defaults[key] : askedSecs * 1000, maxima[key]);
  }

  #gitLimits(timeoutMs: number): GitLimits {
    const { path, signal, workDir } = this.#input;
    return { timeoutMs, signal, scratchDir: workDir, ...(path === undefined ? {} : { path }) };
  }

  async #prepareRepository(): Promise<string> {
    const { spec, gitProtocols, gitHosts } = this.#input;
    const dirs = this.#dirs;
    const timeoutMs = this.#timeoutMs('cloneMs', spec.timeouts.cloneSecs);
    const fetched = await this.#runner.git('clone', spec.repo, timeoutMs, () =>
      fetchCommit({
        ...this.#gitLimits(timeoutMs),
        repo: spec.repo,
        ...(spec.baseCommit === undefined ? {} : { commit: spec.baseCommit }),
        storeDir: dirs.store,
        protocols: gitProtocols,
        hosts: gitHosts,
      }),
    );
    await this.#runner.git('checkout', fetched.commit, timeoutMs, () =>
      checkout({ ...this.#gitLimits(timeoutMs), fetched, dir: dirs.repo, baseDir: dirs.base }),
    );
    return fetched.commit;
  }

  async #install(
    command: AgentCommand,
    timeoutMs: number,
    room: { readonly home: string; readonly writable: readonly string[] },
  ): Promise<void> {
    const result = await this.#runner.command('install', command, timeoutMs, { ...room, network: 'egress' }, 'install');
    if (result.cause !== null) throw new Ended(result.cause, `install ${command.name}: ${result.error}`);
  }

  /** The agent gets a copy of HOME: what it leaves there must not reach the tests. Pipes and sockets are left out. */
  async #copyHome(): Promise<void> {
    const { home, agentHome } = this.#dirs;
    const mode = constants.COPYFILE_FICLONE;
    try {
      await ensureRealDirectory(home);
      await removeForced(agentHome);
      await cp(home, agentHome, { recursive: true, mode, verbatimSymlinks: true, filter: isCopyable });
    } catch (error) {
      if (isOurs(error)) throw error;
      throw new Ended('install', `HOME could not be copied after the install commands: ${messageOf(error)}`);
    }
  }

  /** Returns why the agent failed; null if it ended well. */
  async #runAgent(installMs: number): Promise<{ readonly cause: FailureCause; readonly error: string } | null> {
    const { agentDir, spec } = this.#input;
    const dirs = this.#dirs;
    const plan = await this.#planAgent();
    const room = { home: dirs.agentHome, writable: [agentDir] };
    for (const command of plan.prepare) await this.#install(command, installMs, room);
    const timeoutMs = this.#timeoutMs('agentMs', spec.timeouts.agentSecs);
    const all = { home: dirs.agentHome, writable: [agentDir, dirs.repo], network: 'egress' } as const;
    const { cause, error } = await this.#runner.command('agent', plan.run, timeoutMs, all, 'agent');
    return cause === null ? null : { cause, error: error ?? cause };
  }

  async #planAgent(): Promise<AgentPlan> {
    const { agentDir, bundleDir, spec, nodeBinary } = this.#input;
    const entries = await readdir(agentDir, { withFileTypes: true });
    const names = entries.filter((entry) => entry.isFile()).map((entry) => entry.name);
    const entry = findAgentEntry(names);
    if (entry === null)
      throw new Ended('agent', 'agent_code/ has no agent that can be started; add agent.py or the like');
    const promptFile = join(this.#dirs.prompt, 'prompt.md');
    await copyFile(join(bundleDir, 'prompt.md'), promptFile);
    const read = (name: string) => (names.includes(name) ? readManifest(join(agentDir, name)) : null);
    return planAgent({
      entry,
      agentDir,
      names,
      requirements: await read('requirements.txt'),
      packageJson: await read('package.json'),
      repoDir: this.#dirs.repo,
      promptFile,
      promptText: await readFile(promptFile, 'utf8'),
      taskId: spec.taskId,
      nodeBinary,
    });
  }

  /** Returns whether the agent changed anything. A patch that cannot be made is a warning: the tests still count. */
  async #takePatch(baseCommit: string): Promise<boolean> {
    const { repo: dir, base: baseDir } = this.#dirs;
    const outFile = join(this.#input.workDir, 'agent.patch');
    await ensureRealDirectory(dir);
    try {
      const limits = this.#gitLimits(PATCH_TIMEOUT_MS);
      const maxBytes = this.#input.maxPatchBytes ?? DEFAULT_MAX_PATCH_BYTES;
      const kept = await patchSince({ ...limits, dir, baseDir, baseCommit, outFile, maxBytes });
      this.#patch = { file: outFile, ...kept };
      return kept.bytes > 0;
    } catch (error) {
      this.#runner.stopIfCancelled();
      if (!(error instanceof GitError)) throw error;
      this.#warnings.push(`the patch could not be made: ${error.message}`);
      return true;
    }
  }

  async #writeTests(): Promise<void> {
    const { spec, bundleDir } = this.#input;
    const dirs = this.#dirs;
    const source = join(bundleDir, 'tests');
    const scripts = new Set(spec.tests.flatMap((test) => (test.kind === 'script' ? [test.path] : [])));
    const paths = [...new Set([...spec.testFiles, ...scripts])];
    const files = [];
    for (const path of paths) {
      const { mode } = await stat(join(source, path));
      files.push({ path, executable: scripts.has(path) || (mode & 0o111) !== 0 });
    }
    try {
      await writeTestFiles(source, dirs.repo, files);
    } catch (error) {
      if (isOurs(error)) throw error;
      throw new Ended('tests', `the tests could not be written into the repository: ${messageOf(error)}`);
    }
  }

  /** Runs every test, also after one that failed. Returns why they did not all pass. */
  async #runTests(): Promise<string | null> {
    const { spec, bundleDir } = this.#input;
    const { repo, home, reward } = this.#dirs;
    const timeoutMs = this.#timeoutMs('testMs', spec.timeouts.testSecs);
    const faults: string[] = [];
    for (const test of spec.tests) {
      const rewards = await givesReward(test, join(bundleDir, 'tests'));
      await removeForced(reward);
      if (rewards) await mkdir(reward);
      const env: Record<string, string> = rewards ? { REWARD_DIR: reward } : {};
      const room = { home, writable: rewards ? [repo, reward] : [repo], network: 'none' } as const;
      const command = { name: test.name, argv: argvOf(test, repo), cwd: repo, env };
      const result = await this.#runner.command('tests', command, timeoutMs, room, 'tests');
      if (result.cause === null) this.#testsPassed += 1;
      else faults.push(`${test.name}: ${result.error}`);
      if (result.warning !== null) this.#warnings.push(`${test.name}: ${result.warning}`);
      if (rewards) await this.#takeReward(test.name);
      // A test may have removed or replaced the directory that the next one starts in.
      await ensureRealDirectory(repo);
    }
    if (spec.tests.length === 0) return 'the task has no test';
    return faults.length === 0 ? null : `${faults.length} of ${spec.tests.length} tests failed; ${faults[0]}`;
  }

  async #takeReward(by: string): Promise<void> {
    const { value, warning } = await readReward(this.#dirs.reward);
    if (value !== null) this.#given = { value, by };
    if (warning !== null) this.#warnings.push(`${by}: ${warning}`);
  }

  #judge(
    testFault: string | null,
    agentFault: { readonly cause: FailureCause; readonly error: string } | null,
    changed: boolean,
  ): TaskOutcome {
    const given = this.#given;
    const passed = testFault === null;
    const reward = rewardOf(passed, given?.value ?? null);
    if (!passed && given !== null && given.value > 0) {
      const kept = reward > 0 ? '' : ', which counts as 0';
      this.#warnings.push(`partial reward ${given.value} from ${cutText(given.by)} on a task that failed${kept}`);
    }
    if (passed) {
      if (agentFault) this.#warnings.push(`the tests passed although the agent failed: ${agentFault.error}`);
      return this.#outcome({ passed, reward, cause: null, error: null });
    }
    if (agentFault) return this.failed(agentFault.cause, `agent: ${agentFault.error}; ${testFault}`, reward);
    if (!changed) return this.failed('no-changes', `the agent changed nothing; ${testFault}`, reward);
    return this.failed('tests', testFault, reward);
  }
}

function argvOf(test: TestSpec, repo: string): readonly [string, ...string[]] {
  switch (test.kind) {
    case 'script':
      return ['bash', join(repo, test.path)];
    case 'command':
      return ['sh', '-e', '-c', test.command];
  }
}

/** Whether a file can be copied: opening a pipe or a socket would wait or fail. */
async function isCopyable(path: string): Promise<boolean> {
  const found = await lstat(path).catch(() => null);
  return found !== null && (found.isFile() || found.isDirectory() || found.isSymbolicLink());
}

async function readManifest(path: string): Promise<string | null> {
  const { size } = await stat(path);
  return size > MAX_AGENT_MANIFEST_BYTES ? null : readFile(path, 'utf8');
}

/** Failures of the machine, as opposed to what the agent left in the way. */
function isOurs(error: unknown): boolean {
  const code = error instanceof Error && 'code' in error ? error.code : null;
  return code === 'ENOSPC' || code === 'EDQUOT' || code === 'EMFILE' || code === 'ENFILE' || code === 'EIO';
}
