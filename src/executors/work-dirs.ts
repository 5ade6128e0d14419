/**
 * Work directories, one for each attempt, below one directory for each life of an executor. That directory is locked
 * while its process lives, so that what a crash left can be told from what runs, and only the former is removed.
 */
import { createHash } from 'node:crypto';
import { access, mkdir, mkdtemp, readdir, rename } from 'node:fs/promises';
import { constants } from 'node:fs';
import { join } from 'node:path';
import { lockDataDir } from '../data-dir.ts';
import { CodedError, messageOf } from '../errors.ts';
import { removeForced } from './test-files.ts';

export interface WorkDirs {
  /** For what the executor itself needs while a step runs. */
  readonly scratchDir: string;
  /** Makes the empty directory of an attempt. */
  create(batchId: string, taskId: string): Promise<string>;
  /** Removes a directory, whatever modes a task has left in it. */
  remove(dir: string): Promise<void>;
  close(): Promise<void>;
}

/** Opens the directories of one executor session below `base`, and removes those of sessions that have died. */
export async function openWorkDirs(base: string, session: string): Promise<WorkDirs> {
  try {
    await mkdir(base, { recursive: true, mode: 0o700 });
    await access(base, constants.W_OK | constants.X_OK);
    await removeDead(base);
  } catch (error) {
    const problem = `cannot use ${base}: ${messageOf(error)}; name a directory that this user can write to`;
    throw new CodedError('workspace_not_writable', `WORKSPACE_BASE: ${problem}`, { cause: error });
  }
  // Locked before it has the name that removeDead looks for, so that a process which starts just now cannot take it.
  const unnamed = join(base, `new-${session}`);
  const lock = lockDataDir(unnamed);
  const sessionDir = join(base, session);
  await rename(unnamed, sessionDir);
  const scratchDir = join(sessionDir, 'scratch');
  await mkdir(scratchDir, { mode: 0o700 });
  return {
    scratchDir,
    async create(batchId, taskId) {
      const task = createHash('sha256').update(taskId).digest('hex').slice(0, 16);
      return mkdtemp(join(sessionDir, `${batchId}-${task}-`));
    },
    remove: removeForced,
    async close() {
      lock.release();
      await removeForced(sessionDir);
    },
  };
}

async function removeDead(base: string): Promise<void> {
  for (const entry of await readdir(base, { withFileTypes: true })) {
    // Only what has the form of a session (a UUID) is ours to judge.
    if (!entry.isDirectory() || !/^[0-9a-f-]{36}$/.test(entry.name)) continue;
    const dir = join(base, entry.name);
    try {
      lockDataDir(dir).release();
    } catch {
      continue;
    }
    await removeForced(dir);
  }
}
