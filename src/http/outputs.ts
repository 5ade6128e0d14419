/**
 * The texts of stored outputs, for answers that carry them inline. Outputs are content-addressed and never change, so
 * a bounded cache by digest saves the blob store from dashboards that poll; a missing one is a note, not a failure.
 */
import { isUtf8 } from 'node:buffer';
import { LRUCache } from 'lru-cache';
import { CodedError } from '../errors.ts';
import type { StoredOutput } from '../events.ts';
import { orAbort, Slots } from './bounds.ts';
import type { HttpPorts } from './ports.ts';

const CACHE_BYTES = 32 * 1024 ** 2;
/** What a cache entry costs beside its bytes. */
const ENTRY_BYTES = 256;
const PARALLEL_READS = 8;
const READ_TIMEOUT_MS = 15_000;
/** Backspace, tab, line feed, form feed, carriage return: two characters in JSON. */
const SHORT_ESCAPES: ReadonlySet<number> = new Set([8, 9, 10, 12, 13]);
const UTF8_COSTS = makeCosts(1);
/** Where bytes are no UTF-8, any of those above ASCII may become U+FFFD, which has three bytes. */
const OTHER_COSTS = makeCosts(3);

/** The beginning of a stored output. */
export interface OutputHead {
  readonly stored: StoredOutput;
  /** Ends between characters. */
  readonly bytes: Buffer;
  /** Why nothing of it can be shown; null: it can. */
  readonly failure: string | null;
}

/** Reads the beginnings of stored outputs, with a cache. One per app. */
export class Outputs {
  readonly #read: HttpPorts['readOutput'];
  readonly #slots = new Slots(PARALLEL_READS);
  readonly #cache = new LRUCache<string, Buffer>({
    maxSize: CACHE_BYTES,
    sizeCalculation: (bytes) => bytes.length + ENTRY_BYTES,
  });

  constructor(read: HttpPorts['readOutput']) {
    this.#read = read;
  }

  /** At most the first `maxBytes` bytes. Never rejects: what cannot be read has a `failure`. */
  async head(stored: StoredOutput, maxBytes: number): Promise<OutputHead> {
    const wanted = Math.max(0, Math.min(maxBytes, stored.bytes));
    const key = `${stored.digest}:${wanted}`;
    let bytes = wanted === 0 ? Buffer.alloc(0) : this.#cache.get(key);
    if (bytes === undefined) {
      try {
        bytes = await this.#slots.run(() => this.#fetch(stored.digest, wanted));
      } catch (error) {
        return { stored, bytes: Buffer.alloc(0), failure: error instanceof CodedError ? error.code : 'unreadable' };
      }
      this.#cache.set(key, bytes);
    }
    return { stored, bytes: wanted < stored.bytes ? bytes.subarray(0, charBoundary(bytes)) : bytes, failure: null };
  }

  async #fetch(digest: string, wanted: number): Promise<Buffer> {
    const signal = AbortSignal.timeout(READ_TIMEOUT_MS);
    const chunks = this.#read(digest)[Symbol.asyncIterator]();
    const taken: Uint8Array[] = [];
    let bytes = 0;
    try {
      while (bytes < wanted) {
        const { done, value } = await orAbort(chunks.next(), signal);
        if (done === true) break;
        const chunk = value.subarray(0, wanted - bytes);
        bytes += chunk.length;
        taken.push(chunk);
        // Reads on to the end where there is one, so that the store can verify the digest.
        if (bytes === wanted && chunk.length === value.length) await orAbort(chunks.next(), signal);
      }
      return Buffer.concat(taken);
    } finally {
      void chunks.return?.()?.catch(() => undefined);
    }
  }
}

/**
 * The head as text of at most `maxJsonBytes` bytes within a JSON answer, with what is missing stated beside them and
 * `url` as the place of the whole.
 */
export function textOf({ stored, bytes, failure }: OutputHead, maxJsonBytes: number, url: string): string {
  if (failure !== null) {
    return `[this output cannot be shown (${failure}): ${stored.bytes} bytes, sha256 ${stored.digest}]`;
  }
  const costs = jsonCosts(bytes);
  let end = 0;
  for (let cost = 0; end < bytes.length; end += 1) {
    cost += costs[bytes[end] ?? 0] ?? 0;
    if (cost > maxJsonBytes) break;
  }
  const shown = end < bytes.length ? bytes.subarray(0, charBoundary(bytes.subarray(0, end))) : bytes;
  const text = new TextDecoder().decode(shown);
  if (shown.length === stored.bytes) return text;
  return `${text}… [${stored.bytes - shown.length} bytes left out; GET ${url} for all]`;
}

/** How many bytes the head takes in a JSON answer; never less than it really does. */
export function jsonBytes({ bytes }: OutputHead): number {
  const costs = jsonCosts(bytes);
  let total = 0;
  for (const byte of bytes) total += costs[byte] ?? 0;
  return total;
}

function jsonCosts(bytes: Buffer): Uint8Array {
  return isUtf8(bytes) ? UTF8_COSTS : OTHER_COSTS;
}

/**
 * What each byte costs in a JSON string: control characters become \u00XX or two characters (RFC 8259, section 7).
 */
function makeCosts(highCost: number): Uint8Array {
  return Uint8Array.from({ length: 256 }, (_, byte) => {
    if (byte >= 0x80) return highCost;
    if (byte < 0x20) return SHORT_ESCAPES.has(byte) ? 2 : 6;
    return byte === 0x22 || byte === 0x5c ? 2 : 1;
  });
}

/** Where to cut so that no character is cut in two: before the last one if its end is missing. */
function charBoundary(bytes: Uint8Array): number {
  const { length } = bytes;
  for (let back = 1; back <= Math.min(3, length); back += 1) {
    const byte = bytes[length - back] ?? 0;
    if (byte < 0x80 || byte > 0xf4) return length;
    if (byte < 0xc0) continue;
    const needed = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2;
    return needed > back ? length - back : length;
  }
  return length;
}
