/**
 * Following what happens on the server: a vote round until it is decided, a batch until it is done. Both resume after
 * a lost connection where they were, so that nothing is missed and nothing comes twice.
 */
import type { Static } from 'typebox';
import { Check } from 'typebox/value';
import { delay } from '../delay.ts';
import { CodedError } from '../errors.ts';
import { Answers } from './answers.ts';
import type { Api } from './api.ts';
import { UnreachableError } from './errors.ts';
import { pauseMs, throwIfAborted, TRIES, withRetries } from './retry.ts';

/** A connection that was silent for so long is made anew: the other end may be gone without a word. */
const SILENCE_MS = 60_000;
/** Between two requests for the events of a round that is open. */
const QUIET_PAUSE_MS = 500;
/** Statuses after which nothing more happens to a batch. */
const FINAL_STATUSES = ['completed', 'failed', 'cancelled'];

export type FeedMessage = Static<typeof Answers.feed>;
type Notice = (text: string) => void;

/** What the events of a submission say so far about the round that a validator voted in. */
interface Round {
  /** Sequence of the last event looked at. */
  readonly seq: number;
  /** Number of the round of the validator's last vote; 0: no vote seen. */
  readonly voted: number;
  /** Number of the last round that expired. */
  readonly expired: number;
  /** Set once there is a quorum; an archive has one batch at most. */
  readonly batchId: string | null;
}

function evolve(round: Round, line: unknown, hotkey: string): Round {
  if (!Check(Answers.event, line)) return round;
  const seen = { ...round, seq: Math.max(round.seq, line.seq ?? 0) };
  const number = Number(line.data?.['round'] ?? 0);
  if (line.type === 'VoteCast' && line.data?.['hotkey'] === hotkey) return { ...seen, voted: number };
  if (line.type === 'VoteRoundExpired') return { ...seen, expired: number };
  const batchId = line.type === 'QuorumReached' ? line.data?.['batchId'] : null;
  return typeof batchId === 'string' ? { ...seen, batchId } : seen;
}

/**
 * Waits until the round that holds the hotkey's last vote is decided and returns the batch's id. The vote must have
 * been answered. Reads the round's history first: it may have been decided while that answer was on its way.
 * @throws CodedError vote_round_expired; UnreachableError when the server stays away
 */
export async function waitForQuorum(
  api: Api,
  options: { archiveHash: string; hotkey: string; signal: AbortSignal; onNotice: Notice },
): Promise<string> {
  const { archiveHash, hotkey, signal } = options;
  let round: Round = { seq: 0, voted: 0, expired: 0, batchId: null };
  let follow = false;
  let fruitless = 0;
  for (;;) {
    try {
      for await (const line of api.events(`ev.submission.${archiveHash}`, { after: round.seq, follow, signal })) {
        round = evolve(round, line, hotkey);
        fruitless = 0;
        // History is read to its end before it is judged: an earlier round may have expired before this one began.
        if (follow && isDecided(round)) break;
      }
      if (isDecided(round)) return batchOf(round);
      // Nothing is wrong with a stream that ends in order; the round is not decided yet.
      if (follow) await delay(QUIET_PAUSE_MS, signal);
      follow = true;
    } catch (error) {
      throwIfAborted(signal);
      if (!(error instanceof UnreachableError) || fruitless >= TRIES) throw error;
      options.onNotice(`${error.message}; trying again`);
      fruitless += 1;
      await delay(pauseMs(fruitless), signal);
    }
    throwIfAborted(signal);
  }
}

function isDecided(round: Round): boolean {
  return round.batchId !== null || round.expired >= Math.max(1, round.voted);
}

function batchOf({ batchId }: Round): string {
  if (batchId !== null) return batchId;
  throw new CodedError('vote_round_expired', 'the vote round expired before the quorum; submit again to open another');
}

/**
 * The progress messages of a batch after log sequence `after` (0: from the start), each once, until the batch is done.
 * After a lost connection another `snapshot` may come; it stands for what it replaces.
 * @throws CodedError batch_not_found; UnreachableError when the server stays away
 */
