/**
 * Stands in for `term-executor serve` where the demo's own behaviour is tested: it counts votes and then plays back
 * results, good or bad ones, or misbehaves as a process.
 */
import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { EXPECTED_RESULTS } from '../../src/demo/examples.ts';
import { resultsHash } from '../../src/http/results-hash.ts';
import { sendJson, startContractServer } from '../client/contract-server.ts';

const BATCH = '0198f0a2-7c1e-7d3a-9f52-3c6a1b2d4e5f';

export interface StandIn {
  /** Changes what is played back for the first task. */
  readonly first?: { readonly reward?: number; readonly cause?: string };
  /** Ends with this text on stderr before it is ready. */
  readonly dies?: string;
  /** Never ends the batch and ignores SIGTERM; has a child in a session of its own. Both pids go to this file. */
  readonly hangs?: string;
}

export async function serve({ first, dies, hangs }: StandIn): Promise<void> {
  if (dies !== undefined) {
    process.stderr.write(`${dies}\n`);
    process.exit(3);
  }
  if (hangs !== undefined) {
    process.on('SIGTERM', () => undefined);
    const child = spawn('sleep', ['600'], { detached: true, stdio: 'ignore' });
    writeFileSync(hangs, `${process.pid} ${child.pid}`);
  } else {
    process.on('SIGTERM', () => process.exit(0));
  }
  const tasks = EXPECTED_RESULTS.map((expected, index) => ({
    task_id: expected.taskId,
    status: 'completed',
    passed: expected.passed,
    reward: expected.reward,
    cause: expected.cause,
    duration_ms: 10,
    ...(index === 0 ? first : {}),
  }));
  const batch = {
    batch_id: BATCH,
    status: 'completed',
    total_tasks: tasks.length,
    completed_tasks: tasks.length,
    passed_tasks: tasks.filter(({ passed }) => passed).length,
    failed_tasks: tasks.filter(({ passed }) => !passed).length,
    aggregate_reward: 0.5,
  };
  const hash = resultsHash(
    BATCH,
    tasks.map(({ task_id: taskId, passed, reward }) => ({ taskId, passed, reward })),
  );
  const answers: Record<string, unknown> = {
    [`/batch/${BATCH}`]: batch,
    [`/batch/${BATCH}/tasks`]: { tasks },
    [`/verify/${BATCH}`]: { ...batch, results_hash: hash, task_summaries: tasks },
  };
  const votes = { required: 2, total_validators: 3 };
  const approved = { batch_id: BATCH, total_tasks: tasks.length, concurrent_tasks: 2, consensus_reached: true };
  const server = await startContractServer(
    { after: () => undefined },
    {
      submit: (response, { sha256 }, index) => {
        if (index === 0) {
          sendJson(response, 202, { status: 'pending_consensus', archive_hash: sha256, votes: 1, ...votes });
        } else {
          const note = index === 1 ? {} : { note: 'The batch exists already' };
          sendJson(response, 202, { ...approved, ...votes, votes: 2, ...note });
        }
      },
      feed: (socket) => {
        socket.send(JSON.stringify({ seq: 5, event: 'batch_started', batch_id: BATCH, data: { total_tasks: 7 } }));
        if (hangs !== undefined) return;
        socket.send(
          JSON.stringify({ seq: 6, event: 'batch_complete', batch_id: BATCH, data: { status: 'completed' } }),
        );
      },
      json: (path) => answers[path],
    },
  );
  process.stdout.write(`${JSON.stringify({ ready: true, url: server.url })}\n`);
}
