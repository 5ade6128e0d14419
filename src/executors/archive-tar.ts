/**
 * tar.gz → entries, streaming. The `tar` package reads the headers (ustar, PAX, GNU long names); gzip is undone here,
 * so that the unpacked bytes are counted before any parser sees them and the checksum of every member is verified.
 */
import { pipeline } from 'node:stream/promises';
import { createGunzip } from 'node:zlib';
import { Parser, type ReadEntry } from 'tar';
import { messageOf } from '../errors.ts';
import { ArchiveError, shown, type ArchiveLimits } from './archive-limits.ts';
import { unpackedBytesLimit, type EntryHeader, type EntrySink } from './archive-unpack.ts';

/** Room for an entry's own header, padding, and PAX or GNU headers with the longest path. */
const HEADER_BYTES_PER_ENTRY = 4096;
const BLOCK_BYTES = 512;

type Step =
  | { readonly kind: 'begin'; readonly entry: EntryHeader }
  | { readonly kind: 'data'; readonly chunk: Uint8Array }
  | { readonly kind: 'end' };

/**
 * Reads a whole tar.gz into `sink`. Memory is bounded by one chunk: all that a chunk contained is written before the
 * next is read. @throws ArchiveError when it is damaged, cut off or not a tar; the sink's errors; the signal's reason.
 */
export async function readTarGz(
  source: AsyncIterable<Uint8Array>,
  sink: EntrySink,
  options: { limits: ArchiveLimits; archiveBytes: number | null; signal: AbortSignal },
): Promise<void> {
  const { limits, archiveBytes, signal } = options;
  const maxRawBytes = unpackedBytesLimit(limits, archiveBytes) + limits.maxEntries * HEADER_BYTES_PER_ENTRY;
  const reader = new TarReader(sink);
  const readAll = async (chunks: AsyncIterable<Buffer>): Promise<void> => {
    let rawBytes = 0;
    for await (const chunk of chunks) {
      rawBytes += chunk.length;
      if (rawBytes > maxRawBytes) throw new ArchiveError('the archive unpacks to far more than its files hold');
      await reader.write(chunk);
    }
    await reader.finish();
  };
  let reading: Promise<void> = Promise.resolve();
  try {
    await pipeline(source, createGunzip({ chunkSize: 64 * 1024 }), (chunks) => (reading = readAll(chunks)), { signal });
  } catch (error) {
    signal.throwIfAborted();
    throw isZlibError(error) ? damaged(error) : error;
  } finally {
    // An abort ends the pipeline while a write is still under way; the sink is the caller's again only after it.
    await Promise.allSettled([reading]);
  }
}

/** Feeds the parser and replays what it found, in order, into an asynchronous sink. */
class TarReader {
  readonly #sink: EntrySink;
  readonly #parser: Parser;
  #steps: Step[] = [];
  #failure: Error | null = null;
  #sawEnd = false;
  #begun = false;
  #held: Buffer = Buffer.alloc(0);

  constructor(sink: EntrySink) {
    this.#sink = sink;
    this.#parser = new Parser({ strict: true, brotli: false, zstd: false });
    this.#parser.on('error', (error: Error) => (this.#failure ??= new ArchiveError(`damaged tar: ${error.message}`)));
    this.#parser.on('eof', () => (this.#sawEnd = true));
    this.#parser.on('ignoredEntry', (entry: ReadEntry) => {
      const why = entry.meta ? 'its header is too large' : `entries of type ${entry.type} are not accepted`;
      this.#failure ??= new ArchiveError(`entry ${shown(entry.path)}: ${why}`);
    });
    this.#parser.on('entry', (entry: ReadEntry) => {
      this.#steps.push({ kind: 'begin', entry: headerOf(entry) });
      entry.on('end', () => this.#steps.push({ kind: 'end' }));
      entry.on('data', (chunk: Buffer) => this.#steps.push({ kind: 'data', chunk }));
    });
  }

  async write(chunk: Buffer): Promise<void> {
    // What follows the end marker is padding; the parser would keep it all in memory.
    if (this.#sawEnd) return;
    const bytes = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
    // The parser decodes PAX headers piece by piece, so a piece must not end inside of a character.
    const end = bytes.length < BLOCK_BYTES && !this.#begun ? 0 : wholeCharacters(bytes);
    this.#held = Buffer.from(bytes.subarray(end));
    if (end > 0) await this.#feed(bytes.subarray(0, end));
  }

  async finish(): Promise<void> {
    if (!this.#sawEnd && this.#held.length > 0) await this.#feed(this.#held);
    if (!this.#begun) throw new ArchiveError('the archive is empty');
    if (!this.#sawEnd) {
      this.#parser.end();
      await this.#replay();
      throw new ArchiveError('the archive was cut off: the tar has no end marker');
    }
  }

  async #feed(bytes: Buffer): Promise<void> {
    if (!this.#begun) {
      this.#begun = true;
      // The parser would undo a second compression by itself, past our counting.
      if (bytes[0] === 0x1f && bytes[1] === 0x8b) throw new ArchiveError('the archive is compressed twice');
    }
    this.#parser.write(bytes);
    await this.#replay();
  }

  async #replay(): Promise<void> {
    const steps = this.#steps;
    this.#steps = [];
    for (const step of steps) {
      if (step.kind === 'begin') await this.#sink.begin(step.entry);
      else if (step.kind === 'data') await this.#sink.data(step.chunk);
      else await this.#sink.end();
    }
    if (this.#failure !== null) throw this.#failure;
  }
}

function headerOf(entry: ReadEntry): EntryHeader {
  return { name: entry.path, kind: kindOf(entry), executable: ((entry.mode ?? 0) & 0o111) !== 0 };
}

function kindOf(entry: ReadEntry): EntryHeader['kind'] {
  switch (entry.type) {
    case 'File':
    case 'OldFile':
    case 'ContiguousFile':
      return 'file';
    case 'Directory':
      return 'directory';
    case 'Link':
    case 'SymbolicLink':
      return 'link';
    default:
      return 'special';
  }
}

/** Length of the longest prefix that does not end inside of a UTF-8 sequence (which has at most four bytes). */
function wholeCharacters(bytes: Buffer): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back += 1) {
    const byte = bytes[bytes.length - back] ?? 0;
    if ((byte & 0xc0) === 0x80) continue;
    const needed = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return needed > back ? bytes.length - back : bytes.length;
  }
  return bytes.length;
}

function isZlibError(error: unknown): error is Error {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' && error.code.startsWith('Z_');
}

function damaged(error: Error): ArchiveError {
  const cut = 'code' in error && error.code === 'Z_BUF_ERROR';
  const what = cut ? 'the archive was cut off: its gzip stream has no end' : `damaged gzip: ${messageOf(error)}`;
  return new ArchiveError(what, { cause: error });
}
