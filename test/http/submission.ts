/** A signed submission and what its answer must be, for the tests of signed routes. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { type Rig, form, signedHeaders, validator } from './support.ts';

export const alice = validator(1);
export const archive = form({ name: 'archive', filename: 'a.zip', content: 'archive bytes' });
export const ARCHIVE_SHA256 = createHash('sha256').update('archive bytes').digest('hex');

export interface Sent {
  readonly status: number;
  readonly body: Record<string, unknown>;
  readonly headers: Record<string, unknown>;
}

/** Posts a well signed submission, but for the changes. */
export async function submit(
  app: Rig['app'],
  change: { headers?: Record<string, string | string[]>; body?: typeof archive; query?: string } = {},
): Promise<Sent> {
  const body = change.body ?? archive;
  const response = await app.inject({
    method: 'POST',
    url: `/submit${change.query ?? ''}`,
    payload: body.payload,
    headers: { ...signedHeaders(alice, `nonce-${Math.random()}`), ...body.headers, ...change.headers },
  });
  return { status: response.statusCode, body: response.json(), headers: response.headers };
}

/** Asserts the refusal, and its one shape. */
export function refused(sent: Sent, status: number, code: string): void {
  assert.deepEqual([sent.status, sent.body['error']], [status, code], JSON.stringify(sent.body));
  assert.deepEqual(Object.keys(sent.body), ['error', 'message']);
  assert.ok(String(sent.body['message']).length > 0);
}

/** Asserts that no vote was cast and no file is left. */
export function leavesNothing({ uploads, votes }: Rig): void {
  assert.deepEqual(readdirSync(uploads), []);
  assert.deepEqual(votes, []);
}
