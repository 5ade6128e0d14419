/**
 * One error shape for everything that can go wrong on purpose: a stable code for programs, a message with the place
 * and the remedy for people. Without it callers would match on message texts, and HTTP, CLI and log would each invent
 * their own wording.
 */

/** A failure somebody can act on. `code` is stable and machine readable; `message` names the place and the remedy. */
export class CodedError<Code extends string = string> extends Error {
  override readonly name: string = 'CodedError';
  readonly code: Code;

  constructor(code: Code, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** The message of anything thrown, also of what is no Error. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Marks a branch that the types say cannot be reached; throws if it is reached after all. */
export function unreachable(value: never): never {
  throw new Error(`unreachable: ${JSON.stringify(value)}`);
}
