/**
 * A NATS server of our own, so that one command is a whole working system. It lives exactly as long as we do, keeps
 * its store in DATA_DIR, listens on loopback only, and nobody without the token of this run can use it.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, open, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { NatsAccess } from '../config.ts';
import { CodedError, messageOf } from '../errors.ts';
import { connectNats } from './connect.ts';
import { findNatsServer } from './find-server.ts';
import { seenDead, spawnServer, type ServerProcess } from './server-process.ts';

const READY_TIMEOUT_MS = 15_000;
/** A crashed owner's server is ended by its watcher within about five seconds. */
const LEFTOVER_TIMEOUT_MS = 8_000;
const POLL_MS = 25;
const LOG_BYTES_LIMIT = 8 * 1024 ** 2;
const LOG_FILES_LIMIT = 3;
const LOG_TAIL_BYTES = 2048;

export interface EmbeddedNatsOptions {
  /** The caller holds lockDataDir() on it: a server that still runs on this store is taken for a crash's leftover. */
  readonly dataDir: string;
  /** NATS_SERVER, or null. */
  readonly natsServer: string | null;
  /** Loopback port; default: any free one. */
  readonly port?: number;
  /** Default: the server's, 1 MiB. */
  readonly maxPayloadBytes?: number;
  /** Ends the start; a server that runs is ended by close(). */
  readonly signal?: AbortSignal;
  /** Called once if the server dies without close(). */
  onDeath(error: CodedError<'nats_died'>): void;
}

export interface EmbeddedNats extends AsyncDisposable {
  readonly url: string;
  readonly token: string;
  readonly access: NatsAccess;
  readonly version: string;
  /** Ends the server; resolves when it is seen dead. Safe to call again. */
  close(): Promise<void>;
}

/**
 * Starts nats-server on the store in `dataDir`/nats and waits until JetStream is ready.
 * @throws CodedError nats_not_found, nats_too_old, nats_start_failed, nats_port_taken, data_dir_not_writable
 */
export async function startEmbeddedNats(options: EmbeddedNatsOptions): Promise<EmbeddedNats> {
  const binary = await findNatsServer(options.natsServer);
  const dir = join(resolve(options.dataDir), 'nats');
  const token = randomBytes(32).toString('hex');
  const configFile = join(dir, 'nats.conf');
  await endLeftover(dir, configFile);
  try {
    await prepare(dir, configFile, token, options);
  } catch (error) {
    throw new CodedError(
      'data_dir_not_writable',
      `DATA_DIR: cannot write to ${dir}: ${messageOf(error)}; make it writable or set DATA_DIR to another directory`,
      { cause: error },
    );
  }

  const server = await spawnServer(binary.path, configFile);
  let url: string;
  try {
    url = await ready(server, dir, token, options.signal);
  } catch (error) {
    await server.stop();
    options.signal?.throwIfAborted();
    throw startFailed(error, binary.path, dir, await logTail(dir, server));
  }

  let closing = false;
  void server.exited.then(async (how) => {
    if (closing) return;
    const log = await logTail(dir, server);
    options.onDeath(
      new CodedError('nats_died', `the embedded nats-server died (${how}); restart; log, ${dir}/nats.log: ${log}`),
    );
  });
  const close = async (): Promise<void> => {
    closing = true;
    await server.stop();
  };
  return { url, token, access: { url, token }, version: binary.version, close, [Symbol.asyncDispose]: close };
}

async function prepare(dir: string, configFile: string, token: string, options: EmbeddedNatsOptions): Promise<void> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  for (const name of await readdir(dir)) {
    if (name.endsWith('.ports') || name === 'nats.pid') await rm(join(dir, name));
  }
  const quote = (text: string): string => JSON.stringify(text);
  const config = `
listen: "127.0.0.1:${options.port ?? -1}"
authorization { token: ${quote(token)} }
jetstream {
  store_dir: ${quote(join(dir, 'jetstream'))}
  # An append that was acknowledged must survive a power cut; the default is to sync every two minutes.
  sync_interval: always
}
${options.maxPayloadBytes === undefined ? '' : `max_payload: ${options.maxPayloadBytes}`}
pid_file: ${quote(join(dir, 'nats.pid'))}
ports_file_dir: ${quote(dir)}
log_file: ${quote(join(dir, 'nats.log'))}
logfile_size_limit: ${LOG_BYTES_LIMIT}
logfile_max_num: ${LOG_FILES_LIMIT}
`;
  // A new file each time: the mode of an existing one would stay what it was.
  await rm(`${configFile}.new`, { force: true });
  await writeFile(`${configFile}.new`, config, { mode: 0o600, flag: 'wx' });
  await rename(`${configFile}.new`, configFile);
}

