/**
 * The EventLog on JetStream. Appends of several events are atomic batches written by hand (ADR-50 of the NATS
 * architecture), because `startBatch` of @nats-io/jetstream 3.4.0 drops the expectation and loses the error code.
 */
import { createHash } from 'node:crypto';
import { jetstream, jetstreamManager, DeliverPolicy, ReplayPolicy } from '@nats-io/jetstream';
import type { JetStreamClient, JetStreamManager } from '@nats-io/jetstream';
import { headers, nuid, type MsgHdrs, type NatsConnection } from '@nats-io/transport-node';
import { delay } from './delay.ts';
import { messageOf } from './errors.ts';
import { findInvalid, parseRecorded, versionOf, type Envelope, type Event, type Recorded } from './events.ts';
import {
  InvalidEventError,
  LogConflictError,
  LogUnavailableError,
  type AppendMeta,
  type EventLog,
  type FollowOptions,
  type Head,
  type LogEntry,
} from './log.ts';
import { directBatch, type NextBySubject, type StoredMessage } from './nats/direct.ts';
import { orAborted, watchLink, type Link } from './nats/link.ts';
import { EVENT_STREAM, subjectOf } from './streams.ts';

const REQUEST_TIMEOUT_MS = 5_000;
const LOAD_BATCH = 256;
/** ADR-50: the server refuses longer atomic batches. */
const MAX_BATCH_EVENTS = 1_000;
/** Room that headers and protocol need beside the payload within the server's max_payload. */
const HEADER_ROOM_BYTES = 4_096;
/** "wrong last sequence", in its two forms, and a batch that holds a message id which is stored already. */
const CONFLICT_CODES = new Set([10071, 10164, 10201]);
const TRANSIENT_CODES = new Set([10163, 10210]);
const TRANSIENT_TRIES = 5;
/** How often a replica may answer without an event that the leader has. */
const STALE_TRIES = 6;
const FOLLOW_BACKOFF_MS = { first: 50, max: 2_000 } as const;

/** What the log needs from outside, so that tests can fix ids. */
export interface LogOptions {
  /** Event ids: UUIDv7. */
  readonly newId: () => string;
}

interface Message {
  readonly subject: string;
  readonly bytes: Uint8Array;
  readonly headers: MsgHdrs;
}

interface PubAck {
  readonly seq?: number;
  readonly error?: { readonly err_code?: number; readonly description?: string };
}

