/**
 * One log line and one measurement for each request. fastify's own lines are off: they carry URLs, and ours must never
 * show a hotkey, nonce, signature or query value. A refused request leaves its code and its id.
 */
import { randomUUID } from 'node:crypto';
import type { ConnectionError, FastifyError, FastifyReply, FastifyRequest } from 'fastify';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { App, Context } from './context.ts';
import { HttpError, refusalOf } from './errors.ts';
import type { HttpPorts } from './ports.ts';

const UNKNOWN_ROUTE = 'unknown';

/** Ids are ours alone: one that a client chose could carry what must not be logged. */
export function newRequestId(): string {
  return randomUUID();
}

/** Answers with the refusal that belongs to the error. Also for what fastify refuses before routing. */
export function sendRefusal(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
  const { status, code, message, retryAfterSecs } = refusalOf(error, request.id);
  request.refusalCode = code;
  if (status >= 500 && status !== 503) request.log.error({ err: error }, 'request failed');
  if (retryAfterSecs !== null) reply.header('retry-after', String(retryAfterSecs));
  reply.header('x-request-id', request.id);
  reply.code(status).type('application/json; charset=utf-8').send({ error: code, message });
}

/** Answers what is no HTTP at all, on the bare socket. */
export function refuseMalformed(error: ConnectionError, socket: Socket): void {
  if (!socket.writable || error.code === 'ECONNRESET') {
    socket.destroy();
    return;
  }
  const [status, code] =
    error.code === 'HPE_HEADER_OVERFLOW'
      ? ['431 Request Header Fields Too Large', 'headers_too_large']
      : error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
        ? ['408 Request Timeout', 'request_timeout']
        : ['400 Bad Request', 'invalid_request'];
  const body = JSON.stringify({ error: code, message: 'the request could not be read' });
  socket.end(
    `HTTP/1.1 ${status}\r\nContent-Type: application/json; charset=utf-8\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  );
}

/** Answers an Expect other than 100-continue, which node refuses before routing and without a body. */
export function refuseExpectation(_request: IncomingMessage, response: ServerResponse): void {
  const body = JSON.stringify({ error: 'expectation_failed', message: 'Expect: only 100-continue is known' });
  // The body may be on its way all the same, and nobody reads it.
  response.writeHead(417, { 'content-type': 'application/json; charset=utf-8', connection: 'close' }).end(body);
}

/** Installs request ids, log line, measurement, headers of every answer, and the handlers of errors. */
export function observe(app: App, { ports, metrics, closing }: Context): void {
  app.decorateRequest('refusalCode', null);
  app.setErrorHandler<FastifyError>((error, request, reply) => sendRefusal(error, request, reply));

  const routes: { readonly path: RegExp; readonly methods: Set<string> }[] = [];
  app.addHook('onRoute', ({ url, method }) => {
    const pattern = url.replace(/[.*+?^${}()|[\]\\]/g, '\\$&').replace(/:[A-Za-z]+/g, '[^/]+');
    routes.push({ path: new RegExp(`^${pattern}$`), methods: new Set([method].flat()) });
  });
  app.setNotFoundHandler((request, reply) => {
    const path = request.url.split('?', 1)[0] ?? '';
    const allowed = new Set(routes.filter((route) => route.path.test(path)).flatMap((route) => [...route.methods]));
    if (allowed.size === 0) {
      throw new HttpError(404, 'not_found', 'there is nothing at this path; GET /openapi.json lists all routes');
    }
    const list = [...allowed].join(', ');
    reply.header('allow', list);
    throw new HttpError(405, 'method_not_allowed', `this path answers ${list} only`);
  });

  app.addHook('onSend', async (request, reply) => {
    reply.header('x-request-id', request.id);
    reply.header('x-content-type-options', 'nosniff');
    const position = readPosition(ports);
    if (position !== null) reply.header('x-log-sequence', String(position));
    if (closing.aborted) reply.header('connection', 'close');
  });
  app.addHook('onResponse', async (request, reply) => {
    // An answer begun before closing has left its connection open; nobody else would close it then.
    if (closing.aborted) setImmediate(() => app.server.closeIdleConnections());
    const route = request.routeOptions.url ?? UNKNOWN_ROUTE;
    const { method, refusalCode } = request;
    metrics.requestEnded(route, method, reply.statusCode, reply.elapsedTime / 1000);
    const line = { method, route, status: reply.statusCode, ms: Math.round(reply.elapsedTime) };
    if (refusalCode === null) request.log.info(line, 'answered');
    else request.log.info({ ...line, code: refusalCode }, 'refused');
  });
}

/** null when the read models are closed: even then there must be an answer, if only a refusal. */
function readPosition(ports: HttpPorts): number | null {
  try {
    return ports.readModel.position();
  } catch {
    return null;
  }
}
