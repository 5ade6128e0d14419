/** A real event log for a test: its own nats-server, the stream, and deterministic ids. */
import type { TestContext } from 'node:test';
import { v7 } from 'uuid';
import type { NatsConnection } from '@nats-io/transport-node';
import { CommandHandler, type CommandContext } from '../../src/commands/handle.ts';
import { emptyHead, openJetStreamLog } from '../../src/jetstream-log.ts';
import type { EventLog } from '../../src/log.ts';
import { ensureStreams } from '../../src/nats/setup.ts';
import { subjectOf } from '../../src/streams.ts';
import { startNats, type TestNats } from './nats.ts';

export interface TestLog {
  readonly nats: TestNats;
  readonly nc: NatsConnection;
  readonly log: EventLog;
  readonly handler: CommandHandler;
  /** A second, independent handler on its own connection. */
  another(): Promise<{ log: EventLog; handler: CommandHandler }>;
}

export async function startLog(t: TestContext): Promise<TestLog> {
  const nats = await startNats(t);
  const nc = await nats.connect();
  await ensureStreams(nc, { replicas: 1, nonceTtlSecs: 300 });
  const open = async (connection: NatsConnection): Promise<{ log: EventLog; handler: CommandHandler }> => {
    const log = await openJetStreamLog(connection, { newId: () => v7() });
    return { log, handler: new CommandHandler({ log, subjectOf, emptyHead, random: Math.random }) };
  };
  return { nats, nc, ...(await open(nc)), another: async () => open(await nats.connect()) };
}

/** A fresh command context; time and id can be fixed. */
export function context(overrides: Partial<CommandContext> = {}): CommandContext {
  return { actor: 'test', commandId: v7(), nowMs: Date.now(), ...overrides };
}
