/** From rows of the read models to the JSON of the contract. Pure but for the texts, which `Outputs` fetches. */
import type { Static } from 'typebox';
import type { StoredOutput } from '../events.ts';
import type { AttemptRow, BatchRow, QuorumProof, StepRow, TaskRow } from '../projections/read-model.ts';
import { jsonBytes, type Outputs, textOf } from './outputs.ts';
import { resultsHash } from './results-hash.ts';
import type { BatchView, TaskListView, TaskView, VerifyView } from './schemas.ts';

/** How much text is inlined: of each output, and in one answer altogether, in bytes of its JSON. */
interface InlineLimits {
  readonly eachBytes: number;
  readonly totalBytes: number;
}
const LIST_LIMITS: InlineLimits = { eachBytes: 64 * 1024, totalBytes: 8 * 1024 ** 2 };
const SINGLE_LIMITS: InlineLimits = { eachBytes: 4 * 1024 ** 2, totalBytes: 4 * 1024 ** 2 };
/** Stored bytes from which on an answer is a large one. */
const LARGE_BYTES = 256 * 1024;

type TaskListItem = Static<typeof TaskListView>['tasks'][number];
/** A text that the answer has in it, `times` times over. */
interface Wanted {
  readonly stored: StoredOutput;
  readonly url: string;
  readonly times: number;
}
/** Texts by the URL of the whole. */
type Texts = ReadonlyMap<string, string>;

export function batchView(batch: BatchRow): Static<typeof BatchView> {
  return {
    batch_id: batch.batchId,
    status: batch.status,
    total_tasks: batch.totalTasks,
    completed_tasks: batch.completedTasks,
    passed_tasks: batch.passedTasks,
    failed_tasks: batch.failedTasks,
    aggregate_reward: batch.aggregateReward,
    error: batch.error,
    duration_ms: batch.durationMs,
    archive_hash: batch.archiveHash,
    created_at: batch.createdAt,
    concurrent_tasks: batch.concurrentTasks,
  };
}

/** True once nothing can change the batch's result any more. */
export function hasEnded(batch: BatchRow): boolean {
  return batch.status === 'completed' || batch.status === 'failed' || batch.status === 'cancelled';
}

export async function taskListView(
  batchId: string,
  tasks: readonly TaskRow[],
  outputs: Outputs,
): Promise<Static<typeof TaskListView>> {
  const wanted = tasks.flatMap((task) => wantedTexts(task, 1));
  const texts = await inlineTexts(wanted, outputs, LIST_LIMITS);
  return { batch_id: batchId, tasks: tasks.map((task) => withTexts(task, texts).view) };
}

export async function taskView(
  task: TaskRow,
  attempts: readonly AttemptRow[],
  outputs: Outputs,
): Promise<Static<typeof TaskView>> {
  // The tests' texts are in the answer twice: in test_output and in test_results.
  const texts = await inlineTexts(wantedTexts(task, 2), outputs, SINGLE_LIMITS);
  const { view, testResults } = withTexts(task, texts);
  return {
    batch_id: task.batchId,
    ...view,
    attempt: task.attempt,
    warnings: [...task.warnings],
    test_results: testResults,
    steps: task.steps.map((step) => stepView(task, step)),
    attempts: attempts.map((attempt) => ({
      attempt: attempt.attempt,
      executor_id: attempt.executorId,
      sandbox: attempt.sandbox,
      started_at: attempt.startedAt,
    })),
  };
}

/** Path of one step's stored output. */
function outputUrl(task: TaskRow, step: StepRow): string {
  return `${taskUrl(task)}/steps/${step.step}/output?attempt=${step.attempt}`;
}

function taskUrl(task: TaskRow): string {
  return `/batch/${encodeURIComponent(task.batchId)}/task/${encodeURIComponent(task.taskId)}`;
}

function patchUrl(task: TaskRow): string {
  return `${taskUrl(task)}/patch`;
}

/** Whether so much text is stored of these tasks that only a few answers with it may be made at once. */
export function isLarge(tasks: readonly TaskRow[]): boolean {
  let bytes = 0;
  for (const task of tasks) for (const { stored } of wantedTexts(task, 1)) bytes += stored.bytes;
  return bytes > LARGE_BYTES;
}

function wantedTexts(task: TaskRow, testTimes: number): Wanted[] {
  const wanted: Wanted[] = [];
  for (const step of task.steps) {
    if (step.output === null || !(step.kind === 'agent' || isTestResult(step))) continue;
    wanted.push({ stored: step.output, url: outputUrl(task, step), times: step.kind === 'tests' ? testTimes : 1 });
  }
  if (task.patch !== null) wanted.push({ stored: task.patch, url: patchUrl(task), times: 1 });
  return wanted;
}

function isTestResult(step: StepRow): boolean {
  return step.kind === 'tests' && step.status === 'finished';
}

