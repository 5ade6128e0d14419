/**
 * The blob store on a JetStream object bucket of the ADR-20 format (`nats object get` reads it). Written and read by our
 * own code, because the stock client hashes in JavaScript and reads an object ahead of its consumer without
 * limit (bench/blobs.ts shows both); here nothing holds more than a window of chunks.
 */
import { createHash, randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  jetstream,
  JetStreamApiCodes,
  JetStreamApiError,
  type JetStreamClient,
  type JetStreamManager,
  type JetStreamPublishOptions,
  jetstreamManager,
  type PubAck,
} from '@nats-io/jetstream';
import { headers, type NatsConnection, nuid } from '@nats-io/transport-node';
import {
  type BlobMeta,
  CHUNK_BYTES,
  chunkSubject,
  formatMeta,
  isDigest,
  metaSubject,
  parseMeta,
  rechunk,
  streamOf,
} from './blob-format.ts';
import { BlobError, type Blobs, type PutResult } from './blobs.ts';
import { messageOf } from './errors.ts';
import { directBatch, type StoredMessage } from './nats/direct.ts';
import { type Link, orAborted, watchLink } from './nats/link.ts';
import type { BucketName } from './streams.ts';

/** Chunks sent and not yet acknowledged: with CHUNK_BYTES the memory that a put needs. */
const PUT_WINDOW = 16;
/** Chunks asked for at once; a reader holds at most two such batches. */
const GET_BATCH = 8;
const TIMEOUT_MS = 10_000;
/** How long an operation is tried again, over a reconnect too, before it fails. */
const RETRY_FOR_MS = 15_000;
/** Cleaning up must not hold back an error for long. */
const CLEAN_UP_FOR_MS = 3_000;
const MAX_TRIES = 5;
const RETRY_MIN_MS = 100;

type Meta = BlobMeta & { readonly seq: number };

/** Opens a bucket that ensureStreams() made. @throws BlobError `blob_unavailable` when it is not there */
export async function openBlobs(nc: NatsConnection, bucket: BucketName): Promise<Blobs> {
  const store = new Bucket(nc, bucket, await jetstreamManager(nc, { checkAPI: false, timeout: TIMEOUT_MS }));
  await store.check();
  return store;
}

class Bucket implements Blobs {
  readonly #nc: NatsConnection;
  readonly #bucket: string;
  readonly #stream: string;
  readonly #jsm: JetStreamManager;
  readonly #js: JetStreamClient;
  readonly #link: Link;

  constructor(nc: NatsConnection, bucket: string, jsm: JetStreamManager) {
    this.#nc = nc;
    this.#bucket = bucket;
    this.#stream = streamOf(bucket);
    this.#jsm = jsm;
    this.#js = jetstream(nc, { timeout: TIMEOUT_MS });
    this.#link = watchLink(nc);
  }

  async check(): Promise<void> {
    await this.#try('open', () => this.#jsm.streams.info(this.#stream));
  }

