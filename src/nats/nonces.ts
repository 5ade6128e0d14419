/**
 * Used nonces. A signature stays valid for ever, so that it was seen before is all that stops a replay; the memory of
 * it must be shared by all servers and survive their restart. It is a KV bucket whose entries expire.
 */
import { createHash } from 'node:crypto';
import { headers, type NatsConnection } from '@nats-io/transport-node';
import { jetstream, JetStreamApiError, JetStreamApiCodes } from '@nats-io/jetstream';
import { encodeToken, NONCE_BUCKET } from '../streams.ts';
import { CodedError, messageOf } from '../errors.ts';

const TIMEOUT_MS = 5_000;

export interface Nonces {
  /**
   * Marks the nonce as used by this hotkey: true if it was new, false if it is used already. Of calls at the same
   * time exactly one gets true. @throws CodedError nonces_unavailable: the request must be refused
   */
  use(hotkey: string, nonce: string): Promise<boolean>;
}

/** Over the bucket that ensureStreams() made. */
export function createNonces(nc: NatsConnection): Nonces {
  const js = jetstream(nc, { timeout: TIMEOUT_MS });
  return {
    async use(hotkey, nonce) {
      const digest = createHash('sha256').update(nonce).digest('hex');
      const subject = `$KV.${NONCE_BUCKET}.${encodeToken(hotkey)}.${digest}`;
      // Not kv.create(): on a conflict it reads the key and may write over a delete marker, and when the read fails
      // the caller cannot tell "used" from "unknown". The bare expectation has two outcomes and an error.
      const expectation = headers();
      expectation.set('Nats-Expected-Last-Subject-Sequence', '0');
      try {
        await js.publish(subject, new Uint8Array(0), { headers: expectation, retries: 1 });
        return true;
      } catch (error) {
        if (error instanceof JetStreamApiError && isUsed(error.code)) return false;
        throw new CodedError('nonces_unavailable', `cannot check the nonce: ${messageOf(error)}; try again`, {
          cause: error,
        });
      }
    },
  };
}

function isUsed(code: number): boolean {
  return (
    code === JetStreamApiCodes.StreamWrongLastSequence || code === JetStreamApiCodes.StreamWrongLastSequenceUnknown
  );
}
