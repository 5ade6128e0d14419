/** An app over ports in memory: what the HTTP server needs of the rest, as data that a test can set. */
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { encodeAddress } from '@polkadot/util-crypto/address/encode';
import { sr25519PairFromSeed, sr25519Sign } from '@polkadot/util-crypto/sr25519';
import { type Config, readConfig } from '../../src/config.ts';
import { CodedError } from '../../src/errors.ts';
import type { StoredOutput } from '../../src/events.ts';
import { type AppOptions, buildApp } from '../../src/http/app.ts';
import type { App } from '../../src/http/context.ts';
import type { HttpPorts, VerifiedVote } from '../../src/http/ports.ts';
import type { LogEntry } from '../../src/log.ts';
import type {
  BatchRow,
  FeedMessage,
  QuorumProof,
  ReadModel,
  StepRow,
  TaskRow,
} from '../../src/projections/read-model.ts';

export const BATCH_ID = '01931f6e-0000-7000-8000-000000000001';
export const ARCHIVE_HASH = 'a'.repeat(64);
export const CREATED_AT = '2026-01-01T00:00:00.000Z';

export interface Validator {
  readonly hotkey: string;
  readonly publicKey: Uint8Array;
  readonly secretKey: Uint8Array;
}

export function validator(number: number): Validator {
  const { publicKey, secretKey } = sr25519PairFromSeed(new Uint8Array(32).fill(number));
  return { hotkey: encodeAddress(publicKey, 42), publicKey, secretKey };
}

/** Headers of a well signed request. */
export function signedHeaders(by: Validator, nonce: string): Record<string, string> {
  const signature = sr25519Sign(by.hotkey + nonce, by);
  return { 'x-hotkey': by.hotkey, 'x-nonce': nonce, 'x-signature': `0x${Buffer.from(signature).toString('hex')}` };
}

export interface FormPart {
  readonly name: string;
  readonly filename?: string;
  readonly content: string | Buffer;
}

/** A multipart body. */
export function form(...parts: FormPart[]): { payload: Buffer; headers: Record<string, string> } {
  const boundary = 'form-boundary-7MA4YWxk';
  const chunks = parts.flatMap(({ name, filename, content }) => [
    Buffer.from(
      `--${boundary}\r\nContent-Disposition: form-data; name="${name}"` +
        `${filename === undefined ? '' : `; filename="${filename}"`}\r\n\r\n`,
    ),
    Buffer.from(content),
    Buffer.from('\r\n'),
  ]);
  return {
    payload: Buffer.concat([...chunks, Buffer.from(`--${boundary}--\r\n`)]),
    headers: { 'content-type': `multipart/form-data; boundary=${boundary}` },
  };
}

export function batchRow(change: Partial<BatchRow> = {}): BatchRow {
  return {
    batchId: BATCH_ID,
    archiveHash: ARCHIVE_HASH,
    status: 'running',
    createdAt: CREATED_AT,
    concurrentTasks: 2,
    totalTasks: 2,
    completedTasks: 0,
    passedTasks: 0,
    failedTasks: 0,
    aggregateReward: 0,
    error: null,
    durationMs: null,
    firstSeq: 10,
    lastSeq: 20,
    ...change,
  };
}

export function taskRow(taskId: string, change: Partial<TaskRow> = {}): TaskRow {
  return {
    batchId: BATCH_ID,
    taskId,
    status: 'queued',
    passed: null,
    reward: 0,
    cause: null,
    error: null,
    warnings: [],
    durationMs: null,
    attempt: 1,
    patch: null,
    steps: [],
    ...change,
  };
}

export function stepRow(step: number, kind: StepRow['kind'], change: Partial<StepRow> = {}): StepRow {
  return {
    attempt: 1,
    step,
    kind,
    name: `${kind}-${step}`,
    status: 'finished',
    exitCode: 0,
    signal: null,
    startedAt: CREATED_AT,
    durationMs: 5,
    cause: null,
    error: null,
    output: null,
    ...change,
  };
}

/** A read model whose rows a test sets, and whose feed it publishes. */
export class MemoryReadModel implements ReadModel {
  readonly rows = new Map<string, BatchRow>();
  readonly taskRows = new Map<string, readonly TaskRow[]>();
  readonly messages: FeedMessage[] = [];
  readonly listeners = new Set<{ batchId: string; listener: (message: FeedMessage) => void }>();
  seq = 100;
  proof: QuorumProof | null = null;

  /** As the projection does it: the rows first, then the listeners, in one tick. */
  publish(message: FeedMessage): void {
    this.messages.push(message);
    this.seq = message.seq;
    for (const { batchId, listener } of this.listeners) if (batchId === message.batch_id) listener(message);
  }

  position(): number {
    return this.seq;
  }
  async waitFor(seq: number): Promise<void> {
    this.seq = Math.max(seq, this.seq);
  }
  batch(batchId: string): BatchRow | null {
    return this.rows.get(batchId) ?? null;
  }
  batches(query: Parameters<ReadModel['batches']>[0]): readonly BatchRow[] {
    return [...this.rows.values()]
      .filter((row) => query.status === undefined || row.status === query.status)
      .filter((row) => query.before === undefined || row.firstSeq < query.before)
      .toSorted((a, b) => b.firstSeq - a.firstSeq)
      .slice(0, query.limit);
  }
  tasks(batchId: string): readonly TaskRow[] {
    return this.taskRows.get(batchId) ?? [];
  }
  task(batchId: string, taskId: string): TaskRow | null {
    return this.tasks(batchId).find((task) => task.taskId === taskId) ?? null;
  }
  attempts(): ReturnType<ReadModel['attempts']> {
    return [{ attempt: 1, executorId: 'executor-1', sandbox: 'process', startedAt: CREATED_AT }];
  }
  quorum(): QuorumProof | null {
    return this.proof;
  }
  hasVotedWith(): boolean {
    return false;
  }

