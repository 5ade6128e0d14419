/** The WebSocket route: admits, keeps alive, notices dead peers, and closes everything with the app. */
import type websocket from '@fastify/websocket';
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import Type from 'typebox';
import { SharedSlots } from './bounds.ts';
import type { App, Context } from './context.ts';
import { HttpError, errorResponses } from './errors.ts';
import { FeedSession } from './feed-session.ts';

type Socket = Parameters<websocket.WebsocketHandler>[0];

/** Clients have nothing to say here but pongs. */
const MAX_INCOMING_BYTES = 4096;
/** RFC 6455, section 7.4.1, and the registry it opens. */
const CLOSE_GOING_AWAY = 1001;
const CLOSE_TRY_AGAIN = 1013;
const CLOSE_GRACE_MS = 1_000;

/** Options of the WebSocket plugin, which must be registered on the app itself before any route. */
export function websocketOptions(app: App): websocket.WebsocketPluginOptions {
  return {
    options: { maxPayload: MAX_INCOMING_BYTES },
    // A peer that breaks the protocol or its connection: nothing to answer, nothing to log.
    errorHandler: (_error, socket) => socket.terminate(),
    preClose: (done) => {
      const { clients } = app.websocketServer;
      for (const client of clients) client.close(CLOSE_GOING_AWAY, 'the server is shutting down');
      const timer = setTimeout(() => {
        for (const client of clients) client.terminate();
      }, CLOSE_GRACE_MS);
      app.websocketServer.close(() => clearTimeout(timer));
      done();
    },
  };
}

export const websocketRoutes: FastifyPluginAsyncTypebox<Context> = async (app, { ports, metrics, limits }) => {
  const alive = new WeakSet<Socket>();
  const slots = new SharedSlots(limits.webSockets, limits.webSocketsPerAddress);
  const pinger = setInterval(() => {
    for (const client of app.websocketServer.clients) {
      if (alive.delete(client)) client.ping();
      else client.terminate();
    }
  }, limits.pingMs);
  pinger.unref();
  app.addHook('onClose', async () => clearInterval(pinger));

  app.route({
    method: 'GET',
    url: '/ws',
    exposeHeadRoute: false,
    schema: {
      summary: "WebSocket: a batch's state, then its progress; after=SEQ resumes after a lost connection",
      tags: ['events'],
      querystring: Type.Object({
        batch_id: Type.String({ minLength: 1, maxLength: 64 }),
        after: Type.Optional(Type.Integer({ minimum: 0, description: 'seq of the last message seen' })),
      }),
      response: { ...errorResponses },
    },
    handler: (_request, reply) => {
      reply.header('upgrade', 'websocket');
      throw new HttpError(426, 'upgrade_required', 'connect to this path with a WebSocket client');
    },
    wsHandler: (socket, request) => {
      const slot = slots.tryTake(request.ip);
      if (!slot) {
        socket.close(CLOSE_TRY_AGAIN, 'too many connections; try again');
        return;
      }
      const { batch_id: batchId, after = 0 } = request.query;
      const session = new FeedSession(socket, ports.readModel, batchId, limits.webSocketBufferBytes);
      metrics.webSockets.inc();
      alive.add(socket);
      socket.on('pong', () => alive.add(socket));
      socket.once('close', () => {
        session[Symbol.dispose]();
        slot[Symbol.dispose]();
        metrics.webSockets.dec();
      });
      session.start(after);
    },
  });
};
