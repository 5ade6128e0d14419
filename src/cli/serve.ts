/** `serve` and `work`: the long-running commands. Configuration comes from the environment, roles from the options. */
import { hostname } from 'node:os';
import { InvalidArgumentError, Option, type Command } from 'commander';
import { pino } from 'pino';
import { readConfig, ROLES, type Role } from '../config.ts';
import { CodedError, messageOf } from '../errors.ts';
import { startService } from '../service.ts';
import { EXIT, exitCodeOf, type ExitCode } from './exit-codes.ts';
import { reportError } from './output.ts';

const SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const;

const ENVIRONMENT_HELP = `
Configuration is read from the environment; README.md lists every variable. A usable server without Docker and chain:
  TRUSTED_VALIDATORS=5F…,5G… GIT_PROTOCOLS=https,file SANDBOX=process DATA_DIR=./data term-executor serve

SIGTERM or SIGINT drains: no new work, tasks that run may finish for DRAIN_TIMEOUT_SECS, the rest is handed back.
A second signal hands everything back at once.`;

interface ServiceOptions {
  readonly json?: boolean;
  readonly untilStdinEnds?: boolean;
}

/** Options that serve those who start a service from a program. */
function withSupervision(command: Command, ready: string): Command {
  return command
    .option('--json', `print ${ready} on stdout once everything runs, and a failure as {"error","message"}`)
    .addOption(new Option('--until-stdin-ends', 'stop when stdin is closed, as it is when the parent process dies'))
    .addHelpText('after', ENVIRONMENT_HELP);
}

export function registerServe(program: Command): void {
  const command = program
    .command('serve')
    .description('run the HTTP server, the planner and an executor (or some of them) until a signal ends it')
    .option('--roles <list>', `comma-separated from ${ROLES.join(', ')}`, parseRoles, [...ROLES]);
  withSupervision(command, '{"ready":true,"url":…}').action(async (options: ServiceOptions & { roles: Role[] }) => {
    process.exitCode = await runService(options.roles, options);
  });
}

export function registerWork(program: Command): void {
  const command = program
    .command('work')
    .description('run an executor alone; with the same NATS_URL, more of them add capacity');
  withSupervision(command, '{"ready":true,"url":null}').action(async (options: ServiceOptions) => {
    process.exitCode = await runService(['executor'], options);
  });
}

function parseRoles(text: string): Role[] {
  const names = text.split(',').map((name) => name.trim());
  const known = ROLES.filter((role) => names.includes(role));
  if (known.length === 0 || names.some((name) => !ROLES.some((role) => role === name))) {
    throw new InvalidArgumentError(`Roles are ${ROLES.join(', ')}.`);
  }
  return known;
}

async function runService(roles: readonly Role[], options: ServiceOptions): Promise<ExitCode> {
  const force = new AbortController();
  const asked = Promise.withResolvers<'signal'>();
  const interrupted = new AbortController();
  let signals = 0;
  const onSignal = (): void => {
    signals += 1;
    if (signals === 1) {
      asked.resolve('signal');
      interrupted.abort(new CodedError('interrupted', 'ended by a signal before it was ready'));
    } else force.abort();
  };
  for (const name of SIGNALS) process.on(name, onSignal);
  if (options.untilStdinEnds) process.stdin.resume().once('end', onSignal).once('error', onSignal);
  try {
    const config = readConfig(process.env, { hostname: hostname(), pid: process.pid });
    const logger = pino(
      { level: config.logLevel, base: { pid: process.pid } },
      pino.destination({ fd: 2, sync: true }),
    );
    const service = await startService(config, roles, logger, interrupted.signal);
    const ready = { ready: true, url: service.url, roles, sandbox: config.sandbox };
    process.stdout.write(`${options.json ? JSON.stringify(ready) : describe(ready)}\n`);
    let code: ExitCode = EXIT.ok;
    try {
      await Promise.race([asked.promise, service.failed]);
      logger.info({}, 'shutting down');
    } catch (error) {
      logger.fatal({ error: messageOf(error) }, 'the service cannot go on');
      code = exitCodeOf(error);
      force.abort();
    }
    await service.close(force.signal);
    return code;
  } catch (error) {
    reportError(error, options.json ?? false);
    return exitCodeOf(error);
  } finally {
    process.stdin.pause();
    for (const name of SIGNALS) process.off(name, onSignal);
  }
}

function describe({ url, roles, sandbox }: { url: string | null; roles: readonly Role[]; sandbox: string }): string {
  const isolation = sandbox === 'process' ? 'sandbox process (NO isolation)' : `sandbox ${sandbox}`;
  return `${url === null ? 'running' : `listening on ${url}`}; ${roles.join(', ')}; ${isolation}; Ctrl-C drains`;
}
