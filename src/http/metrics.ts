/**
 * The Prometheus metrics of one app, in a registry of its own, so that two apps in one process (as in tests) do not
 * meet. Counts of batches and tasks come from the read models when scraped: they survive restarts and cannot drift.
 */
import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client';
import type { ReadModel, Totals } from '../projections/read-model.ts';

const DURATION_BUCKETS_SECS = [0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300];

export interface Metrics {
  readonly contentType: string;
  render(): Promise<string>;
  requestEnded(route: string, method: string, status: number, secs: number): void;
  readonly uploadedBytes: { inc(bytes: number): void };
  readonly webSockets: { inc(): void; dec(): void };
}

export function createMetrics(readModel: Pick<ReadModel, 'totals' | 'position'>): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const registers = [registry];

  const counter = (name: string, help: string, read: (totals: Totals) => number): void => {
    const metric: Counter = new Counter({
      name: `term_executor_${name}`,
      help,
      registers,
      collect: () => {
        metric.reset();
        metric.inc(read(readModel.totals()));
      },
    });
  };
  const gauge = (name: string, help: string, read: () => number): void => {
    const metric: Gauge = new Gauge({
      name: `term_executor_${name}`,
      help,
      registers,
      collect: () => metric.set(read()),
    });
  };
  counter('batches_total', 'Batches approved', (totals) => totals.totalBatches);
  gauge('batches_active', 'Batches started and not ended', () => readModel.totals().activeBatches);
  gauge('batches_queued', 'Batches approved and not started', () => readModel.totals().queuedBatches);
  counter('batches_completed', 'Batches ended, in whatever way', (totals) => totals.completedBatches);
  counter('tasks_total', 'Tasks ended', (totals) => totals.tasksPassed + totals.tasksFailed);
  counter('tasks_passed', 'Tasks that passed', (totals) => totals.tasksPassed);
  counter('tasks_failed', 'Tasks that failed', (totals) => totals.tasksFailed);
  counter('duration_ms_sum', 'Durations of ended batches, in milliseconds', (totals) => totals.durationMsSum);
  gauge('log_position', 'Sequence of the last event in the read models', () => readModel.position());

  const duration = new Histogram({
    name: 'term_executor_http_request_duration_seconds',
    help: 'Time from request to the end of the answer',
    labelNames: ['method', 'route', 'status'] as const,
    buckets: DURATION_BUCKETS_SECS,
    registers,
  });
  const uploadedBytes = new Counter({
    name: 'term_executor_upload_bytes_total',
    help: 'Bytes of archives received completely',
    registers,
  });
  const webSockets = new Gauge({ name: 'term_executor_websockets', help: 'Open WebSocket connections', registers });

  return {
    contentType: registry.contentType,
    render: () => registry.metrics(),
    requestEnded: (route, method, status, secs) =>
      duration.observe({ method, route, status: `${Math.floor(status / 100)}xx` }, secs),
    uploadedBytes,
    webSockets,
  };
}
