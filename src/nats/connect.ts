/**
 * Connects to NATS and finds out at once, with the remedy in the error, what would otherwise fail much later and
 * unclearly: a wrong password, a server that is too old, no JetStream. Nothing here may put a credential in a message.
 */
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { JetStreamApiError, jetstreamManager } from '@nats-io/jetstream';
import {
  connect,
  credsAuthenticator,
  errors,
  nkeyAuthenticator,
  type NatsConnection,
  type NodeConnectionOptions,
  type Status,
} from '@nats-io/transport-node';
import type { NatsAccess } from '../config.ts';
import { CodedError, messageOf, unreachable } from '../errors.ts';
import { isRecentEnough, tooOld } from './find-server.ts';

// A peer that vanished without closing is noticed after PING_INTERVAL_MS x (MAX_PINGS_OUT + 1), about 20 s.
const PING_INTERVAL_MS = 7_000;
const MAX_PINGS_OUT = 2;
const RECONNECT_MIN_MS = 100;
const RECONNECT_MAX_MS = 5_000;
const RETRY_MS = 200;
/** The server's "JetStream system temporarily unavailable": a cluster that has no leader yet. */
const JETSTREAM_UNAVAILABLE = 10008;

/** What a connection goes through, for the log: never contains credentials. */
export type ConnectionStatus =
  'disconnected' | 'reconnecting' | 'reconnected' | 'stale' | 'slow-consumer' | 'error' | 'closed';

export interface ConnectOptions {
  /** Shown in the server's connection list. */
  readonly name: string;
  /** Total time, in milliseconds, to get a working connection; until then refused connections are tried again. */
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
  readonly onStatus?: (type: ConnectionStatus, data: Readonly<Record<string, string | number>>) => void;
}

/**
 * A checked connection that reconnects for ever. The caller closes it.
 * @throws CodedError nats_unreachable, nats_auth_failed, nats_too_old, nats_no_jetstream; what `signal` aborts with
 */
export async function connectNats(access: NatsAccess, options: ConnectOptions): Promise<NatsConnection> {
  const where = redactUrl(access.url);
  const deadline = Date.now() + options.timeoutMs;
  const connection = await connectionOptions(access, options.name);
  for (;;) {
    options.signal?.throwIfAborted();
    try {
      const nc = await connect({ ...connection, timeout: Math.max(1, deadline - Date.now()) });
      try {
        await check(nc, where, deadline);
        options.signal?.throwIfAborted();
      } catch (error) {
        await nc.close();
        throw error;
      }
      if (options.onStatus) void report(nc, options.onStatus);
      return nc;
    } catch (error) {
      if (error instanceof CodedError) throw error;
      options.signal?.throwIfAborted();
      if (isAuthError(error)) throw authFailed(where, 'the server refuses these credentials', error);
      if (Date.now() + RETRY_MS >= deadline) {
        // The client's messages name hosts and system errors only; a URL with credentials never reaches it.
        throw new CodedError(
          'nats_unreachable',
          `cannot connect to NATS at ${where} within ${options.timeoutMs} ms: ${messageOf(error) || 'no answer'}; ` +
            'check NATS_URL, the NATS_TLS_* variables, and that the server runs',
          { cause: error },
        );
      }
      await sleep(RETRY_MS, undefined, options.signal ? { signal: options.signal } : {}).catch(() => undefined);
    }
  }
}

/** The URL list without user, password or token, fit for messages and logs. */
export function redactUrl(urls: string): string {
  return servers(urls)
    .map(({ server }) => server)
    .join(',');
}

interface Server {
  readonly server: string;
  readonly user?: string;
  readonly password?: string;
}

