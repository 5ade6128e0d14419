/**
 * The directory of one task → TaskSpec. Used on what was just unpacked from an upload and again on a task's bundle,
 * so that what was accepted and what is run are read by the same code.
 */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { listFiles, PackError } from '../pack.ts';
import { ArchiveError, shown, type ArchiveLimits } from './archive-limits.ts';
import { taskIdFault } from './archive-names.ts';
import type { GitPolicy } from './task-repo.ts';
import type { TaskSpec, TestSpec } from './task-spec.ts';
import { parseWorkspace, type WorkspaceFields } from './task-workspace.ts';

/** The limit of a file of a task whose bytes decide what the task is; null for others, which only count by their names. */
export function maxTaskTextBytes(name: string, limits: ArchiveLimits): number | null {
  switch (name) {
    case 'workspace.yaml':
      return limits.maxWorkspaceBytes;
    case 'prompt.md':
      return limits.maxPromptBytes;
    case 'checks.txt':
      return limits.maxChecksBytes;
    default:
      return null;
  }
}

/**
 * Reads and checks the task in `dir`. Commit and tests are read as they are written; the prompt is checked and stays
 * in its file. @throws ArchiveError that names `tasks/<id>/FILE:LINE` and the field.
 */
export async function readTask(
  dir: string,
  taskId: string,
  limits: ArchiveLimits,
  policy: GitPolicy,
): Promise<TaskSpec> {
  const fault = taskIdFault(taskId);
  if (fault !== null) throw new ArchiveError(`tasks/${shown(taskId)}: not a task id: ${fault}`);
  const where = `tasks/${taskId}`;
  const yaml = await readText(join(dir, 'workspace.yaml'), `${where}/workspace.yaml`, limits.maxWorkspaceBytes);
  const fields = parseWorkspace(yaml, `${where}/workspace.yaml`, limits, policy);
  await readPrompt(dir, taskId, limits);
  const testFiles = await listTestFiles(dir, where);
  const tests = await chooseTests(dir, where, testFiles, fields, limits);
  return {
    taskId,
    repo: fields.repo,
    ...(fields.baseCommit === undefined ? {} : { baseCommit: fields.baseCommit }),
    install: fields.install,
    tests,
    testFiles,
    timeouts: fields.timeouts,
    env: fields.env,
  };
}

/** The text of prompt.md. @throws ArchiveError when it is missing, blank, no UTF-8 or too long for one argument. */
export async function readPrompt(dir: string, taskId: string, limits: ArchiveLimits): Promise<string> {
  const where = `tasks/${taskId}/prompt.md`;
  const text = await readText(join(dir, 'prompt.md'), where, limits.maxPromptBytes);
  if (text.trim() === '') throw new ArchiveError(`${where}: must not be empty; it is what the agent is asked to do`);
  if (text.includes('\0')) throw new ArchiveError(`${where}: must not contain NUL`);
  return text;
}

async function listTestFiles(dir: string, where: string): Promise<readonly string[]> {
  let files: readonly string[];
  try {
    files = await listFiles(join(dir, 'tests'));
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return [];
    if (hasCode(error, 'ENOTDIR')) throw new ArchiveError(`${where}/tests: must be a directory`);
    if (error instanceof PackError) throw new ArchiveError(`${where}/tests: ${error.message}`, { cause: error });
    throw error;
  }
  const hidden = files.find((path) => path.split('/').some((component) => component.toLowerCase() === '.git'));
  if (hidden !== undefined) {
    throw new ArchiveError(`${where}/tests/${hidden}: tests must not write into .git of the repository`);
  }
  return files;
}

/** Scripts if there are any, else the lines of checks.txt, else fail_to_pass and pass_to_pass. */
async function chooseTests(
  dir: string,
  where: string,
  testFiles: readonly string[],
  fields: WorkspaceFields,
  limits: ArchiveLimits,
): Promise<readonly TestSpec[]> {
  const scripts = testFiles.filter((path) => path.endsWith('.sh'));
  let tests: readonly TestSpec[] = scripts.map((path) => ({ kind: 'script', name: path, path }));
  if (tests.length === 0) tests = await readChecks(dir, where, limits);
  if (tests.length === 0) tests = passCommands(fields);
  if (tests.length === 0) throw new ArchiveError(`${where}: has no tests; add tests/*.sh, checks.txt or fail_to_pass`);
  if (tests.length > limits.maxTestsPerTask) {
    throw new ArchiveError(`${where}: has ${tests.length} tests; at most ${limits.maxTestsPerTask} are accepted`);
  }
  return tests;
}

async function readChecks(dir: string, where: string, limits: ArchiveLimits): Promise<readonly TestSpec[]> {
  const file = `${where}/checks.txt`;
  const text = await readText(join(dir, 'checks.txt'), file, limits.maxChecksBytes, '');
  return text.split(/\r?\n/).flatMap((line, index): TestSpec[] => {
    const command = line.trim();
    if (command === '' || command.startsWith('#')) return [];
    if (command.includes('\0')) throw new ArchiveError(`${file}:${index + 1}: must not contain NUL`);
    if (Buffer.byteLength(command) > limits.maxPromptBytes) {
      throw new ArchiveError(`${file}:${index + 1}: must be at most ${limits.maxPromptBytes} bytes`);
    }
    return [{ kind: 'command', name: `check_${index}.sh`, command }];
  });
}

/** One running index over both lists: the names that the reference executor reports. */
function passCommands(fields: WorkspaceFields): readonly TestSpec[] {
  return [
    ...fields.failToPass.map((command) => ({ list: 'fail_to_pass', command })),
    ...fields.passToPass.map((command) => ({ list: 'pass_to_pass', command })),
  ].map(({ list, command }, index) => ({ kind: 'command', name: `${list}_${index}.sh`, command }));
}

/** Reads at most `maxBytes` of UTF-8 from a plain file; `absent` is the text of a file that is not there. */
async function readText(path: string, where: string, maxBytes: number, absent?: string): Promise<string> {
  let bytes: Buffer;
  try {
    await using file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    const stat = await file.stat();
    if (!stat.isFile()) throw new ArchiveError(`${where}: must be a file`);
    const buffer = Buffer.alloc(Math.min(maxBytes, stat.size) + 1);
    let filled = 0;
    for (;;) {
      const { bytesRead } = await file.read(buffer, filled, buffer.length - filled);
      filled += bytesRead;
      if (bytesRead === 0 || filled === buffer.length) break;
    }
    bytes = buffer.subarray(0, filled);
  } catch (error) {
    if (hasCode(error, 'ENOENT')) {
      if (absent !== undefined) return absent;
      throw new ArchiveError(`${where}: is missing`);
    }
    if (hasCode(error, 'ELOOP')) throw new ArchiveError(`${where}: must be a file, not a link`);
    throw error;
  }
  if (bytes.length > maxBytes) throw new ArchiveError(`${where}: must be at most ${maxBytes} bytes`);
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (error) {
    throw new ArchiveError(`${where}: is not valid UTF-8`, { cause: error });
  }
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}
