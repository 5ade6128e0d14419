/**
 * `term-executor watch`: a batch's progress as it happens and its result, for one that was submitted elsewhere or
 * whose `submit --follow` was cut off.
 */
import type { Command } from 'commander';
import { delay } from '../delay.ts';
import { CodedError } from '../errors.ts';
import { createApi, type Api, type BatchAnswer, type TaskAnswer } from '../client/api.ts';
import { followBatch } from '../client/follow.ts';
import { describeMessage, isGood, renderResult } from '../client/render.ts';
import { throwIfAborted, withDeadline, withRetries } from '../client/retry.ts';
import { EXIT, type ExitCode } from './exit-codes.ts';
import { runAction, wholeNumber, withJson, type Io } from './output.ts';

export const DEFAULT_URL = 'http://127.0.0.1:8080';
/** Longer than the server lets a batch run by default (SESSION_TTL_SECS), as it may have to wait for its turn. */
export const DEFAULT_FOLLOW_SECS = 4 * 3600;
export const MAX_TIMEOUT_SECS = 30 * 86_400;
/** How long a batch that was just approved may be unknown to the node we ask. */
const UNKNOWN_TRIES = 10;
const UNKNOWN_PAUSE_MS = 500;

export interface BatchResult {
  readonly batch: BatchAnswer;
  /** In plan order. */
  readonly tasks: readonly TaskAnswer[];
}

/** Adds the command to the program. */
export function registerWatch(program: Command): void {
  const command = program
    .command('watch')
    .description("Show a batch's progress until it is done, then its result.")
    .argument('<batch>', 'id of the batch, as submit prints it')
    .option('--url <url>', 'address of the server', DEFAULT_URL)
    .option('--after <seq>', 'show only what came after this log sequence', wholeNumber(0, Number.MAX_SAFE_INTEGER), 0)
    .option('--timeout <secs>', 'give up after so many seconds', wholeNumber(1, MAX_TIMEOUT_SECS), DEFAULT_FOLLOW_SECS);
  withJson(command)
    .addHelpText(
      'after',
      `
Exits 0 if the batch completed and all of its tasks passed, 1 if not.
With --json: the progress messages, one a line, then {"result": {"batch": …, "tasks": […], "good": true|false}}.
A lost connection is resumed where it broke off.

Examples:
  $ term-executor watch 0198f0a2-7c1e-7d3a-9f52-3c6a1b2d4e5f
  $ term-executor watch 0198f0a2-7c1e-7d3a-9f52-3c6a1b2d4e5f --url http://10.0.0.5:8080 --json | jq -c .event`,
    )
    .action((batchId: string, options: { url: string; after: number; timeout: number; json?: true }) =>
      runAction(options.json === true, async (io) => {
        const api = createApi(options.url);
        const signal = withDeadline(io.signal, options.timeout, 'watching the batch');
        return showBatch(io, api, { batchId, after: options.after, signal });
      }),
    );
}

/** Shows a batch until it is done, then its result; the exit code says whether that is good. */
export async function showBatch(
  io: Io,
  api: Api,
  options: { batchId: string; after: number; signal: AbortSignal; justApproved?: boolean },
): Promise<ExitCode> {
  await showProgress(io, api, options);
  const { batch, tasks } = await fetchResult(io, api, options.batchId, options.signal);
  const good = isGood(batch);
  io.print('');
  for (const line of renderResult(batch, tasks, io.paint)) io.print(line);
  io.data({ result: { batch, tasks, good } });
  return good ? EXIT.ok : EXIT.failed;
}

/** Prints the progress of a batch until it is done. */
export async function showProgress(
  io: Io,
  api: Api,
  options: { batchId: string; after: number; signal: AbortSignal; justApproved?: boolean },
): Promise<void> {
  const { batchId, after, signal } = options;
  for (let left = options.justApproved === true ? UNKNOWN_TRIES : 0; ; left--) {
    try {
      for await (const message of followBatch(api, { batchId, after, signal, onNotice: io.note })) {
        io.data(message);
        const line = describeMessage(message, io.paint);
        if (line !== null) io.print(line);
      }
      return;
    } catch (error) {
      if (left <= 0 || !(error instanceof CodedError) || error.code !== 'batch_not_found') throw error;
      await delay(UNKNOWN_PAUSE_MS, signal);
      throwIfAborted(signal);
    }
  }
}

/** The result of a batch, with each task's failure cause also where the list of tasks leaves it out. */
export async function fetchResult(io: Io, api: Api, batchId: string, signal: AbortSignal): Promise<BatchResult> {
  const retry = <T>(action: () => Promise<T>): Promise<T> =>
    withRetries(action, { signal, onRetry: (error) => io.note(`${error.message}; trying again`) });
  const batch = await retry(() => api.batch(batchId, signal));
  const tasks: TaskAnswer[] = [];
  for (const task of await retry(() => api.tasks(batchId, signal))) {
    const isMissing = task.passed !== true && task.cause === undefined;
    tasks.push(isMissing ? await retry(() => api.task(batchId, task.task_id, signal)) : task);
  }
  return { batch, tasks };
}
