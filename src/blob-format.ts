/**
 * The ADR-20 object format: how a blob lies in its stream. Apart from the I/O in jetstream-blobs.ts, because this is what other
 * clients (`nats object`) and later versions of ours must agree on.
 */
import Type, { type Static } from 'typebox';
import { Compile } from 'typebox/compile';

/**
 * Puts were measured at 0.7 of this speed with 128 KiB and at 1.2 with 512 KiB, gets at the same; half the memory for
 * each upload is worth more. Well below the 1 MiB max_payload, headers included.
 */
export const CHUNK_BYTES = 256 * 1024;

const SHA256_HEX = /^[0-9a-f]{64}$/;

/** The object meta data, as far as we rely on it. Other clients leave out what is zero or false. */
const BlobMeta = Type.Object({
  name: Type.String(),
  nuid: Type.String({ pattern: '^[A-Za-z0-9_-]{1,64}$', description: 'the chunks lie under this id' }),
  size: Type.Optional(Type.Integer({ minimum: 0 })),
  chunks: Type.Optional(Type.Integer({ minimum: 0 })),
  deleted: Type.Optional(Type.Boolean()),
});
export type BlobMeta = Static<typeof BlobMeta>;
const checker = Compile(BlobMeta);

export function isDigest(text: string): boolean {
  return SHA256_HEX.test(text);
}

export function streamOf(bucket: string): string {
  return `OBJ_${bucket}`;
}

export function chunkSubject(bucket: string, id: string): string {
  return `$O.${bucket}.C.${id}`;
}

export function metaSubject(bucket: string, digest: string): string {
  return `$O.${bucket}.M.${paddedBase64Url(Buffer.from(digest))}`;
}

/** Matches the meta data of all blobs. */
export function metaSubjects(bucket: string): string {
  return `$O.${bucket}.M.*`;
}

/** null: not the meta data of an object. */
export function parseMeta(text: string): BlobMeta | null {
  try {
    const value: unknown = JSON.parse(text);
    return checker.Check(value) ? value : null;
  } catch {
    return null;
  }
}

/** What another client needs to find, list and verify the object. */
export function formatMeta(blob: {
  readonly bucket: string;
  readonly digest: string;
  readonly nuid: string;
  readonly bytes: number;
  readonly chunks: number;
  readonly now: Date;
}): string {
  return JSON.stringify({
    name: blob.digest,
    options: { max_chunk_size: CHUNK_BYTES },
    bucket: blob.bucket,
    nuid: blob.nuid,
    size: blob.bytes,
    mtime: blob.now.toISOString(),
    chunks: blob.chunks,
    digest: `SHA-256=${paddedBase64Url(Buffer.from(blob.digest, 'hex'))}`,
  });
}

/** The bytes in pieces that each fill a buffer from `allocate`, the last one shorter. */
export async function* rechunk(source: AsyncIterable<Uint8Array>, allocate: () => Buffer): AsyncGenerator<Buffer> {
  let buffer = allocate();
  let filled = 0;
  for await (const piece of source) {
    for (let offset = 0; offset < piece.length;) {
      const part = piece.subarray(offset, offset + buffer.length - filled);
      buffer.set(part, filled);
      filled += part.length;
      offset += part.length;
      if (filled < buffer.length) continue;
      yield buffer;
      buffer = allocate();
      filled = 0;
    }
  }
  if (filled > 0) yield buffer.subarray(0, filled);
}

/** base64url with padding, which Buffer leaves out and ADR-20 has. */
function paddedBase64Url(bytes: Buffer): string {
  return bytes.toString('base64').replaceAll('+', '-').replaceAll('/', '_');
}
