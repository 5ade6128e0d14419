/**
 * The HTTP side of a client: every request bounded in time, every answer checked before it is believed, every failure
 * one of two kinds, refused or unreachable. Knows the contract's routes and nothing of terminals.
 */
import { openAsBlob } from 'node:fs';
import { Check, Clean } from 'typebox/value';
import type { Static, TSchema } from 'typebox';
import { CodedError, messageOf } from '../errors.ts';
import { Answers } from './answers.ts';
import { RefusedError, UnreachableError } from './errors.ts';
import { throwIfAborted } from './retry.ts';
import type { VoteHeaders } from './sign.ts';

const REQUEST_TIMEOUT_MS = 30_000;
/** An upload may take this long, plus what the slowest line we put up with needs for its bytes. */
const UPLOAD_BASE_MS = 120_000;
const UPLOAD_MIN_BYTES_PER_MS = 64;
/** A follow of events is begun anew after this: a quiet subject and a dead connection look the same. */
const FOLLOW_MS = 60_000;
const MAX_ANSWER_BYTES = 64 * 1024 * 1024;
const MAX_ERROR_CHARS = 2000;
const MAX_LINE_CHARS = 8 * 1024 * 1024;

export interface Upload {
  /** Path of the archive. */
  readonly file: string;
  readonly bytes: number;
  /** Name told to the server; its ending says the format. */
  readonly fileName: string;
  readonly headers: VoteHeaders;
  readonly concurrentTasks: number | null;
}

/** The server's answer to a vote. */
export type VoteAnswer = { readonly note: string | null } & (
  | {
      readonly kind: 'pending';
      readonly archiveHash: string;
      readonly votes: number;
      readonly required: number;
      readonly totalValidators: number;
    }
  | {
      readonly kind: 'approved';
      readonly batchId: string;
      readonly votes: number;
      readonly required: number;
      readonly totalTasks: number;
      readonly concurrentTasks: number;
    }
);

export type BatchAnswer = Static<typeof Answers.batch>;
export type TaskAnswer = Static<typeof Answers.task>;
export type VerifyAnswer = Static<typeof Answers.verify>;

export interface Api {
  /** The server's address, for messages; without credentials. */
  readonly url: string;
  /** Address of a WebSocket route. */
  socketUrl(pathAndQuery: string): string;
  /** One vote. The file is streamed from the disk, never held. @throws RefusedError, UnreachableError */
  submit(upload: Upload, signal: AbortSignal): Promise<VoteAnswer>;
  batch(batchId: string, signal: AbortSignal): Promise<BatchAnswer>;
  tasks(batchId: string, signal: AbortSignal): Promise<readonly TaskAnswer[]>;
  task(batchId: string, taskId: string, signal: AbortSignal): Promise<TaskAnswer>;
  verify(batchId: string, signal: AbortSignal): Promise<VerifyAnswer>;
  /**
   * Events of one subject after a sequence; with `follow` also those that come within a minute. Lines that are no JSON
   * are passed over.
   */
  events(subject: string, options: { after: number; follow: boolean; signal: AbortSignal }): AsyncIterable<unknown>;
}

/** A client of the server at `url`. @throws CodedError usage when that is no http(s) URL */
export function createApi(url: string): Api {
  const base = parseBase(url);
  const shown = base.href.replace(/\/$/, '');
  const at = (path: string): string => shown + path;

  async function request(path: string, init: RequestInit, signal: AbortSignal, timeoutMs: number): Promise<Response> {
    const timeout = AbortSignal.timeout(timeoutMs);
    let response: Response;
    try {
      response = await fetch(at(path), { ...init, redirect: 'error', signal: AbortSignal.any([signal, timeout]) });
    } catch (error) {
      throwIfAborted(signal);
      const why = timeout.aborted ? `no answer within ${timeoutMs / 1000} s` : causeOf(error);
      throw new UnreachableError(`cannot reach ${shown}: ${why}; is the server running there?`, null, { cause: error });
    }
    if (response.ok) return response;
    throw await failure(response, shown);
  }

  async function get<S extends TSchema>(path: string, schema: S, signal: AbortSignal): Promise<Static<S>> {
    const response = await request(path, { headers: { accept: 'application/json' } }, signal, REQUEST_TIMEOUT_MS);
    return checked(await boundedText(response, MAX_ANSWER_BYTES, shown), schema, path);
  }

  const batchPath = (batchId: string): string => `/batch/${encodeURIComponent(batchId)}`;
  return {
    url: shown,
    socketUrl: (pathAndQuery) => at(pathAndQuery).replace(/^http/, 'ws'),
    async submit({ file, bytes, fileName, headers, concurrentTasks }, signal) {
      const form = new FormData();
      form.append('archive', await openAsBlob(file), fileName);
      const query = concurrentTasks === null ? '' : `?concurrent_tasks=${concurrentTasks}`;
      const timeoutMs = UPLOAD_BASE_MS + Math.ceil(bytes / UPLOAD_MIN_BYTES_PER_MS);
      const init = { method: 'POST', headers: { ...headers, accept: 'application/json' }, body: form };
      const response = await request(`/submit${query}`, init, signal, timeoutMs);
      const answer = checked(await boundedText(response, MAX_ANSWER_BYTES, shown), Answers.vote, '/submit');
      return { note: answer.note ?? null, ...voteAnswer(answer) };
    },
    batch: (batchId, signal) => get(batchPath(batchId), Answers.batch, signal),
    tasks: async (batchId, signal) => (await get(`${batchPath(batchId)}/tasks`, Answers.tasks, signal)).tasks,
    task: (batchId, taskId, signal) =>
      get(`${batchPath(batchId)}/task/${encodeURIComponent(taskId)}`, Answers.task, signal),
    verify: (batchId, signal) => get(`/verify/${encodeURIComponent(batchId)}`, Answers.verify, signal),
    async *events(subject, { after, follow, signal }) {
      const query = new URLSearchParams({ subject, after: String(after), follow: String(follow) });
      const timeout = AbortSignal.timeout(follow ? FOLLOW_MS : REQUEST_TIMEOUT_MS);
      const init = { headers: { accept: 'application/x-ndjson' }, signal: AbortSignal.any([signal, timeout]) };
      try {
        const response = await fetch(at(`/events?${query.toString()}`), init);
        if (!response.ok) throw await failure(response, shown);
        yield* jsonLines(response);
      } catch (error) {
        throwIfAborted(signal);
        if (follow && timeout.aborted) return;
        if (error instanceof CodedError) throw error;
        throw new UnreachableError(`cannot read events of ${shown}: ${causeOf(error)}`, null, { cause: error });
      }
    },
  };
}

