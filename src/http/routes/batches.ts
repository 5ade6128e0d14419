/** The batches, their tasks and their results, as the read models have them. */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import Type from 'typebox';
import { Slots, within } from '../bounds.ts';
import type { TaskRow } from '../../projections/read-model.ts';
import { type Context, requireBatch, uptimeSecs } from '../context.ts';
import { HttpError, errorResponses } from '../errors.ts';
import {
  BatchListItem,
  BatchParams,
  BatchStatusSchema,
  BatchView,
  TaskListView,
  TaskParams,
  TaskView,
  VerifyView,
} from '../schemas.ts';
import { batchView, hasEnded, isLarge, taskListView, taskView, verifyView } from '../views.ts';

const DEFAULT_PAGE = 100;
const MAX_PAGE = 1000;
const CHAIN_HEAD_WAIT_MS = 5_000;

export const batchRoutes: FastifyPluginAsyncTypebox<Context> = async (app, { ports, outputs, limits }) => {
  const { readModel } = ports;
  const largeViews = new Slots(limits.largeViews);
  /** Small answers never wait, so that the others cannot keep them. */
  const inTurn = <T>(tasks: readonly TaskRow[], view: () => Promise<T>): Promise<T> =>
    isLarge(tasks) ? largeViews.run(view, limits.largeViewWaitMs) : view();

  app.get(
    '/batches',
    {
      schema: {
        summary: 'Batches, newest first; the header Link (rel="next") leads to the next page',
        tags: ['batches'],
        querystring: Type.Object({
          status: Type.Optional(BatchStatusSchema),
          limit: Type.Optional(Type.Integer({ minimum: 1, maximum: MAX_PAGE, default: DEFAULT_PAGE })),
          cursor: Type.Optional(Type.String({ maxLength: 64, description: 'opaque; from a Link header' })),
        }),
        response: { 200: Type.Array(BatchListItem), ...errorResponses },
      },
    },
    (request, reply) => {
      const { status, limit = DEFAULT_PAGE, cursor } = request.query;
      const filter = status === undefined ? {} : { status };
      const before = cursor === undefined ? {} : { before: readCursor(cursor) };
      const rows = readModel.batches({ ...filter, ...before, limit: limit + 1 });
      const page = rows.slice(0, limit);
      const last = page.at(-1);
      if (rows.length > limit && last) {
        const next = new URLSearchParams({ ...filter, limit: String(limit), cursor: writeCursor(last.firstSeq) });
        reply.header('link', `</batches?${next.toString()}>; rel="next"`);
      }
      return page.map((row) => ({ batch_id: row.batchId, created_at: row.createdAt, status: row.status }));
    },
  );

  app.get(
    '/batch/:id',
    {
      schema: {
        summary: 'One batch',
        tags: ['batches'],
        params: BatchParams,
        response: { 200: BatchView, ...errorResponses },
      },
    },
    (request) => batchView(requireBatch(ports, request.params.id)),
  );

  app.get(
    '/batch/:id/tasks',
    {
      schema: {
        summary: 'The tasks of a batch; long outputs are cut, and say so',
        tags: ['batches'],
        params: BatchParams,
        response: { 200: TaskListView, ...errorResponses },
      },
    },
    (request) => {
      const { batchId } = requireBatch(ports, request.params.id);
      const tasks = readModel.tasks(batchId);
      return inTurn(tasks, () => taskListView(batchId, tasks, outputs));
    },
  );

  app.get(
    '/batch/:id/task/:taskId',
    {
      schema: {
        summary: 'One task with its tests, steps and attempts; very long outputs are cut, and say so',
        tags: ['batches'],
        params: TaskParams,
        response: { 200: TaskView, ...errorResponses },
      },
    },
    (request) => {
      const { batchId } = requireBatch(ports, request.params.id);
      const task = readModel.task(batchId, request.params.taskId);
      if (!task) throw new HttpError(404, 'task_not_found', `the batch has no such task; see /batch/${batchId}/tasks`);
      return inTurn([task], () => taskView(task, readModel.attempts(batchId, task.taskId), outputs));
    },
  );

  app.get(
    '/verify/:id',
    {
      schema: {
        summary: 'The results of a batch that has ended, with their hash and the proof of the quorum',
        tags: ['batches'],
        params: BatchParams,
        response: { 200: VerifyView, ...errorResponses },
      },
    },
    async (request) => {
      const batch = requireBatch(ports, request.params.id);
      if (!hasEnded(batch)) {
        throw new HttpError(409, 'batch_not_finished', `the batch is ${batch.status}; ask again when it has ended`);
      }
      const { batchId } = batch;
      const view = {
        batch,
        tasks: readModel.tasks(batchId),
        quorum: readModel.quorum(batchId),
        version: ports.version,
        uptimeSecs: uptimeSecs(ports),
      };
      return verifyView({ ...view, chainHead: await chainHead(batchId) });
    },
  );

  /** null while the log cannot be reached: everything else of the answer does not need it. */
  const chainHead = async (batchId: string): Promise<{ readonly seq: number; readonly hash: string } | null> => {
    if (!ports.logReachable()) return null;
    return within(CHAIN_HEAD_WAIT_MS, 'the event log', ports.chainHead(batchId)).catch(() => null);
  };
};

/** Opaque to clients, so that what pages are cut by can change. */
function writeCursor(firstSeq: number): string {
  return Buffer.from(`seq:${firstSeq}`).toString('base64url');
}

function readCursor(cursor: string): number {
  const match = /^seq:(\d{1,15})$/.exec(Buffer.from(cursor, 'base64url').toString());
  if (!match) throw new HttpError(400, 'invalid_request', 'cursor: take it from a Link header of GET /batches');
  return Number(match[1]);
}
