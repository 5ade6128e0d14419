/** Wiring of the http role: read models, whitelist, nonces and the server on top of them. */
import { join } from 'node:path';
import { v7 } from 'uuid';
import { batchDecider, type CancelResult } from './commands/batch.ts';
import type { CommandContext } from './commands/handle.ts';
import { requiredVotes, submissionDecider, type CastVote } from './commands/submission.ts';
import { CodedError } from './errors.ts';
import { inspectArchive } from './executors/archive.ts';
import { buildApp } from './http/app.ts';
import type { HttpPorts, VerifiedVote } from './http/ports.ts';
import { watchExecutors, type ExecutorsView } from './nats/liveness.ts';
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
export async function startHttp(core: Core, starting: AbortSignal): Promise<RunningHttp> {
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
    await projections.whenCaughtUp(AbortSignal.any([starting, AbortSignal.timeout(CATCH_UP_TIMEOUT_MS)]));
    const looking = new AbortController();
    const executors = watchExecutors(core.nc, looking.signal);
    owned.defer(() => {
      looking.abort();
      return executors.ended;
    });
    const app = await buildApp(httpPorts(core, projections, whitelist, executors), { logger });
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

function httpPorts(
  core: Core,
  projections: Projections,
  whitelist: WhitelistView,
  executors: ExecutorsView,
): HttpPorts {
  const { config, nc, log, handler, archives, outputs, limits, scratchDir } = core;
  const nonces = createNonces(nc);
  const link = watchLink(nc);
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
      const batch = await handler.read(batchDecider, subjects.batch(batchId));
      const votes = await handler.read(submissionDecider, subjects.submission(batch.state.archiveHash));
      const command = {
        type: 'CancelBatch',
        batchId,
        by: hotkey,
        voted: votes.state.voters.has(hotkey),
        reason,
      } as const;
      const { result, seq } = await handler.handle(batchDecider, subjects.batch(batchId), command, by(hotkey));
      return { result: cancelResult(result.kind), seq };
    },
    executorsAlive: executors.count,
    chainHead: async (batchId) => (await log.load(subjects.batch(batchId))).head,
    roomForNewRound: () =>
      otherOpenRounds(projections, null, Date.now()) < config.maxPendingConsensus ||
      // A single vote that is a quorum leaves no round open.
      requiredVotes(whitelist.validators().length, config.consensusThreshold) === 1,
    archiveKnown: (digest) => archives.has(digest),
    inspectArchive: (file, signal) => inspectArchive(file, limits, { scratchDir, signal, gitProtocols, gitHosts }),
    storeArchive: async (file, digest) => {
      const stored = await archives.putFile(file);
      if (stored.digest !== digest) throw new CodedError('upload_failed', 'the upload changed while it was stored');
    },
    readOutput: (digest) => outputs.get(digest),
    readEvents: async function* ({ filters, after, live, signal }) {
      // Of the filters, not of the log: where nothing matches, the follower would wait for ever.
      const newest = live ? [Infinity] : await Promise.all(filters.map((filter) => log.lastSeq(filter)));
      const last = Math.max(0, ...newest);
      if (after >= last) return;
      for await (const { entry, pending } of log.follow({ filters, after, signal })) {
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
  return {
    type: 'CastVote',
    ...vote,
    signatureVersion: 1,
    validators: whitelist.validators(),
    threshold: config.consensusThreshold,
    roundTtlMs: config.consensusTtlSecs * 1000,
    batchTtlMs: config.sessionTtlSecs * 1000,
    newBatchId: v7(),
    openRounds: otherOpenRounds(projections, vote.archiveHash, nowMs),
    maxOpenRounds: config.maxPendingConsensus,
    nowMs,
  };
}

function otherOpenRounds(projections: Projections, archiveHash: string | null, nowMs: number): number {
  return projections.model
    .openRounds()
    .filter((round) => round.archiveHash !== archiveHash && round.expiresAtMs > nowMs).length;
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
