/**
 * A durable pull consumer as a queue of work. It hands out one message at a time, without prefetch, so that a message
 * never waits behind work in one process while another has nothing to do. Who may do the work is decided on the log,
 * not here: an ack only says that nobody needs to be told again.
 */
import {
  AckPolicy,
  DeliverPolicy,
  jetstream,
  JetStreamApiError,
  jetstreamManager,
  type Consumer,
  type ConsumerConfig,
  type JetStreamManager,
  type JsMsg,
} from '@nats-io/jetstream';
import { errors, type NatsConnection } from '@nats-io/transport-node';
import { messageOf } from '../errors.ts';
import { parseRecorded } from '../events.ts';
import { LogUnavailableError, type LogEntry } from '../log.ts';
import { EVENT_STREAM } from '../streams.ts';
import { orAborted, watchLink, type Link } from './link.ts';

const TIMEOUT_MS = 5_000;
/** The shortest pull the server takes; a pull that is under way cannot be called back, and shutdown waits for it. */
const PULL_MS = 1_000;
/** A limit over all processes together, so it must never be reached. */
const MAX_ACK_PENDING = 1_000_000;
/** The server's "consumer already exists". */
const CONSUMER_EXISTS = 10148;

export interface QueueOptions {
  readonly durable: string;
  readonly filter: string;
  /** Without a sign of life for this long, a message is delivered again, to whoever asks. */
  readonly ackWaitMs: number;
}

/** One message, ours to settle once: ack() when its work has an outcome on the log, retryLater() when it has none. */
export interface Delivery {
  readonly entry: LogEntry;
  /** 1 for the first delivery. */
  readonly deliveries: number;
  ack(): void;
  retryLater(delayMs: number): void;
  /** Says that the work goes on; must come more often than once in `ackWaitMs`. */
  working(): void;
}

export interface WorkQueue {
  /** The next message, or null if there is none for about a second. @throws LogUnavailableError */
  next(): Promise<Delivery | null>;
}

/** Opens the queue; creates its consumer or adjusts the one that is there. @throws LogUnavailableError */
export async function openWorkQueue(nc: NatsConnection, options: QueueOptions): Promise<WorkQueue> {
  try {
    const manager = await jetstreamManager(nc, { timeout: TIMEOUT_MS, checkAPI: false });
    await ensureConsumer(manager, {
      durable_name: options.durable,
      filter_subject: options.filter,
      deliver_policy: DeliverPolicy.All,
      ack_policy: AckPolicy.Explicit,
      ack_wait: options.ackWaitMs * 1_000_000,
      max_deliver: -1,
      max_ack_pending: MAX_ACK_PENDING,
    });
    const consumer = await jetstream(nc).consumers.get(EVENT_STREAM, options.durable);
    const link = watchLink(nc);
    return { next: () => pull(consumer, link) };
  } catch (error) {
    throw new LogUnavailableError(`opening the queue ${options.durable} failed: ${messageOf(error)}`, { cause: error });
  }
}

/** Adding fails for a consumer that exists with other settings, such as another ack wait: that one is adjusted. */
async function ensureConsumer(
  manager: JetStreamManager,
  config: Partial<ConsumerConfig> & { durable_name: string },
): Promise<void> {
  try {
    await manager.consumers.add(EVENT_STREAM, config);
  } catch (error) {
    if (!(error instanceof JetStreamApiError) || error.code !== CONSUMER_EXISTS) throw error;
    await manager.consumers.update(EVENT_STREAM, config.durable_name, config);
  }
}

// The client's pull settles only when there is a connection again, and nobody could shut down before that.
async function pull(consumer: Consumer, link: Link): Promise<Delivery | null> {
  try {
    if (!(await link.up(PULL_MS))) throw new Error('there is no connection');
    const pulled = consumer.next({ expires: PULL_MS });
    try {
      const message = await orAborted(pulled, link.signal);
      return message ? delivery(message) : null;
    } catch (error) {
      // What it still brings nobody waits for any more: somebody else shall have it.
      void pulled.then((message) => message && delivery(message).retryLater(0)).catch(() => undefined);
      throw error;
    }
  } catch (error) {
    throw new LogUnavailableError(`asking for work failed: ${messageOf(error)}`, { cause: error });
  }
}

function delivery(message: JsMsg): Delivery {
  return {
    entry: parseRecorded(message.data, message.seq, message.subject),
    deliveries: message.info.deliveryCount,
    ack: () => unlessClosed(() => message.ack()),
    // Never without a delay: a plain nak is only in the server's memory, one with a delay survives its restart too.
    retryLater: (delayMs) => unlessClosed(() => message.nak(Math.max(1, delayMs))),
    working: () => unlessClosed(() => message.working()),
  };
}

/** Says something to the server. Without a connection it is left unsaid: the message comes again after its ack wait. */
function unlessClosed(say: () => void): void {
  try {
    say();
  } catch (error) {
    if (!(error instanceof errors.ClosedConnectionError)) throw error;
  }
}
