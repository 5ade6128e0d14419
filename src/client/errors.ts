/**
 * What can go wrong between a client and a server, told apart by whether another try can help.
 */
import { CodedError } from '../errors.ts';

/** The server answered and said no. Trying the same again gives the same. */
export class RefusedError extends CodedError<'refused'> {
  /** HTTP status. */
  readonly status: number;
  /** The server's own error code, such as `invalid_signature`. */
  readonly serverCode: string;

  constructor(status: number, serverCode: string, message: string) {
    super('refused', `the server refused: ${status} ${serverCode}${message === '' ? '' : `: ${message}`}`);
    this.status = status;
    this.serverCode = serverCode;
  }
}

/** No answer, or one that asks to try again later (5xx). */
export class UnreachableError extends CodedError<'server_unreachable'> {
  /** What Retry-After asked for, in milliseconds; null when it did not. */
  readonly retryAfterMs: number | null;

  constructor(message: string, retryAfterMs: number | null, options?: ErrorOptions) {
    super('server_unreachable', message, options);
    this.retryAfterMs = retryAfterMs;
  }
}
