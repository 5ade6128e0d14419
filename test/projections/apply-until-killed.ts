/** The child of the kill test: applies a long log to the database named by its argument, and says when it has begun. */
import { openStore } from '../../src/projections/store.ts';
import { record } from './array-log.ts';
import { longStory } from './story.ts';

const [file = ':memory:', batches = '1'] = process.argv.slice(2);
const entries = record(longStory(Number(batches)));
const store = openStore(file);
let at = store.position().seq;
while (at < entries.length) {
  const size = 1 + (at % 40);
  store.apply(entries.slice(at, at + size));
  at += size;
  if (at > 200) process.stdout.write('.');
}
