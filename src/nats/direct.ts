/**
 * Direct gets of several messages in one request. Written over core NATS because `getBatch` of @nats-io/jetstream
 * 3.4.0 leaves its inbox subscription open after each batch, which a long-lived process pays for with memory, and
 * reports "nothing there" as an exception.
 */
import type { Msg, NatsConnection } from '@nats-io/transport-node';

/** A stored message as a direct get returns it. */
export interface StoredMessage {
  readonly seq: number;
  readonly subject: string;
  readonly data: Uint8Array;
  readonly header: (name: string) => string | undefined;
}

/** The request of ADR-31 that this project needs: the next messages of one subject from a sequence on. */
export interface NextBySubject {
  readonly next_by_subj: string;
  readonly seq: number;
  readonly batch: number;
}

/**
 * Fetches up to `batch` messages. An empty array means that there are none from that sequence on.
 * @throws when the server does not answer completely within `timeoutMs`, or answers with an error.
 */
export async function directBatch(
  nc: NatsConnection,
  stream: string,
  request: NextBySubject,
  timeoutMs: number,
): Promise<StoredMessage[]> {
  const answers = await nc.requestMany(`$JS.API.DIRECT.GET.${stream}`, JSON.stringify(request), {
    strategy: 'sentinel',
    maxWait: timeoutMs,
  });
  const messages: StoredMessage[] = [];
  for await (const answer of answers) {
    const status = answer.headers?.code ?? 0;
    if (status === 0) {
      messages.push(storedMessage(answer));
      continue;
    }
    // 204: end of batch; 404: nothing from that sequence on.
    if (status === 204 || status === 404) return messages;
    throw new Error(`direct get from ${stream}: ${status} ${answer.headers?.description ?? ''}`);
  }
  throw new Error(`direct get from ${stream}: no complete answer within ${timeoutMs} ms`);
}

function storedMessage(answer: Msg): StoredMessage {
  const header = (name: string): string | undefined => answer.headers?.last(name) || undefined;
  return {
    seq: Number(header('Nats-Sequence')),
    subject: header('Nats-Subject') ?? '',
    data: answer.data,
    header,
  };
}
