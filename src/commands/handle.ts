/**
 * The one way in for every change: load the aggregate, decide, append guarded, and on a conflict load and decide
 * again, a few times. A process keeps the folded state of the aggregates it touches, so that a batch of ten thousand
 * tasks is not read ten thousand times; the guard of the append keeps that honest.
 */
import { LRUCache } from 'lru-cache';
import { delay } from '../delay.ts';
import { CodedError } from '../errors.ts';
import type { Event, Recorded } from '../events.ts';
import { LogConflictError, LogUnavailableError, type EventLog, type Head } from '../log.ts';
import type { Decider, Decision } from './decider.ts';

/** Tries of one command. The waits grow slowly: who waits long loses again to writers that come straight back. */
const MAX_TRIES = 20;
const RETRY_MS = { first: 2, factor: 1.5, max: 200 } as const;
const CACHED_AGGREGATES = 2_000;

/** Who gives the command and when; `commandId` makes a retried command find its own events. */
export interface CommandContext {
  readonly actor: string;
  readonly commandId: string;
  readonly nowMs: number;
}

/** Result, the events that were appended (none if nothing changed) and the sequence a reader must have reached. */
export interface Handled<Result> {
  readonly result: Result;
  readonly recorded: readonly Recorded[];
  readonly seq: number;
}

/** Too many writers at once on one aggregate. Nothing was written. */
export class ContentionError extends CodedError<'contention'> {
  constructor(subject: string) {
    super('contention', `${subject} is being changed by too many at once; try again`);
  }
}

export interface HandlerOptions {
  readonly log: EventLog;
  readonly subjectOf: (event: Event) => string;
  readonly emptyHead: (subject: string) => Head;
  /** A number from 0 to 1 that spreads retries of several writers. */
  readonly random: () => number;
}

interface Folded {
  readonly state: unknown;
  readonly head: Head;
}

export class CommandHandler {
  readonly #options: HandlerOptions;
  readonly #cache = new LRUCache<string, Folded>({ max: CACHED_AGGREGATES });
  /** Commands of this process on one aggregate wait for each other instead of conflicting. */
  readonly #queues = new Map<string, Promise<unknown>>();

  constructor(options: HandlerOptions) {
    this.#options = options;
  }

  /**
   * Carries out one command on the aggregate that lives on `subject`.
   * @throws LogUnavailableError, ContentionError, InvalidEventError
   */
  async handle<State, Command, Result>(
    decider: Decider<State, Command, Result>,
    subject: string,
    command: Command,
    context: CommandContext,
  ): Promise<Handled<Result>> {
    return this.#inTurn(subject, () => this.#tryUntilDone(decider, subject, command, context));
  }

  /** The folded state of an aggregate as it is now. */
  async read<State>(
    decider: Pick<Decider<State, never, unknown>, 'initialState' | 'evolve'>,
    subject: string,
  ): Promise<{ state: State; head: Head }> {
    // In the queue: between two tries of a command it would move the cache past what that command looks for.
    return this.#inTurn(subject, async () => (await this.#load(decider, subject, null)).now);
  }

  async #inTurn<T>(subject: string, action: () => Promise<T>): Promise<T> {
    const before = this.#queues.get(subject) ?? Promise.resolve();
    const mine = before.then(action, action);
    this.#queues.set(subject, mine);
    try {
      return await mine;
    } finally {
      if (this.#queues.get(subject) === mine) this.#queues.delete(subject);
    }
  }

  async #tryUntilDone<State, Command, Result>(
    decider: Decider<State, Command, Result>,
    subject: string,
    command: Command,
    context: CommandContext,
  ): Promise<Handled<Result>> {
    let unclear: LogUnavailableError | null = null;
    for (let attempt = 0; attempt < MAX_TRIES; attempt += 1) {
      const { now, own } = await this.#load(decider, subject, context.commandId);
      if (own) {
        // An earlier try was stored although its answer was lost: the same state gives the same result.
        return { result: decider.decide(own.before, command).result, recorded: own.events, seq: now.head.seq };
      }
      const decision = decider.decide(now.state, command);
      if (decision.events.length === 0) return { result: decision.result, recorded: [], seq: now.head.seq };
      try {
        return await this.#append(decider, subject, now, decision, context, attempt > 0);
      } catch (error) {
        if (error instanceof LogUnavailableError) unclear = error;
        else if (!(error instanceof LogConflictError)) throw error;
      }
      const wait = Math.min(RETRY_MS.max, RETRY_MS.first * RETRY_MS.factor ** attempt);
      await delay(wait * (0.5 + this.#options.random()));
    }
    throw unclear ?? new ContentionError(subject);
  }

  async #append<State, Result>(
    decider: Pick<Decider<State, never, Result>, 'evolve'>,
    subject: string,
    now: { state: State; head: Head },
    decision: Decision<Result>,
    context: CommandContext,
    retrying: boolean,
  ): Promise<Handled<Result>> {
    const { log, subjectOf } = this.#options;
    const heads = new Map([[subject, now.head]]);
    for (const other of new Set(decision.events.map(subjectOf))) {
      if (!heads.has(other)) heads.set(other, await this.#headOf(other, retrying));
    }
    const meta = { actor: context.actor, cause: context.commandId, nowMs: context.nowMs };
    const appended = await log.append(decision.events, heads, meta);
    const own = appended.recorded.filter((event) => event.subject === subject);
    const head = appended.heads.get(subject) ?? now.head;
    this.#cache.set(subject, { state: own.reduce((state, event) => decider.evolve(state, event), now.state), head });
    const seq = appended.recorded.at(-1)?.seq ?? head.seq;
    return { result: decision.result, recorded: appended.recorded, seq };
  }

  /** Aggregates that a decision begins are new nearly always: only a conflict makes us look. */
  async #headOf(subject: string, look: boolean): Promise<Head> {
    return look ? (await this.#options.log.load(subject)).head : this.#options.emptyHead(subject);
  }

  async #load<State>(
    decider: Pick<Decider<State, never, unknown>, 'initialState' | 'evolve'>,
    subject: string,
    commandId: string | null,
  ): Promise<{
    now: { state: State; head: Head };
    own: { before: State; events: readonly Recorded[] } | null;
  }> {
    // A subject is only ever folded by one decider, so the cached state is of this type.
    const cached = this.#cache.get(subject) as { state: State; head: Head } | undefined;
    const loaded = await this.#options.log.load(subject, cached?.head);
    let state = cached?.state ?? decider.initialState;
    let before: State | null = null;
    const events: Recorded[] = [];
    for (const entry of loaded.entries) {
      if (entry.type === null) continue;
      if (commandId !== null && entry.cause === commandId) {
        if (events.length === 0) before = state;
        events.push(entry);
      }
      state = decider.evolve(state, entry);
    }
    this.#cache.set(subject, { state, head: loaded.head });
    return {
      now: { state, head: loaded.head },
      own: events.length > 0 ? { before: before ?? decider.initialState, events } : null,
    };
  }
}