/** `hash` of a subject that has no event yet: the SHA-256 of its name, which ties the chain to its subject. */
export function emptyHead(subject: string): Head {
  return { seq: 0, hash: sha256(new TextEncoder().encode(subject)) };
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** Opens the log on a connection; the stream must exist. The connection stays the caller's. */
export async function openJetStreamLog(nc: NatsConnection, options: LogOptions): Promise<EventLog> {
  const manager = await jetstreamManager(nc, { timeout: REQUEST_TIMEOUT_MS });
  return new JetStreamLog(nc, jetstream(nc), manager, options);
}

class JetStreamLog implements EventLog {
  readonly #nc: NatsConnection;
  readonly #client: JetStreamClient;
  readonly #manager: JetStreamManager;
  readonly #newId: () => string;
  readonly #link: Link;

  constructor(nc: NatsConnection, client: JetStreamClient, manager: JetStreamManager, options: LogOptions) {
    this.#nc = nc;
    this.#client = client;
    this.#manager = manager;
    this.#newId = options.newId;
    this.#link = watchLink(nc);
  }

  async load(subject: string, from = emptyHead(subject)): Promise<{ entries: readonly LogEntry[]; head: Head }> {
    const entries: LogEntry[] = [];
    let head = from;
    // Asked of the leader: a replica that lags behind would make a decision to do nothing final, which no guard sees.
    const last = await this.lastSeq(subject);
    for (let stale = 0; head.seq < last;) {
      const query = { next_by_subj: subject, seq: head.seq + 1, batch: LOAD_BATCH };
      const messages = await this.#directGet(query);
      for (const { seq, data } of messages) {
        entries.push(parseRecorded(data, seq, subject));
        head = { seq, hash: sha256(data) };
      }
      if (messages.length > 0) continue;
      stale += 1;
      if (stale === STALE_TRIES) throw new LogUnavailableError(`no replica has event ${last} of ${subject} yet`);
      await delay(20 * 2 ** stale);
    }
    return { entries, head };
  }

  async append(
    events: readonly Event[],
    heads: ReadonlyMap<string, Head>,
    meta: AppendMeta,
  ): Promise<{ recorded: readonly Recorded[]; heads: ReadonlyMap<string, Head> }> {
    if (events.length === 0 || events.length > MAX_BATCH_EVENTS) {
      throw new InvalidEventError(`an append takes 1 to ${MAX_BATCH_EVENTS} events, not ${events.length}`);
    }
    const chain = new Map<string, Head>();
    const maxBytes = (this.#nc.info?.max_payload ?? 1_048_576) - HEADER_ROOM_BYTES;
    const prepared = events.map((event) => this.#prepare(event, chain, heads, meta, maxBytes));
    const messages = prepared.map(({ message }) => message);
    const lastSeq = await this.#publishWithRetry(messages);
    const firstSeq = lastSeq - events.length + 1;
    const recorded = prepared.map(({ stored, message }, index) => ({
      ...stored,
      seq: firstSeq + index,
      subject: message.subject,
    }));
    const newHeads = new Map<string, Head>();
    for (const { subject, seq } of recorded) {
      newHeads.set(subject, { seq, hash: chain.get(subject)?.hash ?? '' });
    }
    return { recorded, heads: newHeads };
  }

  async #directGet(query: NextBySubject): Promise<readonly StoredMessage[]> {
    try {
      return await orAborted(directBatch(this.#nc, EVENT_STREAM, query, REQUEST_TIMEOUT_MS), this.#link.signal);
    } catch (error) {
      throw new LogUnavailableError(`reading ${query.next_by_subj} failed: ${messageOf(error)}`, { cause: error });
    }
  }

  async *follow(options: FollowOptions): AsyncIterable<{ entry: LogEntry; pending: number }> {
    const { filters, signal } = options;
    let last = options.after;
    let lastPerSubject = options.lastPerSubject ?? false;
    let backoffMs: number = FOLLOW_BACKOFF_MS.first;
    while (!signal.aborted) {
      try {
        for await (const message of this.#consume(filters, last, lastPerSubject, signal)) {
          backoffMs = FOLLOW_BACKOFF_MS.first;
          if (message.seq <= last) continue;
          yield { entry: parseRecorded(message.data, message.seq, message.subject), pending: message.pending };
          last = message.seq;
          lastPerSubject = lastPerSubject && message.pending > 0;
        }
      } catch {
        // Whatever ended the consumer (restart, lost leader, deleted while the server was away), a new one goes on.
      }
      await delay(backoffMs, signal);
      await this.#link.up(FOLLOW_BACKOFF_MS.max);
      backoffMs = Math.min(backoffMs * 2, FOLLOW_BACKOFF_MS.max);
    }
  }

  async lastSeq(filter?: string): Promise<number> {
    const { streams } = this.#manager;
    const link = this.#link.signal;
    try {
      if (filter === undefined) return (await orAborted(streams.info(EVENT_STREAM), link)).state.last_seq;
      return (await orAborted(streams.getMessage(EVENT_STREAM, { last_by_subj: filter }), link))?.seq ?? 0;
    } catch (error) {
      throw new LogUnavailableError(`the state of the event stream is not known: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  #prepare(
    event: Event,
    chain: Map<string, Head>,
    heads: ReadonlyMap<string, Head>,
    meta: AppendMeta,
    maxBytes: number,
  ): { stored: Event & Envelope; message: Message } {
    const invalid = findInvalid(event);
    if (invalid !== null) throw new InvalidEventError(`${event.type}: ${invalid}`);
    const subject = subjectOf(event);
    const known = chain.get(subject);
    const expected = heads.get(subject);
    if (!known && !expected) throw new InvalidEventError(`${event.type}: no expected head for ${subject}`);
    const stored: Event & Envelope = {
      id: this.#newId(),
      ...event,
      version: versionOf(event.type),
      time: new Date(meta.nowMs).toISOString(),
      actor: meta.actor,
      cause: meta.cause,
      prev: (known ?? expected)?.hash ?? '',
    };
    const bytes = new TextEncoder().encode(JSON.stringify(stored));
    if (bytes.length > maxBytes) {
      throw new InvalidEventError(`${event.type}: ${bytes.length} bytes are more than the ${maxBytes} that fit`);
    }
    const messageHeaders = headers();
    messageHeaders.set('Nats-Msg-Id', stored.id);
    messageHeaders.set('Event-Type', stored.type);
    messageHeaders.set('Event-Version', String(stored.version));
    // Only the first event of each subject carries the expectation: within the batch the next ones follow it.
    if (!known && expected) messageHeaders.set('Nats-Expected-Last-Subject-Sequence', String(expected.seq));
    chain.set(subject, { seq: expected?.seq ?? 0, hash: sha256(bytes) });
    return {
      stored,
      message: { subject, bytes, headers: messageHeaders },
    };
  }

  async #publishWithRetry(messages: readonly Message[]): Promise<number> {
    for (let attempt = 1; ; attempt += 1) {
      const ack = await orAborted(this.#publish(messages), this.#link.signal).catch((error: unknown) => {
        throw new LogUnavailableError(`appending to ${messages[0]?.subject} failed: ${messageOf(error)}`, {
          cause: error,
        });
      });
      if (ack.seq !== undefined && ack.error === undefined) return ack.seq;
      const code = ack.error?.err_code ?? 0;
      const description = `${ack.error?.description ?? 'no reason given'} (${code})`;
      if (CONFLICT_CODES.has(code)) {
        throw new LogConflictError(`${messages[0]?.subject} was written by somebody else: ${description}`);
      }
      if (!TRANSIENT_CODES.has(code) || attempt === TRANSIENT_TRIES) {
        throw new LogUnavailableError(`appending to ${messages[0]?.subject} was refused: ${description}`);
      }
      await delay(20 * 2 ** attempt);
    }
  }

  async #publish(messages: readonly Message[]): Promise<PubAck> {
    const last = messages.length - 1;
    const batchId = nuid.next();
    for (const [index, message] of messages.entries()) {
      if (last > 0) {
        message.headers.set('Nats-Batch-Id', batchId);
        message.headers.set('Nats-Batch-Sequence', String(index + 1));
        if (index === last) message.headers.set('Nats-Batch-Commit', '1');
      }
      const options = { headers: message.headers, timeout: REQUEST_TIMEOUT_MS };
      if (index === last) return (await this.#nc.request(message.subject, message.bytes, options)).json<PubAck>();
      if (index > 0) {
        this.#nc.publish(message.subject, message.bytes, options);
        continue;
      }
      // The server answers the first message of a batch with an empty payload, or with the reason it refuses it.
      const opened = await this.#nc.request(message.subject, message.bytes, options);
      if (opened.data.length > 0) {
        const refused = opened.json<PubAck>();
        if (refused.error) return refused;
      }
    }
    return {};
  }

  /** One ordered consumer's life; ends when the connection was lost, the consumer failed or the signal aborted. */
  async *#consume(
    filters: readonly string[],
    after: number,
    lastPerSubject: boolean,
    signal: AbortSignal,
  ): AsyncIterable<{ seq: number; subject: string; data: Uint8Array; pending: number }> {
    const link = this.#link.signal;
    const start = lastPerSubject
      ? { deliver_policy: DeliverPolicy.LastPerSubject }
      : { deliver_policy: DeliverPolicy.StartSequence, opt_start_seq: after + 1 };
    const getting = this.#client.consumers.get(EVENT_STREAM, {
      filter_subjects: [...filters],
      replay_policy: ReplayPolicy.Instant,
      ...start,
    });
    const consumer = await orAborted(getting, link);
    const messages = await consumer.consume({ max_messages: 500, expires: 10_000, idle_heartbeat: 2_000 });
    // The consumer lives in the server's memory: after a lost connection a new one is quicker than its heartbeats.
    const ended = AbortSignal.any([signal, link]);
    const stop = (): void => messages.stop();
    ended.addEventListener('abort', stop, { once: true });
    if (ended.aborted) stop();
    try {
      for await (const message of messages) {
        const { seq, subject, data, info } = message;
        yield { seq, subject, data, pending: info.pending };
      }
    } finally {
      ended.removeEventListener('abort', stop);
      messages.stop();
      if (!link.aborted) await orAborted(consumer.delete(), link).catch(() => false);
    }
  }
}
