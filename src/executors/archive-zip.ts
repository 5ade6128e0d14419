/**
 * zip → entries, one after the other. `unzipper` reads the directory and the data; what it takes on trust is checked
 * here: how many entries there are before it loads them, sizes, checksums, encryption and links.
 */
import { createReadStream } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { addAbortSignal, type Readable } from 'node:stream';
import { crc32 } from 'node:zlib';
import { Open, type CentralDirectory, type File } from 'unzipper';
import { messageOf } from '../errors.ts';
import { ArchiveError, shown, type ArchiveLimits } from './archive-limits.ts';
import { tooMany, type EntryHeader, type EntrySink } from './archive-unpack.ts';

// Field sizes and signatures: PKWARE APPNOTE.TXT 6.3.10, sections 4.3.12 to 4.3.16.
const END_BYTES = 22;
const END_SIGNATURE = 0x06054b50;
const MAX_COMMENT_BYTES = 0xffff;
const ZIP64_LOCATOR_BYTES = 20;
const ZIP64_LOCATOR_SIGNATURE = 0x07064b50;
const ZIP64_END_BYTES = 56;
const ZIP64_END_SIGNATURE = 0x06064b50;
const ENTRY_BYTES = 46;
const ENTRY_SIGNATURE = 0x02014b50;
const FLAG_ENCRYPTED = 0x1;
const STORED = 0;
const DEFLATED = 8;
/** unzipper looks for the end record in this many last bytes, and takes the first signature it sees. */
const UNZIPPER_TAIL_BYTES = 80;
/** The directory is in memory while the archive is read: 60,000 entries with names of 500 bytes each. */
const MAX_DIRECTORY_BYTES = 32 * 1024 ** 2;

const S_IFMT = 0o170000;
const S_IFREG = 0o100000;
const S_IFDIR = 0o040000;
const S_IFLNK = 0o120000;

/**
 * Reads a whole zip into `sink`, in the order of its directory.
 * @throws ArchiveError when it is damaged, cut off, encrypted or too large; the sink's errors; the signal's reason.
 */
export async function readZip(
  path: string,
  sink: EntrySink,
  options: { limits: ArchiveLimits; signal: AbortSignal },
): Promise<void> {
  const { limits, signal } = options;
  const end = await findEnd(path);
  if (end.entries > limits.maxEntries) throw tooMany(limits);
  if (end.entries === 0) throw new ArchiveError('the archive is empty');
  // Up to the end record, not what is declared: unzipper reads on as long as entries are announced.
  if (end.size - end.directoryOffset > MAX_DIRECTORY_BYTES) {
    throw new ArchiveError(`the zip directory is over ${MAX_DIRECTORY_BYTES} bytes`);
  }
  await using source = new ZipSource(path, end, signal);
  const files = await openDirectory(source);
  // A count that is too small would hide entries that other readers see.
  const listed = files.reduce((sum, file) => sum + recordBytes(file), 0);
  if (listed !== end.directoryBytes)
    throw new ArchiveError('the zip directory is damaged: its size and its count differ');
  for (const file of files) await readEntry(file, source, sink);
}

/** Where the directory is, as the end record says; checked against the file's size. */
interface ZipEnd {
  readonly entries: number;
  readonly directoryOffset: number;
  readonly directoryBytes: number;
  /** Where the end record ends: the file's size without a comment. */
  readonly size: number;
}

async function findEnd(path: string): Promise<ZipEnd> {
  await using handle = await open(path);
  const { size } = await handle.stat();
  const tail = await readAt(handle, Math.max(0, size - END_BYTES - MAX_COMMENT_BYTES), size);
  for (let at = tail.length - END_BYTES; at >= 0; at -= 1) {
    if (tail.readUInt32LE(at) !== END_SIGNATURE) continue;
    if (at + END_BYTES + tail.readUInt16LE(at + 20) !== tail.length) continue;
    const offset = size - tail.length + at;
    // unzipper would take an earlier signature within its window for the end record.
    const earlier = tail.subarray(Math.max(0, at + END_BYTES - UNZIPPER_TAIL_BYTES), at + 4);
    if (earlier.indexOf('PK\u0005\u0006', 0, 'latin1') !== earlier.length - 4) break;
    const found = await readEnd(handle, tail.subarray(at, at + END_BYTES), offset);
    if (found.directoryOffset + found.directoryBytes > offset) break;
    return { ...found, size: offset + END_BYTES };
  }
  throw new ArchiveError('the zip archive is damaged or was cut off: it has no valid end record');
}

