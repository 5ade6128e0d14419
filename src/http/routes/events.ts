/** The log itself, and the stored outputs: what an auditor needs to check everything else that this server says. */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { FastifyReply, FastifyRequest } from 'fastify';
import Type from 'typebox';
import { CodedError } from '../../errors.ts';
import type { StoredOutput } from '../../events.ts';
import type { LogEntry } from '../../log.ts';
import type { BatchRow, TaskRow } from '../../projections/read-model.ts';
import { subjects } from '../../streams.ts';
import { SharedSlots, orAbort } from '../bounds.ts';
import { type Context, requireBatch, requireLog } from '../context.ts';
import { HttpError, busy, errorResponses, logUnavailable } from '../errors.ts';
import {
  asNdjson,
  asServerSentEvents,
  isSubjectFilter,
  startReading,
  toStream,
  withHeartbeat,
} from '../event-stream.ts';
import { BatchParams, TaskParams } from '../schemas.ts';
import { hasEnded } from '../views.ts';

const NDJSON = 'application/x-ndjson';
const SSE = 'text/event-stream';
/** Until the first event or the first bytes of an output are there. */
const FIRST_ITEM_WAIT_MS = 15_000;

const Sequence = Type.Integer({ minimum: 0 });
const StreamQuery = {
  after: Type.Optional(Sequence),
  follow: Type.Optional(Type.Boolean({ description: 'true: stay and send what comes; SSE always does' })),
};
const streamResponse = { 200: Type.String({ description: 'one event per line' }), ...errorResponses };

export const eventRoutes: FastifyPluginAsyncTypebox<Context> = async (app, context) => {
  const { ports, limits } = context;
  const slots = new SharedSlots(limits.eventStreams, limits.eventStreamsPerAddress);

  app.get(
    '/events',
    {
      exposeHeadRoute: false,
      schema: {
        summary: 'The log as NDJSON, or as Server-Sent Events on Accept: text/event-stream',
        tags: ['events'],
        produces: [NDJSON, SSE],
        querystring: Type.Object({
          ...StreamQuery,
          subject: Type.Optional(
            Type.String({ maxLength: 4096, description: 'literal, or with * and >; default ev.>' }),
          ),
        }),
        response: streamResponse,
      },
    },
    async (request, reply) => {
      const { subject = subjects.all, after = 0, follow = false } = request.query;
      if (!isSubjectFilter(subject)) {
        throw new HttpError(400, 'invalid_request', 'subject: must be like ev.batch.<id>, ev.task.> or ev.>');
      }
      return sendEvents(request, reply, { after, follow }, (options) =>
        ports.readEvents({ filters: [subject], ...options }),
      );
    },
  );

  app.get(
    '/batch/:id/events',
    {
      exposeHeadRoute: false,
      schema: {
        summary: "A batch's events, its votes and tasks included, in log order; as /events",
        tags: ['events'],
        produces: [NDJSON, SSE],
        params: BatchParams,
        querystring: Type.Object(StreamQuery),
        response: streamResponse,
      },
    },
    async (request, reply) => {
      const batch = requireBatch(ports, request.params.id);
      const votes = ports.readModel.quorum(batch.batchId)?.votes ?? [];
      const firstSeq = Math.min(batch.firstSeq, ...votes.map((vote) => vote.seq));
      const { after = 0, follow = false } = request.query;
      const range = { after: Math.max(after, firstSeq - 1), follow };
      const filters = subjects.ofBatch(batch.batchId, batch.archiveHash);
      return sendEvents(request, reply, range, (options) =>
        untilEnd(batch, ports.readEvents({ filters, ...options, live: options.live && !hasEnded(batch) })),
      );
    },
  );

  app.get(
    '/batch/:id/task/:taskId/steps/:n/output',
    {
      exposeHeadRoute: false,
      schema: {
        summary: "One step's stored output, as it was produced",
        tags: ['events'],
        produces: ['text/plain'],
        params: Type.Object({ id: Type.String(), taskId: Type.String(), n: Type.Integer({ minimum: 0 }) }),
        querystring: Type.Object({
          attempt: Type.Optional(Type.Integer({ minimum: 1, description: 'default: the current attempt' })),
        }),
        response: { 200: Type.String(), ...errorResponses },
      },
    },
    async (request, reply) => {
      const { id, taskId, n } = request.params;
      const batch = requireBatch(ports, id);
      const task = ports.readModel.task(batch.batchId, taskId);
      if (!task) throw new HttpError(404, 'task_not_found', 'the batch has no such task');
      const output = await findOutput(batch, task, request.query.attempt ?? task.attempt, n);
      if (!output) {
        throw new HttpError(
          404,
          'output_not_found',
          'this attempt has no such step, or the step has stored no output yet',
        );
      }
      return sendStored(reply, output.digest);
    },
  );

  app.get(
    '/batch/:id/task/:taskId/patch',
    {
      exposeHeadRoute: false,
      schema: {
        summary: "The agent's whole patch",
        tags: ['events'],
        produces: ['text/plain'],
        params: TaskParams,
        response: { 200: Type.String(), ...errorResponses },
      },
    },
    async (request, reply) => {
      const { batchId } = requireBatch(ports, request.params.id);
      const task = ports.readModel.task(batchId, request.params.taskId);
      if (!task) throw new HttpError(404, 'task_not_found', 'the batch has no such task');
      if (!task.patch) throw new HttpError(404, 'output_not_found', 'the task has stored no patch yet');
      return sendStored(reply, task.patch.digest);
    },
  );

  const sendStored = async (reply: FastifyReply, digest: string): Promise<FastifyReply> => {
    const signal = AbortSignal.any([context.closing, AbortSignal.timeout(FIRST_ITEM_WAIT_MS)]);
    const bytes = await orAbort(startReading(ports.readOutput(digest)), signal).catch((error: unknown) => {
      throw error instanceof CodedError ? error : logUnavailable('the output cannot be read now', { cause: error });
    });
    return sendOutput(reply, digest, bytes);
  };

  /** The read models know the steps of the current attempt; those of earlier ones are on the log. */
  const findOutput = async (
    batch: BatchRow,
    task: TaskRow,
    attempt: number,
    step: number,
  ): Promise<StoredOutput | null> => {
    if (attempt === task.attempt) return task.steps.find((row) => row.step === step)?.output ?? null;
    requireLog(ports);
    const signal = AbortSignal.any([context.closing, AbortSignal.timeout(FIRST_ITEM_WAIT_MS)]);
    const filters = [subjects.task(batch.batchId, task.taskId)];
    for await (const entry of ports.readEvents({ filters, after: batch.firstSeq, live: false, signal })) {
      const isWanted = entry.type === 'StepFinished' && entry.data.attempt === attempt && entry.data.step === step;
      if (isWanted) return entry.data.output;
    }
    return null;
  };

  const sendEvents = async (
    request: FastifyRequest,
    reply: FastifyReply,
    range: { after: number; follow: boolean },
    read: (options: { after: number; live: boolean; signal: AbortSignal }) => AsyncIterable<LogEntry>,
  ): Promise<FastifyReply> => {
    requireLog(ports);
    const slot = slots.tryTake(request.ip);
    if (!slot) throw busy('too many event streams are open; try again');
    const gone = new AbortController();
    const release = (): void => {
      gone.abort();
      slot[Symbol.dispose]();
    };
    reply.raw.once('close', release);
    const signal = AbortSignal.any([gone.signal, context.closing]);
    reply.header('cache-control', 'no-store');
    reply.header('x-accel-buffering', 'no');
    if (acceptsServerSentEvents(request)) {
      const events = read({ after: lastEventId(request) ?? range.after, live: true, signal });
      reply.type(`${SSE}; charset=utf-8`);
      return reply.send(toStream(withHeartbeat(asServerSentEvents(events), ': ping\n\n', limits.heartbeatMs), release));
    }
    try {
      const events = read({ after: range.after, live: range.follow, signal });
      const started = range.follow ? events : await orAbort(startReading(events), anyOrTimeout(signal));
      reply.type(`${NDJSON}; charset=utf-8`);
      const text = asNdjson(started);
      const stream = toStream(range.follow ? withHeartbeat(text, '\n', limits.heartbeatMs) : text, release);
      // Node sends the headers with the first bytes, and there may be none for hours.
      stream.once('resume', () => reply.raw.flushHeaders());
      return reply.send(stream);
    } catch (error) {
      release();
      throw error instanceof CodedError ? error : logUnavailable('the event log did not answer', { cause: error });
    }
  };
};

