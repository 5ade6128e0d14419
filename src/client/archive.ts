/**
 * From what the user names to the bytes that are voted on: a directory is packed into a temporary file, an archive is
 * taken as it is, byte for byte, since its hash is what the validators agree on.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdtemp, open, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CodedError, messageOf } from '../errors.ts';
import { packDirectory } from '../pack.ts';

/** An archive ready to be sent. Whoever holds it disposes of it: a packed directory leaves a temporary file. */
export interface LocalArchive extends AsyncDisposable {
  readonly file: string;
  /** SHA-256, hex: what is voted on. */
  readonly sha256: string;
  readonly bytes: number;
  readonly fileName: 'archive.tar.gz' | 'archive.zip';
}

/** @throws CodedError file_unreadable, usage for what is no archive, and what packDirectory throws */
export async function openArchive(path: string, signal: AbortSignal): Promise<LocalArchive> {
  const stats = await stat(path).catch((error: unknown) => {
    throw new CodedError('file_unreadable', `cannot read ${path}: ${messageOf(error)}`, { cause: error });
  });
  if (stats.isDirectory()) return packed(path);
  const fileName = await formatOf(path);
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const chunk of createReadStream(path, { signal })) {
    hash.update(chunk);
    bytes += chunk.length;
  }
  return { file: path, sha256: hash.digest('hex'), bytes, fileName, [Symbol.asyncDispose]: async () => undefined };
}

async function packed(directory: string): Promise<LocalArchive> {
  const dir = await mkdtemp(join(tmpdir(), 'term-executor-submit-'));
  const dispose = (): Promise<void> => rm(dir, { recursive: true, force: true });
  try {
    const file = join(dir, 'archive.tar.gz');
    const { sha256, bytes } = await packDirectory(directory, file);
    return { file, sha256, bytes, fileName: 'archive.tar.gz', [Symbol.asyncDispose]: dispose };
  } catch (error) {
    await dispose();
    throw error;
  }
}

/** Told by the first bytes (gzip, RFC 1952; zip local header or empty archive), never by the name. */
async function formatOf(path: string): Promise<LocalArchive['fileName']> {
  const magic = Buffer.alloc(4);
  try {
    await using handle = await open(path);
    await handle.read(magic, 0, magic.length, 0);
  } catch (error) {
    throw new CodedError('file_unreadable', `cannot read ${path}: ${messageOf(error)}`, { cause: error });
  }
  if (magic[0] === 0x1f && magic[1] === 0x8b) return 'archive.tar.gz';
  if (['504b0304', '504b0506'].includes(magic.toString('hex'))) return 'archive.zip';
  throw new CodedError('usage', `${path} is neither a directory nor a zip or tar.gz archive`);
}
