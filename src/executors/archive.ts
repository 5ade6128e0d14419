/**
 * Uploaded archive → tasks and agent, and one bundle for each. The only door through which foreign files enter: what
 * is refused here never costs a vote, a task or a byte on disk. Nothing is executed.
 */
import { createReadStream } from 'node:fs';
import { lstat, mkdir, mkdtemp, open, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { listFiles, writeTarGz } from '../pack.ts';
import { AGENT_ENTRIES, findAgentEntry } from './agent-entry.ts';
import { ArchiveError, shown, type ArchiveLimits } from './archive-limits.ts';
import { byBytes, taskIdFault } from './archive-names.ts';
import { readTarGz } from './archive-tar.ts';
import { Unpacker, type EntrySink, type UnpackOptions } from './archive-unpack.ts';
import { readZip } from './archive-zip.ts';
import { maxTaskTextBytes, readTask } from './task-files.ts';
import type { GitPolicy } from './task-repo.ts';

export interface InspectOptions extends GitPolicy {
  /** Where a directory of the call's own is made; it is gone when the call ends, however it ends. */
  readonly scratchDir: string;
  readonly signal: AbortSignal;
}

export interface InspectedArchive {
  readonly taskCount: number;
  /** Name of the agent's file at the root of agent_code/. */
  readonly agentEntry: string;
}

/**
 * Checks a whole archive (zip or tar.gz, by its first bytes) in bounded memory. Only the few files that say what a
 * task is reach the disk with their bytes; everything else is read, checked and counted. Tasks are read one after the
 * other, none is kept, and other work of the process has its turn between them.
 * @throws ArchiveError that names the entry, file, line or field; the signal's reason when it was aborted.
 */
export async function inspectArchive(
  file: string,
  limits: ArchiveLimits,
  options: InspectOptions,
): Promise<InspectedArchive> {
  return withScratch(options.scratchDir, async (dir) => {
    await unpackArchive(file, dir, limits, options.signal, 'texts');
    const root = await findRoot(dir);
    const agentEntry = await readAgentEntry(root);
    const taskIds = await checkTasks(root, limits, options);
    return { taskCount: taskIds.length, agentEntry };
  });
}

export interface SplitOptions extends InspectOptions {
  /** Receives agent.tar.gz and task-<index>.tar.gz; made when it is not there. */
  readonly outDir: string;
}

export interface SplitArchive {
  /** Bundle with the content of agent_code/ at its root. */
  readonly agent: { readonly file: string };
  /** Bundles with the content of tasks/<id>/ at their root, in the byte order of the ids. */
  readonly tasks: readonly { readonly taskId: string; readonly file: string }[];
}

/**
 * Checks an archive as `inspectArchive` does and writes a bundle per task and one for the agent. Equal contents give
 * equal bytes whatever archive they came in, so that two planners store the same bundles.
 * @throws as `inspectArchive`; nothing that it wrote to outDir is left then.
 */
export async function splitArchive(file: string, limits: ArchiveLimits, options: SplitOptions): Promise<SplitArchive> {
  const { outDir, signal } = options;
  return withScratch(options.scratchDir, async (dir) => {
    await unpackArchive(file, dir, limits, signal, 'everything');
    const root = await findRoot(dir);
    await readAgentEntry(root);
    const taskIds = await checkTasks(root, limits, options);
    const madeDir = await mkdir(outDir, { recursive: true });
    const written: string[] = [];
    const bundle = async (name: string, content: string): Promise<string> => {
      signal.throwIfAborted();
      const out = join(outDir, name);
      written.push(out);
      await writeTarGz(content, await listFiles(content), out);
      return out;
    };
    try {
      const agent = { file: await bundle('agent.tar.gz', join(root, 'agent_code')) };
      const tasks: { taskId: string; file: string }[] = [];
      for (const [index, taskId] of taskIds.entries()) {
        tasks.push({ taskId, file: await bundle(`task-${index}.tar.gz`, join(root, 'tasks', taskId)) });
      }
      return { agent, tasks };
    } catch (error) {
      if (madeDir !== undefined) await rm(madeDir, { recursive: true, force: true });
      else for (const out of written) await rm(out, { force: true });
      throw error;
    }
  });
}

/**
 * Unpacks a bundle into `dir`, which must be missing or empty, with the checks of an archive except the ratio: a part
 * may be denser than the archive whose ratio the planner checked.
 * @throws ArchiveError, or the signal's reason; `dir` is removed then.
 */
export async function extractBundle(
  source: AsyncIterable<Uint8Array>,
  dir: string,
  limits: ArchiveLimits,
  signal: AbortSignal,
): Promise<void> {
  await mkdir(dir, { recursive: true });
  if ((await readdir(dir)).length > 0) throw new Error(`${dir}: must be empty before a bundle is unpacked there`);
  try {
    await using unpacker = new Unpacker(dir, {
      limits,
      archiveBytes: null,
      keep: 'everything',
      maxTextBytes: () => null,
    });
    await readTarGz(source, unpacker, { limits, archiveBytes: null, signal });
  } catch (error) {
    await rm(dir, { recursive: true, force: true });
    throw error;
  }
}

/** Runs `work` with a fresh private directory, which is gone afterwards whatever happened. */
async function withScratch<T>(scratchDir: string, work: (dir: string) => Promise<T>): Promise<T> {
  await mkdir(scratchDir, { recursive: true });
  const dir = await mkdtemp(join(scratchDir, 'archive-'));
  try {
    return await work(dir);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

async function unpackArchive(
  file: string,
  dir: string,
  limits: ArchiveLimits,
  signal: AbortSignal,
  keep: UnpackOptions['keep'],
): Promise<void> {
  signal.throwIfAborted();
  const archiveBytes = (await stat(file)).size;
  if (archiveBytes > limits.maxArchiveBytes)
    throw new ArchiveError(`the archive is over ${limits.maxArchiveBytes} bytes`);
  const format = await detectFormat(file);
  await using unpacker = new Unpacker(dir, {
    limits,
    archiveBytes,
    keep,
    maxTextBytes: (path) => maxTextBytes(path, limits),
  });
  const sink: EntrySink = unpacker;
  if (format === 'zip') await readZip(file, sink, { limits, signal });
  else await readTarGz(createReadStream(file), sink, { limits, archiveBytes, signal });
}

/** Only what readTask will read: tasks/<id>/NAME at the root or one directory down. See findRoot. */
function maxTextBytes(path: readonly string[], limits: ArchiveLimits): number | null {
  const [tasks, , name, ...more] = path[0] === 'tasks' || path[0] === 'agent_code' ? path : path.slice(1);
  return tasks === 'tasks' && name !== undefined && more.length === 0 ? maxTaskTextBytes(name, limits) : null;
}

async function detectFormat(file: string): Promise<'zip' | 'tar.gz'> {
  await using handle = await open(file);
  const { buffer, bytesRead } = await handle.read({ buffer: Buffer.alloc(4), position: 0 });
  const magic = buffer.toString('latin1', 0, bytesRead);
  if (magic === '') throw new ArchiveError('the archive is empty');
  if (magic === 'PK\u0003\u0004' || magic === 'PK\u0005\u0006') return 'zip';
  if (magic.startsWith('\u001f\u008b')) return 'tar.gz';
  throw new ArchiveError('not an archive: the upload must be a zip or a tar.gz');
}

/** The directory that holds agent_code/ and tasks/: the archive's root or the only one below it that has either. */
async function findRoot(dir: string): Promise<string> {
  const names = await readdir(dir);
  const holds = (entries: readonly string[]): boolean => entries.includes('agent_code') || entries.includes('tasks');
  const candidates: string[] = [];
  if (holds(names)) candidates.push(dir);
  else {
    for (const name of names) {
      const path = join(dir, name);
      if ((await isDirectory(path)) && holds(await readdir(path))) candidates.push(path);
    }
  }
  const [root, ...others] = candidates;
  if (root === undefined) {
    const found = names.length === 0 ? 'nothing' : names.sort(byBytes).slice(0, 5).map(shown).join(', ');
    throw new ArchiveError(`no tasks/ and no agent_code/ at the archive's root or one directory down; found ${found}`);
  }
  if (others.length > 0) throw new ArchiveError('more than one directory of the archive holds tasks/ or agent_code/');
  for (const name of ['tasks', 'agent_code']) {
    const entry = await lstat(join(root, name)).catch(() => null);
    if (entry === null) throw new ArchiveError(`the archive has no ${name}/`);
    if (!entry.isDirectory()) throw new ArchiveError(`${name}: must be a directory`);
  }
  return root;
}

async function readAgentEntry(root: string): Promise<string> {
  const entries = await readdir(join(root, 'agent_code'), { withFileTypes: true });
  if (entries.length === 0) throw new ArchiveError('agent_code/: is empty; it must contain the agent');
  const files = entries.filter((entry) => entry.isFile()).map((entry) => entry.name);
  const entry = findAgentEntry(files);
  if (entry === null) {
    const names = AGENT_ENTRIES.join(', ');
    throw new ArchiveError(`agent_code/: has no entry; add one of ${names}, or a single file with such an extension`);
  }
  return entry;
}

/** Reads every task as it will be read to be run. @returns their ids in byte order; more is not kept in memory. */
async function checkTasks(root: string, limits: ArchiveLimits, options: InspectOptions): Promise<readonly string[]> {
  const ids = (await readdir(join(root, 'tasks'))).sort(byBytes);
  if (ids.length === 0) throw new ArchiveError('tasks/: is empty; it must contain a directory per task');
  if (ids.length > limits.maxTasks) throw new ArchiveError(`tasks/: has more than ${limits.maxTasks} tasks`);
  for (const id of ids) {
    // Parsing is synchronous; the file system alone does not let timers and requests have their turn.
    await setImmediate();
    options.signal.throwIfAborted();
    await checkTask(root, id, limits, options);
  }
  return ids;
}

async function checkTask(root: string, id: string, limits: ArchiveLimits, policy: GitPolicy): Promise<void> {
  const dir = join(root, 'tasks', id);
  const fault = taskIdFault(id);
  if (fault !== null) throw new ArchiveError(`tasks/${shown(id)}: not a task id: ${fault}`);
  if (!(await isDirectory(dir)))
    throw new ArchiveError(`tasks/${id}: is a file; tasks/ must contain a directory per task`);
  await readTask(dir, id, limits, policy);
}

async function isDirectory(path: string): Promise<boolean> {
  return (await lstat(path)).isDirectory();
}