/** Text for certain, whatever an agent printed: no browser may take it for a page of ours. */
function sendOutput(reply: FastifyReply, digest: string, bytes: AsyncIterable<Uint8Array>): FastifyReply {
  return reply
    .type('text/plain; charset=utf-8')
    .header('content-security-policy', "default-src 'none'; sandbox")
    .header('cache-control', 'public, max-age=31536000, immutable')
    .header('etag', `"${digest}"`)
    .send(toStream(bytes, () => undefined));
}

function anyOrTimeout(signal: AbortSignal): AbortSignal {
  return AbortSignal.any([signal, AbortSignal.timeout(FIRST_ITEM_WAIT_MS)]);
}

function acceptsServerSentEvents(request: FastifyRequest): boolean {
  return (request.headers.accept ?? '').toLowerCase().includes(SSE);
}

/** What a browser's EventSource sends when it connects again. */
function lastEventId(request: FastifyRequest): number | null {
  const value = request.headers['last-event-id'];
  return typeof value === 'string' && /^\d{1,15}$/.test(value) ? Number(value) : null;
}

/** The entries up to the end of the batch. */
async function* untilEnd(batch: BatchRow, entries: AsyncIterable<LogEntry>): AsyncIterable<LogEntry> {
  const own = subjects.batch(batch.batchId);
  const ended = hasEnded(batch);
  for await (const entry of entries) {
    yield entry;
    if (ended && entry.seq >= batch.lastSeq) return;
    if (!ended && entry.subject === own && isEnd(entry)) return;
  }
}

function isEnd(entry: LogEntry): boolean {
  switch (entry.type) {
    case 'BatchCompleted':
    case 'BatchRejected':
    case 'BatchCancelled':
    case 'BatchExpired':
      return true;
    default:
      return false;
  }
}
