/**
 * Removes what killed uploads left behind. A blob's chunks are stored before its meta data; if the process dies in
 * between nothing refers to them and nothing else would ever free their space.
 */
import { jetstreamManager } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/transport-node';
import { chunkSubject, metaSubjects, parseMeta, streamOf } from '../blob-format.ts';
import { directBatch } from './direct.ts';
import type { BucketName } from '../streams.ts';

const TIMEOUT_MS = 10_000;
const META_BATCH = 256;
/** Far above the time between two chunks of an upload, and that by which a replica may lag behind. */
const ORPHAN_AGE_MS = 3_600_000;

/**
 * Removes chunks without meta data whose last one is older than `ageMs` (default: an hour), so that no upload that goes
 * on loses any. Returns how many uploads were removed. Any process may do it at any time.
 */
export async function sweepOrphans(nc: NatsConnection, bucket: BucketName, ageMs = ORPHAN_AGE_MS): Promise<number> {
  const stream = streamOf(bucket);
  const jsm = await jetstreamManager(nc, { checkAPI: false, timeout: TIMEOUT_MS });
  // Chunks before metas: an upload that finishes in between is then seen as finished.
  const { state } = await jsm.streams.info(stream, { subjects_filter: chunkSubject(bucket, '*') });
  const live = await liveSubjects(nc, bucket);
  let swept = 0;
  for (const subject of Object.keys(state.subjects ?? {})) {
    if (live.has(subject)) continue;
    const last = await jsm.streams.getMessage(stream, { last_by_subj: subject }).catch(() => null);
    if (last === null || Date.now() - last.time.getTime() < ageMs) continue;
    await jsm.streams.purge(stream, { filter: subject });
    swept += 1;
  }
  return swept;
}

async function liveSubjects(nc: NatsConnection, bucket: string): Promise<ReadonlySet<string>> {
  const live = new Set<string>();
  for (let seq = 1; ;) {
    const request = { next_by_subj: metaSubjects(bucket), seq, batch: META_BATCH };
    const batch = await directBatch(nc, streamOf(bucket), request, TIMEOUT_MS);
    const last = batch.at(-1);
    if (last === undefined) return live;
    for (const { data } of batch) {
      const meta = parseMeta(Buffer.from(data).toString());
      if (meta !== null && meta.deleted !== true) live.add(chunkSubject(bucket, meta.nuid));
    }
    seq = last.seq + 1;
  }
}
