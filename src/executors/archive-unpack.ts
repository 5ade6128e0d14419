/**
 * Entries of an archive → files under a fresh directory, with every limit counted on the bytes that really arrive.
 * Both formats write through this one class, so that neither can be laxer than the other.
 */
import { constants } from 'node:fs';
import { mkdir, open, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { ArchiveError, RATIO_FREE_BYTES, shown, type ArchiveLimits } from './archive-limits.ts';
import { entryPath } from './archive-names.ts';

/** One entry as a format's reader found it, before any check. `link` and `special` are always refused. */
export interface EntryHeader {
  readonly name: string;
  readonly kind: 'file' | 'directory' | 'link' | 'special';
  readonly executable: boolean;
}

/** Receives entries one after the other: `begin`, then for files any number of `data`, then `end`. */
export interface EntrySink {
  begin(entry: EntryHeader): Promise<void>;
  data(chunk: Uint8Array): Promise<void>;
  end(): Promise<void>;
}

export interface UnpackOptions {
  readonly limits: ArchiveLimits;
  /** Size of the archive for the ratio; null when it is trusted (a bundle of ours may be denser than its archive). */
  readonly archiveBytes: number | null;
  /** `texts`: of other files than those that `maxTextBytes` knows the bytes are only counted; they stay empty. */
  readonly keep: 'everything' | 'texts';
  /** Limit of a file that says what a task is, by its path; null for all others. `texts` writes one byte more at most. */
  readonly maxTextBytes: (path: readonly string[]) => number | null;
}

interface OpenEntry {
  readonly name: string;
  readonly file: FileHandle | null;
  /** Bytes that still count as text of a task: up to one over the limit, so that its reader sees the excess. */
  textRoom: number;
}

/** Bytes that may be unpacked from an archive of this size. */
export function unpackedBytesLimit(limits: ArchiveLimits, archiveBytes: number | null): number {
  if (archiveBytes === null) return limits.maxTotalBytes;
  return Math.min(limits.maxTotalBytes, Math.max(RATIO_FREE_BYTES, archiveBytes * limits.maxRatio));
}

/**
 * Writes entries below `root`, which must be a fresh directory of the caller's. Never follows or creates a link: the
 * directory starts empty, only this class writes to it, and it creates plain files (exclusively) and directories.
 */
export class Unpacker implements EntrySink, AsyncDisposable {
  readonly #root: string;
  readonly #options: UnpackOptions;
  readonly #directories = new Set<string>();
  #entries = 0;
  #nodes = 0;
  #totalBytes = 0;
  #entryBytes = 0;
  #textBytes = 0;
  #current: OpenEntry | null = null;

  constructor(root: string, options: UnpackOptions) {
    this.#root = root;
    this.#options = options;
  }

  async begin(entry: EntryHeader): Promise<void> {
    const { limits } = this.#options;
    this.#entries += 1;
    if (this.#entries > limits.maxEntries) throw tooMany(limits);
    this.#entryBytes = 0;
    this.#current = { name: entry.name, file: null, textRoom: 0 };
    const components = entryPath(entry.name, limits);
    if (components === null) return;
    if (entry.kind === 'link') throw new ArchiveError(`entry ${shown(entry.name)}: links are not accepted`);
    if (entry.kind === 'special') {
      throw new ArchiveError(`entry ${shown(entry.name)}: only files and directories are accepted (no devices, pipes)`);
    }
    if (entry.kind === 'directory') return this.#makeDirectory(components, entry.name);
    const base = components.at(-1);
    if (base === undefined) throw new ArchiveError(`entry ${shown(entry.name)}: the root cannot be a file`);
    await this.#makeDirectory(components.slice(0, -1), entry.name);
    const file = await this.#create(components.join('/'), entry);
    const maxBytes = this.#options.maxTextBytes(components);
    const textRoom = maxBytes === null ? 0 : maxBytes + 1;
    if (textRoom > 0 || this.#options.keep === 'everything') this.#current = { name: entry.name, file, textRoom };
    else await file.close();
  }

  async data(chunk: Uint8Array): Promise<void> {
    const { limits, archiveBytes } = this.#options;
    const current = this.#current;
    if (current === null) throw new Error('data outside of an entry');
    this.#entryBytes += chunk.length;
    this.#totalBytes += chunk.length;
    const where = `entry ${shown(current.name)}`;
    if (this.#entryBytes > limits.maxEntryBytes) {
      throw new ArchiveError(`${where}: over ${limits.maxEntryBytes} bytes unpacked`);
    }
    if (this.#totalBytes > limits.maxTotalBytes) {
      throw new ArchiveError(`${where}: the archive is over ${limits.maxTotalBytes} bytes unpacked`);
    }
    if (this.#totalBytes > unpackedBytesLimit(limits, archiveBytes)) {
      throw new ArchiveError(`${where}: the archive unpacks to over ${limits.maxRatio} times its own size`);
    }
    const textBytes = Math.min(chunk.length, current.textRoom);
    current.textRoom -= textBytes;
    this.#textBytes += textBytes;
    if (this.#textBytes > limits.maxTextTotalBytes) {
      throw new ArchiveError(
        `${where}: workspace.yaml, prompt.md and checks.txt of all tasks are over ${limits.maxTextTotalBytes} bytes together`,
      );
    }
    if (current.file === null) return;
    await writeAll(current.file, this.#options.keep === 'everything' ? chunk : chunk.subarray(0, textBytes));
  }

  async end(): Promise<void> {
    const file = this.#current?.file;
    this.#current = null;
    await file?.close();
  }

  /** Closes what an error left open; the directory is its owner's to remove. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.end();
  }

  async #makeDirectory(components: readonly string[], entryName: string): Promise<void> {
    for (let depth = 1; depth <= components.length; depth += 1) {
      const path = components.slice(0, depth).join('/');
      if (this.#directories.has(path)) continue;
      this.#count();
      try {
        await mkdir(join(this.#root, path), { mode: 0o755 });
      } catch (error) {
        if (!hasCode(error, 'EEXIST')) throw error;
        throw new ArchiveError(`entry ${shown(entryName)}: ${shown(path)} is a file and a directory at once`);
      }
      this.#directories.add(path);
    }
  }

  async #create(path: string, entry: EntryHeader): Promise<FileHandle> {
    this.#count();
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
    try {
      return await open(join(this.#root, path), flags, entry.executable ? 0o755 : 0o644);
    } catch (error) {
      if (!hasCode(error, 'EEXIST')) throw error;
      const what = this.#directories.has(path) ? 'is a file and a directory at once' : 'is there twice';
      throw new ArchiveError(`entry ${shown(entry.name)}: ${what}`);
    }
  }

  #count(): void {
    this.#nodes += 1;
    if (this.#nodes > this.#options.limits.maxEntries) throw tooMany(this.#options.limits);
  }
}

/** The error of an archive with too many entries; also used where the count is known before the first entry. */
export function tooMany(limits: ArchiveLimits): ArchiveError {
  return new ArchiveError(
    `the archive has more than ${limits.maxEntries} entries; leave out what the tasks do not need`,
  );
}

async function writeAll(file: FileHandle, chunk: Uint8Array): Promise<void> {
  let offset = 0;
  while (offset < chunk.length) offset += (await file.write(chunk, offset)).bytesWritten;
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}
