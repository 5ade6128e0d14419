/**
 * How an agent is started, for each language it may be written in. Pure: what lies in its directory comes in as data,
 * commands come out. The agent stays as it was submitted, its files beside it, and works on the repository as its
 * current directory; nothing of it is put into the repository.
 */
import { extname, join } from 'node:path';

/** What is known of an agent before it is started. Paths are absolute. */
export interface AgentInput {
  /** Name of the entry in agentDir, as findAgentEntry gave it. */
  readonly entry: string;
  readonly agentDir: string;
  /** Names of the files at the root of agentDir. */
  readonly names: readonly string[];
  /** Contents of requirements.txt and package.json at the root of agentDir; null where there is none. */
  readonly requirements: string | null;
  readonly packageJson: string | null;
  readonly repoDir: string;
  /** Lies outside the repository. */
  readonly promptFile: string;
  readonly promptText: string;
  readonly taskId: string;
  /** The Node program that runs agents in JavaScript and TypeScript (Node 24 runs TypeScript as it is). */
  readonly nodeBinary: string;
}

/** A command around the agent. */
export interface AgentCommand {
  readonly name: string;
  readonly argv: readonly [string, ...string[]];
  readonly cwd: string;
  readonly env: Readonly<Record<string, string>>;
}

export interface AgentPlan {
  /** To run before, in this order: what it requires, and its build. */
  readonly prepare: readonly AgentCommand[];
  readonly run: AgentCommand;
}

/** Linux takes at most 128 KiB in one argument (MAX_ARG_STRLEN, execve(2)); some of it is left for the rest. */
const MAX_INSTRUCTION_BYTES = 120_000;

/** The commands that prepare and run an agent. Throws on an entry whose language is unknown. */
export function planAgent(input: AgentInput): AgentPlan {
  const { agentDir, entry, repoDir } = input;
  const file = join(agentDir, entry);
  const run = (argv: readonly [string, ...string[]], env: Readonly<Record<string, string>> = {}): AgentCommand => ({
    name: entry,
    argv,
    cwd: repoDir,
    env: { TASK_PROMPT: input.promptFile, REPO_DIR: repoDir, TASK_ID: input.taskId, ...env },
  });
  switch (extname(entry)) {
    case '.py': {
      const dependencies = { PYTHONPATH: join(agentDir, '.deps') };
      const argv = ['python3', file, '--instruction', instructionOf(input)] as const;
      return { prepare: pythonRequirements(input), run: run(argv, { ...dependencies, PYTHONUNBUFFERED: '1' }) };
    }
    case '.js':
    case '.mjs':
    case '.ts':
      return { prepare: nodeRequirements(input), run: run([input.nodeBinary, file]) };
    case '.sh':
      return { prepare: [], run: run(['bash', file]) };
    case '.rb':
      return { prepare: [], run: run(['ruby', file]) };
    case '.go': {
      const program = join(agentDir, '.bin', 'agent');
      return { prepare: [goBuild(input, program)], run: run([program]) };
    }
    default:
      throw new Error(`no way is known to start the agent ${entry}`);
  }
}

/** The prompt as an argument; one that no argument can hold is replaced by where to read it. */
function instructionOf({ promptText, promptFile }: AgentInput): string {
  const text = promptText.replaceAll('\0', '');
  return Buffer.byteLength(text) <= MAX_INSTRUCTION_BYTES ? text : `Read the instruction in the file ${promptFile}`;
}

function pythonRequirements({ agentDir, requirements }: AgentInput): AgentCommand[] {
  const wanted = (requirements ?? '').split('\n').some((line) => !/^\s*(?:#|$)/.test(line));
  if (!wanted) return [];
  const options = ['--disable-pip-version-check', '--no-input', '--target', join(agentDir, '.deps')];
  const argv = ['python3', '-m', 'pip', 'install', ...options, '-r', 'requirements.txt'] as const;
  return [{ name: 'agent requirements', argv, cwd: agentDir, env: {} }];
}

function nodeRequirements({ agentDir, names, packageJson }: AgentInput): AgentCommand[] {
  if (packageJson === null || !hasDependencies(packageJson)) return [];
  const locked = names.includes('package-lock.json') || names.includes('npm-shrinkwrap.json');
  const argv = ['npm', locked ? 'ci' : 'install', '--omit=dev', '--no-audit', '--no-fund'] as const;
  return [{ name: 'agent requirements', argv, cwd: agentDir, env: {} }];
}

function hasDependencies(packageJson: string): boolean {
  let parsed: unknown;
  try {
    parsed = JSON.parse(packageJson);
  } catch {
    // npm says what is wrong with it, better than we could.
    return true;
  }
  if (typeof parsed !== 'object' || parsed === null) return false;
  return ['dependencies', 'optionalDependencies'].some((key) => {
    const value: unknown = Reflect.get(parsed, key);
    return typeof value === 'object' && value !== null && Object.keys(value).length > 0;
  });
}

function goBuild({ agentDir, names }: AgentInput, program: string): AgentCommand {
  const sources = names.filter((name) => name.endsWith('.go') && !name.endsWith('_test.go')).toSorted();
  const what = names.includes('go.mod') ? ['.'] : sources;
  return {
    name: 'agent build',
    argv: ['go', 'build', '-buildvcs=false', '-o', program, ...what],
    cwd: agentDir,
    env: {},
  };
}
