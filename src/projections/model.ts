/**
 * What a read model is: its tables and the statements that one event runs on them. Models know nothing of transactions,
 * positions or files; store.ts applies them so that each event counts exactly once.
 */
import type { DatabaseSync, SQLOutputValue } from 'node:sqlite';
import type { Recorded } from '../events.ts';

/** `Result` is what applying an event yields beyond the changed rows. */
export interface Model<Result = void> {
  readonly name: string;
  /** DDL. A change of it makes every existing database rebuild itself from the log. */
  readonly schema: string;
  /**
   * Prepares the statements once and returns what applies one event. It must be total: events of unknown batches and
   * late events change nothing, since a model that throws stops every other one.
   */
  prepare(db: DatabaseSync): (event: Recorded) => Result;
}

export type Row = Record<string, SQLOutputValue>;

/** The text of a column. `T`: the vocabulary the column was written from. */
export function text<T extends string = string>(row: Row, column: string): T {
  const value = row[column];
  if (typeof value !== 'string') throw wrongType(column, 'text');
  return value as T;
}

export function textOrNull<T extends string = string>(row: Row, column: string): T | null {
  return row[column] === null ? null : text<T>(row, column);
}

export function number(row: Row, column: string): number {
  const value = row[column];
  if (typeof value !== 'number') throw wrongType(column, 'a number');
  return value;
}

export function numberOrNull(row: Row, column: string): number | null {
  return row[column] === null ? null : number(row, column);
}

/** A JSON column that this program wrote from a `T`. */
export function json<T>(row: Row, column: string): T {
  return JSON.parse(text(row, column)) as T;
}

export function jsonOrNull<T>(row: Row, column: string): T | null {
  return row[column] === null ? null : json<T>(row, column);
}

function wrongType(column: string, wanted: string): Error {
  return new Error(`column ${column} of the read model is not ${wanted}`);
}
