/** A log in an array: what the projections need of an EventLog, with the sequence of an entry being its place. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { Event, UnknownEvent } from '../../src/events.ts';
import type { EventLog, FollowOptions, LogEntry } from '../../src/log.ts';
import { recorded } from '../support/events.ts';

export class ArrayLog implements Pick<EventLog, 'follow' | 'lastSeq'> {
  readonly entries: LogEntry[] = [];
  readonly #appended = new EventTarget();

  constructor(events: readonly Event[] = []) {
    this.append(...events);
  }

  append(...events: readonly Event[]): void {
    for (const event of events) this.entries.push(recorded(event, this.entries.length + 1));
    this.#appended.dispatchEvent(new globalThis.Event('appended'));
  }

  appendUnknown(): void {
    const seq = this.entries.length + 1;
    const unknown: UnknownEvent = { type: null, seq, subject: 'ev.future.x', reason: 'unknown type Future' };
    this.entries.push(unknown);
    this.#appended.dispatchEvent(new globalThis.Event('appended'));
  }

  async lastSeq(): Promise<number> {
    return this.entries.length;
  }

  async *follow({ filters, after, signal }: FollowOptions): AsyncGenerator<{ entry: LogEntry; pending: number }> {
    assert.deepEqual(filters, ['ev.>']);
    let next = after;
    while (!signal.aborted) {
      const entry = this.entries[next];
      if (entry) {
        next += 1;
        yield { entry, pending: this.entries.length - next };
      } else {
        await once(this.#appended, 'appended', { signal }).catch(() => undefined);
      }
    }
  }
}

/** Entries at 1, 2, 3, … */
export function record(events: readonly Event[]): LogEntry[] {
  return events.map((event, index) => recorded(event, index + 1));
}