/** Waits for, and if need be ends, the server of an owner that was killed. Two servers must never share a store. */
async function endLeftover(dir: string, configFile: string): Promise<void> {
  const pid = Number(await readFile(join(dir, 'nats.pid'), 'utf8').catch(() => ''));
  if (!Number.isSafeInteger(pid) || pid <= 1 || !(await isOurServer(pid, configFile))) return;
  if (await seenDead(pid, LEFTOVER_TIMEOUT_MS)) return;
  if (await isOurServer(pid, configFile)) process.kill(pid, 'SIGKILL');
  if (await seenDead(pid, LEFTOVER_TIMEOUT_MS)) return;
  throw new CodedError(
    'data_dir_in_use',
    `nats-server, process ${pid}, still runs on ${dir} and does not die; end it, or set DATA_DIR to another directory`,
  );
}

async function isOurServer(pid: number, configFile: string): Promise<boolean> {
  const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
  return commandLine.split('\0').includes(configFile);
}

async function ready(server: ServerProcess, dir: string, token: string, signal?: AbortSignal): Promise<string> {
  const deadline = Date.now() + READY_TIMEOUT_MS;
  const late = new AbortController();
  const died = server.exited.then((how) => {
    late.abort();
    throw new Error(`it ended with ${how}`);
  });
  const connected = (async (): Promise<string> => {
    const url = await portsFile(server, dir, deadline, AbortSignal.any([late.signal, ...(signal ? [signal] : [])]));
    const probe = { name: 'embedded-probe', timeoutMs: Math.max(1, deadline - Date.now()) };
    const nc = await connectNats({ url, token }, { ...probe, ...(signal ? { signal } : {}) });
    await nc.close();
    return url;
  })();
  return Promise.race([connected, died]);
}

/** The server writes where it listens once it does. */
async function portsFile(server: ServerProcess, dir: string, deadline: number, signal: AbortSignal): Promise<string> {
  for (;;) {
    signal.throwIfAborted();
    const name = (await readdir(dir)).find((file) => file.endsWith(`_${server.pid}.ports`));
    const text = name === undefined ? '' : await readFile(join(dir, name), 'utf8');
    // Until the closing brace is there the file is being written.
    const url = /"nats:\/\/[^"]+"/.exec(text)?.[0];
    if (url !== undefined && text.includes('}')) return url.slice(1, -1);
    if (Date.now() > deadline) throw new Error(`it does not listen after ${READY_TIMEOUT_MS} ms`);
    await sleep(POLL_MS);
  }
}

function startFailed(error: unknown, binary: string, dir: string, log: string): CodedError {
  if (log.includes('address already in use')) {
    const port = /listening on port: (\S+),/.exec(log)?.[1] ?? 'its port';
    return new CodedError('nats_port_taken', `nats-server cannot listen on ${port}: another program does; end that`);
  }
  return new CodedError(
    'nats_start_failed',
    `${binary} does not start: ${messageOf(error)}; correct what its log, ${join(dir, 'nats.log')}, names: ${log}`,
    { cause: error },
  );
}

async function logTail(dir: string, server: ServerProcess): Promise<string> {
  const path = join(dir, 'nats.log');
  try {
    const file = await open(path);
    try {
      const { size } = await file.stat();
      const start = Math.max(0, size - LOG_TAIL_BYTES);
      const { buffer, bytesRead } = await file.read(Buffer.alloc(LOG_TAIL_BYTES), 0, LOG_TAIL_BYTES, start);
      return (buffer.toString('utf8', 0, bytesRead) + server.stderrTail()).trim();
    } finally {
      await file.close();
    }
  } catch {
    return server.stderrTail().trim() || 'empty';
  }
}
