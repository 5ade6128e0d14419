import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { HttpPorts } from '../../src/http/ports.ts';
import { type Sent, alice, refused } from './submission.ts';
import { BATCH_ID, type Rig, rig, signedHeaders } from './support.ts';

describe('POST /batch/:id/cancel', () => {
  const cancel = (result: Awaited<ReturnType<HttpPorts['cancelBatch']>>['result']['kind']): Partial<HttpPorts> => ({
    cancelBatch: async () => ({ result: { kind: result }, seq: 0 }),
  });
  const send = async (app: Rig['app'], extra: object = {}): Promise<Sent> => {
    const response = await app.inject({
      method: 'POST',
      url: `/batch/${BATCH_ID}/cancel`,
      headers: signedHeaders(alice, `n${Math.random()}`),
      ...extra,
    });
    return { status: response.statusCode, body: response.json(), headers: response.headers };
  };

  it('cancels, with a reason or without', async (t) => {
    const reasons: string[] = [];
    const cancelBatch: HttpPorts['cancelBatch'] = async (_id, hotkey, reason) => {
      assert.equal(hotkey, alice.hotkey);
      reasons.push(reason);
      return { result: { kind: 'cancelled' }, seq: 0 };
    };
    const { app } = await rig(t, { ports: { cancelBatch } });
    assert.deepEqual((await send(app)).body, { batch_id: BATCH_ID, status: 'cancelled' });
    assert.equal((await send(app, { payload: { reason: 'wrong archive' } })).status, 200);
    assert.deepEqual(reasons, ['', 'wrong archive']);
  });

  it('answers why not', async (t) => {
    refused(await send((await rig(t, { ports: cancel('already-ended') })).app), 409, 'batch_ended');
    refused(await send((await rig(t, { ports: cancel('not-a-voter') })).app), 403, 'not_a_voter');
    refused(await send((await rig(t, { ports: cancel('unknown-batch') })).app), 404, 'batch_not_found');
  });

  it('needs the same signature as a submission', async (t) => {
    const { app } = await rig(t);
    refused(await send(app, { headers: {} }), 401, 'missing_auth');
    refused(
      await send(app, { headers: { ...signedHeaders(alice, 'n'), 'x-signature': 'ff' } }),
      401,
      'invalid_signature',
    );
    const headers = signedHeaders(alice, 'n');
    assert.equal((await send(app, { headers })).status, 200);
    refused(await send(app, { headers }), 401, 'nonce_reused');
  });

  it('refuses bad JSON and bad fields', async (t) => {
    const { app } = await rig(t);
    const headers = { ...signedHeaders(alice, 'n'), 'content-type': 'application/json' };
    refused(await send(app, { payload: '{"reason":', headers }), 400, 'invalid_request');
    refused(await send(app, { payload: { reason: 5 } }), 400, 'invalid_request');
    refused(
      await send(app, { payload: '<xml/>', headers: { ...headers, 'content-type': 'text/xml' } }),
      415,
      'unsupported_media_type',
    );
    refused(await send(app, { payload: { reason: 'x'.repeat(70_000) } }), 413, 'payload_too_large');
  });
});
