/**
 * The checks that a signed request passes, in the contract's order. Clients tell what is wrong by the first code they
 * get, and the nonce is spent last, so that nobody can spend a validator's nonce without its key.
 */
import type { IncomingMessage } from 'node:http';
import { within } from '../bounds.ts';
import { HttpError, logUnavailable } from '../errors.ts';
import type { HttpPorts } from '../ports.ts';
import { isSignedBy, publicKeyOf } from './signature.ts';

const MAX_HOTKEY_CHARS = 128;
const MAX_NONCE_CHARS = 256;
const MAX_SIGNATURE_CHARS = 256;
const NONCE_WAIT_MS = 10_000;
const RETRY_WHITELIST_SECS = 30;

/** A request whose signature a whitelisted validator made. */
export interface SignedRequest {
  readonly hotkey: string;
  readonly nonce: string;
  readonly signature: string;
}

/** Checks 1 to 3 without the nonce. @throws HttpError missing_auth, whitelist_not_ready, unauthorized_hotkey, … */
export function authenticate(request: IncomingMessage, ports: HttpPorts): SignedRequest {
  const signed = readHeaders(request);
  const validators = ports.validators();
  if (validators.length === 0) {
    throw new HttpError(503, 'whitelist_not_ready', 'the list of validators is not there yet; try again soon', {
      retryAfterSecs: RETRY_WHITELIST_SECS,
    });
  }
  if (!validators.includes(signed.hotkey)) {
    throw new HttpError(401, 'unauthorized_hotkey', 'X-Hotkey: this hotkey is not on the whitelist of validators');
  }
  const publicKey = publicKeyOf(signed.hotkey);
  if (!publicKey) throw new HttpError(401, 'invalid_hotkey', 'X-Hotkey: not an SS58 address of an sr25519 key');
  if (!isSignedBy(publicKey, signed.hotkey + signed.nonce, signed.signature)) {
    throw new HttpError(
      401,
      'invalid_signature',
      'X-Signature: must be the hex of an sr25519 signature by X-Hotkey over the text of X-Hotkey followed by X-Nonce',
    );
  }
  return signed;
}

/** Spends the nonce. @throws HttpError 401 nonce_reused; 503 log_unavailable when that cannot be known */
export async function spendNonce(signed: SignedRequest, ports: HttpPorts): Promise<void> {
  const isNew = await within(NONCE_WAIT_MS, 'the store of nonces', ports.useNonce(signed.hotkey, signed.nonce)).catch(
    (error: unknown) => {
      throw logUnavailable('the store of nonces cannot be reached; try again', { cause: error });
    },
  );
  if (!isNew) throw new HttpError(401, 'nonce_reused', 'X-Nonce: was used before; sign again with a fresh one');
}

function readHeaders(request: IncomingMessage): SignedRequest {
  const version = onlyHeader(request, 'x-signature-version');
  const hotkey = onlyHeader(request, 'x-hotkey');
  const nonce = onlyHeader(request, 'x-nonce');
  const signature = onlyHeader(request, 'x-signature');
  const missing =
    problem('X-Hotkey', hotkey, MAX_HOTKEY_CHARS) ??
    problem('X-Nonce', nonce, MAX_NONCE_CHARS) ??
    problem('X-Signature', signature, MAX_SIGNATURE_CHARS);
  if (missing !== null || !hotkey || !nonce || !signature) {
    throw new HttpError(401, 'missing_auth', missing ?? 'X-Hotkey, X-Nonce and X-Signature are required');
  }
  if (version === '2') {
    throw new HttpError(
      400,
      'invalid_request',
      'X-Signature-Version: bound signatures (version 2) are not available yet; leave the header out',
    );
  }
  if (version !== undefined && version !== '1') {
    throw new HttpError(400, 'invalid_request', 'X-Signature-Version: must be 1 or left out');
  }
  return { hotkey, nonce, signature };
}

/** The header's value; null if it was sent more than once, which Node would join into one value. */
function onlyHeader(request: IncomingMessage, name: string): string | null | undefined {
  const sent = request.rawHeaders.filter((text, index) => index % 2 === 0 && text.toLowerCase() === name).length;
  if (sent > 1) return null;
  const value = request.headers[name];
  return typeof value === 'string' ? value : undefined;
}

function problem(name: string, value: string | null | undefined, maxChars: number): string | null {
  if (value === null) return `${name}: must be sent once`;
  if (value === undefined || value === '') return `${name}: this header is required`;
  if (value.length > maxChars) return `${name}: must have at most ${maxChars} characters`;
  return /^[\x20-\x7e]+$/.test(value) ? null : `${name}: must consist of printable ASCII characters`;
}
