/** About the server itself: is it alive, is it ready, which version, how busy, its metrics. */
import { hostname } from 'node:os';
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import Type from 'typebox';
import { type Context, uptimeSecs } from '../context.ts';
import { HttpError, errorResponses } from '../errors.ts';
import { Nullable } from '../schemas.ts';

/** The challenge's name on the platform, and the versions of the contracts it speaks. */
const SLUG = 'term-executor';
const API_VERSION = '1.0';
const SDK_VERSION = '1.0.0';
const CAPABILITIES = ['submit', 'batches', 'events', 'verify', 'websocket', 'cancel'];
const RETRY_READY_SECS = 5;

const Count = Type.Integer();

export const systemRoutes: FastifyPluginAsyncTypebox<Context> = async (app, { ports, metrics }) => {
  const { config, readModel, version } = ports;

  app.get(
    '/health',
    {
      schema: {
        summary: 'The process is up',
        tags: ['system'],
        response: {
          200: Type.Object({ status: Type.Literal('ok'), slug: Type.String(), version: Type.String() }),
          ...errorResponses,
        },
      },
    },
    () => ({ status: 'ok' as const, slug: SLUG, version }),
  );

  app.get(
    '/live',
    {
      schema: {
        summary: 'The process answers; restart it if not',
        tags: ['system'],
        response: { 200: Type.Object({ status: Type.Literal('ok') }), ...errorResponses },
      },
    },
    () => ({ status: 'ok' as const }),
  );

  app.get(
    '/ready',
    {
      schema: {
        summary: 'The read models are open and the log can be reached; send no traffic if not',
        tags: ['system'],
        response: { 200: Type.Object({ status: Type.Literal('ready') }), ...errorResponses },
      },
    },
    () => {
      const missing = notReady();
      if (missing === null) return { status: 'ready' as const };
      throw new HttpError(503, 'not_ready', missing, { retryAfterSecs: RETRY_READY_SECS });
    },
  );
  const notReady = (): string | null => {
    if (!ports.logReachable()) return 'the event log cannot be reached';
    try {
      readModel.position();
      return null;
    } catch {
      return 'the read models are not open';
    }
  };

  app.get(
    '/version',
    {
      schema: {
        summary: 'Versions and capabilities',
        tags: ['system'],
        response: {
          200: Type.Object({
            api_version: Type.String(),
            challenge_version: Type.String(),
            sdk_version: Type.String(),
            capabilities: Type.Array(Type.String()),
          }),
          ...errorResponses,
        },
      },
    },
    () => ({
      api_version: API_VERSION,
      challenge_version: version,
      sdk_version: SDK_VERSION,
      capabilities: CAPABILITIES,
    }),
  );

  app.get(
    '/status',
    {
      schema: {
        summary: 'How much has been done and is being done',
        tags: ['system'],
        response: {
          200: Type.Object({
            version: Type.String(),
            uptime_secs: Count,
            active_batches: Count,
            total_batches: Count,
            completed_batches: Count,
            tasks_passed: Count,
            tasks_failed: Count,
            max_concurrent_tasks: Count,
            has_active_batch: Type.Boolean(),
            queued_batches: Count,
            open_vote_rounds: Count,
            executors_alive: Nullable(Type.Integer({ description: 'null: not known to this server' })),
            log_position: Type.Integer({ description: 'sequence of the last event that the answers include' }),
            log_reachable: Type.Boolean(),
          }),
          ...errorResponses,
        },
      },
    },
    () => {
      const totals = readModel.totals();
      return {
        version,
        uptime_secs: uptimeSecs(ports),
        active_batches: totals.activeBatches,
        total_batches: totals.totalBatches,
        completed_batches: totals.completedBatches,
        tasks_passed: totals.tasksPassed,
        tasks_failed: totals.tasksFailed,
        max_concurrent_tasks: config.maxConcurrentTasks,
        has_active_batch: totals.activeBatches > 0,
        queued_batches: totals.queuedBatches,
        open_vote_rounds: readModel.openRounds().filter((round) => round.expiresAtMs > ports.now()).length,
        executors_alive: ports.executorsAlive(),
        log_position: readModel.position(),
        log_reachable: ports.logReachable(),
      };
    },
  );

  app.get(
    '/instance',
    {
      schema: {
        summary: 'What runs here',
        tags: ['system'],
        response: {
          200: Type.Object({
            version: Type.String(),
            image: Nullable(Type.String()),
            image_digest: Nullable(Type.String()),
            uptime_secs: Count,
            hostname: Type.String(),
            max_concurrent_tasks: Count,
            netuid: Count,
            sandbox: Type.String(),
          }),
          ...errorResponses,
        },
      },
    },
    () => ({
      version,
      image: config.image,
      image_digest: config.imageDigest,
      uptime_secs: uptimeSecs(ports),
      hostname: hostname(),
      max_concurrent_tasks: config.maxConcurrentTasks,
      netuid: config.netuid,
      sandbox: ports.sandboxName,
    }),
  );

  app.get(
    '/metrics',
    {
      schema: {
        summary: 'Metrics in the Prometheus text format 0.0.4',
        tags: ['system'],
        produces: ['text/plain'],
        response: { 200: Type.String(), ...errorResponses },
      },
    },
    async (_request, reply) => {
      reply.type(metrics.contentType);
      return metrics.render();
    },
  );
};