export async function* followBatch(
  api: Api,
  options: { batchId: string; after: number; signal: AbortSignal; onNotice: Notice; silenceMs?: number },
): AsyncGenerator<FeedMessage> {
  const { batchId, signal, onNotice, silenceMs = SILENCE_MS } = options;
  let last = options.after;
  let fruitless = 0;
  for (;;) {
    const query = new URLSearchParams({ batch_id: batchId, ...(last > 0 ? { after: String(last) } : {}) });
    let end: Extract<Received, { kind: 'closed' }> = { kind: 'closed', why: 'the connection ended', silent: false };
    let fresh = false;
    for await (const received of socketMessages(api.socketUrl(`/ws?${query.toString()}`), signal, silenceMs)) {
      if (received.kind === 'closed') {
        end = received;
        break;
      }
      const message: unknown = received.value;
      if (Check(Answers.error, message) && message.error === 'batch_not_found') {
        throw new CodedError('batch_not_found', `${api.url} knows no batch ${batchId}`);
      }
      if (!Check(Answers.feed, message)) continue;
      if (message.event !== 'snapshot') {
        if (message.seq !== undefined && message.seq <= last) continue;
        fresh = true;
      }
      last = Math.max(last, message.seq ?? 0);
      yield message;
      if (message.event === 'batch_complete' || message.event === 'stream_closed') return;
    }
    throwIfAborted(signal);
    const { status } = await withRetries(() => api.batch(batchId, signal), {
      signal,
      onRetry: (error) => onNotice(`${error.message}; trying again`),
    });
    // What was said while nobody listened comes on the next connection; one without news means that there is no more.
    if (!fresh && FINAL_STATUSES.includes(status)) return;
    fruitless = fresh || end.silent ? 0 : fruitless + 1;
    if (fruitless > TRIES) {
      throw new UnreachableError(`${api.url}: lost the progress of batch ${batchId}: ${end.why}`, null);
    }
    if (!end.silent) onNotice(`lost the connection (${end.why}); resuming after sequence ${last}`);
    await delay(pauseMs(Math.max(1, fruitless)), signal);
    throwIfAborted(signal);
  }
}

type Received =
  | { readonly kind: 'message'; readonly value: unknown }
  | { readonly kind: 'closed'; readonly why: string; readonly silent: boolean };

/** The messages of one WebSocket in order, then `closed`. Closes the socket when its reader stops. */
async function* socketMessages(url: string, signal: AbortSignal, silenceMs: number): AsyncGenerator<Received> {
  const queue: Received[] = [];
  let wake = Promise.withResolvers<void>();
  const put = (received: Received): void => {
    queue.push(received);
    wake.resolve();
  };
  const close = (why: string): void => put({ kind: 'closed', why, silent: false });
  const socket = new WebSocket(url);
  let lastHeard = Date.now();
  socket.addEventListener('message', (event) => {
    lastHeard = Date.now();
    const text: unknown = event.data;
    if (typeof text !== 'string') return;
    try {
      put({ kind: 'message', value: JSON.parse(text) });
    } catch {
      close('the server sent what is no JSON');
    }
  });
  socket.addEventListener('error', () => close('the connection failed'));
  socket.addEventListener('close', ({ code }) => close(`closed with code ${code}`));
  const onAbort = (): void => close('stopped');
  signal.addEventListener('abort', onAbort);
  if (signal.aborted) onAbort();
  const watch = setInterval(() => {
    if (Date.now() - lastHeard >= silenceMs) put({ kind: 'closed', why: 'nothing heard', silent: true });
  }, silenceMs / 4);
  try {
    for (;;) {
      await wake.promise;
      wake = Promise.withResolvers<void>();
      for (const received of queue.splice(0)) {
        yield received;
        if (received.kind === 'closed') return;
      }
    }
  } finally {
    clearInterval(watch);
    signal.removeEventListener('abort', onAbort);
    socket.close();
  }
}
