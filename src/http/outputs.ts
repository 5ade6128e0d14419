/**
 * The texts of stored outputs, for answers that carry them inline. Outputs are content-addressed and never change, so
 * a bounded cache by digest saves the blob store from dashboards that poll; a missing one is a note, not a failure.
 */
import { LRUCache } from 'lru-cache';
import { CodedError } from '../errors.ts';
import type { StoredOutput } from '../events.ts';
import { orAbort, Slots } from './bounds.ts';
import type { HttpPorts } from './ports.ts';

const CACHE_BYTES = 32 * 1024 ** 2;
/** What a cache entry costs beside its text. */
const ENTRY_BYTES = 256;
const PARALLEL_READS = 8;
const READ_TIMEOUT_MS = 15_000;

/** Reads stored outputs as text, with a cache. One per app. */
export class Outputs {
  readonly #read: HttpPorts['readOutput'];
  readonly #slots = new Slots(PARALLEL_READS);
  readonly #cache = new LRUCache<string, string>({
    maxSize: CACHE_BYTES,
    sizeCalculation: (text) => Buffer.byteLength(text) + ENTRY_BYTES,
  });

  constructor(read: HttpPorts['readOutput']) {
    this.#read = read;
  }

  /**
   * The first `maxBytes` bytes as text, cut between characters, with the cut stated and `url` as the place of the
   * whole. Never rejects: what cannot be read is replaced by a note that says so.
   */
  async text(stored: StoredOutput, maxBytes: number, url: string): Promise<string> {
    const wanted = Math.max(0, Math.min(maxBytes, stored.bytes));
    const key = `${stored.digest}:${wanted}`;
    let text = wanted === 0 ? '' : this.#cache.get(key);
    if (text === undefined) {
      try {
        text = await this.#slots.run(() => this.#fetch(stored.digest, wanted));
      } catch (error) {
        const code = error instanceof CodedError ? error.code : 'unreadable';
        return `[this output cannot be shown (${code}): ${stored.bytes} bytes, sha256 ${stored.digest}]`;
      }
      this.#cache.set(key, text);
    }
    if (wanted === stored.bytes) return text;
    const leftOut = stored.bytes - Buffer.byteLength(text);
    return `${text}… [${leftOut} bytes left out; GET ${url} for all]`;
  }

  async #fetch(digest: string, wanted: number): Promise<string> {
    const signal = AbortSignal.timeout(READ_TIMEOUT_MS);
    const decoder = new TextDecoder();
    const chunks = this.#read(digest)[Symbol.asyncIterator]();
    let text = '';
    let bytes = 0;
    try {
      while (bytes < wanted) {
        const { done, value } = await orAbort(chunks.next(), signal);
        if (done === true) return text + decoder.decode();
        const chunk = value.subarray(0, wanted - bytes);
        bytes += chunk.length;
        text += decoder.decode(chunk, { stream: true });
        // Reads on to the end where there is one, so that the store can verify the digest.
        if (bytes === wanted && chunk.length === value.length) await orAbort(chunks.next(), signal);
      }
      return text;
    } finally {
      void chunks.return?.()?.catch(() => undefined);
    }
  }
}
