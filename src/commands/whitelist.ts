/** The validator set as an aggregate: a new set is an event only when it differs from the one in force. */
import type { Event, Recorded } from '../events.ts';
import type { Decider } from './decider.ts';

type WhitelistData = Extract<Event, { type: 'WhitelistChanged' }>['data'];

export interface ChangeWhitelist extends WhitelistData {
  readonly type: 'ChangeWhitelist';
}

export interface WhitelistState {
  /** Hotkeys of the set in force, sorted; null before the first set. */
  readonly hotkeys: readonly string[] | null;
}

export type WhitelistResult = { readonly kind: 'changed' | 'unchanged' };

export const whitelistDecider: Decider<WhitelistState, ChangeWhitelist, WhitelistResult> = {
  initialState: { hotkeys: null },
  evolve(state: WhitelistState, event: Recorded): WhitelistState {
    if (event.type !== 'WhitelistChanged') return state;
    return { hotkeys: hotkeysOf(event.data) };
  },
  decide(state, command) {
    const wanted = hotkeysOf(command);
    if (state.hotkeys !== null && state.hotkeys.join() === wanted.join()) {
      return { events: [], result: { kind: 'unchanged' } };
    }
    const { type: _, ...data } = command;
    return { events: [{ type: 'WhitelistChanged', data }], result: { kind: 'changed' } };
  },
};

function hotkeysOf(data: WhitelistData): string[] {
  return data.validators.map(({ hotkey }) => hotkey).toSorted();
}
