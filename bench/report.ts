/**
 * How benchmarks print: every number beside its yardstick, as a ratio, because absolute numbers say more about the
 * machine than about us.
 */
import { readFileSync } from 'node:fs';
import { arch, cpus } from 'node:os';

export interface Measurement {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  /** More columns: peak memory, for example. */
  readonly notes?: Readonly<Record<string, string>>;
}

/** Prints measurements as a table with the ratio to `yardstick`, which is one of them. */
export function printReport(title: string, measurements: readonly Measurement[], yardstick: string): void {
  const base = measurements.find(({ name }) => name === yardstick)?.value ?? Number.NaN;
  const rows = measurements.map(({ name, value, unit, notes }) =>
    [
      name.padEnd(24),
      `${value.toPrecision(3)} ${unit}`.padStart(14),
      `${(value / base).toFixed(2)} x ${yardstick}`.padStart(16),
      ...Object.entries(notes ?? {}).map(([label, text]) => `${label} ${text}`),
    ].join('  '),
  );
  const machine = `${cpus().length} x ${cpus()[0]?.model.trim() ?? 'unknown'}, ${arch()}, Node ${process.version}`;
  process.stdout.write(`${title} (${machine})\n${rows.join('\n')}\n`);
}

/** Peak resident memory of this process in MiB (Linux VmHWM); NaN where there is no /proc. */
export function peakMemoryMib(): number {
  try {
    return Math.round(Number(/VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) / 1024);
  } catch {
    return Number.NaN;
  }
}