// By hand: URL() takes no list of hosts, and a server must be named even where its URL is odd.
function servers(urls: string): Server[] {
  return urls.split(',').map((part) => {
    const [, scheme = '', userInfo, rest = ''] = /^\s*([a-z]+:\/\/)?(?:(.*)@)?([^@]*?)\/?\s*$/i.exec(part) ?? [];
    if (userInfo === undefined) return { server: scheme + rest };
    const [user = '', ...password] = userInfo.split(':');
    return {
      server: scheme + rest,
      user: decode(user),
      ...(password.length > 0 ? { password: decode(password.join(':')) } : {}),
    };
  });
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

async function connectionOptions(access: NatsAccess, name: string): Promise<NodeConnectionOptions> {
  const list = servers(access.url);
  const inUrl = list.find(({ user }) => user !== undefined);
  const options: NodeConnectionOptions = {
    servers: list.map(({ server }) => server),
    name,
    maxReconnectAttempts: -1,
    // Credentials may be rotated while we run; giving up would need a restart that this makes unnecessary.
    ignoreAuthErrorAbort: true,
    reconnectDelayHandler: backoff(),
    pingInterval: PING_INTERVAL_MS,
    maxPingOut: MAX_PINGS_OUT,
  };
  if (access.token !== undefined) options.token = access.token;
  else if (access.user !== undefined) options.user = access.user;
  else if (inUrl?.password !== undefined) Object.assign(options, { user: inUrl.user, pass: inUrl.password });
  else if (inUrl?.user !== undefined) options.token = inUrl.user;
  if (access.password !== undefined) options.pass = access.password;
  if (access.credsFile !== undefined) {
    options.authenticator = credsAuthenticator(await secretFile('NATS_CREDS', access.credsFile));
  } else if (access.nkeyFile !== undefined) {
    const seed = (await secretFile('NATS_NKEY', access.nkeyFile)).toString('utf8').trim();
    options.authenticator = nkeyAuthenticator(Buffer.from(seed));
  }
  if (access.tlsCa !== undefined || access.tlsCert !== undefined || /(^|,)\s*tls:/i.test(access.url)) {
    options.tls = {
      ...(access.tlsCa !== undefined ? { caFile: access.tlsCa } : {}),
      ...(access.tlsCert !== undefined ? { certFile: access.tlsCert } : {}),
      ...(access.tlsKey !== undefined ? { keyFile: access.tlsKey } : {}),
    };
  }
  return options;
}

async function secretFile(variable: string, path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (error) {
    throw new CodedError('nats_auth_failed', `${variable}: cannot read ${path}; correct the path or its permissions`, {
      cause: error,
    });
  }
}

/**
 * Delays that grow with the length of the outage up to a limit, jittered so that a fleet does not come back as one wave.
 * By time, not by count: the client asks several times for each attempt.
 */
function backoff(): () => number {
  let downSinceMs = 0;
  let lastAskedMs = 0;
  return () => {
    const now = Date.now();
    // The client does not say when it is connected again; that it has not asked for long means that it was.
    if (now - lastAskedMs > 2 * RECONNECT_MAX_MS) downSinceMs = now;
    lastAskedMs = now;
    const delayMs = Math.min(RECONNECT_MAX_MS, Math.max(RECONNECT_MIN_MS, (now - downSinceMs) / 4));
    return delayMs / 2 + (Math.random() * delayMs) / 2;
  };
}

async function check(nc: NatsConnection, where: string, deadline: number): Promise<void> {
  const version = nc.info?.version ?? 'unknown';
  if (!isRecentEnough(version)) throw tooOld(version, where);
  for (;;) {
    try {
      const timeout = Math.max(100, deadline - Date.now());
      await (await jetstreamManager(nc, { checkAPI: false, timeout })).getAccountInfo();
      return;
    } catch (error) {
      const passing = error instanceof JetStreamApiError && error.code === JETSTREAM_UNAVAILABLE;
      if (!passing || Date.now() + RETRY_MS >= deadline) {
        if (nc.isClosed()) throw error;
        throw new CodedError(
          'nats_no_jetstream',
          `NATS at ${where} offers no JetStream to this account: ${messageOf(error)}; enable it (jetstream {} in the server's ` +
            'configuration, and for the account) or unset NATS_URL to use the embedded server',
          { cause: error },
        );
      }
      await sleep(RETRY_MS);
    }
  }
}

function isAuthError(error: unknown): boolean {
  return (
    error instanceof errors.AuthorizationError ||
    error instanceof errors.UserAuthenticationExpiredError ||
    (error instanceof Error && error.cause !== undefined && isAuthError(error.cause))
  );
}

function authFailed(where: string, problem: string, cause: unknown): CodedError<'nats_auth_failed'> {
  return new CodedError(
    'nats_auth_failed',
    `NATS at ${where}: ${problem}; check NATS_TOKEN, NATS_USER and NATS_PASSWORD, NATS_CREDS or NATS_NKEY`,
    { cause },
  );
}

async function report(nc: NatsConnection, onStatus: NonNullable<ConnectOptions['onStatus']>): Promise<void> {
  for await (const status of nc.status()) {
    const described = describe(status);
    if (described !== null) onStatus(...described);
  }
}

function describe(status: Status): [ConnectionStatus, Record<string, string | number>] | null {
  switch (status.type) {
    case 'disconnect':
      return ['disconnected', { server: status.server }];
    case 'reconnect':
      return ['reconnected', { server: status.server }];
    case 'reconnecting':
    case 'forceReconnect':
      return ['reconnecting', {}];
    case 'staleConnection':
      return ['stale', {}];
    case 'slowConsumer':
      return ['slow-consumer', { pending: status.pending }];
    case 'error':
      return ['error', { message: status.error.message }];
    case 'close':
      return ['closed', {}];
    case 'ping':
    case 'update':
    case 'ldm':
      return null;
    default:
      return unreachable(status);
  }
}
