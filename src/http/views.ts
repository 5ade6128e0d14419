/** From rows of the read models to the JSON of the contract. Pure but for the texts, which `Outputs` fetches. */
import type { Static } from 'typebox';
import type { StoredOutput } from '../events.ts';
import type { AttemptRow, BatchRow, QuorumProof, StepRow, TaskRow } from '../projections/read-model.ts';
import type { Outputs } from './outputs.ts';
import { resultsHash } from './results-hash.ts';
import type { BatchView, TaskListView, TaskView, VerifyView } from './schemas.ts';

/** How much text is inlined: of each output, and in one answer altogether. */
export interface InlineLimits {
  readonly eachBytes: number;
  readonly totalBytes: number;
}
const LIST_LIMITS: InlineLimits = { eachBytes: 64 * 1024, totalBytes: 16 * 1024 ** 2 };
/** Everything, in practice; still a bound, so that a task with many large outputs cannot exhaust the server. */
const SINGLE_LIMITS: InlineLimits = { eachBytes: 64 * 1024 ** 2, totalBytes: 64 * 1024 ** 2 };

type TaskListItem = Static<typeof TaskListView>['tasks'][number];
type InlineText = (stored: StoredOutput, url: string) => Promise<string>;

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
  const inline = inliner(outputs, LIST_LIMITS);
  return {
    batch_id: batchId,
    tasks: await Promise.all(tasks.map(async (task) => (await taskTexts(task, inline)).view)),
  };
}

export async function taskView(
  task: TaskRow,
  attempts: readonly AttemptRow[],
  outputs: Outputs,
): Promise<Static<typeof TaskView>> {
  const { view, testResults } = await taskTexts(task, inliner(outputs, SINGLE_LIMITS));
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

/** Shares the allowance out in the order of the calls, before anything is read. */
function inliner(outputs: Outputs, limits: InlineLimits): InlineText {
  let left = limits.totalBytes;
  return (stored, url) => {
    const allowed = Math.min(stored.bytes, limits.eachBytes, left);
    left -= allowed;
    return outputs.text(stored, allowed, url);
  };
}

async function taskTexts(
  task: TaskRow,
  inline: InlineText,
): Promise<{ view: TaskListItem; testResults: Static<typeof TaskView>['test_results'] }> {
  const textOf = async (step: StepRow): Promise<string> =>
    step.output === null ? '' : inline(step.output, outputUrl(task, step));
  const agentSteps = task.steps.filter((step) => step.kind === 'agent' && step.output !== null);
  const testSteps = task.steps.filter((step) => step.kind === 'tests' && step.status === 'finished');
  const [agentTexts, testTexts, patch] = await Promise.all([
    Promise.all(agentSteps.map(textOf)),
    Promise.all(testSteps.map(textOf)),
    task.patch === null ? null : inline(task.patch, taskUrl(task)),
  ]);
  const testResults = testSteps.map((step, index) => ({
    name: step.name,
    passed: step.exitCode === 0 && step.cause === null,
    output: testTexts[index] ?? '',
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
      agent_patch: patch,
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
