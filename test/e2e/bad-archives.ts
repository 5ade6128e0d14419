/** Archives that must be refused before a vote counts, each with the place that its refusal must name. */
import { gzipSync } from 'node:zlib';
import {
  GOOD,
  rawZip,
  tarBytes,
  tarGz,
  treeEntries,
  zerosTarGz,
  zerosZip,
  zipTree,
  type TarEntry,
  type Tree,
  type ZipEntry,
} from '../executors/archive-fixtures.ts';

export interface BadArchive {
  readonly name: string;
  /** Made when it is needed: some are large. */
  readonly bytes: () => Buffer;
  /** What the message must say. */
  readonly says: RegExp;
}

const TEN_GIB = 10 * 1024 ** 3;
const MANY = 100_000;
const LINK_MODE = 0o120777;
const DEVICE_MODE = 0o020644;
const WORKSPACE = 'tasks/one/workspace.yaml';

const without = (prefix: string): Tree =>
  Object.fromEntries(Object.entries(GOOD).filter(([path]) => !path.startsWith(prefix)));

function tarWith(name: string, entry: TarEntry, says: RegExp): BadArchive {
  return { name: `${name} in a tar`, bytes: () => tarGz(GOOD, [entry]), says };
}

function zipWith(name: string, entry: ZipEntry, says: RegExp): BadArchive {
  return { name: `${name} in a zip`, bytes: () => rawZip([...zipTree(GOOD), entry]), says };
}

function tree(name: string, files: Tree, says: RegExp): BadArchive {
  return { name, bytes: () => tarGz(files), says };
}

function yaml(name: string, text: string | Buffer, says: RegExp): BadArchive {
  return tree(`a workspace.yaml ${name}`, { ...GOOD, [WORKSPACE]: text }, says);
}

function taskId(name: string, id: string, says: RegExp): BadArchive {
  const task = Object.entries(GOOD).filter(([path]) => path.startsWith('tasks/one/'));
  const renamed = Object.fromEntries(task.map(([path, body]) => [path.replace('tasks/one/', `tasks/${id}/`), body]));
  return tree(`a task id ${name}`, { 'agent_code/agent.py': 'pass\n', ...renamed }, says);
}

/**
 * 100,000 entries after the good ones. They name 10,000 directories again and again, since as many files would keep
 * the disk busy for ten seconds; headers are copied and renamed, since making each takes long too.
 */
function manyTar(): Buffer {
  const template = tarBytes([{ path: 'agent_code/0000', type: 'Directory' }]).subarray(0, 512);
  const headers = Buffer.concat(Array.from({ length: MANY }, () => template));
  for (let index = 0; index < MANY; index += 1) {
    const header = headers.subarray(index * 512, (index + 1) * 512);
    header.write(String(index % 10_000).padStart(4, '0'), 'agent_code/'.length);
    header.fill(' ', 148, 156);
    let sum = 0;
    for (const byte of header) sum += byte;
    header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  }
  const good = tarBytes(treeEntries(GOOD)).subarray(0, -1024);
  return gzipSync(Buffer.concat([good, headers, Buffer.alloc(1024)]), { level: 1 });
}

/** Each line holds the one before nine times: "billion laughs". */
function aliasBomb(): string {
  const lines = [...'bcdefgh'].map((key, index) => `${key}: &${key} [${`*${'abcdefg'.charAt(index)},`.repeat(9)}]`);
  return ['a: &a [x,x,x,x,x,x,x,x,x]', ...lines, ''].join('\n');
}

