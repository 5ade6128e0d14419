/**
 * A real nats-server for each test that needs one: its own port, its own store, killed and removed afterwards. Tests
 * share no server, so none can depend on what another left behind.
 */
import { randomBytes, randomInt } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { jetstreamManager } from '@nats-io/jetstream';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { findNatsServer } from '../../src/nats/find-server.ts';
import { spawnServer, type ServerProcess } from '../../src/nats/server-process.ts';
import { ensureStreams } from '../../src/nats/setup.ts';

const READY_TIMEOUT_MS = 20_000;
// Below the ephemeral range, so that no outgoing connection can take the port between a kill and the restart.
const PORTS = { from: 14_000, to: 32_000 };

export interface TestNatsOptions {
  /** More lines for the server's configuration. */
  readonly config?: string;
  /** Replaces the token authorization, e.g. `users = [...]`. `connect()` then does not work; connect by hand. */
  readonly authorization?: string;
  readonly jetstream?: boolean;
  /** The certificate authority, if `config` has a `tls` block. `connect()` then does not work; connect by hand. */
  readonly tlsCa?: string;
}

export interface TestNats {
  readonly url: string;
  readonly token: string;
  readonly port: number;
  readonly storeDir: string;
  /** A connection that reconnects for ever; closed when the test ends. */
  connect(): Promise<NatsConnection>;
  /** Kills the server with SIGKILL and starts it again on the same port and store. */
  restart(): Promise<void>;
  /** Kills the server with SIGKILL and leaves it dead. */
  stop(): Promise<void>;
}

/** Starts a nats-server for one test; resolves when it is ready. Everything is cleaned up by `t.after`. */
export async function startNats(t: TestContext, options: TestNatsOptions = {}): Promise<TestNats> {
  const binary = (await findNatsServer(process.env['NATS_SERVER'] ?? null)).path;
  const dir = await mkdtemp(join(tmpdir(), 'nats-test-'));
  const storeDir = join(dir, 'jetstream');
  const configFile = join(dir, 'nats.conf');
  const token = randomBytes(16).toString('hex');
  const connections: NatsConnection[] = [];
  let server: ServerProcess | null = null;
  t.after(async () => {
    await Promise.all(connections.map((nc) => nc.close()));
    await server?.kill();
    await rm(dir, { recursive: true, force: true, maxRetries: 5 });
  });

  async function start(port: number): Promise<void> {
    server = await spawnServer(binary, configFile);
    const ended = server.exited.then((how) => {
      throw new Error(`nats-server on port ${port} ended: ${how}; ${server?.stderrTail() ?? ''}`);
    });
    await Promise.race([ended, ready(port, options.authorization === undefined ? token : null, options)]);
  }
  const port = await freePort();
  const config = [
    `listen: "127.0.0.1:${port}"`,
    options.jetstream === false ? '' : `jetstream { store_dir: "${storeDir}", sync_interval: always }`,
    options.authorization === undefined ? `authorization { token: "${token}" }` : options.authorization,
    options.config ?? '',
  ];
  await writeFile(configFile, config.join('\n'), { mode: 0o600 });
  await start(port);

  const url = `nats://127.0.0.1:${port}`;
  return {
    url,
    token,
    port,
    storeDir,
    async connect() {
      const nc = await connect({ servers: url, token, maxReconnectAttempts: -1, reconnectTimeWait: 50 });
      connections.push(nc);
      return nc;
    },
    async restart() {
      await server?.kill();
      await start(port);
    },
    async stop() {
      await server?.kill();
    },
  };
}

/** `startNats` with all streams and buckets made, and a first connection. */
export async function freshLogNats(t: TestContext, nonceTtlSecs = 300): Promise<TestNats & { nc: NatsConnection }> {
  const nats = await startNats(t);
  const nc = await nats.connect();
  await ensureStreams(nc, { replicas: 1, nonceTtlSecs });
  return { ...nats, nc };
}

/** Polls until the condition holds; fails after 20 seconds. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = Date.now() + READY_TIMEOUT_MS;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`not so within ${READY_TIMEOUT_MS} ms: ${condition.toString()}`);
    await sleep(20);
  }
}

async function freePort(): Promise<number> {
  for (;;) {
    const port = randomInt(PORTS.from, PORTS.to);
    const free = await new Promise<boolean>((resolve) => {
      const probe = createServer();
      probe.once('error', () => resolve(false));
      probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)));
    });
    if (free) return port;
  }
}

async function ready(port: number, token: string | null, options: TestNatsOptions): Promise<void> {
  const deadline = Date.now() + READY_TIMEOUT_MS;
  const { jetstream = true, tlsCa } = options;
  const access = { ...(token ? { token } : {}), ...(tlsCa ? { tls: { caFile: tlsCa } } : {}) };
  for (;;) {
    try {
      const nc = await connect({ servers: `127.0.0.1:${port}`, ...access, reconnect: false });
      try {
        if (jetstream) await (await jetstreamManager(nc)).getAccountInfo();
        return;
      } finally {
        await nc.close();
      }
    } catch (error) {
      // With another kind of authorization being refused is as good a sign of life as being let in.
      if (token === null && String(error).includes('uthorization')) return;
      if (Date.now() > deadline) throw new Error(`nats-server on port ${port} is not ready`, { cause: error });
      await sleep(20);
    }
  }
}
