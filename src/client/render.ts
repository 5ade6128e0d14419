/**
 * Progress and results as text. Pure: what comes from the server is sanitized here and nowhere else, so no caller can
 * forget it.
 */
import type { BatchAnswer, TaskAnswer, VoteAnswer } from './api.ts';
import type { FeedMessage } from './follow.ts';
import { sanitize } from './sanitize.ts';

export type Style = 'green' | 'red' | 'yellow' | 'dim' | 'bold';
export type Paint = (style: Style, text: string) => string;

const MAX_ID_CHARS = 48;
const MAX_NAME_CHARS = 80;
const MAX_CELL_CHARS = 100;

/** `850 ms`, `12.3 s`, `4 min 05 s`. */
export function formatDuration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, '0')} s`;
}

/** A reward with at most four decimals: `1`, `0.5`, `0.3333`. */
export function formatReward(reward: number): string {
  return String(Number(reward.toFixed(4)));
}

/** What a vote came to, in one line. */
export function describeVote(answer: VoteAnswer): string {
  const votes = `${answer.votes} ${answer.votes === 1 ? 'vote' : 'votes'}, ${answer.required} needed`;
  const note = answer.note === null ? '' : ` (${sanitize(answer.note, 200)})`;
  if (answer.kind === 'pending') {
    return `vote taken: ${votes}, ${answer.totalValidators} validators${note}`;
  }
  const tasks = `${answer.totalTasks} ${answer.totalTasks === 1 ? 'task' : 'tasks'}`;
  return `quorum: ${votes}; batch ${sanitize(answer.batchId, MAX_ID_CHARS)}, ${tasks}, ${answer.concurrentTasks} at a time${note}`;
}

/** One progress message as a line; null for what people need not see. Unknown messages are not shown. */
export function describeMessage(message: FeedMessage, paint: Paint): string | null {
  const data = message.data ?? {};
  const text = (key: string, max = MAX_NAME_CHARS): string => {
    const value = data[key];
    return typeof value === 'string' || typeof value === 'number' ? sanitize(String(value), max) : '';
  };
  const task = sanitize(message.task_id ?? text('task_id'), MAX_ID_CHARS);
  const attempt = Number(data['attempt'] ?? 1) > 1 ? ` (attempt ${text('attempt')})` : '';
  switch (message.event) {
    case 'snapshot': {
      const status = text('status');
      return `batch ${sanitize(message.batch_id, MAX_ID_CHARS)}${status === '' ? '' : `: ${status}`}`;
    }
    case 'batch_planned':
      return `planned: ${text('total_tasks')} tasks`;
    case 'batch_started':
      return `started: ${text('total_tasks')} tasks, ${text('concurrent_limit')} at a time`;
    case 'task_started':
      return `${task}: started${attempt}`;
    case 'step_started':
      return paint('dim', `${task}: ${text('kind')} … ${text('name')}`);
    case 'step_finished': {
      const good = data['exit_code'] === 0 && (data['cause'] ?? null) === null;
      const how = good ? paint('green', 'ok') : paint('red', failedStep(data['exit_code'], text('cause')));
      const duration = typeof data['duration_ms'] === 'number' ? ` ${formatDuration(data['duration_ms'])}` : '';
      return `${task}: ${text('kind')} ${how}${duration}  ${paint('dim', text('name'))}`;
    }
    case 'output':
      return paint('dim', `${task} | ${text('line', 500) || text('text', 500)}`);
    case 'task_complete': {
      const passed = data['passed'] === true;
      const verdict = passed ? paint('green', 'passed') : paint('red', text('status') || 'failed');
      return `${task}: ${verdict}, reward ${text('reward')}`;
    }
    case 'batch_complete': {
      const error = text('error', 1000);
      return `batch ${text('status')}: ${text('passed')} passed, ${text('failed')} failed${error === '' ? '' : `: ${error}`}`;
    }
    default:
      return null;
  }
}

function failedStep(exitCode: unknown, cause: string): string {
  const code = typeof exitCode === 'number' ? `exit ${exitCode}` : 'ended';
  return cause === '' ? code : `${code}, ${cause}`;
}

/** Rows with aligned columns; the first row is the heading. Cells are sanitized; `paint` colours after aligning. */
export function renderTable(rows: readonly (readonly string[])[], paint: Paint): string[] {
  const cells = rows.map((row) => row.map((cell) => sanitize(cell, MAX_CELL_CHARS)));
  const widths: number[] = [];
  for (const row of cells) {
    for (const [column, cell] of row.entries()) widths[column] = Math.max(widths[column] ?? 0, length(cell));
  }
  return cells.map((row, index) => {
    const line = row.map((cell, column) => cell + ' '.repeat((widths[column] ?? 0) - length(cell))).join('  ');
    return index === 0 ? paint('bold', line.trimEnd()) : line.trimEnd();
  });
}

function length(text: string): number {
  return Array.from(text).length;
}

/** The table of a batch's tasks and its aggregate. */
export function renderResult(batch: BatchAnswer, tasks: readonly TaskAnswer[], paint: Paint): string[] {
  const rows = tasks.map((task) => [
    sanitize(task.task_id, MAX_ID_CHARS),
    task.passed === true ? 'passed' : task.status === 'completed' ? 'failed' : task.status,
    formatReward(task.reward),
    task.cause ?? '-',
    typeof task.duration_ms === 'number' ? formatDuration(task.duration_ms) : '-',
    task.error ?? '',
  ]);
  const duration = typeof batch.duration_ms === 'number' ? ` in ${formatDuration(batch.duration_ms)}` : '';
  const error = typeof batch.error === 'string' && batch.error !== '' ? `: ${sanitize(batch.error)}` : '';
  return [
    ...renderTable([['task', 'status', 'reward', 'cause', 'duration', 'error'], ...rows], paint),
    '',
    `${sanitize(batch.status, 40)}: ${batch.passed_tasks} of ${batch.total_tasks} passed, ` +
      `aggregate reward ${formatReward(batch.aggregate_reward)}${duration}${error}`,
  ];
}

/** True iff the batch completed and every one of its tasks passed. */
export function isGood(batch: BatchAnswer): boolean {
  return batch.status === 'completed' && batch.total_tasks > 0 && batch.passed_tasks === batch.total_tasks;
}
