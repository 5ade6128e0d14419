/** Wiring of the http role: read models, whitelist, nonces and the server on top of them. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { v7 } from 'uuid';
import { batchDecider, type CancelResult } from './commands/batch.ts';
import type { CommandContext } from './commands/handle.ts';
import { submissionDecider, type CastVote } from './commands/submission.ts';
import { CodedError } from './errors.ts';
import { inspectArchive } from './executors/archive.ts';
import { buildApp } from './http/app.ts';
import type { HttpPorts, VerifiedVote } from './http/ports.ts';
import { watchLink } from './nats/link.ts';
import { createNonces } from './nats/nonces.ts';
import { openProjections, type Projections } from './projections/run.ts';
import { subjects } from './streams.ts';
import type { Core } from './service.ts';
import { readVersion } from './version.ts';
import { followWhitelist, type WhitelistView } from './whitelist.ts';

/** A large log takes a while to be projected after the database was deleted; until then answers would be wrong. */
const CATCH_UP_TIMEOUT_MS = 600_000;

export interface RunningHttp extends AsyncDisposable {
  readonly url: string;
}

/** Starts listening once the read models have caught up with the log. @throws CodedError port_taken and others */
export async function startHttp(core: Core): Promise<RunningHttp> {
  const { config, logger, log } = core;
  const stop = new AbortController();
  const owned = new AsyncDisposableStack();
  try {
    const whitelist = followWhitelist(log, config.netuid, stop.signal);
    const following = whitelist.run();
    owned.defer(async () => {
      stop.abort();
      await following;
    });
    const projections = openProjections({
      file: join(config.dataDir, 'read-models.db'),
      log,
      signal: stop.signal,
      onError: (error) => logger.warn({ err: error }, 'the read models had to recover'),
    });
    owned.defer(() => projections.close());
    await projections.whenCaughtUp(AbortSignal.timeout(CATCH_UP_TIMEOUT_MS));
    const app = await buildApp(await httpPorts(core, projections, whitelist), { logger });
    owned.defer(() => app.close());
    const url = await app.listen({ host: config.host, port: config.port }).catch((error: unknown) => {
      throw listenFailed(config.host, config.port, error);
    });
    return { url, [Symbol.asyncDispose]: () => owned.disposeAsync() };
  } catch (error) {
    await owned.disposeAsync();
    throw error;
  }
}

async function httpPorts(core: Core, projections: Projections, whitelist: WhitelistView): Promise<HttpPorts> {
  const { config, nc, log, handler, archives, outputs, limits } = core;
  const nonces = createNonces(nc);
  const link = watchLink(nc);
  const scratchDir = join(config.dataDir, 'scratch');
  await mkdir(scratchDir, { recursive: true, mode: 0o700 });
  const { gitProtocols, gitHosts } = config;
  return {
    config,
    readModel: projections.model,
    version: readVersion(),
    sandboxName: config.sandbox,
    startedAtMs: core.startedAtMs,
    now: Date.now,
    validators: whitelist.validators,
    useNonce: async (hotkey, nonce) => !projections.model.hasVotedWith(hotkey, nonce) && nonces.use(hotkey, nonce),
    castVote: async (vote) => {
      const command = castVote(core, projections, whitelist, vote);
      return handler.handle(submissionDecider, subjects.submission(vote.archiveHash), command, by(vote.hotkey));
    },
    cancelBatch: async (batchId, hotkey, reason) => {
      const command = { type: 'CancelBatch', batchId, by: hotkey, reason } as const;
      const { result, seq } = await handler.handle(batchDecider, subjects.batch(batchId), command, by(hotkey));
      return { result: cancelResult(result.kind), seq };
    },
    chainHead: async (batchId) => (await log.load(subjects.batch(batchId))).head,
    archiveKnown: (digest) => archives.has(digest),
    inspectArchive: async (file, signal) => {
      const { tasks } = await inspectArchive(file, limits, { scratchDir, signal, gitProtocols, gitHosts });
      return { taskCount: tasks.length };
    },
    storeArchive: async (file, digest) => {
      const stored = await archives.putFile(file);
      if (stored.digest !== digest) throw new CodedError('upload_failed', 'the upload changed while it was stored');
    },
    readOutput: (digest) => outputs.get(digest),
    readEvents: async function* ({ filter, after, live, signal }) {
      // Of the filter, not of the log: where nothing matches, the follower would wait for ever.
      const last = live ? Infinity : await log.lastSeq(filter);
      if (after >= last) return;
      for await (const { entry, pending } of log.follow({ filters: [filter], after, signal })) {
        yield entry;
        if (!live && (pending === 0 || entry.seq >= last)) return;
      }
    },
    logReachable: () => !link.signal.aborted,
  };
}

function castVote(core: Core, projections: Projections, whitelist: WhitelistView, vote: VerifiedVote): CastVote {
  const { config } = core;
  const nowMs = Date.now();
  const others = projections.model
    .openRounds()
    .filter(({ archiveHash, expiresAtMs }) => archiveHash !== vote.archiveHash && expiresAtMs > nowMs);
  return {
    type: 'CastVote',
    ...vote,
    signatureVersion: 1,
    validators: whitelist.validators(),
    threshold: config.consensusThreshold,
    roundTtlMs: config.consensusTtlSecs * 1000,
    batchTtlMs: config.sessionTtlSecs * 1000,
    newBatchId: v7(),
    openRounds: others.length,
    maxOpenRounds: config.maxPendingConsensus,
    nowMs,
  };
}

function by(hotkey: string): CommandContext {
  return { actor: `validator:${hotkey}`, commandId: v7(), nowMs: Date.now() };
}

function cancelResult(kind: string): CancelResult {
  switch (kind) {
    case 'cancelled':
    case 'already-ended':
    case 'not-a-voter':
    case 'unknown-batch':
      return { kind };
    default:
      throw new Error(`cancelling a batch was answered with ${kind}`);
  }
}

function listenFailed(host: string, port: number, error: unknown): unknown {
  const code = (error as { code?: string }).code;
  if (code === 'EADDRINUSE') {
    return new CodedError('port_taken', `PORT: ${host}:${port} is in use; set PORT to a free one`, { cause: error });
  }
  if (code === 'EACCES' || code === 'EADDRNOTAVAIL') {
    return new CodedError('port_taken', `HOST, PORT: cannot listen on ${host}:${port} (${code})`, { cause: error });
  }
  return error;
}
