/** What a validator asks for with its signature: to vote for an archive, and to cancel a batch it voted for. */
import { join } from 'node:path';
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { FastifyError, FastifyRequest } from 'fastify';
import { LRUCache } from 'lru-cache';
import Type, { type Static } from 'typebox';
import type { VoteResult } from '../../commands/submission.ts';
import { unreachable } from '../../errors.ts';
import { type SignedRequest, authenticate, spendNonce } from '../auth/authenticate.ts';
import { Slots, orAbort, within } from '../bounds.ts';
import { type Context, requireLog, untilVisible } from '../context.ts';
import { HttpError, batchNotFound, errorResponses } from '../errors.ts';
import { BatchParams } from '../schemas.ts';
import { type Upload, receiveArchive } from '../upload.ts';

const COMMAND_WAIT_MS = 30_000;
const ARCHIVE_WORK_MS = 10 * 60_000;
const RETRY_BUSY_SECS = 10;
const TASK_COUNTS_KEPT = 1000;

const SignedHeaders = Type.Object({
  'x-hotkey': Type.Optional(Type.String({ description: 'SS58 address of the validator' })),
  'x-nonce': Type.Optional(Type.String({ description: 'fresh for each request' })),
  'x-signature': Type.Optional(Type.String({ description: 'hex of the sr25519 signature over hotkey + nonce' })),
});

const Pending = Type.Object({
  status: Type.Literal('pending_consensus'),
  archive_hash: Type.String(),
  votes: Type.Integer(),
  required: Type.Integer(),
  total_validators: Type.Integer(),
  note: Type.Optional(Type.String()),
});
const Approved = Type.Object({
  batch_id: Type.String(),
  total_tasks: Type.Integer(),
  concurrent_tasks: Type.Integer(),
  ws_url: Type.String(),
  consensus_reached: Type.Literal(true),
  votes: Type.Integer(),
  required: Type.Integer(),
  note: Type.Optional(Type.String()),
});
type ApprovedVote = Extract<VoteResult, { kind: 'approved' }>;

