/** Small submissions made for one test: one tiny repository, a shell agent and as many tasks as wanted. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { packDirectory } from '../../src/pack.ts';
import { makeRepo } from './repos.ts';

export interface TaskFiles {
  /** Path within the task's directory → content. `prompt.md` and workspace.yaml are added unless given. */
  readonly files?: Readonly<Record<string, string>>;
  /** Lines added to workspace.yaml. */
  readonly workspace?: string;
}

export interface SubmissionOptions {
  readonly agent?: Readonly<Record<string, string>>;
  readonly tasks: Readonly<Record<string, TaskFiles>>;
}

const DEFAULT_AGENT = { 'agent.sh': 'echo "working on $TASK_ID"; echo "solved $TASK_ID" > solved.txt\n' };
/** Passes if the agent left its mark. */
export const SOLVED_TEST = { 'tests/check.sh': 'grep -q "^solved" solved.txt\n' };

/** Writes the submission below `dir` and packs it. Returns the archive and the unpacked directory. */
export async function makeSubmission(dir: string, options: SubmissionOptions): Promise<{ file: string; root: string }> {
  const repo = makeRepo(dir, { 'README.md': 'a repository\n' });
  const root = join(dir, 'submission');
  await writeFiles(join(root, 'agent_code'), options.agent ?? DEFAULT_AGENT);
  for (const [taskId, task] of Object.entries(options.tasks)) {
    const workspace = `repo: ${repo.url}\nbase_commit: ${repo.commits[0]}\n${task.workspace ?? ''}`;
    const files = { 'workspace.yaml': workspace, 'prompt.md': `Solve ${taskId}.\n`, ...(task.files ?? SOLVED_TEST) };
    await writeFiles(join(root, 'tasks', taskId), files);
  }
  const file = join(dir, 'submission.tar.gz');
  await packDirectory(root, file);
  return { file, root };
}

/** `count` tasks that each take `secs` seconds of the agent's time. */
export function slowTasks(count: number, secs: number): SubmissionOptions {
  const tasks = Object.fromEntries(Array.from({ length: count }, (_, index) => [`task-${index + 1}`, {}]));
  return { agent: { 'agent.sh': `sleep ${secs}; ${DEFAULT_AGENT['agent.sh']}` }, tasks };
}

async function writeFiles(dir: string, files: Readonly<Record<string, string>>): Promise<void> {
  for (const [path, content] of Object.entries(files)) {
    const file = join(dir, path);
    await mkdir(join(file, '..'), { recursive: true });
    await writeFile(file, content);
  }
}
