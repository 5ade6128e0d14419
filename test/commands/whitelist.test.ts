import { describe, test } from 'node:test';
import { whitelistDecider, type ChangeWhitelist } from '../../src/commands/whitelist.ts';
import type { Event } from '../../src/events.ts';
import { given } from '../support/specification.ts';

function set(...hotkeys: string[]) {
  const validators = hotkeys.map((hotkey) => ({ hotkey, trusted: true, stake: null }));
  return { netuid: 100, source: 'static', endpoint: null, block: null, validators } as const;
}

function changed(...hotkeys: string[]): Event {
  return { type: 'WhitelistChanged', data: { ...set(...hotkeys), validators: [...set(...hotkeys).validators] } };
}

function change(...hotkeys: string[]): ChangeWhitelist {
  return { type: 'ChangeWhitelist', ...set(...hotkeys), validators: [...set(...hotkeys).validators] };
}

describe('the whitelist', () => {
  test('changes when its hotkeys do', () => {
    given(whitelistDecider, [])
      .when(change('A', 'B'))
      .then([changed('A', 'B')], { kind: 'changed' });
    given(whitelistDecider, [changed('A', 'B')])
      .when(change('A'))
      .then([changed('A')], { kind: 'changed' });
  });

  test('does not change when the same hotkeys come in another order', () => {
    given(whitelistDecider, [changed('A', 'B')])
      .when(change('B', 'A'))
      .thenNothingHappened({ kind: 'unchanged' });
  });
});