export const signedRoutes: FastifyPluginAsyncTypebox<Context> = async (app, { ports, metrics, limits, closing }) => {
  const { config } = ports;
  const slots = new Slots(limits.uploadsAtOnce);
  const taskCounts = new LRUCache<string, number>({ max: TASK_COUNTS_KEPT });

  app.decorateRequest('signed', null);
  // Before a body is read: who is not allowed to submit cannot make the server work.
  app.addHook('onRequest', async (request) => {
    request.signed = authenticate(request.raw, ports);
  });

  const submitRoute: FastifyPluginAsyncTypebox = async (scope) => {
    // Leaves every other kind of body unread, so that it is refused with the contract's code.
    scope.removeContentTypeParser(['application/json', 'text/plain']);
    scope.addContentTypeParser('*', (_request, _body, done) => done(null));
    scope.addHook('onResponse', async (request) =>
      discardRest(request, limits.lingerMs, () => {
        // Idle only now, when the closing server has already looked for idle connections.
        if (closing.aborted) setImmediate(() => scope.server.closeIdleConnections());
      }),
    );
    // A Content-Type that fastify cannot even parse.
    scope.setErrorHandler<FastifyError>((error) => {
      throw error.statusCode === 415
        ? new HttpError(400, 'upload_failed', 'Content-Type: must be multipart/form-data')
        : error;
    });
    scope.post(
      '/submit',
      {
        schema: {
          summary:
            'Votes for an archive (multipart, field archive or file); the vote that completes the quorum runs it',
          tags: ['submit'],
          consumes: ['multipart/form-data'],
          headers: SignedHeaders,
          querystring: Type.Object({
            concurrent_tasks: Type.Optional(
              Type.Unknown({
                description: `whole number from 1 to ${config.maxConcurrentTasks}, which is the default`,
              }),
            ),
          }),
          response: { 202: Type.Union([Pending, Approved]), ...errorResponses },
        },
      },
      async (request, reply) => {
        const signed = requireSigned(request);
        const concurrentTasks = readConcurrentTasks(request.query.concurrent_tasks, config.maxConcurrentTasks);
        requireLog(ports);
        using slot = slots.tryTake();
        if (!slot) {
          throw new HttpError(503, 'busy', 'too many uploads at the same time; try again', {
            retryAfterSecs: RETRY_BUSY_SECS,
          });
        }
        await spendNonce(signed, ports);
        const gone = new AbortController();
        reply.raw.once('close', () => gone.abort(new HttpError(400, 'upload_failed', 'the client is gone')));
        const signal = AbortSignal.any([gone.signal, closing]);
        await using upload = await receiveArchive(
          request,
          {
            dir: uploadsDir(config.dataDir),
            maxBytes: config.maxArchiveBytes,
            idleMs: limits.uploadIdleMs,
            totalMs: limits.uploadTotalMs,
          },
          signal,
        );
        metrics.uploadedBytes.inc(upload.bytes);
        reply.code(202);
        // Awaited here: the file and the place are kept until the vote is cast.
        return await vote(signed, upload, concurrentTasks, signal);
      },
    );
  };

  const vote = async (
    { hotkey, nonce, signature }: SignedRequest,
    upload: Upload,
    concurrentTasks: number,
    signal: AbortSignal,
  ): Promise<Static<typeof Pending> | Static<typeof Approved>> => {
    const { sha256: archiveHash, bytes: archiveBytes } = upload;
    if (!(await within(COMMAND_WAIT_MS, 'the archive store', ports.archiveKnown(archiveHash)))) {
      // Bytes that nobody stored yet open a new round: without room for it they must not be stored either.
      if (!ports.roomForNewRound()) throw tooManyPending(config.consensusTtlSecs);
      await inspect(upload, signal);
      await within(ARCHIVE_WORK_MS, 'the archive store', ports.storeArchive(upload.file, archiveHash));
    }
    signal.throwIfAborted();
    const verified = { archiveHash, archiveBytes, hotkey, nonce, signature, concurrentTasks };
    const { result, seq } = await within(COMMAND_WAIT_MS, 'the event log', ports.castVote(verified));
    switch (result.kind) {
      case 'pending':
        await untilVisible(ports, seq);
        return {
          status: 'pending_consensus',
          archive_hash: archiveHash,
          votes: result.votes,
          required: result.required,
          total_validators: result.totalValidators,
          ...(result.repeated ? { note: 'Your vote was already recorded' } : {}),
        };
      case 'approved':
        await untilVisible(ports, seq);
        return approved(result, await taskCount(result.batchId, upload, signal));
      case 'too-many-pending':
        throw tooManyPending(config.consensusTtlSecs);
      case 'not-whitelisted':
        throw new HttpError(401, 'unauthorized_hotkey', 'X-Hotkey: this hotkey is no longer on the whitelist');
      case 'expired':
      case 'nothing-to-expire':
        throw new Error(`a vote was answered with ${result.kind}`);
      default:
        return unreachable(result);
    }
  };

  /** Validates the archive and remembers how many tasks it has. */
  const inspect = async (upload: Upload, outer: AbortSignal): Promise<number> => {
    const late = new AbortController();
    const tooLong = `the archive takes over ${ARCHIVE_WORK_MS / 1000} s to look through; split it into smaller ones`;
    const timer = setTimeout(() => late.abort(new HttpError(400, 'extraction_failed', tooLong)), ARCHIVE_WORK_MS);
    try {
      const signal = AbortSignal.any([outer, late.signal]);
      const { taskCount: count } = await orAbort(ports.inspectArchive(upload.file, signal), signal);
      taskCounts.set(upload.sha256, count);
      return count;
    } finally {
      clearTimeout(timer);
    }
  };

  const taskCount = async (batchId: string, upload: Upload, signal: AbortSignal): Promise<number> => {
    const known = taskCounts.get(upload.sha256) ?? ports.readModel.batch(batchId)?.totalTasks ?? 0;
    return known > 0 ? known : inspect(upload, signal);
  };

  await app.register(submitRoute);

  app.post(
    '/batch/:id/cancel',
    {
      schema: {
        summary: 'Cancels a batch; signed as a submission is, by a validator that voted for it',
        tags: ['submit'],
        headers: SignedHeaders,
        params: BatchParams,
        body: Type.Optional(
          Type.Union([Type.Object({ reason: Type.Optional(Type.String({ maxLength: 1024 })) }), Type.Null()]),
        ),
        response: {
          200: Type.Object({ batch_id: Type.String(), status: Type.Literal('cancelled') }),
          ...errorResponses,
        },
      },
    },
    async (request) => {
      const signed = requireSigned(request);
      requireLog(ports);
      await spendNonce(signed, ports);
      const { id } = request.params;
      const reason = request.body?.reason ?? '';
      const cancelled = ports.cancelBatch(id, signed.hotkey, reason);
      const { result, seq } = await within(COMMAND_WAIT_MS, 'the event log', cancelled);
      switch (result.kind) {
        case 'cancelled':
          await untilVisible(ports, seq);
          return { batch_id: id, status: 'cancelled' as const };
        case 'already-ended':
          throw new HttpError(409, 'batch_ended', 'the batch has ended; there is nothing to cancel');
        case 'not-a-voter':
          throw new HttpError(403, 'not_a_voter', 'only a validator that voted for the batch may cancel it');
        case 'unknown-batch':
          throw batchNotFound(id);
        default:
          return unreachable(result.kind);
      }
    },
  );
};

