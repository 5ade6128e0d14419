/** Archives for the tests: trees of files as tar.gz and zip, and hostile ones byte by byte. */
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { constants, crc32, deflateRawSync, gzipSync } from 'node:zlib';
import { Header, Pax } from 'tar';
import yazl from 'yazl';
import { type InspectOptions } from '../../src/executors/archive.ts';

export type Tree = Readonly<Record<string, string | Buffer>>;

/** The smallest archive that is accepted. */
export const GOOD: Tree = {
  'agent_code/agent.py': 'print("hi")\n',
  'tasks/one/workspace.yaml': 'repo: owner/name\nbase_commit: 0123456789\n',
  'tasks/one/prompt.md': 'Fix it.\n',
  'tasks/one/tests/test.sh': 'exit 0\n',
};

/** A directory of the test's own with a scratch directory in it; gone at the end of the block. */
export async function workDir(): Promise<
  AsyncDisposable & { dir: string; options: InspectOptions; left(): Promise<string[]> }
> {
  const dir = await mkdtemp(join(tmpdir(), 'archive-test-'));
  const scratchDir = join(dir, 'scratch');
  return {
    dir,
    options: { scratchDir, signal: AbortSignal.timeout(120_000), gitProtocols: ['https'], gitHosts: [] },
    left: () => readdir(scratchDir, { recursive: true }).catch(() => []),
    [Symbol.asyncDispose]: () => rm(dir, { recursive: true, force: true }),
  };
}

export interface TarEntry {
  readonly path: string;
  readonly body?: string | Buffer;
  readonly type?: 'File' | 'Directory' | 'SymbolicLink' | 'Link' | 'CharacterDevice' | 'FIFO' | 'OldGnuLongPath';
  readonly mode?: number;
  readonly linkpath?: string;
  readonly pax?: boolean;
  /** Size in the header when it shall lie. */
  readonly size?: number;
}

export function tarEntry(entry: TarEntry): Buffer {
  const body = Buffer.from(entry.body ?? '');
  const size = entry.size ?? body.length;
  const header = new Header({
    path: entry.path,
    mode: entry.mode ?? 0o644,
    size,
    type: entry.type ?? 'File',
    mtime: new Date(1_700_000_000_000),
    ...(entry.linkpath === undefined ? {} : { linkpath: entry.linkpath }),
  });
  const needsPax = header.encode();
  const pax = needsPax || entry.pax === true ? new Pax({ path: entry.path }).encode() : Buffer.alloc(0);
  const padding = Buffer.alloc((512 - (body.length % 512)) % 512);
  return Buffer.concat([pax, header.block ?? Buffer.alloc(0), body, padding]);
}

export function tarBytes(entries: readonly TarEntry[]): Buffer {
  return Buffer.concat([...entries.map(tarEntry), Buffer.alloc(1024)]);
}

export function treeEntries(tree: Tree): TarEntry[] {
  return Object.entries(tree).map(([path, body]) => ({ path, body, mode: path.endsWith('.sh') ? 0o755 : 0o644 }));
}

export function tarGz(tree: Tree, more: readonly TarEntry[] = []): Buffer {
  return gzipSync(tarBytes([...treeEntries(tree), ...more]));
}

export async function zip(
  tree: Tree,
  options: { mode?: number; zip64?: boolean; compress?: boolean } = {},
): Promise<Buffer> {
  const file = new yazl.ZipFile();
  for (const [path, body] of Object.entries(tree)) {
    file.addBuffer(Buffer.from(body), path, {
      mode: options.mode ?? (path.endsWith('.sh') ? 0o100755 : 0o100644),
      mtime: new Date(1_700_000_000_000),
      forceZip64Format: options.zip64 ?? false,
      compress: options.compress ?? true,
    });
  }
  file.end({ forceZip64Format: options.zip64 ?? false });
  const chunks: Buffer[] = [];
  for await (const chunk of file.outputStream) chunks.push(Buffer.from(chunk));
  return Buffer.concat(chunks);
}

export interface ZipEntry {
  readonly name: string | Buffer;
  readonly body?: string | Buffer;
  /** The compressed bytes when they are not those of the body. */
  readonly data?: Buffer;
  readonly mode?: number;
  readonly flags?: number;
  readonly method?: number;
  readonly crc?: number;
  readonly declaredSize?: number;
}