  async has(digest: string): Promise<boolean> {
    return isLive(await this.#meta(digest));
  }

  async put(source: AsyncIterable<Uint8Array>, expectedDigest?: string): Promise<PutResult> {
    if (expectedDigest !== undefined) {
      let existing: PutResult | null = null;
      try {
        existing = await this.#existing(expectedDigest);
      } catch (error) {
        await closeUnread(source);
        throw error;
      }
      if (existing !== null) {
        await closeUnread(source);
        return existing;
      }
    }
    return this.#store(source, expectedDigest);
  }

  async putFile(path: string): Promise<PutResult> {
    const read = () => createReadStream(path, { highWaterMark: CHUNK_BYTES });
    const hash = createHash('sha256');
    for await (const piece of read()) hash.update(piece as Buffer);
    const digest = hash.digest('hex');
    for (let tries = 1; ; tries += 1) {
      try {
        return (await this.#existing(digest)) ?? (await this.#store(read(), digest));
      } catch (error) {
        const passing = error instanceof BlobError && error.code === 'blob_unavailable';
        if (!passing || tries === MAX_TRIES) throw error;
        await sleep(backoffMs(tries));
      }
    }
  }

  async *get(digest: string, signal?: AbortSignal): AsyncGenerator<Uint8Array, void, undefined> {
    const meta = await this.#meta(digest);
    signal?.throwIfAborted();
    if (meta === null || !isLive(meta)) {
      throw new BlobError('blob_not_found', `there is no blob ${digest} in bucket ${this.#bucket}`);
    }
    const hash = createHash('sha256');
    const total = meta.chunks ?? 0;
    let bytes = 0;
    let chunks = 0;
    let next = this.#getChunks(meta, 1, total, signal);
    while (chunks < total) {
      const batch = await next;
      chunks += batch.length;
      // The next batch travels while this one is consumed; nobody may be waiting for it when it fails.
      next = this.#getChunks(meta, (batch.at(-1)?.seq ?? 0) + 1, total - chunks, signal);
      next.catch(() => undefined);
      for (const { data: chunk } of batch) {
        hash.update(chunk);
        bytes += chunk.length;
        yield chunk;
        signal?.throwIfAborted();
      }
    }
    const found = hash.digest('hex');
    if (bytes !== (meta.size ?? 0) || found !== digest) {
      throw new BlobError(
        'blob_corrupt',
        `blob ${digest} in bucket ${this.#bucket}: its ${bytes} bytes (of ${meta.size ?? 0}) have SHA-256 ${found}; ` +
          'the store was damaged or tampered with: restore it from a replica or backup',
      );
    }
  }

  async getToFile(digest: string, path: string, signal?: AbortSignal): Promise<number> {
    const part = `${path}.${randomUUID()}.part`;
    try {
      const file = await open(part, 'wx', 0o600);
      let bytes = 0;
      try {
        for await (const chunk of this.get(digest, signal)) {
          await file.writeFile(chunk);
          bytes += chunk.length;
        }
      } finally {
        await file.close();
      }
      await rename(part, path);
      return bytes;
    } catch (error) {
      await rm(part, { force: true });
      throw error;
    }
  }

  async #existing(digest: string): Promise<PutResult | null> {
    const meta = await this.#meta(digest);
    return isLive(meta) ? { digest, bytes: meta?.size ?? 0, existed: true } : null;
  }

  /** Chunks first, meta last: what has no meta was never there. */
  async #store(source: AsyncIterable<Uint8Array>, expectedDigest?: string): Promise<PutResult> {
    const id = nuid.next();
    let stored: { digest: string; bytes: number; chunks: number };
    try {
      stored = await this.#putChunks(source, id);
      if (expectedDigest !== undefined && stored.digest !== expectedDigest) {
        throw new BlobError(
          'blob_digest_mismatch',
          `the bytes have SHA-256 ${stored.digest}, not ${expectedDigest} as announced`,
        );
      }
    } catch (error) {
      await this.#purge(id);
      throw error;
    }
    const { digest, bytes, chunks } = stored;
    // If this throws the chunks must stay: the meta may have been stored and only its acknowledgement lost.
    const existed = !(await this.#putMeta(digest, id, bytes, chunks));
    if (existed) await this.#purge(id);
    return { digest, bytes, existed };
  }

  /** From the stream's leader, not by direct get: a follower may not have what was stored a moment ago. */
  async #meta(digest: string): Promise<Meta | null> {
    if (!isDigest(digest)) return null;
    const message = await this.#try('look up', async () => {
      try {
        return await this.#jsm.streams.getMessage(this.#stream, { last_by_subj: metaSubject(this.#bucket, digest) });
      } catch (error) {
        if (error instanceof JetStreamApiError && error.code === JetStreamApiCodes.NoMessageFound) return null;
        throw error;
      }
    });
    if (message === null) return null;
    const meta = parseMeta(message.string());
    if (meta !== null) return { ...meta, seq: message.seq };
    throw new BlobError('blob_corrupt', `blob ${digest} in bucket ${this.#bucket}: its meta data is no ADR-20 object`);
  }

  async #putChunks(
    source: AsyncIterable<Uint8Array>,
    id: string,
  ): Promise<{ digest: string; bytes: number; chunks: number }> {
    const hash = createHash('sha256');
    const subject = chunkSubject(this.#bucket, id);
    const pending: { readonly chunk: Buffer; readonly ack: Promise<PubAck> }[] = [];
    // A chunk that was acknowledged has left the client: its memory serves again.
    const free: ArrayBufferLike[] = [];
    let bytes = 0;
    let chunks = 0;
    let lastSeq = 0;
    const settleOldest = async (): Promise<void> => {
      const oldest = pending.shift();
      if (oldest === undefined) return;
      const { seq } = await oldest.ack;
      // Readers take the chunks in stream order. It differs from ours only if one was lost and stored later.
      if (seq <= lastSeq) throw unavailable('store', new Error('chunks were stored out of order'));
      lastSeq = seq;
      free.push(oldest.chunk.buffer);
    };
    try {
      const allocate = (): Buffer => Buffer.from(free.pop() ?? new ArrayBuffer(CHUNK_BYTES));
      for await (const chunk of rechunk(source, allocate)) {
        hash.update(chunk);
        bytes += chunk.length;
        chunks += 1;
        const ack = this.#publish(subject, chunk);
        ack.catch(() => undefined);
        pending.push({ chunk, ack });
        if (pending.length >= PUT_WINDOW) await settleOldest();
      }
      while (pending.length > 0) await settleOldest();
    } finally {
      await Promise.allSettled(pending.map(({ ack }) => ack));
    }
    return { digest: hash.digest('hex'), bytes, chunks };
  }

  async #publish(
    subject: string,
    payload: Uint8Array | string,
    options: Partial<JetStreamPublishOptions> = {},
  ): Promise<PubAck> {
    try {
      return await orAborted(
        this.#js.publish(subject, payload, { ...options, timeout: TIMEOUT_MS }),
        this.#link.signal,
      );
    } catch (error) {
      throw unavailable(`store in bucket ${this.#bucket}`, error);
    }
  }

  /** True: the blob is now there by us. False: somebody else was first, and our chunks are of no use. */
  async #putMeta(digest: string, id: string, bytes: number, chunks: number): Promise<boolean> {
    const value = formatMeta({ bucket: this.#bucket, digest, nuid: id, bytes, chunks, now: new Date() });
    return this.#try('store', async () => {
      // Looked up in every try: one that failed without an answer may have been stored.
      const meta = await this.#meta(digest);
      if (isLive(meta)) return meta?.nuid === id;
      const guarded = headers();
      guarded.set('Nats-Expected-Last-Subject-Sequence', `${meta?.seq ?? 0}`);
      guarded.set('Nats-Rollup', 'sub');
      await this.#publish(metaSubject(this.#bucket, digest), value, { headers: guarded });
      return true;
    });
  }

  /** Removes the chunks of a put that came to nothing. Left over, they would cost space but harm nobody. */
  async #purge(id: string): Promise<void> {
    const purge = () => this.#jsm.streams.purge(this.#stream, { filter: chunkSubject(this.#bucket, id) });
    await this.#try('clean up', purge, { forMs: CLEAN_UP_FOR_MS }).catch(() => undefined);
  }

  async #getChunks(meta: Meta, seq: number, left: number, signal?: AbortSignal): Promise<StoredMessage[]> {
    if (left <= 0) return [];
    const request = {
      seq,
      next_by_subj: chunkSubject(this.#bucket, meta.nuid),
      batch: Math.min(left, GET_BATCH),
    };
    const read = async (): Promise<StoredMessage[]> => {
      const batch = await directBatch(this.#nc, this.#stream, request, TIMEOUT_MS);
      if (batch.length > 0) return batch;
      // A replica that lags behind has it a moment later; if it never comes the object is incomplete.
      throw new BlobError(
        'blob_corrupt',
        `blob ${meta.name} in bucket ${this.#bucket}: ${left} of ${meta.chunks ?? 0} chunks are missing; restore it from a backup`,
      );
    };
    return this.#try('read', read, signal ? { signal } : {});
  }

  /** Several tries with backoff, over a reconnect too; what NATS still refuses then becomes `blob_unavailable`. */
  async #try<T>(
    verb: string,
    action: () => Promise<T>,
    { signal, forMs = RETRY_FOR_MS }: { signal?: AbortSignal; forMs?: number } = {},
  ): Promise<T> {
    const deadline = Date.now() + forMs;
    for (let tries = 1; ; tries += 1) {
      signal?.throwIfAborted();
      try {
        if (!(await this.#link.up(Math.max(0, deadline - Date.now())))) throw new Error('there is no connection');
        const either = signal ? AbortSignal.any([signal, this.#link.signal]) : this.#link.signal;
        return await orAborted(action(), either);
      } catch (error) {
        signal?.throwIfAborted();
        if (tries === MAX_TRIES || Date.now() >= deadline || this.#nc.isClosed()) {
          throw error instanceof BlobError ? error : unavailable(`${verb} in bucket ${this.#bucket}`, error);
        }
      }
      await sleep(backoffMs(tries));
    }
  }
}

function unavailable(what: string, cause: unknown): BlobError {
  const message = `cannot ${what}: ${messageOf(cause)}; is NATS reachable, its disk full? Try again`;
  return new BlobError('blob_unavailable', message, { cause });
}

/** Frees what an unread source holds, such as a file: a generator that was not started has no `finally` to run. */
async function closeUnread(source: AsyncIterable<Uint8Array>): Promise<void> {
  if (source instanceof Readable) source.destroy();
  else await source[Symbol.asyncIterator]().return?.();
}

function isLive(meta: Meta | null): boolean {
  return meta !== null && meta.deleted !== true;
}

function backoffMs(tries: number): number {
  return RETRY_MIN_MS * 2 ** (tries - 1);
}
