/**
 * Signing a vote as existing validators do it: sr25519 with the signing context "substrate" over the text
 * hotkey + nonce, sent in three headers.
 */
import { randomBytes } from 'node:crypto';
import {
  cryptoWaitReady,
  encodeAddress,
  keyExtractSuri,
  keyFromPath,
  mnemonicToMiniSecret,
  mnemonicValidate,
  sr25519PairFromSeed,
  sr25519Sign,
} from '@polkadot/util-crypto';
import { CodedError } from '../errors.ts';

/** The phrase behind `//Alice`, `//Bob`, …: known to everybody (Substrate's development accounts). */
const DEV_PHRASE = 'bottom drive obey lake curtain smoke basket hold race lonely fit walk';
/** The generic Substrate address prefix, which Bittensor uses. */
export const SS58_PREFIX = 42;
const NONCE_BYTES = 16;

/** A key that can sign and does not show its secret. */
export interface Signer {
  /** SS58 address, prefix 42: the hotkey. */
  readonly address: string;
  readonly publicKey: Uint8Array;
  sign(message: string): Uint8Array;
}

export interface VoteHeaders {
  readonly 'x-hotkey': string;
  readonly 'x-nonce': string;
  readonly 'x-signature': string;
}

/** True for `//Alice` and any other path below the development phrase, named or spelt out: keys that everybody has. */
export function isDevelopmentUri(uri: string): boolean {
  return (
    uri.startsWith('//') ||
    uri
      .trim()
      .split(/[\s/]+/)
      .join(' ')
      .startsWith(DEV_PHRASE)
  );
}

/** The accounts that `subkey` and every development chain know, by the names of their paths. */
const DEV_NAMES = ['Alice', 'Bob', 'Charlie', 'Dave', 'Eve', 'Ferdie'] as const;

/** Whether an address is a well-known development account, however its secret was written (as a seed, for example). */
export async function isDevelopmentAddress(address: string): Promise<boolean> {
  const uris = DEV_NAMES.flatMap((name) => [`//${name}`, `//${name}//stash`]);
  const signers = await Promise.all(uris.map((uri) => signerFromUri(uri)));
  return signers.some((signer) => signer.address === address);
}

/**
 * The signer of a secret URI: a phrase of 12 to 24 words or a 0x seed of 32 bytes, then an optional derivation path
 * and `///password`; or a path alone, upon the development phrase. @throws CodedError key_invalid, without the secret
 */
export async function signerFromUri(uri: string): Promise<Signer> {
  await cryptoWaitReady();
  const { seed, path } = parse(uri.startsWith('/') ? `${DEV_PHRASE}${uri}` : uri);
  const pair = keyFromPath(sr25519PairFromSeed(seed), path, 'sr25519');
  return {
    address: encodeAddress(pair.publicKey, SS58_PREFIX),
    publicKey: pair.publicKey,
    sign: (message) => sr25519Sign(message, pair),
  };
}

function parse(uri: string): { seed: Uint8Array; path: ReturnType<typeof keyExtractSuri>['path'] } {
  let parts: ReturnType<typeof keyExtractSuri>;
  try {
    parts = keyExtractSuri(uri);
  } catch {
    throw new CodedError('key_invalid', 'the secret is neither a phrase nor a 0x seed, with an optional path');
  }
  const { phrase, path, password } = parts;
  if (/^0x[0-9a-fA-F]{64}$/.test(phrase)) return { seed: Buffer.from(phrase.slice(2), 'hex'), path };
  if (!mnemonicValidate(phrase)) {
    throw new CodedError('key_invalid', 'the phrase is not valid: a word is misspelt, missing or out of order');
  }
  return { seed: mnemonicToMiniSecret(phrase, password), path };
}

/** 128 random bits as hex. A nonce works once, so every request takes a new one. */
export function newNonce(): string {
  return randomBytes(NONCE_BYTES).toString('hex');
}

/** The headers of a version 1 vote. */
export function signVote(signer: Signer, nonce: string): VoteHeaders {
  const signature = Buffer.from(signer.sign(signer.address + nonce)).toString('hex');
  return { 'x-hotkey': signer.address, 'x-nonce': nonce, 'x-signature': `0x${signature}` };
}
