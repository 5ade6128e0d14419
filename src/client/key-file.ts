/**
 * Key files: how a hotkey gets to the command line without its phrase ever standing in an argument, which every user
 * of the machine could read. Reads our files and those of Bittensor wallets, whose fields have the same names.
 */
import { constants } from 'node:fs';
import { open, readFile, stat } from 'node:fs/promises';
import { mnemonicGenerate } from '@polkadot/util-crypto';
import Type from 'typebox';
import { Compile } from 'typebox/compile';
import { CodedError, messageOf } from '../errors.ts';
import { isDevelopmentAddress, isDevelopmentUri, signerFromUri, type Signer } from './sign.ts';

const WORDS = 12;
const MAX_KEY_FILE_BYTES = 64 * 1024;
const OTHERS_MASK = 0o077;

const KeyFile = Compile(
  Type.Object({
    address: Type.Optional(Type.String()),
    ss58Address: Type.Optional(Type.String()),
    secretPhrase: Type.Optional(Type.Union([Type.String(), Type.Null()])),
    secretSeed: Type.Optional(Type.Union([Type.String(), Type.Null()])),
  }),
);

/** What is known of a key without its secret. */
export interface PublicKeyInfo {
  readonly address: string;
  /** 0x and 64 hex digits. */
  readonly publicKey: string;
}

export interface LoadedKey {
  readonly signer: Signer;
  readonly source: 'file' | 'development';
  /** Set when others than the owner may read the file. */
  readonly warning: string | null;
}

/** The public half of a signer. */
export function publicInfo(signer: Signer): PublicKeyInfo {
  return { address: signer.address, publicKey: `0x${Buffer.from(signer.publicKey).toString('hex')}` };
}

/** A new random key and its phrase. */
export async function generateKey(): Promise<{ signer: Signer; phrase: string }> {
  const phrase = mnemonicGenerate(WORDS);
  return { signer: await signerFromUri(phrase), phrase };
}

/**
 * Writes a key file that only its owner can read, and has it on disk before it returns. @throws CodedError file_exists
 * rather than replace a key, file_unreadable when it cannot be written
 */
export async function writeKeyFile(file: string, signer: Signer, phrase: string): Promise<void> {
  const text = `${JSON.stringify({ ...publicInfo(signer), secretPhrase: phrase }, null, 2)}\n`;
  try {
    await using handle = await open(file, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600);
    await handle.writeFile(text);
    await handle.sync();
  } catch (error) {
    if (hasCode(error, 'EEXIST')) {
      throw new CodedError('file_exists', `${file} exists and may hold a key; choose another name or move it away`);
    }
    throw new CodedError('file_unreadable', `cannot write ${file}: ${messageOf(error)}`, { cause: error });
  }
}

/**
 * The key named by `--key`: a key file, or with `dev` a development path such as `//Alice`. A phrase is refused.
 * @throws CodedError usage, key_invalid
 */
export async function loadKey(name: string, dev: boolean): Promise<LoadedKey> {
  const stats = await stat(name).catch(() => null);
  if (stats === null) {
    if (name.startsWith('//')) return developmentKey(name, dev);
    if (looksLikeSecret(name)) {
      throw new CodedError(
        'usage',
        'a secret on the command line can be read by every user of this machine; put it into a key file ' +
          '({"secretPhrase": "…"}, mode 0600) and name the file. Treat this key as known to others',
      );
    }
    throw new CodedError(
      'key_invalid',
      `there is no key file ${name}; make one with: term-executor keys new --out FILE`,
    );
  }
  if (!stats.isFile() || stats.size > MAX_KEY_FILE_BYTES) {
    throw new CodedError('key_invalid', `${name} is no key file; expected is JSON with the field secretPhrase`);
  }
  const loose = (stats.mode & OTHERS_MASK) !== 0;
  return {
    signer: await signerOfFile(name, dev),
    source: 'file',
    warning: loose ? `warning: ${name} can be read by others; run: chmod 600 ${name}` : null,
  };
}

async function developmentKey(uri: string, dev: boolean): Promise<LoadedKey> {
  if (!dev) {
    throw new CodedError(
      'usage',
      `${uri} is a development key that everybody has; add --dev to use it all the same, or name a key file`,
    );
  }
  return { signer: await signerFromUri(uri), source: 'development', warning: null };
}

async function signerOfFile(file: string, dev: boolean): Promise<Signer> {
  let content: unknown;
  try {
    content = JSON.parse(await readFile(file, 'utf8'));
  } catch (error) {
    // A parser's message quotes what it could not read, which may be the secret.
    const why = error instanceof SyntaxError ? 'it is not JSON' : messageOf(error);
    throw new CodedError('key_invalid', `cannot read the key file ${file}: ${why}`);
  }
  if (!KeyFile.Check(content)) throw new CodedError('key_invalid', `${file}: secretPhrase and address must be texts`);
  const secret = content.secretPhrase ?? content.secretSeed;
  if (secret === undefined || secret === null || secret.trim() === '') {
    throw new CodedError('key_invalid', `${file} has neither secretPhrase nor secretSeed; it cannot sign`);
  }
  const signer = await signerFromUri(secret.trim()).catch((error: unknown) => {
    throw new CodedError('key_invalid', `${file}: ${messageOf(error)}`);
  });
  if (!dev && (isDevelopmentUri(secret) || (await isDevelopmentAddress(signer.address)))) {
    throw new CodedError(
      'key_invalid',
      `${file} holds a development key that everybody has; add --dev to use it all the same`,
    );
  }
  const address = content.address ?? content.ss58Address;
  if (address !== undefined && address !== signer.address) {
    throw new CodedError(
      'key_invalid',
      `${file}: the address in it belongs to another secret; expected ${signer.address}`,
    );
  }
  return signer;
}

/** True for what may be a phrase or a seed; used to refuse it without repeating it. */
export function looksLikeSecret(text: string): boolean {
  return /^0x[0-9a-fA-F]{16,}/.test(text) || text.trim().split(/\s+/).length >= 3;
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}