/** Shares out what may be read before anything is read, and what may be shown once its size in JSON is known. */
async function inlineTexts(wanted: readonly Wanted[], outputs: Outputs, limits: InlineLimits): Promise<Texts> {
  const { eachBytes, totalBytes } = limits;
  const toRead = shareOut(
    wanted.map(({ stored, times }) => times * Math.min(stored.bytes, eachBytes)),
    totalBytes,
  );
  const read = await Promise.all(
    wanted.map(async ({ stored, url, times }, index) => {
      const head = await outputs.head(stored, Math.floor((toRead[index] ?? 0) / times));
      return { head, url, times };
    }),
  );
  const toShow = shareOut(
    read.map(({ head, times }) => times * jsonBytes(head)),
    totalBytes,
  );
  return new Map(
    read.map(({ head, url, times }, index) => [url, textOf(head, Math.floor((toShow[index] ?? 0) / times), url)]),
  );
}

/** Each gets what it asks for; when that is too much altogether, the largest get less, all of them the same. */
function shareOut(demands: readonly number[], total: number): readonly number[] {
  const shares = demands.map(() => 0);
  const smallestFirst = demands.map((demand, index) => ({ demand, index })).toSorted((a, b) => a.demand - b.demand);
  let left = total;
  for (const [served, { demand, index }] of smallestFirst.entries()) {
    const share = Math.min(demand, Math.floor(left / (demands.length - served)));
    shares[index] = share;
    left -= share;
  }
  return shares;
}

function withTexts(
  task: TaskRow,
  texts: Texts,
): { view: TaskListItem; testResults: Static<typeof TaskView>['test_results'] } {
  const textAt = (url: string): string => texts.get(url) ?? '';
  const agentTexts = task.steps
    .filter((step) => step.kind === 'agent' && step.output !== null)
    .map((step) => textAt(outputUrl(task, step)));
  const testSteps = task.steps.filter(isTestResult);
  const testResults = testSteps.map((step) => ({
    name: step.name,
    passed: step.exitCode === 0 && step.cause === null,
    output: step.output === null ? '' : textAt(outputUrl(task, step)),
    exit_code: step.exitCode,
  }));
  return {
    testResults,
    view: {
      task_id: task.taskId,
      status: task.status,
      passed: task.passed,
      reward: task.reward,
      test_output: testResults.length === 0 ? null : joinTests(testResults),
      agent_output: agentTexts.length === 0 ? null : agentTexts.join('\n'),
      agent_patch: task.patch === null ? null : textAt(patchUrl(task)),
      error: task.error,
      duration_ms: task.durationMs,
      cause: task.cause,
    },
  };
}

/** The tests' outputs as one text, in the form that dashboards of the reference know. */
function joinTests(results: Static<typeof TaskView>['test_results']): string {
  return results
    .map(({ name, exit_code: exitCode, output, passed }) => {
      const ended = output === '' || output.endsWith('\n') ? output : `${output}\n`;
      return `=== ${name} (exit ${exitCode ?? 'none'}) ===\n${ended}${passed ? 'PASS' : 'FAIL'}`;
    })
    .join('\n\n');
}

function stepView(task: TaskRow, step: StepRow): Static<typeof TaskView>['steps'][number] {
  return {
    attempt: step.attempt,
    step: step.step,
    kind: step.kind,
    name: step.name,
    status: step.status,
    exit_code: step.exitCode,
    signal: step.signal,
    started_at: step.startedAt,
    duration_ms: step.durationMs,
    cause: step.cause,
    error: step.error,
    output:
      step.output === null
        ? null
        : {
            digest: step.output.digest,
            bytes: step.output.bytes,
            omitted_bytes: step.output.omittedBytes,
            url: outputUrl(task, step),
          },
  };
}

export function verifyView(options: {
  batch: BatchRow;
  tasks: readonly TaskRow[];
  quorum: QuorumProof | null;
  chainHead: { readonly seq: number; readonly hash: string } | null;
  version: string;
  uptimeSecs: number;
}): Static<typeof VerifyView> {
  const { batch, tasks, quorum, chainHead } = options;
  return {
    batch_id: batch.batchId,
    status: batch.status,
    total_tasks: batch.totalTasks,
    passed_tasks: batch.passedTasks,
    failed_tasks: batch.failedTasks,
    aggregate_reward: batch.aggregateReward,
    results_hash: resultsHash(batch.batchId, tasks),
    task_summaries: tasks.map((task) => ({
      task_id: task.taskId,
      passed: task.passed,
      reward: task.reward,
      duration_ms: task.durationMs,
    })),
    executor_version: options.version,
    uptime_secs: options.uptimeSecs,
    quorum: quorum === null ? null : quorumView(quorum),
    log: {
      first_seq: batch.firstSeq,
      last_seq: batch.lastSeq,
      chain_head: chainHead === null ? null : { seq: chainHead.seq, sha256: chainHead.hash },
    },
  };
}

function quorumView(quorum: QuorumProof): NonNullable<Static<typeof VerifyView>['quorum']> {
  return {
    archive_hash: quorum.archiveHash,
    round: quorum.round,
    voters: [...quorum.voters],
    required: quorum.required,
    validators: [...quorum.validators],
    threshold: { ...quorum.threshold },
    seq: quorum.seq,
    votes: quorum.votes.map((vote) => ({
      hotkey: vote.hotkey,
      nonce: vote.nonce,
      signature: vote.signature,
      signature_version: vote.signatureVersion,
      seq: vote.seq,
      voted_at: vote.votedAt,
    })),
  };
}
