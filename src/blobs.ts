/**
 * Content-addressed bytes: archives, bundles, outputs. They are too large for events, so an event holds the SHA-256 and
 * the bytes lie in a bucket. This is the port; jetstream-blobs.ts is what stands behind it.
 */
import { CodedError } from './errors.ts';

export type BlobErrorCode = 'blob_not_found' | 'blob_corrupt' | 'blob_digest_mismatch' | 'blob_unavailable';

/** What can go wrong with a blob. Only `blob_unavailable` may pass when tried again. */
export class BlobError extends CodedError<BlobErrorCode> {
  override readonly name = 'BlobError';
}

export interface PutResult {
  /** SHA-256, hex: the name of the blob. */
  readonly digest: string;
  readonly bytes: number;
  /** It was there already; nothing was written. */
  readonly existed: boolean;
}

/** One bucket. Digests are SHA-256 in lower-case hex. Every method may throw BlobError `blob_unavailable`. */
export interface Blobs {
  has(digest: string): Promise<boolean>;
  /**
   * Stores what `source` yields. If `expectedDigest` exists already the source is closed unread; if the bytes turn out
   * to be others nothing is stored: `blob_digest_mismatch`. An error of the source is rethrown as it is. Not retried,
   * as a source can be read once only.
   */
  put(source: AsyncIterable<Uint8Array>, expectedDigest?: string): Promise<PutResult>;
  /** Stores a file, with a few tries. */
  putFile(path: string): Promise<PutResult>;
  /**
   * The bytes, no faster than they are consumed. A digest that does not match throws `blob_corrupt` instead of ending:
   * what was yielded may be used only once the iteration has ended. @throws BlobError `blob_not_found`
   */
  get(digest: string, signal?: AbortSignal): AsyncGenerator<Uint8Array, void, undefined>;
  /** Writes the verified blob to `path`, which appears whole or not at all. Returns its size. */
  getToFile(digest: string, path: string, signal?: AbortSignal): Promise<number>;
}
