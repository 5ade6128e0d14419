/**
 * A small server that speaks the contract over real sockets, as far as a client sees it. A test scripts what it does;
 * it records what it was sent.
 */
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { type WebSocket, WebSocketServer } from 'ws';

export interface Submitted {
  readonly hotkey: string;
  readonly nonce: string;
  readonly signature: string;
  readonly query: string;
  readonly contentType: string;
  /** SHA-256 of the uploaded file, and what it was called. */
  readonly sha256: string;
  readonly fileName: string;
}

export interface ContractServer {
  readonly url: string;
  readonly submitted: readonly Submitted[];
  /** Query strings of the connections to /ws and /events, in order. */
  readonly feeds: readonly string[];
  readonly eventQueries: readonly string[];
}

export interface Script {
  /** Answers POST /submit number `index` (from 0). */
  readonly submit?: (response: ServerResponse, submitted: Submitted, index: number) => void;
  /** Answers GET /events number `index`. */
  readonly events?: (response: ServerResponse, index: number) => void;
  /** Serves WebSocket connection number `index`. */
  readonly feed?: (socket: WebSocket, index: number) => void;
  /** Other GETs by path (and query); what is not there is a 404. */
  readonly json?: (path: string) => unknown;
}

export async function startContractServer(
  t: { after: (cleanUp: () => Promise<void>) => void },
  script: Script,
): Promise<ContractServer> {
  const submitted: Submitted[] = [];
  const feeds: string[] = [];
  const eventQueries: string[] = [];
  const sockets = new Set<Socket>();

  const server = createServer((request, response) => {
    const url = new URL(request.url ?? '/', 'http://server');
    if (request.method === 'POST' && url.pathname === '/submit') {
      void readUpload(request).then((upload) => {
        const one = { ...upload, query: url.search };
        submitted.push(one);
        script.submit?.(response, one, submitted.length - 1);
      });
      return;
    }
    if (url.pathname === '/events') {
      eventQueries.push(url.search);
      script.events?.(response, eventQueries.length - 1);
      return;
    }
    const body = script.json?.(url.pathname);
    if (body === undefined) sendJson(response, 404, { error: 'batch_not_found', message: 'no such batch' });
    else sendJson(response, 200, body);
  });
  const wss = new WebSocketServer({ server, path: '/ws' });
  wss.on('connection', (socket, request) => {
    feeds.push(new URL(request.url ?? '/', 'http://server').search);
    script.feed?.(socket, feeds.length - 1);
  });
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(async () => {
    wss.close();
    const closed = new Promise((resolve) => server.close(resolve));
    for (const socket of sockets) socket.destroy();
    await closed;
  });
  const { port } = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}`, submitted, feeds, eventQueries };
}

export function sendJson(
  response: ServerResponse,
  status: number,
  body: unknown,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));
}

async function readUpload(request: IncomingMessage): Promise<Omit<Submitted, 'query'>> {
  const chunks: Buffer[] = [];
  for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  const header = (name: string): string => String(request.headers[name] ?? '');
  const boundary = /boundary=(\S+)$/.exec(header('content-type'))?.[1] ?? '';
  const start = body.indexOf('\r\n\r\n') + 4;
  const file = body.subarray(start, body.indexOf(`\r\n--${boundary}--`));
  const part = body.subarray(0, start).toString('latin1');
  return {
    hotkey: header('x-hotkey'),
    nonce: header('x-nonce'),
    signature: header('x-signature'),
    contentType: header('content-type'),
    sha256: createHash('sha256').update(file).digest('hex'),
    fileName: /name="archive"; filename="([^"]*)"/.exec(part)?.[1] ?? '',
  };
}
