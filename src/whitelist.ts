/** The validator set in force, kept in memory by following its aggregate: asked for on every submission. */
import type { EventLog } from './log.ts';
import { subjects } from './streams.ts';

export interface WhitelistView {
  /** Hotkeys of the newest WhitelistChanged; empty until there is one. */
  validators(): readonly string[];
  /** Follows until the signal aborts. */
  run(): Promise<void>;
}

export function followWhitelist(log: EventLog, netuid: number, signal: AbortSignal): WhitelistView {
  let hotkeys: readonly string[] = [];
  return {
    validators: () => hotkeys,
    async run() {
      for await (const { entry } of log.follow({ filters: [subjects.whitelist(netuid)], after: 0, signal })) {
        if (entry.type === 'WhitelistChanged') hotkeys = entry.data.validators.map(({ hotkey }) => hotkey);
      }
    },
  };
}
