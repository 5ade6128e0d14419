import assert from 'node:assert/strict';
import { mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { after, before, test } from 'node:test';
import type { CodedError } from '../../src/errors.ts';
import { openProjections } from '../../src/projections/run.ts';
import type { FeedMessage, ReadModel } from '../../src/projections/read-model.ts';
import { BATCH_ID, batchIdOf, make, makePlan } from '../support/events.ts';
import { ArrayLog } from './array-log.ts';
import { batchStory, longStory } from './story.ts';
import { dump } from './tables.ts';

const BATCHES = 21;
const TIMEOUT_MS = 10_000;
/** SQLite's default. */
const PAGE_BYTES = 4096;
let dir = '';
let files = 0;
before(async () => {
  dir = await mkdtemp(join(tmpdir(), 'projections-'));
});
after(async () => {
  await rm(dir, { recursive: true, force: true });
});

function newFile(): string {
  files += 1;
  return join(dir, 'made on demand', `${files}.sqlite`);
}

/** Projections over a log, closed at the end of the block; `errors` are what they reported. */
function follow(log: ArrayLog, file = newFile()) {
  const errors: unknown[] = [];
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  const projections = openProjections({ file, log, signal, onError: (error) => errors.push(error) });
  return {
    ...projections,
    errors,
    caughtUp: () => projections.whenCaughtUp(signal),
    [Symbol.asyncDispose]: () => projections.close(),
  };
}

/** The answer to every question that a log of these batches allows. */
function answers(model: ReadModel): unknown {
  const ids = Array.from({ length: BATCHES + 1 }, (_, index) => batchIdOf(index + 1));
  return {
    position: model.position(),
    batches: model.batches({ limit: 1000 }),
    open: model.openRounds(),
    totals: model.totals(),
    each: ids.map((id) => ({
      batch: model.batch(id),
      tasks: model.tasks(id),
      attempts: model.tasks(id).map((task) => model.attempts(id, task.taskId)),
      quorum: model.quorum(id),
      feed: model.feed(id, 0),
    })),
  };
}

async function answersOf(log: ArrayLog, file: string): Promise<unknown> {
  await using projections = follow(log, file);
  await projections.caughtUp();
  assert.deepEqual(projections.errors, []);
  return answers(projections.model);
}

const codesOf = (errors: readonly unknown[]) => errors.map((error) => (error as CodedError).code);

test('following a log, reopening and building again after deleting the file all answer the same', async () => {
  const log = new ArrayLog(longStory(BATCHES));
  const file = newFile();
  const first = await answersOf(log, file);
  assert.deepEqual(await answersOf(log, file), first);
  await rm(file);
  assert.deepEqual(await answersOf(log, file), first);
  assert.deepEqual(await answersOf(log, ':memory:'), first);
});

test('a log that grows is continued from the stored position', async () => {
  const events = longStory(BATCHES);
  const log = new ArrayLog(events.slice(0, 100));
  const file = newFile();
  await answersOf(log, file);
  log.append(...events.slice(100));
  assert.deepEqual(await answersOf(log, file), await answersOf(log, ':memory:'));
});

test('an empty log is caught up with at once', async () => {
  await using projections = follow(new ArrayLog());
  await projections.caughtUp();
  assert.equal(projections.model.position(), 0);
});

test('a reader that waits for its write sees it', async () => {
  const log = new ArrayLog([make('BatchApproved')]);
  await using projections = follow(log);
  const waiting = projections.model.waitFor(2, AbortSignal.timeout(TIMEOUT_MS));
  log.append(makePlan(['a']));
  await waiting;
  assert.equal(projections.model.batch(BATCH_ID)?.status, 'queued');
});

test('a reader stops waiting when its signal aborts or the model is closed', async () => {
  const projections = follow(new ArrayLog());
  const abort = new AbortController();
  const aborted = projections.model.waitFor(1, abort.signal);
  abort.abort(new Error('too long'));
  await assert.rejects(aborted, /too long/);
  const closed = projections.model.waitFor(1, AbortSignal.timeout(TIMEOUT_MS));
  const [result] = await Promise.allSettled([closed, projections.close()]);
  assert.equal(result.status === 'rejected' && result.reason.code, 'read_model_closed');
  await assert.rejects(projections.model.waitFor(1, AbortSignal.timeout(TIMEOUT_MS)), { code: 'read_model_closed' });
});

test('a snapshot and a subscription of the same tick have no gap and no repeat while the log grows', async () => {
  const story = batchStory(1, 20);
  const log = new ArrayLog();
  await using projections = follow(log);
  const { model } = projections;
  const readers: FeedMessage[][] = [];
  for (const [index, event] of story.entries()) {
    log.append(event);
    if (index % 7 === 0) await model.waitFor(index + 1, AbortSignal.timeout(TIMEOUT_MS));
    if (index % 5 !== 0) continue;
    const seen = [...model.feed(batchIdOf(1), 0)];
    readers.push(seen);
    model.subscribe(batchIdOf(1), (message) => seen.push(message));
  }
  await projections.caughtUp();
  const feed = model.feed(batchIdOf(1), 0);
  assert.ok(readers.length > 20);
  for (const seen of readers) assert.deepEqual(seen, feed);
});

test('a subscription made while others are told begins after what its snapshot has', async () => {
  const log = new ArrayLog();
  await using projections = follow(log);
  const { model } = projections;
  const seen: FeedMessage[] = [];
  const stop = model.subscribe(BATCH_ID, () => {
    stop();
    seen.push(...model.feed(BATCH_ID, 0));
    model.subscribe(BATCH_ID, (message) => seen.push(message));
  });
  log.append(make('BatchApproved'), makePlan(['task-a']), make('BatchStarted'), make('TaskStarted'));
  await projections.caughtUp();
  log.append(make('TaskFinished'));
  await projections.caughtUp();
  assert.deepEqual(seen, model.feed(BATCH_ID, 0));
  assert.equal(seen.length, 4);
});

test('a listener hears of its own batch only, and of nothing once it has unsubscribed', async () => {
  const log = new ArrayLog();
  await using projections = follow(log);
  const heard: number[] = [];
  const stop = projections.model.subscribe(batchIdOf(1), (message) => heard.push(message.seq));
  const start = (n: number) => [
    make('BatchApproved', { batchId: batchIdOf(n) }),
    makePlan(['a'], { batchId: batchIdOf(n) }),
  ];
  log.append(...start(2), ...start(1));
  await projections.caughtUp();
  stop();
  log.append(make('BatchStarted', { batchId: batchIdOf(1) }));
  await projections.caughtUp();
  assert.deepEqual(heard, [4]);
});

test('a listener that throws is reported and stops neither the others nor the projection', async () => {
  const log = new ArrayLog();
  await using projections = follow(log);
  const heard: string[] = [];
  projections.model.subscribe(BATCH_ID, () => {
    throw new Error('broken listener');
  });
  projections.model.subscribe(BATCH_ID, (message) => heard.push(message.event));
  log.append(make('BatchApproved'), makePlan(['task-a']), make('BatchStarted'));
  await projections.caughtUp();
  assert.deepEqual(heard, ['batch_planned', 'batch_started']);
  assert.deepEqual(projections.errors.map(String), ['Error: broken listener', 'Error: broken listener']);
});

test('unknown events are passed and remembered as passed', async () => {
  const log = new ArrayLog([make('BatchApproved')]);
  log.appendUnknown();
  log.append(makePlan(['a']));
  log.appendUnknown();
  const file = newFile();
  const first = await answersOf(log, file);
  assert.deepEqual(await answersOf(log, file), first);
  await using projections = follow(log, file);
  assert.equal(projections.model.position(), 4);
  assert.equal(projections.model.batch(BATCH_ID)?.status, 'queued');
});

test('a database of another version, an empty one, and one that is no database are built again', async () => {
  const log = new ArrayLog(longStory(BATCHES));
  const wanted = await answersOf(log, ':memory:');
  const file = newFile();
  await answersOf(log, file);
  const db = new DatabaseSync(file);
  db.exec('PRAGMA user_version = 12345; DROP TABLE votes');
  db.close();
  assert.deepEqual(await answersOf(log, file), wanted);
  for (const content of ['', 'this is no database. '.repeat(1000)]) {
    await writeFile(file, content);
    assert.deepEqual(await answersOf(log, file), wanted);
  }
});

test('a database that lost a table is built again', async () => {
  const log = new ArrayLog(longStory(BATCHES));
  const file = newFile();
  const wanted = await answersOf(log, file);
  const db = new DatabaseSync(file);
  db.exec('DROP TABLE votes');
  db.close();
  assert.deepEqual(await answersOf(log, file), wanted);
});

test('a read that meets a damaged page fails, and the database is built again', async () => {
  const log = new ArrayLog(longStory(BATCHES));
  const file = newFile();
  const wanted = await answersOf(log, file);
  const db = new DatabaseSync(file);
  const votes = db.prepare("SELECT rootpage FROM sqlite_schema WHERE name = 'votes'").get();
  db.close();
  const handle = await open(file, 'r+');
  await handle.write(Buffer.alloc(PAGE_BYTES, 0xff), 0, PAGE_BYTES, (Number(votes?.rootpage) - 1) * PAGE_BYTES);
  await handle.close();

  await using projections = follow(log, file);
  await projections.caughtUp();
  assert.deepEqual(projections.errors, []);
  assert.throws(() => answers(projections.model), /malformed/);
  const isBuilt = () => {
    try {
      answers(projections.model);
      return projections.model.position() === log.entries.length;
    } catch {
      return false;
    }
  };
  while (!isBuilt()) await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual(answers(projections.model), wanted);
  assert.match(String(projections.errors), /malformed/);
});

test('a database of a longer log, or of another one, is built again and reported', async () => {
  const file = newFile();
  await answersOf(new ArrayLog(longStory(BATCHES)), file);
  for (const events of [batchStory(2), longStory(BATCHES).toReversed()]) {
    const log = new ArrayLog(events);
    await using projections = follow(log, file);
    await projections.caughtUp();
    assert.deepEqual(codesOf(projections.errors), ['read_model_of_other_log']);
    assert.deepEqual(answers(projections.model), await answersOf(log, ':memory:'));
  }
});

test('a commit that SQLite refuses is reported and tried again from the stored position', async () => {
  const log = new ArrayLog(longStory(2));
  const file = newFile();
  await using projections = follow(log, file);
  await projections.caughtUp();
  const expected = dump(file);
  const other = new DatabaseSync(file);
  other.exec('BEGIN IMMEDIATE');
  log.append(...batchStory(3), ...batchStory(4));
  while (projections.errors.length === 0) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.match(String(projections.errors[0]), /database is locked/);
  assert.deepEqual(dump(file), expected);
  other.exec('ROLLBACK');
  other.close();
  await projections.caughtUp();
  assert.deepEqual(answers(projections.model), await answersOf(log, ':memory:'));
});

test('two processes with the same file are reported and never count an event twice', async () => {
  const log = new ArrayLog(longStory(2));
  const file = newFile();
  await using first = follow(log, file);
  await first.caughtUp();
  await using second = follow(log, file);
  await second.caughtUp();
  log.append(...batchStory(3));
  await Promise.all([first.caughtUp(), second.caughtUp()]);
  assert.ok(codesOf([...first.errors, ...second.errors]).includes('read_model_shared'));
  assert.deepEqual(answers(first.model), await answersOf(log, ':memory:'));
});

test('a place where no database can be made is a coded error that names it', async () => {
  const file = join(dir, 'a file', 'x.sqlite');
  await writeFile(join(dir, 'a file'), '');
  assert.throws(() => follow(new ArrayLog(), file), { code: 'read_model_unavailable', message: /a file/ });
});
