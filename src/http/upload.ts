/**
 * Receives an archive of up to hundreds of megabytes: streamed to a file while it is hashed, never held in memory, and
 * given up as soon as it is too large, too slow or broken. Whatever happens, the file does not outlive its request.
 */
import { createHash, randomUUID } from 'node:crypto';
import { mkdir, open, readdir, rm } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { addAbortSignal } from 'node:stream';
import type { MultipartFile } from '@fastify/multipart';
import type { FastifyRequest } from 'fastify';
import { messageOf } from '../errors.ts';
import { orAbort } from './bounds.ts';
import { HttpError } from './errors.ts';

const ARCHIVE_FIELDS: readonly string[] = ['archive', 'file'];
/** Everything in the body that is not the archive: boundaries, part headers, ignored fields. */
const OVERHEAD_BYTES = 1024 ** 2;
const PART_LIMITS = { fields: 16, fieldSize: 64 * 1024, parts: 32, files: 16, headerPairs: 32 };
const RETRY_STORAGE_SECS = 60;
const FILE_SUFFIX = '.upload';

/** A received archive. Disposing removes its file. */
export interface Upload extends AsyncDisposable {
  readonly file: string;
  readonly sha256: string;
  readonly bytes: number;
}

export interface UploadLimits {
  /** Directory for the file, on the disk that may fill. */
  readonly dir: string;
  readonly maxBytes: number;
  /** Longest time without a byte. */
  readonly idleMs: number;
  /** Longest time altogether. */
  readonly totalMs: number;
}

/** Creates the directory and removes what a server that was killed left in it. The directory must be ours alone. */
export async function cleanUploads(dir: string): Promise<void> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const left = (await readdir(dir)).filter((name) => name.endsWith(FILE_SUFFIX));
  await Promise.all(left.map((name) => rm(join(dir, name), { force: true })));
}

/**
 * Reads the multipart body. `signal` gives it up. @throws HttpError upload_failed, missing_archive, archive_too_large,
 * storage_full; afterwards no file is left
 */
export async function receiveArchive(
  request: FastifyRequest,
  limits: UploadLimits,
  signal: AbortSignal,
): Promise<Upload> {
  refuseByHeaders(request, limits.maxBytes);
  const file = join(limits.dir, `${randomUUID()}${FILE_SUFFIX}`);
  const remove = (): Promise<void> => rm(file, { force: true });
  try {
    const { sha256, bytes } = await readParts(request, file, limits, signal);
    return { file, sha256, bytes, [Symbol.asyncDispose]: remove };
  } catch (error) {
    await remove();
    throw asRefusal(error);
  }
}

function refuseByHeaders(request: FastifyRequest, maxBytes: number): void {
  const length = request.headers['content-length'];
  if (!request.isMultipart()) {
    const isEmpty = request.headers['transfer-encoding'] === undefined && (length === undefined || length === '0');
    if (isEmpty) throw missingArchive();
    throw new HttpError(400, 'upload_failed', 'Content-Type: must be multipart/form-data with a boundary');
  }
  if (length !== undefined && Number(length) > maxBytes + OVERHEAD_BYTES) throw tooLarge(maxBytes);
}

async function readParts(
  request: FastifyRequest,
  file: string,
  limits: UploadLimits,
  outerSignal: AbortSignal,
): Promise<{ sha256: string; bytes: number }> {
  const parts = request.parts({
    limits: { ...PART_LIMITS, fileSize: Number.POSITIVE_INFINITY },
    isPartAFile: (field, _type, filename) => filename !== undefined || ARCHIVE_FIELDS.includes(field ?? ''),
  });
  let next = parts.next();
  // After the first next(), which connects the parser: a listener before it would let bytes pass unparsed.
  using watch = watchBody(request.raw, limits);
  const signal = AbortSignal.any([outerSignal, watch.signal]);
  let archive: { sha256: string; bytes: number } | null = null;
  for (;;) {
    const { done, value: part } = await orAbort(next, signal);
    if (done === true) break;
    if (part.type === 'file') {
      if (!ARCHIVE_FIELDS.includes(part.fieldname)) {
        part.file.resume();
      } else if (archive) {
        part.file.destroy();
        throw new HttpError(400, 'upload_failed', 'the form has more than one file in the fields archive and file');
      } else {
        archive = await storeFile(part.file, file, limits.maxBytes, signal);
      }
    }
    next = parts.next();
  }
  if (!archive) throw missingArchive();
  return archive;
}

async function storeFile(
  source: MultipartFile['file'],
  file: string,
  maxBytes: number,
  signal: AbortSignal,
): Promise<{ sha256: string; bytes: number }> {
  const hash = createHash('sha256');
  let bytes = 0;
  // Through a handle that is closed before this returns: a write stream may still create its file afterwards.
  await using handle = await open(file, 'wx', 0o600);
  try {
    for await (const chunk of addAbortSignal(signal, source) as AsyncIterable<Buffer>) {
      bytes += chunk.length;
      if (bytes > maxBytes) throw tooLarge(maxBytes);
      hash.update(chunk);
      await handle.appendFile(chunk);
    }
  } catch (error) {
    throw signal.aborted ? signal.reason : error;
  }
  return { sha256: hash.digest('hex'), bytes };
}

/** Aborts when the body stalls, takes too long or outgrows what a form around an archive may have. */
function watchBody(body: IncomingMessage, limits: UploadLimits): { signal: AbortSignal } & Disposable {
  const controller = new AbortController();
  let bytes = 0;
  const give = (error: HttpError): void => controller.abort(error);
  const idle = setTimeout(() => give(stalled(limits.idleMs, 'no byte came')), limits.idleMs);
  const total = setTimeout(() => give(stalled(limits.totalMs, 'it was not complete')), limits.totalMs);
  const onData = (chunk: Buffer): void => {
    bytes += chunk.length;
    idle.refresh();
    if (bytes > limits.maxBytes + OVERHEAD_BYTES) give(tooLarge(limits.maxBytes));
  };
  body.on('data', onData);
  return {
    signal: controller.signal,
    [Symbol.dispose]: () => {
      clearTimeout(idle);
      clearTimeout(total);
      body.off('data', onData);
      // The parser may have been left in the middle of the body; what still comes is no longer its business.
      if (!body.readableEnded) body.unpipe();
    },
  };
}

function asRefusal(error: unknown): unknown {
  if (error instanceof HttpError) return error;
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new HttpError(503, 'storage_full', 'the server has no space left for uploads; try again later', {
      cause: error,
      retryAfterSecs: RETRY_STORAGE_SECS,
    });
  }
  if (error instanceof Error && 'syscall' in error && 'path' in error) return error;
  return new HttpError(400, 'upload_failed', `the multipart body could not be read: ${messageOf(error)}`, {
    cause: error,
  });
}

function missingArchive(): HttpError {
  return new HttpError(400, 'missing_archive', 'send the archive as a file in the multipart field archive or file');
}

function tooLarge(maxBytes: number): HttpError {
  return new HttpError(413, 'archive_too_large', `the archive must have at most ${maxBytes} bytes (MAX_ARCHIVE_BYTES)`);
}

function stalled(ms: number, what: string): HttpError {
  return new HttpError(400, 'upload_failed', `the upload was given up: ${what} within ${ms / 1000} s`);
}