  openRounds(): ReturnType<ReadModel['openRounds']> {
    return [{ archiveHash: ARCHIVE_HASH, round: 1, votes: 1, expiresAtMs: Number.MAX_SAFE_INTEGER }];
  }
  totals(): ReturnType<ReadModel['totals']> {
    return {
      totalBatches: 5,
      activeBatches: 1,
      queuedBatches: 1,
      completedBatches: 3,
      tasksPassed: 7,
      tasksFailed: 4,
      durationMsSum: 1234,
    };
  }
  feed(batchId: string, after: number, limit?: number): readonly FeedMessage[] {
    return this.messages.filter((message) => message.batch_id === batchId && message.seq > after).slice(0, limit);
  }
  subscribe(batchId: string, listener: (message: FeedMessage) => void): () => void {
    const entry = { batchId, listener };
    this.listeners.add(entry);
    return () => this.listeners.delete(entry);
  }
}

export interface Rig {
  readonly app: App;
  readonly dataDir: string;
  readonly uploads: string;
  readonly readModel: MemoryReadModel;
  readonly blobs: Map<string, Buffer>;
  readonly votes: VerifiedVote[];
  readonly usedNonces: Set<string>;
  readonly entries: LogEntry[];
}

/** Puts bytes where readOutput finds them. */
export function store(blobs: Map<string, Buffer>, content: string | Buffer): StoredOutput {
  const bytes = Buffer.from(content);
  const digest = createHash('sha256').update(bytes).digest('hex');
  blobs.set(digest, bytes);
  return { digest, bytes: bytes.length, omittedBytes: 0 };
}

interface RigChange {
  readonly ports?: Partial<HttpPorts>;
  readonly env?: Record<string, string>;
  readonly options?: AppOptions;
}

/** An app over ports in memory, with its data in this directory. */
export async function buildRig(dataDir: string, change: RigChange = {}): Promise<Rig> {
  const readModel = new MemoryReadModel();
  const blobs = new Map<string, Buffer>();
  const votes: VerifiedVote[] = [];
  const usedNonces = new Set<string>();
  const entries: LogEntry[] = [];
  const known = new Set<string>();
  const config: Config = readConfig(
    { SANDBOX: 'process', DATA_DIR: dataDir, ...change.env },
    { hostname: 'test', pid: 1 },
  );
  const ports: HttpPorts = {
    config,
    readModel,
    version: '1.2.3',
    sandboxName: 'process',
    startedAtMs: 1_000,
    now: () => 61_000,
    validators: () => [validator(1).hotkey, validator(2).hotkey],
    useNonce: async (hotkey, nonce) => {
      const key = `${hotkey} ${nonce}`;
      const isNew = !usedNonces.has(key);
      usedNonces.add(key);
      return isNew;
    },
    castVote: async (vote) => {
      votes.push(vote);
      return { result: { kind: 'pending', votes: 1, required: 2, totalValidators: 2, repeated: false }, seq: 101 };
    },
    cancelBatch: async () => ({ result: { kind: 'cancelled' }, seq: 102 }),
    roomForNewRound: () => true,
    chainHead: async () => null,
    executorsAlive: () => null,
    archiveKnown: async (sha256) => known.has(sha256),
    inspectArchive: async () => ({ taskCount: 3 }),
    storeArchive: async (_file, sha256) => {
      known.add(sha256);
    },
    readOutput: (digest) => read(blobs, digest),
    readEvents: ({ filters, after, live, signal }) => readEntries(entries, filters, after, live ? signal : null),
    logReachable: () => true,
    ...change.ports,
  };
  const app = await buildApp(ports, change.options ?? {});
  return { app, dataDir, uploads: join(dataDir, 'uploads'), readModel, blobs, votes, usedNonces, entries };
}

/** The same in a directory of its own; both are gone when the test ends. */
export async function rig(t: TestContext, change: RigChange = {}): Promise<Rig> {
  const dataDir = mkdtempSync(join(tmpdir(), 'http-'));
  const parts = await buildRig(dataDir, change);
  t.after(async () => {
    await parts.app.close();
    rmSync(dataDir, { recursive: true });
  });
  return parts;
}

/** Listens on a free port of the loopback interface, and returns it. */
export async function listen(app: App): Promise<number> {
  await app.listen({ port: 0, host: '127.0.0.1' });
  const address = app.server.address();
  return typeof address === 'object' && address ? address.port : 0;
}

async function* read(blobs: Map<string, Buffer>, digest: string): AsyncIterable<Uint8Array> {
  const bytes = blobs.get(digest);
  if (!bytes) throw new CodedError('blob_not_found', `no blob ${digest}`);
  for (let at = 0; at < bytes.length; at += 1000) yield bytes.subarray(at, at + 1000);
}

/** With a signal: stays for what comes until it aborts. */
async function* readEntries(
  entries: readonly LogEntry[],
  filters: readonly string[],
  after: number,
  follow: AbortSignal | null,
): AsyncIterable<LogEntry> {
  const tokens = (filter: string): string => filter.replace(/[.*>]/g, (c) => ({ '*': '[^.]+', '>': '.+' })[c] ?? '\\.');
  const wanted = new RegExp(`^(${filters.map(tokens).join('|')})$`);
  let seen = after;
  do {
    for (const entry of entries) {
      if (entry.seq <= seen || !wanted.test(entry.subject)) continue;
      seen = entry.seq;
      yield entry;
    }
    await delay(5);
  } while (follow !== null && !follow.aborted);
}