export const BAD_ARCHIVES: readonly BadArchive[] = [
  { name: 'nothing', bytes: () => Buffer.alloc(0), says: /the archive is empty/ },
  { name: 'text', bytes: () => Buffer.from('no archive at all\n'), says: /not an archive.*zip or a tar\.gz/ },
  { name: 'a tar that is not compressed', bytes: () => tarBytes(treeEntries(GOOD)), says: /not an archive/ },
  { name: 'gzip of something else', bytes: () => gzipSync('no tar\n'.repeat(500)), says: /damaged tar|cut off/ },
  { name: 'a gzip of a gzip', bytes: () => gzipSync(tarGz(GOOD)), says: /compressed twice/ },
  { name: 'a tar.gz cut off in the middle', bytes: () => tarGz(GOOD).subarray(0, 150), says: /cut off/ },
  { name: 'a zip cut off in the middle', bytes: () => rawZip(zipTree(GOOD)).subarray(0, -40), says: /damaged|cut off/ },

  tarWith('zip slip', { path: 'agent_code/../../../tmp/slip', body: 'x' }, /entry "agent_code\/\.\.\/.*leads out/),
  zipWith('zip slip', { name: 'agent_code/../../../tmp/slip', body: 'x' }, /entry "agent_code\/\.\.\/.*leads out/),
  tarWith('a path that is only ..', { path: '../slip', body: 'x' }, /entry "\.\.\/slip": the path leads out/),
  zipWith('a path that is only ..', { name: '..', body: 'x' }, /entry "\.\.": the path leads out/),
  tarWith('an absolute path', { path: '/etc/slip', body: 'x' }, /entry "\/etc\/slip": the path is absolute/),
  zipWith('an absolute path', { name: '/etc/slip', body: 'x' }, /entry "\/etc\/slip": the path is absolute/),
  zipWith('a drive letter', { name: 'C:/slip', body: 'x' }, /entry "C:\/slip": the path begins with a drive letter/),
  zipWith('backslashes', { name: String.raw`..\..\slip`, body: 'x' }, /backslash/),
  tarWith('a link out', { path: 'agent_code/l', type: 'SymbolicLink', linkpath: '/etc' }, /"agent_code\/l": links/),
  tarWith(
    'a hard link',
    { path: 'agent_code/l', type: 'Link', linkpath: '../../etc/passwd' },
    /"agent_code\/l": links/,
  ),
  zipWith('a link out', { name: 'agent_code/l', body: '/etc', mode: LINK_MODE }, /"agent_code\/l": links/),
  tarWith('a device', { path: 'agent_code/d', type: 'CharacterDevice' }, /"agent_code\/d": only files and directories/),
  tarWith('a pipe', { path: 'agent_code/p', type: 'FIFO' }, /"agent_code\/p": only files and directories/),
  zipWith('a device', { name: 'agent_code/d', mode: DEVICE_MODE }, /"agent_code\/d": only files and directories/),
  tarWith('a file twice', { path: 'tasks/one/prompt.md', body: 'x' }, /"tasks\/one\/prompt\.md": is there twice/),
  tarWith(
    'a file below a file',
    { path: 'agent_code/agent.py/x' },
    /"agent_code\/agent\.py" is a file and a directory/,
  ),

  { name: '100,000 entries in a tar', bytes: manyTar, says: /more than 60000 entries/ },
  {
    name: '100,000 entries in a zip',
    bytes: () => rawZip(Array.from({ length: MANY }, (_, index) => ({ name: `agent_code/${index}` }))),
    says: /more than 60000 entries/,
  },
  { name: '10 GB of zeros in a tar', bytes: () => zerosTarGz(TEN_GIB), says: /entry "tasks\/one\/tests\/zeros": over/ },
  { name: '10 GB of zeros in a zip', bytes: () => zerosZip(TEN_GIB), says: /entry "tasks\/one\/tests\/zeros": over/ },

  tree('no tasks/', without('tasks/'), /the archive has no tasks\//),
  tree('no agent_code/', without('agent_code/'), /the archive has no agent_code\//),
  tree('neither', { 'README.md': 'x' }, /no tasks\/ and no agent_code\/.*"README\.md"/),
  tree(
    'an agent_code that is a file',
    { ...without('agent_code/'), agent_code: 'x' },
    /agent_code: must be a directory/,
  ),
  tree('a task that is a file', { ...GOOD, 'tasks/two': 'x' }, /tasks\/two: is a file/),
  tree('no agent', { ...without('agent_code/'), 'agent_code/README.md': 'x' }, /agent_code\/: has no entry/),
  tree('no workspace.yaml', without(WORKSPACE), /tasks\/one\/workspace\.yaml: is missing/),
  tree('no prompt.md', without('tasks/one/prompt.md'), /tasks\/one\/prompt\.md: is missing/),
  tree('a task without tests', without('tasks/one/tests'), /tasks\/one: has no tests; add tests\/\*\.sh/),
  tree(
    'a task whose tests are helpers only',
    { ...without('tasks/one/tests'), 'tasks/one/tests/helper.txt': 'x' },
    /tasks\/one: has no tests/,
  ),
  tree(
    'tests that write into .git',
    { ...GOOD, 'tasks/one/tests/.GIT/hooks/post-checkout': 'x' },
    /tasks\/one\/tests\/\.GIT\/hooks\/post-checkout: .*\.git/,
  ),

  yaml('that is broken', 'repo: o/n\ninstall: [a\n', /tasks\/one\/workspace\.yaml:\d+: not valid YAML/),
  yaml('that is a list', '- repo\n', /workspace\.yaml:1: must be a mapping/),
  yaml('that is empty', '', /workspace\.yaml:1: must be a mapping/),
  yaml('that is no text', Buffer.from([0x72, 0xff, 0xfe]), /workspace\.yaml: is not valid UTF-8/),
  yaml('with a key twice', 'repo: o/n\nrepo: o/m\n', /workspace\.yaml:2: not valid YAML/),
  yaml('with an unknown tag', 'repo: !!js/function "f"\n', /workspace\.yaml:1: not valid YAML/),
  yaml('that grows without end', `repo: o/n\n${aliasBomb()}`, /workspace\.yaml:\d+: .*alias/),
  yaml('without a repo', 'base_commit: main\n', /workspace\.yaml:1: repo is required/),
  yaml('with a list as repo', '\nrepo: [o/n]\n', /workspace\.yaml:2: repo must be text/),
  yaml('with __proto__ as its repo', '__proto__: {repo: o/n}\n', /workspace\.yaml:1: repo is required/),
  yaml('with an option as repo', 'repo: "-u./x"\n', /workspace\.yaml:1: repo must not begin with a dash/),
  yaml('with a helper as repo', 'repo: "ext::sh -c id"\n', /workspace\.yaml:1: repo must/),
  yaml('with a helper without spaces', 'repo: "ext::id"\n', /workspace\.yaml:1: repo must be owner\/name/),
  yaml('with another protocol', 'repo: git://github.com/o/n\n', /workspace\.yaml:1: repo uses git, .*GIT_PROTOCOLS/),
  yaml(
    'with another host',
    'repo: https://example.com/o/n\n',
    /workspace\.yaml:1: repo is at example\.com, .*GIT_HOSTS/,
  ),
  yaml(
    'with credentials',
    'repo: https://u:p@github.com/o/n\n',
    /workspace\.yaml:1: repo must not contain credentials/,
  ),
  yaml('with an option as commit', 'repo: o/n\nbase_commit: --upload-pack=id\n', /workspace\.yaml:2: base_commit must/),
  yaml('with a revision as commit', 'repo: o/n\nbase_commit: "main~1"\n', /workspace\.yaml:2: base_commit must/),
  yaml(
    'with a reserved variable',
    'repo: o/n\nenv:\n  LD_PRELOAD: x\n',
    /workspace\.yaml:3: env\.LD_PRELOAD is reserved/,
  ),
  yaml('with an endless time limit', 'repo: o/n\ntimeouts: {test: .inf}\n', /workspace\.yaml:2: timeouts\.test must/),

  taskId('of 300 characters', 'x'.repeat(300), /entry "tasks\/x+….*a part of the path is over 255 bytes/),
  taskId('of 256 bytes in fewer characters', 'ü'.repeat(128), /a part of the path is over 255 bytes/),
  taskId('with a line break', 'one\ntwo', /entry "tasks\/one\\ntwo\/.*control character/),
  taskId('with a terminal escape', 'one\u001b[2J', /entry "tasks\/one\\u001b\[2J\/.*control character/),
  taskId('with a C1 control', 'one\u0085two', /entry "tasks\/one\\u0085two\/.*control character/),
  taskId('that ends with a space', 'one ', /tasks\/"one ": not a task id: it begins or ends with a space/),
];