/** A zip written by hand, for what yazl refuses to write. */
export function rawZip(entries: readonly ZipEntry[], comment = '', count?: number): Buffer {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  for (const entry of entries) {
    const name = Buffer.from(entry.name);
    const body = Buffer.from(entry.body ?? '');
    const data = entry.data ?? (body.length === 0 ? body : deflateRawSync(body));
    const fields = Buffer.alloc(26);
    fields.writeUInt16LE(20, 0);
    fields.writeUInt16LE(entry.flags ?? 0x800, 2);
    fields.writeUInt16LE(entry.method ?? (body.length === 0 ? 0 : 8), 4);
    fields.writeUInt32LE(entry.crc ?? crc32(body), 10);
    fields.writeUInt32LE(data.length, 14);
    fields.writeUInt32LE(entry.declaredSize ?? body.length, 18);
    fields.writeUInt16LE(name.length, 22);
    const local = Buffer.concat([Buffer.from('PK\u0003\u0004', 'latin1'), fields, name, data]);
    const attributes = Buffer.alloc(14);
    attributes.writeUInt32LE(((entry.mode ?? 0o100644) * 65_536) >>> 0, 6);
    attributes.writeUInt32LE(offset, 10);
    directory.push(Buffer.from('PK\u0001\u0002', 'latin1'), Buffer.from([20, 3]), fields, attributes, name);
    parts.push(local);
    offset += local.length;
  }
  const central = Buffer.concat(directory);
  const zip64 = Buffer.alloc(entries.length < 0xffff ? 0 : 76);
  if (zip64.length > 0) {
    zip64.write('PK\u0006\u0006', 'latin1');
    zip64.writeBigUInt64LE(44n, 4);
    zip64.writeBigUInt64LE(BigInt(entries.length), 24);
    zip64.writeBigUInt64LE(BigInt(entries.length), 32);
    zip64.writeBigUInt64LE(BigInt(central.length), 40);
    zip64.writeBigUInt64LE(BigInt(offset), 48);
    zip64.write('PK\u0006\u0007', 56, 'latin1');
    zip64.writeBigUInt64LE(BigInt(offset + central.length), 64);
  }
  const announced = count ?? Math.min(entries.length, 0xffff);
  const end = Buffer.alloc(22);
  end.write('PK\u0005\u0006', 'latin1');
  end.writeUInt16LE(announced, 8);
  end.writeUInt16LE(announced, 10);
  end.writeUInt32LE(central.length, 12);
  end.writeUInt32LE(offset, 16);
  end.writeUInt16LE(Buffer.byteLength(comment), 20);
  return Buffer.concat([...parts, central, zip64, end, Buffer.from(comment)]);
}

export function zipTree(tree: Tree): ZipEntry[] {
  return Object.entries(tree).map(([name, body]) => ({ name, body }));
}

const ZEROS = Buffer.alloc(64 * 1024 ** 2);

/** A tar.gz with one file of that many zeros (a multiple of 64 MiB), as gzip members that repeat. */
export function zerosTarGz(bytes: number): Buffer {
  const head = tarBytes(treeEntries(GOOD)).subarray(0, -1024);
  const member = gzipSync(ZEROS);
  return Buffer.concat([
    gzipSync(Buffer.concat([head, tarEntry({ path: 'tasks/one/tests/zeros', size: bytes })])),
    ...Array.from({ length: bytes / ZEROS.length }, () => member),
    gzipSync(Buffer.alloc(1024)),
  ]);
}

/** A zip with one file of that many zeros (a multiple of 64 MiB), as deflate blocks that repeat. */
export function zerosZip(bytes: number): Buffer {
  const block = deflateRawSync(ZEROS, { finishFlush: constants.Z_FULL_FLUSH });
  const data = Buffer.concat([...Array.from({ length: bytes / ZEROS.length }, () => block), deflateRawSync('')]);
  return rawZip([...zipTree(GOOD), { name: 'tasks/one/tests/zeros', data, method: 8 }]);
}

export async function put(dir: string, bytes: Buffer, name = 'upload'): Promise<string> {
  const file = join(dir, name);
  await writeFile(file, bytes);
  return file;
}
