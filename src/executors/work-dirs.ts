/**
 * Work directories, one for each attempt, below one directory for each life of an executor. That directory is locked
 * while its process lives, so that what a crash left can be told from what runs, and only the former is removed.
 */
import { createHash } from 'node:crypto';
import { chmod, mkdir, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { lockDataDir } from '../data-dir.ts';

export interface WorkDirs {
  /** Makes the empty directory of an attempt. */
  create(batchId: string, taskId: string, attempt: number): Promise<string>;
  /** Removes a directory, whatever modes a task has left in it. */
  remove(dir: string): Promise<void>;
  close(): Promise<void>;
}

/** Opens the directories of one executor session below `base`, and removes those of sessions that have died. */
export async function openWorkDirs(base: string, session: string): Promise<WorkDirs> {
  await mkdir(base, { recursive: true, mode: 0o700 });
  await removeDead(base);
  // Locked before it has the name that removeDead looks for, so that a process which starts just now cannot take it.
  const unnamed = join(base, `new-${session}`);
  const lock = lockDataDir(unnamed);
  const sessionDir = join(base, session);
  await rename(unnamed, sessionDir);
  return {
    async create(batchId, taskId, attempt) {
      const task = createHash('sha256').update(taskId).digest('hex').slice(0, 16);
      const dir = join(sessionDir, `${batchId}-${task}-${attempt}`);
      await mkdir(dir, { mode: 0o700 });
      return dir;
    },
    remove: removeTree,
    async close() {
      lock.release();
      await removeTree(sessionDir);
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
    await removeTree(dir);
  }
}

async function removeTree(dir: string): Promise<void> {
  try {
    await rm(dir, { recursive: true, force: true, maxRetries: 3 });
  } catch {
    await openModes(dir);
    await rm(dir, { recursive: true, force: true, maxRetries: 3 });
  }
}

/** A directory that its owner may not read or write cannot be emptied; links are not followed. */
async function openModes(dir: string): Promise<void> {
  await chmod(dir, 0o700).catch(() => undefined);
  const entries = await readdir(dir, { withFileTypes: true }).catch(() => []);
  for (const entry of entries) if (entry.isDirectory()) await openModes(join(dir, entry.name));
}
