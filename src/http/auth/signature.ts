/**
 * Whether a validator signed. Strict on purpose: the general-purpose verifiers also accept wrapped messages and other
 * kinds of keys, which would let a signature made for something else pass here.
 */
// By subpath: the whole package loads every kind of key with its wasm, some 70 MB of memory.
import { base58Decode } from '@polkadot/util-crypto/base58';
import { blake2AsU8a } from '@polkadot/util-crypto/blake2';
import { sr25519Verify } from '@polkadot/util-crypto/sr25519';

/** Source of both: the SS58 registry, https://docs.polkadot.com/reference/parachains/accounts/#address-format */
const CHECKSUM_PREFIX = new TextEncoder().encode('SS58PRE');
const CHECKSUM_BYTES = 2;
const PUBLIC_KEY_BYTES = 32;

/**
 * The sr25519 public key in an SS58 address as validators write it: starting with 5, 35 or 36 bytes long (a one or two
 * byte network prefix, the key, two bytes of blake2b checksum). null if it is not one.
 */
export function publicKeyOf(hotkey: string): Uint8Array | null {
  if (!/^5[1-9A-HJ-NP-Za-km-z]{40,60}$/.test(hotkey)) return null;
  const bytes = base58Decode(hotkey);
  const prefixBytes = ((bytes[0] ?? 0) & 0x40) === 0 ? 1 : 2;
  if (bytes.length !== prefixBytes + PUBLIC_KEY_BYTES + CHECKSUM_BYTES) return null;
  const body = bytes.subarray(0, -CHECKSUM_BYTES);
  const checksum = blake2AsU8a(Buffer.concat([CHECKSUM_PREFIX, body]), 512).subarray(0, CHECKSUM_BYTES);
  return Buffer.from(checksum).equals(bytes.subarray(-CHECKSUM_BYTES)) ? body.subarray(prefixBytes) : null;
}

/**
 * True if the hex text (either case, with or without 0x) is an sr25519 signature by this key, signing context
 * "substrate", over the UTF-8 bytes of exactly this message.
 */
export function isSignedBy(publicKey: Uint8Array, message: string, signature: string): boolean {
  const hex = /^(?:0x)?([0-9a-fA-F]{128})$/.exec(signature)?.[1];
  if (hex === undefined) return false;
  try {
    return sr25519Verify(new TextEncoder().encode(message), Buffer.from(hex, 'hex'), publicKey);
  } catch {
    // Bytes that are no point or no scalar make the library throw; that is a wrong signature too.
    return false;
  }
}