async function readEnd(handle: FileHandle, record: Buffer, offset: number): Promise<Omit<ZipEnd, 'size'>> {
  const plain = {
    entries: record.readUInt16LE(10),
    directoryBytes: record.readUInt32LE(12),
    directoryOffset: record.readUInt32LE(16),
  };
  // The same condition as unzipper's, so that both read the same record.
  if (record.readUInt16LE(4) !== 0xffff && plain.entries !== 0xffff && plain.directoryOffset !== 0xffffffff)
    return plain;
  const locator = await readAt(handle, offset - ZIP64_LOCATOR_BYTES, offset);
  if (locator.length < ZIP64_LOCATOR_BYTES || locator.readUInt32LE(0) !== ZIP64_LOCATOR_SIGNATURE) {
    throw new ArchiveError('the zip archive is damaged: it has no zip64 locator');
  }
  const at = Number(locator.readBigUInt64LE(8));
  const end = at + ZIP64_END_BYTES <= offset ? await readAt(handle, at, at + ZIP64_END_BYTES) : Buffer.alloc(0);
  if (end.length < ZIP64_END_BYTES || end.readUInt32LE(0) !== ZIP64_END_SIGNATURE) {
    throw new ArchiveError('the zip archive is damaged: it has no zip64 end record');
  }
  return {
    entries: Number(end.readBigUInt64LE(32)),
    directoryBytes: Number(end.readBigUInt64LE(40)),
    directoryOffset: Number(end.readBigUInt64LE(48)),
  };
}

async function readAt(handle: FileHandle, start: number, end: number): Promise<Buffer> {
  const buffer = Buffer.alloc(Math.max(0, end - Math.max(0, start)));
  let filled = 0;
  while (filled < buffer.length) {
    const { bytesRead } = await handle.read(buffer, filled, buffer.length - filled, Math.max(0, start) + filled);
    if (bytesRead === 0) break;
    filled += bytesRead;
  }
  return buffer.subarray(0, filled);
}

/**
 * The file as unzipper sees it: without its comment, and with every stream owned, so that none stays open when an
 * entry is given up half read, and a read error ends the work instead of leaving it waiting.
 */
class ZipSource implements AsyncDisposable {
  readonly #path: string;
  readonly #end: ZipEnd;
  readonly #open = new Set<Readable>();
  readonly #failed = new AbortController();
  /** Aborted by the caller's signal and by read errors. */
  readonly signal: AbortSignal;

