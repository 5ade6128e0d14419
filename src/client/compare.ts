/**
 * Whether results are the expected ones. Pure; the demo's verdict, and so its exit code, is this function.
 */
import type { TaskAnswer } from './api.ts';

/** Rewards are sums of decimal fractions; a difference below this is rounding. */
const REWARD_EPSILON = 1e-9;

/** What a task must come to. */
export interface Expected {
  readonly taskId: string;
  readonly passed: boolean;
  readonly reward: number;
  /** null: no failure. */
  readonly cause: string | null;
}

/** Every difference as a sentence that names the task; empty when all is as expected. */
export function findDifferences(expected: readonly Expected[], tasks: readonly TaskAnswer[]): string[] {
  const got = new Map(tasks.map((task) => [task.task_id, task]));
  const known = new Set(expected.map((one) => one.taskId));
  return [
    ...expected.flatMap((one) => {
      const task = got.get(one.taskId);
      return task === undefined ? [`${one.taskId}: there is no result`] : differencesOf(one, task);
    }),
    ...tasks.filter((task) => !known.has(task.task_id)).map((task) => `${task.task_id}: was not expected at all`),
  ];
}

function differencesOf(expected: Expected, task: TaskAnswer): string[] {
  const passed = task.passed ?? null;
  const cause = task.cause ?? null;
  const differences: string[] = [];
  if (passed !== expected.passed) differences.push(`passed is ${passed}, expected is ${expected.passed}`);
  if (Math.abs(task.reward - expected.reward) > REWARD_EPSILON) {
    differences.push(`reward is ${task.reward}, expected is ${expected.reward}`);
  }
  if (cause !== expected.cause)
    differences.push(`cause is ${cause ?? 'none'}, expected is ${expected.cause ?? 'none'}`);
  const error = differences.length > 0 && typeof task.error === 'string' ? ` (${task.error})` : '';
  return differences.map((text) => `${expected.taskId}: ${text}${error}`);
}