function parseBase(url: string): URL {
  const base = URL.parse(url);
  if (base === null || (base.protocol !== 'http:' && base.protocol !== 'https:')) {
    throw new CodedError('usage', `--url: expected is an address such as http://127.0.0.1:8080`);
  }
  if (base.username !== '' || base.password !== '') {
    throw new CodedError('usage', '--url must not contain a user or password; the server asks for none');
  }
  base.search = '';
  base.hash = '';
  return base;
}

/** fetch wraps what happened (ECONNREFUSED and the like) one or two levels down; an AggregateError has no message. */
function causeOf(error: unknown): string {
  for (let inner = error; inner instanceof Error; inner = inner.cause) {
    if ('code' in inner && typeof inner.code === 'string') return inner.message === '' ? inner.code : inner.message;
    if (inner.cause === undefined) return inner.message;
  }
  return messageOf(error);
}

async function failure(response: Response, shown: string): Promise<RefusedError | UnreachableError | CodedError> {
  const text = await boundedText(response, MAX_ERROR_CHARS * 4, shown).catch(() => '');
  let code = 'no_error_code';
  let message = text.slice(0, MAX_ERROR_CHARS);
  try {
    const body: unknown = JSON.parse(text);
    if (Check(Answers.error, body)) {
      code = body.error;
      message = body.message ?? '';
    }
  } catch {
    // Some proxy's page: shown as it is.
  }
  if (code === 'batch_not_found') return new CodedError('batch_not_found', `${shown} knows no such batch`);
  if (response.status < 500) return new RefusedError(response.status, code, message);
  return new UnreachableError(
    `${shown} answers ${response.status} ${code}${message === '' ? '' : `: ${message}`}`,
    retryAfterMs(response.headers.get('retry-after')),
  );
}

function retryAfterMs(header: string | null): number | null {
  if (header === null) return null;
  if (/^\d{1,6}$/.test(header.trim())) return Number(header) * 1000;
  const at = Date.parse(header);
  return Number.isNaN(at) ? null : Math.max(0, at - Date.now());
}

async function boundedText(response: Response, maxBytes: number, shown: string): Promise<string> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  try {
    for await (const chunk of response.body ?? []) {
      size += chunk.byteLength;
      if (size > maxBytes) break;
      chunks.push(chunk);
    }
  } catch (error) {
    throw new UnreachableError(`${shown} broke off its answer: ${causeOf(error)}`, null, { cause: error });
  }
  if (size > maxBytes) throw new CodedError('bad_answer', `${shown} answers with more than ${maxBytes} bytes`);
  return Buffer.concat(chunks).toString('utf8');
}

function checked<S extends TSchema>(text: string, schema: S, path: string): Static<S> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new CodedError('bad_answer', `${path} answers with what is no JSON; is --url that of a term-executor?`);
  }
  const cleaned: unknown = Clean(schema, value);
  if (Check(schema, cleaned)) return cleaned;
  throw new CodedError(
    'bad_answer',
    `${path} answers without the contract's fields; is --url that of a term-executor?`,
  );
}

type VoteBody = Static<typeof Answers.vote>;
type Outcome<V> = V extends { kind: string } ? Omit<V, 'note'> : never;

function voteAnswer(body: VoteBody): Outcome<VoteAnswer> {
  const { votes, required } = body;
  if ('batch_id' in body) {
    const { batch_id: batchId, total_tasks: totalTasks, concurrent_tasks: concurrentTasks } = body;
    return { kind: 'approved', batchId, votes, required, totalTasks, concurrentTasks };
  }
  const { archive_hash: archiveHash, total_validators: totalValidators } = body;
  return { kind: 'pending', archiveHash, votes, required, totalValidators };
}

async function* jsonLines(response: Response): AsyncGenerator<unknown> {
  const decoder = new TextDecoder();
  let rest = '';
  for await (const chunk of response.body ?? []) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split('\n');
    rest = lines.pop() ?? '';
    if (rest.length > MAX_LINE_CHARS) throw new CodedError('bad_answer', 'an event is longer than any can be');
    for (const line of lines) {
      try {
        yield JSON.parse(line) as unknown;
      } catch {
        // An empty line keeps the connection alive.
      }
    }
  }
}
