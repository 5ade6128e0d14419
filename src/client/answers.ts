/**
 * The shapes of what the server answers, as far as a client uses them. Fields beyond these are dropped, missing ones
 * are an error that says so, instead of an `undefined` in a table.
 */
import Type from 'typebox';

const Nullable = <T extends Parameters<typeof Type.Union>[0][number]>(schema: T) =>
  Type.Optional(Type.Union([schema, Type.Null()]));
const Count = Type.Integer({ minimum: 0 });

const vote = Type.Union([
  Type.Object({
    batch_id: Type.String(),
    total_tasks: Count,
    concurrent_tasks: Count,
    votes: Count,
    required: Count,
    note: Type.Optional(Type.String()),
  }),
  Type.Object({
    status: Type.String(),
    archive_hash: Type.String(),
    votes: Count,
    required: Count,
    total_validators: Count,
    note: Type.Optional(Type.String()),
  }),
]);

const batch = Type.Object({
  batch_id: Type.String(),
  status: Type.String(),
  total_tasks: Count,
  completed_tasks: Count,
  passed_tasks: Count,
  failed_tasks: Count,
  aggregate_reward: Type.Number(),
  error: Nullable(Type.String()),
  duration_ms: Nullable(Type.Number()),
});

const task = Type.Object({
  task_id: Type.String(),
  status: Type.String(),
  passed: Nullable(Type.Boolean()),
  reward: Type.Number(),
  error: Nullable(Type.String()),
  cause: Nullable(Type.String()),
  duration_ms: Nullable(Type.Number()),
});

export const Answers = {
  vote,
  batch,
  task,
  tasks: Type.Object({ tasks: Type.Array(task) }),
  verify: Type.Object({
    batch_id: Type.String(),
    status: Type.String(),
    aggregate_reward: Type.Number(),
    results_hash: Type.String(),
    task_summaries: Type.Array(
      Type.Object({ task_id: Type.String(), passed: Type.Union([Type.Boolean(), Type.Null()]), reward: Type.Number() }),
    ),
  }),
  error: Type.Object({ error: Type.String(), message: Type.Optional(Type.String()) }),
  /** A message of the WebSocket. `data` is looked into by whoever shows it. */
  feed: Type.Object({
    event: Type.String(),
    batch_id: Type.String(),
    task_id: Type.Optional(Type.String()),
    seq: Type.Optional(Type.Integer({ minimum: 0 })),
    data: Type.Optional(Type.Record(Type.String(), Type.Unknown())),
  }),
  /** A line of GET /events, as far as a vote round is concerned. */
  event: Type.Object({
    seq: Type.Optional(Type.Integer({ minimum: 0 })),
    type: Type.Union([Type.String(), Type.Null()]),
    data: Type.Optional(Type.Record(Type.String(), Type.Unknown())),
  }),
} as const;
