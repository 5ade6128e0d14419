/**
 * The one shape in which the server refuses: `{error: code, message}`. Whatever is thrown, by us, by fastify or by a
 * defect, becomes that here; without it clients would meet four shapes, and inner messages would leak out of 5xx.
 */
import Type from 'typebox';
import { CodedError } from '../errors.ts';

/** A refusal with its HTTP status. `retryAfterSecs`: sent as Retry-After. */
export class HttpError extends CodedError {
  override readonly name: string = 'HttpError';
  readonly status: number;
  readonly retryAfterSecs: number | null;

  constructor(status: number, code: string, message: string, options?: ErrorOptions & { retryAfterSecs?: number }) {
    super(code, message, options);
    this.status = status;
    this.retryAfterSecs = options?.retryAfterSecs ?? null;
  }
}

export const ErrorBody = Type.Object(
  {
    error: Type.String({ description: 'stable code for programs' }),
    message: Type.String({ description: 'what is wrong, where, and what to do' }),
  },
  { description: 'refused' },
);

/** Response schemas that every route declares beside its own. */
export const errorResponses = { '4xx': ErrorBody, '5xx': ErrorBody } as const;

/** Seconds after which a client may try again when the log cannot be reached. */
const RETRY_LOG_SECS = 5;

/** Seconds after which a client may try again when all places are taken. */
const RETRY_BUSY_SECS = 10;

/** 503: all places for what was asked are taken. */
export function busy(message: string): HttpError {
  return new HttpError(503, 'busy', message, { retryAfterSecs: RETRY_BUSY_SECS });
}

/** 503: the event log cannot be reached, so nothing can be decided. */
export function logUnavailable(message: string, options?: ErrorOptions): HttpError {
  return new HttpError(503, 'log_unavailable', message, { ...options, retryAfterSecs: RETRY_LOG_SECS });
}

export function batchNotFound(batchId: string): HttpError {
  return new HttpError(404, 'batch_not_found', `there is no batch ${batchId}; GET /batches lists them`);
}

/** What is sent, and what is logged, for anything thrown. */
export interface Refusal {
  readonly status: number;
  readonly code: string;
  readonly message: string;
  readonly retryAfterSecs: number | null;
}

/** Codes of other parts of the program that reach clients as they are. */
const STATUS_OF_CODE: ReadonlyMap<string, number> = new Map([
  ['extraction_failed', 400],
  ['blob_not_found', 404],
  ['log_unavailable', 503],
  ['log_conflict', 503],
  ['contention', 503],
  ['blob_unavailable', 503],
  ['nonces_unavailable', 503],
  ['read_model_closed', 503],
]);

/** fastify's own refusals, by status. */
const CODE_OF_STATUS: ReadonlyMap<number, string> = new Map([
  [404, 'not_found'],
  [405, 'method_not_allowed'],
  [408, 'request_timeout'],
  [413, 'payload_too_large'],
  [414, 'uri_too_long'],
  [415, 'unsupported_media_type'],
]);

/** Turns anything thrown into a refusal. What nobody foresaw is 500 and says nothing but the request id. */
export function refusalOf(error: unknown, requestId: string): Refusal {
  if (error instanceof HttpError) return error;
  if (error instanceof CodedError) {
    const status = STATUS_OF_CODE.get(error.code);
    if (status !== undefined) {
      return {
        status,
        code: error.code,
        message: error.message,
        retryAfterSecs: status === 503 ? RETRY_LOG_SECS : null,
      };
    }
  } else if (isClientError(error)) {
    const status = error.validation === undefined ? error.statusCode : 400;
    return {
      status,
      code: CODE_OF_STATUS.get(status) ?? 'invalid_request',
      message: error.message,
      retryAfterSecs: null,
    };
  }
  return {
    status: 500,
    code: 'internal_error',
    message: `internal error; the server's log has it under request ${requestId}`,
    retryAfterSecs: null,
  };
}

function isClientError(error: unknown): error is Error & { statusCode: number; validation?: unknown } {
  if (!(error instanceof Error) || !('statusCode' in error)) return false;
  return typeof error.statusCode === 'number' && error.statusCode >= 400 && error.statusCode < 500;
}
