/**
 * What a command prints is kept only in part: its beginning and its end, within a fixed number of bytes, however much
 * comes. Without this one agent that prints in a loop fills memory first and the log's object store next.
 */
import { open, rm } from 'node:fs/promises';

/** Bytes of one step's output that are kept unless said otherwise. */
export const DEFAULT_OUTPUT_LIMIT_BYTES = 1_048_576;

/** What became of an output: `bytes` stand in the file, `omittedBytes` were counted and dropped. */
export interface KeptOutput {
  readonly bytes: number;
  readonly omittedBytes: number;
}

/**
 * Keeps the first and the last half of at most `limitBytes` of a stream in constant memory. Where something is left
 * out, both sides are cut on UTF-8 character boundaries and a line in between states how much is missing; that line
 * comes on top of the limit.
 */
export class BoundedOutput {
  readonly #head: Buffer;
  readonly #tailSize: number;
  #tail: Buffer | null = null;
  #headLength = 0;
  /** Bytes that went past the head; the ring holds the last `#tailSize` of them. */
  #past = 0;

  constructor(limitBytes: number = DEFAULT_OUTPUT_LIMIT_BYTES) {
    if (!Number.isSafeInteger(limitBytes) || limitBytes < 2) {
      throw new RangeError(`output limit must be at least 2 bytes, not ${limitBytes}`);
    }
    this.#tailSize = Math.floor(limitBytes / 2);
    this.#head = Buffer.allocUnsafeSlow(limitBytes - this.#tailSize);
  }

  write(chunk: Uint8Array): void {
    const intoHead = Math.min(chunk.length, this.#head.length - this.#headLength);
    if (intoHead > 0) {
      this.#head.set(chunk.subarray(0, intoHead), this.#headLength);
      this.#headLength += intoHead;
    }
    if (intoHead < chunk.length) this.#writeTail(chunk.subarray(intoHead));
  }

  #writeTail(chunk: Uint8Array): void {
    this.#tail ??= Buffer.allocUnsafeSlow(this.#tailSize);
    const last = chunk.subarray(Math.max(0, chunk.length - this.#tailSize));
    const start = (this.#past + chunk.length - last.length) % this.#tailSize;
    const beforeWrap = Math.min(last.length, this.#tailSize - start);
    this.#tail.set(last.subarray(0, beforeWrap), start);
    this.#tail.set(last.subarray(beforeWrap), 0);
    this.#past += chunk.length;
  }

  /** What is kept, in order. May be called at any time; the stream may go on afterwards. */
  contents(): { readonly parts: readonly Buffer[]; readonly omittedBytes: number } {
    const head = this.#head.subarray(0, this.#headLength);
    if (!this.#tail) return { parts: [head], omittedBytes: 0 };
    if (this.#past <= this.#tailSize) return { parts: [head, this.#tail.subarray(0, this.#past)], omittedBytes: 0 };
    const seam = this.#past % this.#tailSize;
    const ring = Buffer.concat([this.#tail.subarray(seam), this.#tail.subarray(0, seam)]);
    const start = head.subarray(0, wholeCharactersEnd(head));
    const end = ring.subarray(firstCharacterStart(ring));
    const omittedBytes = this.#headLength + this.#past - start.length - end.length;
    return { parts: [start, Buffer.from(`\n[${omittedBytes} bytes left out]\n`), end], omittedBytes };
  }

  /** Writes what is kept into a new file at `path`; whatever lay there, a link too, is replaced and not followed. */
  async writeTo(path: string): Promise<KeptOutput> {
    const { parts, omittedBytes } = this.contents();
    await rm(path, { recursive: true, force: true });
    await using file = await open(path, 'wx', 0o600);
    let bytes = 0;
    for (const part of parts) {
      await file.writeFile(part);
      bytes += part.length;
    }
    return { bytes, omittedBytes };
  }
}

const isContinuation = (byte: number | undefined) => byte !== undefined && (byte & 0xc0) === 0x80;

/** Length of `bytes` without a UTF-8 character that its end cuts in two. Bytes that are no UTF-8 are left alone. */
export function wholeCharactersEnd(bytes: Uint8Array): number {
  let lead = bytes.length - 1;
  while (lead > bytes.length - 4 && isContinuation(bytes[lead])) lead -= 1;
  const byte = bytes[lead] ?? 0;
  const size = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
  return size > 1 && lead + size > bytes.length ? lead : bytes.length;
}

/** Where the first whole UTF-8 character of `bytes` starts, when its beginning may lie in the middle of one. */
export function firstCharacterStart(bytes: Uint8Array): number {
  let start = 0;
  while (start < 3 && isContinuation(bytes[start])) start += 1;
  return start;
}
