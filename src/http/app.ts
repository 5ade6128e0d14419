/**
 * The HTTP server as a fastify app: everything but the process around it. It knows its ports and nothing behind them,
 * so it can be built, injected into and closed in a test as in production.
 */
import { LogController, fastify, type FastifyBaseLogger } from 'fastify';
import multipart from '@fastify/multipart';
import swagger from '@fastify/swagger';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import websocket from '@fastify/websocket';
import { type App, type Context, DEFAULT_LIMITS, type ServerLimits } from './context.ts';
import { HttpError } from './errors.ts';
import { createMetrics } from './metrics.ts';
import { newRequestId, observe, refuseExpectation, refuseMalformed, sendRefusal } from './observe.ts';
import { Outputs } from './outputs.ts';
import type { HttpPorts } from './ports.ts';
import { batchRoutes } from './routes/batches.ts';
import { docsRoutes } from './routes/docs.ts';
import { eventRoutes } from './routes/events.ts';
import { signedRoutes, uploadsDir } from './routes/signed.ts';
import { systemRoutes } from './routes/system.ts';
import { cleanUploads } from './upload.ts';
import { compileValidator } from './validation.ts';
import { websocketOptions, websocketRoutes } from './ws.ts';

/** Bodies other than the archive. */
const MAX_BODY_BYTES = 64 * 1024;
/** Silence of a TCP connection before the first probe. */
const KEEP_ALIVE_MS = 30_000;
/** A task id has up to 255 characters of up to 4 bytes, each percent-encoded as 3 characters. */
const MAX_PARAM_CHARS = 255 * 4 * 3;

export interface AppOptions {
  /** Default: no log. */
  readonly logger?: FastifyBaseLogger;
  readonly limits?: Partial<ServerLimits>;
}

/**
 * Builds the app, ready to listen or to be injected into. Empties `<dataDir>/uploads` of what a killed server left,
 * so the data directory must be ours. `close()` ends every stream and socket.
 */
export async function buildApp(ports: HttpPorts, options: AppOptions = {}): Promise<App> {
  const limits = { ...DEFAULT_LIMITS, ...options.limits };
  const app: App = fastify({
    ...(options.logger ? { loggerInstance: options.logger } : { logger: false }),
    logController: new LogController({ disableRequestLogging: true }),
    genReqId: newRequestId,
    // At the level trace the multipart plugin logs all headers of the request, the signature among them.
    childLoggerFactory: (logger, bindings, own) => logger.child(bindings, { ...own, redact: ['busboyOptions'] }),
    http: {
      // Finds peers that are gone without a word; they would hold their places for ever.
      keepAlive: true,
      keepAliveInitialDelay: KEEP_ALIVE_MS,
      // Node refuses those without a body; the hook below does it in the contract's form.
      requireHostHeader: false,
      // Other offers, such as the h2c of Java's client, are not taken and must not keep a request from its answer.
      shouldUpgradeCallback: ({ headers }) => headers.upgrade?.toLowerCase() === 'websocket',
    },
    bodyLimit: MAX_BODY_BYTES,
    routerOptions: { maxParamLength: MAX_PARAM_CHARS },
    requestTimeout: limits.uploadTotalMs,
    // While closing, requests that are under way or just came are answered as usual.
    return503OnClosing: false,
    frameworkErrors: sendRefusal,
    clientErrorHandler: refuseMalformed,
  }).withTypeProvider<TypeBoxTypeProvider>();
  app.setValidatorCompiler(compileValidator);

  const closing = new AbortController();
  app.addHook('preClose', async () =>
    closing.abort(new HttpError(503, 'shutting_down', 'the server is shutting down')),
  );
  const metrics = createMetrics(ports.readModel);
  const outputs = new Outputs(ports.readOutput);
  const context: Context = { ports, outputs, metrics, limits, closing: closing.signal };

  await cleanUploads(uploadsDir(ports.config.dataDir));
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: { title: 'term-executor', version: ports.version, license: { name: 'Apache-2.0' } },
    },
  });
  await app.register(multipart);
  await app.register(websocket, websocketOptions(app));
  observe(app, context);
  app.server.on('checkExpectation', refuseExpectation);
  app.addHook('onRequest', async ({ raw }) => {
    if (raw.httpVersion === '1.1' && raw.headers.host === undefined) {
      throw new HttpError(400, 'invalid_request', 'the header Host is missing; HTTP/1.1 requires it');
    }
  });
  // After the WebSocket plugin, which sets `ws` in a hook of its own.
  app.addHook('onRequest', async (request) => {
    if (request.ws && request.routeOptions.url !== '/ws') {
      throw new HttpError(400, 'invalid_request', 'only /ws speaks WebSocket');
    }
  });
  await app.register(systemRoutes, context);
  await app.register(batchRoutes, context);
  await app.register(eventRoutes, context);
  await app.register(signedRoutes, context);
  await app.register(docsRoutes, context);
  await app.register(websocketRoutes, context);
  await app.ready();
  return app;
}
