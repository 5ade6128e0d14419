/**
 * Directory → tar.gz with the same bytes on any machine. Validators vote on the hash of an archive and planners store
 * bundles under theirs, so packing must depend on names and contents alone.
 *
 * That is why nothing is compressed: the output of deflate differs between zlib builds (Node bundles Chromium's, which
 * differs between processors; distributions link zlib-ng). Gzip's stored blocks have exactly one encoding.
 */
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { lstat, open, readdir, realpath, rm, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join, resolve, sep } from 'node:path';
import { crc32 } from 'node:zlib';
import { Header, Pax } from 'tar';
import { CodedError } from './errors.ts';

const BLOCK_BYTES = 512;
const READ_BYTES = 256 * 1024;
/** Longest stored block of deflate (RFC 1951, 3.2.4). */
const STORED_BYTES = 0xffff;
/** RFC 1952, 2.3: deflate, no flags, no time, no extra flags, unknown operating system. */
const GZIP_HEADER = Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]);
const UINT32 = 2 ** 32;

/** The directory cannot be packed. The message names the path and the remedy. */
export class PackError extends CodedError<'pack_failed'> {
  override readonly name = 'PackError';

  constructor(message: string, options?: ErrorOptions) {
    super('pack_failed', message, options);
  }
}

/** What came of packing: SHA-256 in lower-case hex, and the size in bytes. */
export interface Packed {
  readonly sha256: string;
  readonly bytes: number;
}

/**
 * Packs a directory that contains agent_code/ and tasks/ to a reproducible tar.gz: files only, sorted by the bytes of
 * their paths, no times and no owners, mode 0755 or 0644. Everything is packed except what is named `.git` or
 * `.DS_Store`; empty directories leave no trace (git has none either). @throws PackError for links, devices and names
 * that are not UTF-8, naming the path; on any error `outFile` is removed.
 */
export async function packDirectory(dir: string, outFile: string): Promise<Packed> {
  for (const name of ['agent_code', 'tasks']) {
    const stat = await lstat(join(dir, name)).catch(() => null);
    if (stat?.isDirectory() !== true) throw new PackError(`${join(dir, name)}: must be a directory`);
  }
  const out = join(await realpath(dirname(resolve(outFile))), basename(outFile));
  if (out.startsWith(`${await realpath(dir)}${sep}`)) {
    throw new PackError(`${outFile}: lies inside of what is packed; write it somewhere else`);
  }
  return writeTarGz(dir, await listFiles(dir, (name) => name === '.git' || name === '.DS_Store'), outFile);
}

/**
 * The files below a directory as `/`-separated relative paths, sorted by their UTF-8 bytes.
 * @throws PackError for anything that is neither a file nor a directory, and for names that are not UTF-8.
 */
export async function listFiles(
  root: string,
  skip: (name: string) => boolean = () => false,
): Promise<readonly string[]> {
  const files: string[] = [];
  const pending = [''];
  for (let dir = pending.pop(); dir !== undefined; dir = pending.pop()) {
    for (const entry of await readdir(join(root, dir), { withFileTypes: true })) {
      if (skip(entry.name)) continue;
      const path = dir === '' ? entry.name : `${dir}/${entry.name}`;
      if (entry.name.includes('\ufffd'))
        throw new PackError(`${join(root, path)}: the name is not valid UTF-8; rename it`);
      if (entry.isDirectory()) pending.push(path);
      else if (entry.isFile()) files.push(path);
      else
        throw new PackError(
          `${join(root, path)}: only files and directories can be packed, no links; replace it by a copy`,
        );
    }
  }
  return files
    .map((path) => ({ path, bytes: Buffer.from(path) }))
    .sort((a, b) => Buffer.compare(a.bytes, b.bytes))
    .map(({ path }) => path);
}

/**
 * Writes the named files (paths relative to `root`, in this order) as a reproducible tar.gz. Memory is bounded by one
 * read. @throws PackError when a file changes meanwhile; on any error `outFile` is removed.
 */
