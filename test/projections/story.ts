/** A long valid log: batches voted for, run and ended in every way, interleaved as several executors would. */
import type { Event } from '../../src/events.ts';
import { batchIdOf, make, makePlan, sha256 } from '../support/events.ts';

const STEP_KINDS = ['clone', 'checkout', 'install', 'agent', 'tests'] as const;

/** The story of one batch; `n` picks its ids and how it ends. */
export function batchStory(n: number, taskCount = 3): Event[] {
  const batchId = batchIdOf(n);
  const vote = { archiveHash: sha256(`archive ${n}`), round: 1 };
  const taskIds = Array.from({ length: taskCount }, (_, index) => `task ${index}`);
  const story: Event[] = [
    make('VoteCast', vote),
    make('VoteCast', { ...vote, hotkey: 'bob', nonce: 'nonce-2' }),
    make('QuorumReached', { ...vote, batchId }),
    make('BatchApproved', { ...vote, batchId }),
  ];
  if (n % 7 === 6) return [...story, make('BatchRejected', { batchId })];
  story.push(makePlan(taskIds, { batchId }), make('BatchStarted', { batchId, totalTasks: taskCount }));
  if (n % 7 === 5)
    return [...story, make('TaskStarted', { batchId, taskId: 'task 0' }), make('BatchExpired', { batchId })];
  for (const [index, taskId] of taskIds.entries()) {
    const id = { batchId, taskId, attempt: 1 + (index % 2) };
    if (index % 2 === 1) story.push(make('TaskStarted', { ...id, attempt: 1 }));
    story.push(make('TaskStarted', id));
    for (const [step, kind] of STEP_KINDS.entries()) {
      story.push(make('StepStarted', { ...id, step, kind }), make('StepFinished', { ...id, step, kind }));
    }
    const passed = index % 3 !== 0;
    story.push(make('TaskFinished', { ...id, passed }), make('BatchTaskFinished', { ...id, passed }));
    if (n % 7 === 4)
      return [...story, make('BatchCancelled', { batchId }), make('TaskFinished', { ...id, attempt: 9 })];
  }
  const failedTasks = Math.ceil(taskCount / 3);
  const counts = { totalTasks: taskCount, passedTasks: taskCount - failedTasks, failedTasks };
  return [...story, make('BatchCompleted', { batchId, ...counts })];
}

/** The stories of `batches` batches, `width` of them running at a time. */
export function longStory(batches: number, width = 3): Event[] {
  const events: Event[] = [];
  for (let first = 1; first <= batches; first += width) {
    const stories = Array.from({ length: Math.min(width, batches - first + 1) }, (_, index) =>
      batchStory(first + index),
    );
    for (let at = 0; stories.some((story) => at < story.length); at += 1) {
      for (const story of stories) {
        const event = story[at];
        if (event) events.push(event);
      }
    }
  }
  return events;
}