/** Where uploads are while they are received and checked. */
export function uploadsDir(dataDir: string): string {
  return join(dataDir, 'uploads');
}

function requireSigned(request: FastifyRequest): SignedRequest {
  if (!request.signed) throw new Error('a signed route was reached without authentication');
  return request.signed;
}

function readConcurrentTasks(value: unknown, max: number): number {
  if (value === undefined) return max;
  const count = typeof value === 'string' && /^\d{1,9}$/.test(value) ? Number(value) : 0;
  if (count >= 1 && count <= max) return count;
  throw new HttpError(
    400,
    'invalid_concurrent_tasks',
    `concurrent_tasks: must be given once, as a whole number from 1 to ${max}`,
  );
}

function approved(result: ApprovedVote, totalTasks: number): Static<typeof Approved> {
  return {
    batch_id: result.batchId,
    total_tasks: totalTasks,
    concurrent_tasks: result.concurrentTasks,
    ws_url: `/ws?batch_id=${encodeURIComponent(result.batchId)}`,
    consensus_reached: true,
    votes: result.votes,
    required: result.required,
    ...noteOf(result),
  };
}

function noteOf({ repeated, late }: ApprovedVote): { note?: string } {
  if (repeated) return { note: 'Your vote was already recorded' };
  return late ? { note: 'The quorum was reached before; your vote was recorded with the batch it led to' } : {};
}

/**
 * Reads what a refused client still sends and throws it away, for a bounded time. Closing at once would reset the
 * connection, and the client would see that instead of the answer.
 */
function discardRest(request: FastifyRequest, lingerMs: number, whenRead: () => void): void {
  const body = request.raw;
  if (body.readableEnded || body.destroyed) return;
  const timer = setTimeout(() => body.socket.destroy(), lingerMs);
  body.once('close', () => clearTimeout(timer));
  body.once('end', () => {
    clearTimeout(timer);
    whenRead();
  });
  body.resume();
}

function tooManyPending(retryAfterSecs: number): HttpError {
  return new HttpError(503, 'too_many_pending', 'too many archives are being voted on; try again', { retryAfterSecs });
}