export async function writeTarGz(root: string, paths: readonly string[], outFile: string): Promise<Packed> {
  await using file = await open(outFile, 'w', 0o644);
  try {
    const gzip = new StoredGzip(file);
    await gzip.begin();
    for (const path of paths) await writeFile(gzip, root, path);
    // Two zero blocks end a tar (POSIX pax, ustar interchange format).
    await gzip.write(Buffer.alloc(2 * BLOCK_BYTES));
    return await gzip.finish();
  } catch (error) {
    await rm(outFile, { force: true });
    throw error;
  }
}

async function writeFile(gzip: StoredGzip, root: string, path: string): Promise<void> {
  const full = join(root, path);
  await using file = await open(full, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  const stat = await file.stat();
  if (!stat.isFile()) throw new PackError(`${full}: is no plain file any more`);
  await gzip.write(tarHeader(path, stat.size, (stat.mode & 0o100) !== 0));
  let bytes = 0;
  for (;;) {
    const { bytesRead, buffer } = await file.read({ buffer: Buffer.allocUnsafe(Math.min(READ_BYTES, stat.size + 1)) });
    if (bytesRead === 0) break;
    bytes += bytesRead;
    if (bytes > stat.size) break;
    await gzip.write(buffer.subarray(0, bytesRead));
  }
  if (bytes !== stat.size) throw new PackError(`${full}: changed while it was packed; try again`);
  await gzip.write(Buffer.alloc((BLOCK_BYTES - (bytes % BLOCK_BYTES)) % BLOCK_BYTES));
}

function tarHeader(path: string, size: number, executable: boolean): Buffer {
  const fields = { path, size, mode: executable ? 0o755 : 0o644, uid: 0, gid: 0, uname: '', gname: '' };
  const header = new Header({ ...fields, type: 'File', mtime: new Date(0) });
  const needsPax = header.encode();
  const block = header.block;
  if (block === undefined) throw new Error('tar made no header');
  return needsPax ? Buffer.concat([new Pax({ path, size }).encode(), block]) : block;
}

/** gzip with stored blocks only; blocks are cut at fixed places, whatever the sizes of the writes. */
class StoredGzip {
  readonly #file: FileHandle;
  readonly #hash = createHash('sha256');
  readonly #block = Buffer.alloc(STORED_BYTES);
  #filled = 0;
  #crc = 0;
  #plainBytes = 0;
  #bytes = 0;

  constructor(file: FileHandle) {
    this.#file = file;
  }

  async begin(): Promise<void> {
    await this.#put(GZIP_HEADER);
  }

  async write(chunk: Buffer): Promise<void> {
    this.#crc = crc32(chunk, this.#crc);
    this.#plainBytes += chunk.length;
    let rest = chunk;
    while (rest.length > 0) {
      const copied = rest.copy(this.#block, this.#filled);
      this.#filled += copied;
      rest = rest.subarray(copied);
      if (this.#filled === STORED_BYTES) await this.#flush(false);
    }
  }

  async finish(): Promise<Packed> {
    await this.#flush(true);
    const trailer = Buffer.alloc(8);
    trailer.writeUInt32LE(this.#crc, 0);
    trailer.writeUInt32LE(this.#plainBytes % UINT32, 4);
    await this.#put(trailer);
    return { sha256: this.#hash.digest('hex'), bytes: this.#bytes };
  }

  async #flush(last: boolean): Promise<void> {
    const head = Buffer.alloc(5);
    head.writeUInt8(last ? 1 : 0, 0);
    head.writeUInt16LE(this.#filled, 1);
    head.writeUInt16LE(~this.#filled & 0xffff, 3);
    await this.#put(Buffer.concat([head, this.#block.subarray(0, this.#filled)]));
    this.#filled = 0;
  }

  async #put(bytes: Buffer): Promise<void> {
    this.#hash.update(bytes);
    this.#bytes += bytes.length;
    let offset = 0;
    while (offset < bytes.length) offset += (await this.#file.write(bytes, offset)).bytesWritten;
  }
}
