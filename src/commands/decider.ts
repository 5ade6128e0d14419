/**
 * The shape that every decider has: pure functions over data, so that the rules can be read, specified in sentences
 * and replayed. Time, ids and configuration enter through the command; nothing here knows NATS, clocks or files.
 */
import type { Event, Recorded } from '../events.ts';

/** What a command leads to: events to append (possibly none, possibly to several aggregates) and an answer. */
export interface Decision<Result> {
  readonly events: readonly Event[];
  readonly result: Result;
}

/** `State` is folded from the aggregate's events by `evolve`; `decide` never changes it. */
export interface Decider<State, Command, Result> {
  readonly initialState: State;
  readonly evolve: (state: State, event: Recorded) => State;
  readonly decide: (state: State, command: Command) => Decision<Result>;
}
