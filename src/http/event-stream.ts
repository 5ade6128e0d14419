/**
 * The log as a byte stream to a client: NDJSON, or Server-Sent Events for browsers. Ends with the client, with the app
 * or with the log, whichever is first, and reads no faster than the client does.
 */
import { Readable } from 'node:stream';
import type { LogEntry } from '../log.ts';

/** What a subject filter may be: `ev.` and tokens, `*` for one of them, `>` for all that follow. */
export function isSubjectFilter(text: string): boolean {
  return text === 'ev.>' || /^ev(\.(\*|[A-Za-z0-9%_-]+))+(\.>)?$/.test(text);
}

/** One JSON object per line. */
export async function* asNdjson(entries: AsyncIterable<LogEntry>): AsyncIterable<string> {
  for await (const entry of entries) yield `${JSON.stringify(entry)}\n`;
}

const SSE_RETRY_MS = 2_000;

/**
 * `id` is the sequence, so that a browser resumes where it lost the connection.
 * Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
 */
export async function* asServerSentEvents(entries: AsyncIterable<LogEntry>): AsyncIterable<string> {
  yield `retry: ${SSE_RETRY_MS}\n\n`;
  for await (const entry of entries) {
    yield `id: ${entry.seq}\nevent: ${entry.type ?? 'unknown'}\ndata: ${JSON.stringify(entry)}\n\n`;
  }
}

/**
 * The chunks, and `beat` whenever none came for so long: it keeps proxies from closing a quiet stream, and shows a
 * peer that is gone, which would hold its place for ever otherwise.
 */
export async function* withHeartbeat(
  chunks: AsyncIterable<string>,
  beat: string,
  everyMs: number,
): AsyncIterable<string> {
  const iterator = chunks[Symbol.asyncIterator]();
  try {
    let next = iterator.next();
    for (;;) {
      const result = await orNullAfter(everyMs, next);
      if (result === null) {
        yield beat;
        continue;
      }
      if (result.done === true) return;
      yield result.value;
      next = iterator.next();
    }
  } finally {
    void iterator.return?.()?.catch(() => undefined);
  }
}

async function orNullAfter<T>(ms: number, promise: Promise<T>): Promise<T | null> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<null>((resolve) => {
    timer = setTimeout(() => resolve(null), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Reads the first item before anything is sent, so that a failure to start is an error answer and not a broken stream.
 */
export async function startReading<T>(items: AsyncIterable<T>): Promise<AsyncIterable<T>> {
  const iterator = items[Symbol.asyncIterator]();
  const first = await iterator.next();
  return (async function* () {
    try {
      for (let result = first; result.done !== true; result = await iterator.next()) yield result.value;
    } finally {
      await iterator.return?.();
    }
  })();
}

/** A stream for fastify to send. `release` is called once, when it is over for whatever reason. */
export function toStream(chunks: AsyncIterable<string | Uint8Array>, release: () => void): Readable {
  const stream = Readable.from(chunks, { objectMode: false, highWaterMark: 64 * 1024 });
  stream.once('close', release);
  return stream;
}
