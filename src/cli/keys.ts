/**
 * `term-executor keys`: making a validator's hotkey and looking at one, without its secret ever reaching a terminal
 * unasked.
 */
import { checkAddress, cryptoWaitReady, decodeAddress } from '@polkadot/util-crypto';
import { stat } from 'node:fs/promises';
import type { Command } from 'commander';
import { CodedError, messageOf } from '../errors.ts';
import { generateKey, loadKey, publicInfo, writeKeyFile } from '../client/key-file.ts';
import { sanitize } from '../client/sanitize.ts';
import { SS58_PREFIX } from '../client/sign.ts';
import { EXIT, type ExitCode } from './exit-codes.ts';
import { runAction, withJson, type Io } from './output.ts';

const DEFAULT_FILE = 'hotkey.json';

/** Adds `keys new` and `keys inspect` to the program. */
export function registerKeys(program: Command): void {
  const keys = program.command('keys').description('Make and inspect sr25519 hotkeys.');
  registerNew(keys);
  registerInspect(keys);
}

function registerNew(keys: Command): void {
  const command = keys
    .command('new')
    .description('Make a new random key and write it to a key file that only you can read.')
    .option('--out <file>', 'file to write; an existing one is never replaced', DEFAULT_FILE)
    .option('--show', 'also show the secret phrase, to write it down');
  withJson(command)
    .addHelpText(
      'after',
      `
The file is JSON with the fields address (SS58, prefix ${SS58_PREFIX}), publicKey and secretPhrase, mode 0600.

Examples:
  $ term-executor keys new --out validator.json
  $ TRUSTED_VALIDATORS=$(term-executor keys new --json | jq -r .address) term-executor serve`,
    )
    .action((options: { out: string; show?: true; json?: true }) =>
      runAction(options.json === true, async (io) => {
        const { signer, phrase } = await generateKey();
        await writeKeyFile(options.out, signer, phrase);
        const info = publicInfo(signer);
        io.print(`address     ${info.address}`);
        io.print(`public key  ${info.publicKey}`);
        io.print(`key file    ${sanitize(options.out)}`);
        if (options.show) io.print(`phrase      ${phrase}`);
        io.data({ ...info, file: options.out, ...(options.show ? { secretPhrase: phrase } : {}) });
        return EXIT.ok;
      }),
    );
}

function registerInspect(keys: Command): void {
  const command = keys
    .command('inspect')
    .description('Show the address and public key of a key, or check an SS58 address. Never shows the secret.')
    .argument('<key>', 'a key file, an SS58 address, or with --dev a development key such as //Alice')
    .option('--dev', 'allow development keys such as //Alice, which everybody has');
  withJson(command)
    .addHelpText(
      'after',
      `
Exits 1 if the address is not a valid SS58 address of a hotkey (prefix ${SS58_PREFIX}).

Examples:
  $ term-executor keys inspect validator.json
  $ term-executor keys inspect 5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY
  $ term-executor keys inspect //Alice --dev`,
    )
    .action((key: string, options: { dev?: true; json?: true }) =>
      runAction(options.json === true, async (io) => {
        const isFile = (await stat(key).catch(() => null)) !== null;
        // What has the form of an address is one, also when it is wrong: that is what is asked.
        if (!isFile && /^[0-9A-Za-z]{40,60}$/.test(key) && !key.startsWith('0x')) return inspectAddress(io, key);
        const { signer, source, warning } = await loadKey(key, options.dev === true);
        if (warning !== null) io.note(warning);
        return show(io, { ...publicInfo(signer), prefix: SS58_PREFIX, valid: true, source });
      }),
    );
}

async function inspectAddress(io: Io, address: string): Promise<ExitCode> {
  await cryptoWaitReady();
  const decoded = decode(address);
  if (decoded instanceof CodedError) {
    io.print(`${sanitize(address)} is not valid: ${decoded.message}`);
    io.data({ address, valid: false, reason: decoded.message });
    return EXIT.failed;
  }
  return show(io, { address, publicKey: decoded, prefix: SS58_PREFIX, valid: true, source: 'address' });
}

function decode(address: string): string | CodedError {
  const [valid, reason] = checkAddress(address, SS58_PREFIX);
  if (!valid) return new CodedError('key_invalid', reason ?? 'not an SS58 address');
  try {
    const publicKey = decodeAddress(address, false, SS58_PREFIX);
    if (publicKey.length !== 32) return new CodedError('key_invalid', `holds ${publicKey.length} bytes instead of 32`);
    return `0x${Buffer.from(publicKey).toString('hex')}`;
  } catch (error) {
    return new CodedError('key_invalid', messageOf(error));
  }
}

function show(
  io: Io,
  info: Record<'address' | 'publicKey' | 'source', string> & { prefix: number; valid: boolean },
): ExitCode {
  io.print(`address     ${info.address}`);
  io.print(`public key  ${info.publicKey}`);
  io.print(`prefix      ${info.prefix}`);
  io.print(`source      ${info.source}`);
  io.data(info);
  return EXIT.ok;
}
