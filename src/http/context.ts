/** What all routes of one app share. Made by app.ts, handed to each plugin as its options. */
import type { FastifyBaseLogger, FastifyInstance, RawServerDefault } from 'fastify';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import type { BatchRow } from '../projections/read-model.ts';
import { batchNotFound, logUnavailable } from './errors.ts';
import type { Metrics } from './metrics.ts';
import type { Outputs } from './outputs.ts';
import type { HttpPorts } from './ports.ts';
import type { SignedRequest } from './auth/authenticate.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Set on routes that must be signed, once the signature was verified. */
    signed: SignedRequest | null;
    /** Code of the refusal, for the log line. */
    refusalCode: string | null;
  }
}

export type App = FastifyInstance<
  RawServerDefault,
  IncomingMessage,
  ServerResponse,
  FastifyBaseLogger,
  TypeBoxTypeProvider
>;

export interface Context {
  readonly ports: HttpPorts;
  readonly outputs: Outputs;
  readonly metrics: Metrics;
  /** Aborts when the app closes: everything that streams or waits ends then. */
  readonly closing: AbortSignal;
  readonly limits: ServerLimits;
}

/** Limits that tests make small. Times in milliseconds. */
export interface ServerLimits {
  readonly uploadIdleMs: number;
  readonly uploadTotalMs: number;
  readonly uploadsAtOnce: number;
  /** How long the rest of a refused body is read and thrown away, so that the client sees the answer. */
  readonly lingerMs: number;
  readonly eventStreams: number;
  /** Of one address; so one client cannot take all places. */
  readonly eventStreamsPerAddress: number;
  /** How often a followed stream without news says that it is alive. */
  readonly heartbeatMs: number;
  readonly webSockets: number;
  readonly webSocketsPerAddress: number;
  /** Answers with much inlined text that are made at once, and how long one more waits to be. */
  readonly largeViews: number;
  readonly largeViewWaitMs: number;
  readonly pingMs: number;
  /** A WebSocket with more unsent bytes than this is a slow reader. */
  readonly webSocketBufferBytes: number;
}

export const DEFAULT_LIMITS: ServerLimits = {
  uploadIdleMs: 30_000,
  uploadTotalMs: 30 * 60_000,
  uploadsAtOnce: 32,
  lingerMs: 5_000,
  eventStreams: 256,
  eventStreamsPerAddress: 64,
  heartbeatMs: 15_000,
  webSockets: 1024,
  webSocketsPerAddress: 64,
  largeViews: 4,
  largeViewWaitMs: 10_000,
  pingMs: 30_000,
  webSocketBufferBytes: 256 * 1024,
};

export function uptimeSecs(ports: HttpPorts): number {
  return Math.max(0, Math.floor((ports.now() - ports.startedAtMs) / 1000));
}

/** @throws HttpError 404 batch_not_found */
export function requireBatch(ports: HttpPorts, batchId: string): BatchRow {
  const batch = ports.readModel.batch(batchId);
  if (!batch) throw batchNotFound(batchId);
  return batch;
}

/** Refuses before any work is done while nothing can be decided. @throws HttpError 503 log_unavailable */
export function requireLog(ports: HttpPorts): void {
  if (!ports.logReachable()) throw logUnavailable('the event log cannot be reached at the moment; try again');
}

/** Longest wait for the read models to show a write; after it, the answer is given all the same. */
const VISIBLE_WAIT_MS = 2_000;

/** Waits until what was written at `seq` can be read here. */
export async function untilVisible(ports: HttpPorts, seq: number): Promise<void> {
  if (ports.readModel.position() >= seq) return;
  await ports.readModel.waitFor(seq, AbortSignal.timeout(VISIBLE_WAIT_MS)).catch(() => undefined);
}