  constructor(path: string, end: ZipEnd, signal: AbortSignal) {
    this.#path = path;
    this.#end = end;
    this.signal = AbortSignal.any([signal, this.#failed.signal]);
  }

  async size(): Promise<number> {
    return this.#end.size;
  }

  stream(offset: number, length?: number): Readable {
    const range = { start: offset, ...(length === undefined ? {} : { end: offset + length - 1 }) };
    const stream = createReadStream(this.#path, range);
    this.#open.add(stream);
    stream.on('close', () => this.#open.delete(stream));
    stream.on('error', (error) => this.#failed.abort(error));
    return stream;
  }

  closeStreams(): void {
    for (const stream of this.#open) stream.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = [...this.#open].map((stream) => new Promise((resolve) => stream.once('close', resolve)));
    this.closeStreams();
    await Promise.all(closed);
  }
}

async function openDirectory(source: ZipSource): Promise<readonly File[]> {
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const onAbort = (): void => reject(source.signal.reason);
  source.signal.addEventListener('abort', onAbort, { once: true });
  try {
    source.signal.throwIfAborted();
    const directory: CentralDirectory = await Promise.race([Open.custom(source), aborted]);
    return directory.files;
  } catch (error) {
    source.signal.throwIfAborted();
    throw new ArchiveError(`the zip directory is damaged: ${messageOf(error)}`, { cause: error });
  } finally {
    source.signal.removeEventListener('abort', onAbort);
    source.closeStreams();
  }
}

function recordBytes(file: File): number {
  return ENTRY_BYTES + file.fileNameLength + file.extraFieldLength + file.fileCommentLength;
}

async function readEntry(file: File, source: ZipSource, sink: EntrySink): Promise<void> {
  const header = headerOf(file);
  const where = `entry ${shown(header.name)}`;
  await sink.begin(header);
  if (file.compressedSize === 0) {
    if (file.uncompressedSize !== 0 || file.crc32 !== 0)
      throw new ArchiveError(`${where}: damaged, its data is missing`);
    return sink.end();
  }
  if (header.kind === 'directory') throw new ArchiveError(`${where}: a directory cannot have content`);
  if (file.offsetToLocalFileHeader + file.compressedSize > (await source.size())) {
    throw new ArchiveError(`${where}: damaged, its data is missing`);
  }
  let sum = 0;
  let bytes = 0;
  const stream = file.stream();
  // unzipper may report a second error after the first ended the loop; it must not end the process.
  stream.on('error', () => undefined);
  addAbortSignal(source.signal, stream);
  const chunks: AsyncIterator<Buffer> = stream[Symbol.asyncIterator]();
  try {
    for (;;) {
      const next = await nextChunk(chunks, where, source.signal);
      if (next === null) break;
      sum = crc32(next, sum);
      bytes += next.length;
      await sink.data(next);
    }
  } finally {
    stream.destroy();
    source.closeStreams();
  }
  if (bytes !== file.uncompressedSize) throw new ArchiveError(`${where}: damaged, its size is not the declared one`);
  if (sum !== file.crc32) throw new ArchiveError(`${where}: damaged, its checksum (CRC-32) does not match`);
  await sink.end();
}

async function nextChunk(chunks: AsyncIterator<Buffer>, where: string, signal: AbortSignal): Promise<Buffer | null> {
  try {
    const next = await chunks.next();
    return next.done === true ? null : next.value;
  } catch (error) {
    signal.throwIfAborted();
    throw new ArchiveError(`${where}: damaged or cut off (${messageOf(error)})`, { cause: error });
  }
}

function headerOf(file: File): EntryHeader {
  if (file.signature !== ENTRY_SIGNATURE)
    throw new ArchiveError('the zip directory is damaged: an entry has no signature');
  // Without a name unzipper gives no buffer but an empty text.
  const name = file.fileNameLength === 0 ? '' : file.pathBuffer.toString('utf8');
  const where = `entry ${shown(name)}`;
  if ((file.flags & FLAG_ENCRYPTED) !== 0) throw new ArchiveError(`${where}: encrypted entries are not accepted`);
  if (file.compressionMethod !== STORED && file.compressionMethod !== DEFLATED) {
    throw new ArchiveError(`${where}: unknown compression method ${file.compressionMethod}; use deflate`);
  }
  for (const size of [file.compressedSize, file.uncompressedSize, file.offsetToLocalFileHeader]) {
    if (!Number.isSafeInteger(size)) throw new ArchiveError(`${where}: damaged, a size is missing`);
  }
  // Unix modes are in the upper half of the external attributes; other systems leave it zero.
  const mode = file.externalFileAttributes >>> 16;
  return { name, kind: kindOf(mode, name), executable: (mode & 0o111) !== 0 };
}

function kindOf(mode: number, name: string): EntryHeader['kind'] {
  switch (mode & S_IFMT) {
    case 0:
    case S_IFREG:
      return name.endsWith('/') ? 'directory' : 'file';
    case S_IFDIR:
      return 'directory';
    case S_IFLNK:
      return 'link';
    default:
      return 'special';
  }
}
