/** Specs of deciders as sentences: given events, when a command comes, then these events and this result. */
import assert from 'node:assert/strict';
import type { Decider } from '../../src/commands/decider.ts';
import type { Event, Recorded } from '../../src/events.ts';
import { subjectOf } from '../../src/streams.ts';

/** An event as if it stood on the log; `atMs` is its time. */
export function recordedAt(event: Event, seq: number, atMs: number): Recorded {
  return {
    ...event,
    id: `id-${seq}`,
    version: 1,
    time: new Date(atMs).toISOString(),
    actor: 'test',
    cause: `command-${seq}`,
    prev: '0'.repeat(64),
    seq,
    subject: subjectOf(event),
  };
}

interface Outcome<Result> {
  then(events: readonly Event[], result?: Partial<Result>): void;
  thenTypes(types: readonly string[], result?: Partial<Result>): readonly Event[];
  thenNothingHappened(result?: Partial<Result>): void;
}

/** `given(decider, events).when(command).then(events, result)`. The given events happened at `atMs`. */
export function given<State, Command, Result>(
  decider: Decider<State, Command, Result>,
  events: readonly Event[],
  atMs = 0,
): { state: State; when(command: Command): Outcome<Result> } {
  const state = events.reduce(
    (folded, event, index) => decider.evolve(folded, recordedAt(event, index + 1, atMs)),
    decider.initialState,
  );
  return {
    state,
    when(command) {
      const decision = decider.decide(state, command);
      const checkResult = (result: Partial<Result> | undefined): void => {
        if (result) assert.partialDeepStrictEqual(decision.result, result);
      };
      return {
        then(expected, result) {
          assert.deepEqual(decision.events, expected);
          checkResult(result);
        },
        thenTypes(types, result) {
          assert.deepEqual(
            decision.events.map(({ type }) => type),
            types,
          );
          checkResult(result);
          return decision.events;
        },
        thenNothingHappened(result) {
          assert.deepEqual(decision.events, []);
          checkResult(result);
        },
      };
    },
  };
}
