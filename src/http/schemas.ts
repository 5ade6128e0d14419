/** The JSON of the read routes as schemas: what answers are checked and documented by. Names are the contract's. */
import Type, { type TSchema } from 'typebox';
import { FAILURE_CAUSES, STEP_KINDS } from '../events.ts';
import { BATCH_STATUSES, TASK_STATUSES } from '../projections/read-model.ts';

export const Nullable = <T extends TSchema>(schema: T) => Type.Union([schema, Type.Null()]);

/** An id in a path. What no batch or task can be called is still a 404, not a 400. */
export const BatchParams = Type.Object({ id: Type.String() });
export const TaskParams = Type.Object({ id: Type.String(), taskId: Type.String() });

export const BatchStatusSchema = Type.Enum([...BATCH_STATUSES]);
const Cause = Nullable(Type.Enum([...FAILURE_CAUSES]));
const Ms = Nullable(Type.Integer({ description: 'milliseconds' }));
const Time = Type.String({ description: 'RFC 3339' });

export const BatchView = Type.Object({
  batch_id: Type.String(),
  status: BatchStatusSchema,
  total_tasks: Type.Integer(),
  completed_tasks: Type.Integer(),
  passed_tasks: Type.Integer(),
  failed_tasks: Type.Integer(),
  aggregate_reward: Type.Number({ description: 'mean over all tasks; 0 until the batch is completed' }),
  error: Nullable(Type.String()),
  duration_ms: Ms,
  archive_hash: Type.String(),
  created_at: Time,
  concurrent_tasks: Type.Integer(),
});

export const BatchListItem = Type.Object({ batch_id: Type.String(), created_at: Time, status: BatchStatusSchema });

const taskProperties = {
  task_id: Type.String(),
  status: Type.Enum([...TASK_STATUSES]),
  passed: Nullable(Type.Boolean({ description: 'null until the task has ended' })),
  reward: Type.Number(),
  test_output: Nullable(Type.String()),
  agent_output: Nullable(Type.String()),
  agent_patch: Nullable(Type.String()),
  error: Nullable(Type.String()),
  duration_ms: Ms,
  cause: Cause,
};
export const TaskListView = Type.Object({ batch_id: Type.String(), tasks: Type.Array(Type.Object(taskProperties)) });

const OutputView = Type.Object({
  digest: Type.String(),
  bytes: Type.Integer(),
  omitted_bytes: Type.Integer({ description: 'produced beyond the limit and not stored' }),
  url: Type.String(),
});

export const TaskView = Type.Object({
  batch_id: Type.String(),
  ...taskProperties,
  attempt: Type.Integer(),
  warnings: Type.Array(Type.String()),
  test_results: Type.Array(
    Type.Object({
      name: Type.String(),
      passed: Type.Boolean(),
      output: Type.String(),
      exit_code: Nullable(Type.Integer()),
    }),
  ),
  steps: Type.Array(
    Type.Object({
      attempt: Type.Integer(),
      step: Type.Integer(),
      kind: Type.Enum([...STEP_KINDS]),
      name: Type.String(),
      status: Type.Enum(['running', 'finished']),
      exit_code: Nullable(Type.Integer()),
      signal: Nullable(Type.String()),
      started_at: Time,
      duration_ms: Ms,
      cause: Cause,
      error: Nullable(Type.String()),
      output: Nullable(OutputView),
    }),
  ),
  attempts: Type.Array(
    Type.Object({
      attempt: Type.Integer(),
      executor_id: Type.String(),
      sandbox: Type.String(),
      started_at: Time,
    }),
  ),
});

const QuorumView = Type.Object({
  archive_hash: Type.String(),
  round: Type.Integer(),
  voters: Type.Array(Type.String()),
  required: Type.Integer(),
  validators: Type.Array(Type.String()),
  threshold: Type.Object({ numerator: Type.Integer(), denominator: Type.Integer() }),
  seq: Type.Integer({ description: 'log sequence of QuorumReached' }),
  votes: Type.Array(
    Type.Object({
      hotkey: Type.String(),
      nonce: Type.String(),
      signature: Type.String(),
      signature_version: Type.Integer(),
      seq: Type.Integer(),
      voted_at: Time,
    }),
  ),
});

export const VerifyView = Type.Object({
  batch_id: Type.String(),
  status: BatchStatusSchema,
  total_tasks: Type.Integer(),
  passed_tasks: Type.Integer(),
  failed_tasks: Type.Integer(),
  aggregate_reward: Type.Number(),
  results_hash: Type.String(),
  task_summaries: Type.Array(
    Type.Object({
      task_id: Type.String(),
      passed: Nullable(Type.Boolean()),
      reward: Type.Number(),
      duration_ms: Ms,
    }),
  ),
  executor_version: Type.String(),
  uptime_secs: Type.Integer(),
  quorum: Nullable(QuorumView),
  log: Type.Object({
    first_seq: Type.Integer(),
    last_seq: Type.Integer(),
    chain_head: Nullable(
      Type.Object(
        { seq: Type.Integer(), sha256: Type.String() },
        { description: "the batch's newest event and the hash that a next one would carry as prev" },
      ),
    ),
  }),
});
