/** README.md is what operators and validators go by; here it is held against the program, so that neither drifts off. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { EXIT } from '../src/cli/exit-codes.ts';
import { readConfig } from '../src/config.ts';
import { DEFAULT_ARCHIVE_LIMITS } from '../src/executors/archive-limits.ts';
import { inspectArchive } from '../src/executors/archive.ts';
import { packDirectory } from '../src/pack.ts';
import { rig } from './http/support.ts';
import { temporaryDirectory } from './support/tmp.ts';

const exec = promisify(execFile);
const TIMEOUT_MS = 30_000;
const MACHINE = { hostname: 'host', pid: 1 };
const root = fileURLToPath(new URL('../', import.meta.url));
const readme = await readFile(join(root, 'README.md'), 'utf8');
const manifest = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as Record<
  'scripts' | 'dependencies' | 'devDependencies' | 'optionalDependencies',
  Readonly<Record<string, string>>
>;

/** The text from a heading to the next one. */
function section(heading: string): string {
  const [, after] = readme.split(`\n${heading}\n`);
  assert.ok(after, `README.md has the heading ${heading}`);
  return after.split(/\n#+ /)[0] ?? '';
}

/** The cells of each row of a section's tables, code marks and headings left out. */
function rows(heading: string): readonly (readonly string[])[] {
  const lines = section(heading).split('\n');
  return lines
    .filter((line, index) => line.startsWith('|') && !line.startsWith('| -') && !lines[index + 1]?.startsWith('| -'))
    .map((line) =>
      line
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim().replace(/^`(.*)`$/, '$1')),
    );
}

const names = (heading: string): string[] => rows(heading).map(([name = '']) => name);
const snippets = [...readme.matchAll(/^```sh\n(.*?)^```$/gms)].map((match) => match[1] ?? '');

test('the table of variables has every one that src/config.ts reads, and no other', () => {
  const asked = new Set<string>();
  const set: Record<string, string> = { SANDBOX: 'process', NATS_URL: 'nats://127.0.0.1' };
  const env = new Proxy(set, {
    get(target, name) {
      asked.add(String(name));
      return Reflect.get(target, name) as string | undefined;
    },
  });
  readConfig(env, MACHINE);
  assert.deepEqual(names('### Environment').toSorted(), [...asked].toSorted());
});

test('the defaults in the table of variables are those of the program', () => {
  const plain = readConfig({ SANDBOX: 'process' }, MACHINE);
  const inWords = new Set(['required', "the system's", 'host name and pid', '']);
  for (const [name = '', value = ''] of rows('### Environment')) {
    if (inWords.has(value)) continue;
    assert.deepEqual(readConfig({ SANDBOX: 'process', [name]: value }, MACHINE), plain, name);
  }
  const numbers = rows('### Environment').filter(([, value = '']) => /^\d/.test(value));
  assert.ok(numbers.length > 10, 'the table has defaults');
});

test('the table of dependencies has every one of package.json, and no other', () => {
  const { dependencies, devDependencies, optionalDependencies } = manifest;
  const all = Object.keys({ ...dependencies, ...devDependencies, ...optionalDependencies });
  assert.deepEqual(names('### Dependencies').toSorted(), all.toSorted());
});

test('every npm script that is mentioned exists', async () => {
  const adrs = (await readdir(join(root, 'ops/adr'))).map((name) => `ops/adr/${name}`);
  for (const file of ['README.md', 'CHANGELOG.md', 'examples/README.md', ...adrs]) {
    const text = await readFile(join(root, file), 'utf8');
    const mentioned = [...text.matchAll(/npm run ([a-z][a-z:-]*)/g)].map((match) => match[1] ?? '');
    if (/npm test/.test(text)) mentioned.push('test');
    for (const name of mentioned) assert.ok(name in manifest.scripts, `${file}: npm run ${name}`);
  }
});

test('the table of routes has every one of the OpenAPI document, and no other', async (t) => {
  const { app } = await rig(t);
  const document = (await app.inject('/openapi.json')).json<{ paths: Record<string, Record<string, unknown>> }>();
  const routes = Object.entries(document.paths).flatMap(([path, item]) =>
    Object.keys(item).map((method) => `${method.toUpperCase()} ${path}`),
  );
  assert.deepEqual(names('## HTTP and WebSocket').toSorted(), routes.toSorted());
});

test('the table of exit codes has every one', () => {
  const codes = names('## Submit and watch').map(Number);
  assert.deepEqual(codes, Object.values(EXIT));
});

test('every link leads to a file or a heading that is there', async () => {
  const adrs = (await readdir(join(root, 'ops/adr'))).map((name) => `ops/adr/${name}`);
  for (const file of ['README.md', 'CHANGELOG.md', 'examples/README.md', ...adrs]) {
    const text = await readFile(join(root, file), 'utf8');
    const anchors = new Set([...text.matchAll(/^#+ (.*)$/gm)].map((match) => anchorOf(match[1] ?? '')));
    for (const [, target = ''] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^https?:/.test(target)) continue;
      const [path = '', anchor] = target.split('#');
      if (path !== '') assert.ok(existsSync(join(root, dirname(file), path)), `${file}: ${target}`);
      else assert.ok(anchors.has(anchor ?? ''), `${file}: ${target}`);
    }
  }
});

/** The anchor that GitHub gives a heading. */
function anchorOf(heading: string): string {
  return heading
    .toLowerCase()
    .replace(/[^\p{L}\p{N} _-]/gu, '')
    .replaceAll(' ', '-');
}

test('every record of a decision is in their index', async () => {
  const index = await readFile(join(root, 'ops/adr/README.md'), 'utf8');
  for (const name of await readdir(join(root, 'ops/adr'))) {
    if (name !== 'README.md') assert.ok(index.includes(`](${name})`), name);
  }
});

test('every shell snippet is valid, and the files it starts exist', async (t) => {
  const file = join(temporaryDirectory(t), 'snippet.sh');
  assert.ok(snippets.length > 8, 'README.md has snippets');
  for (const snippet of snippets) {
    await writeFile(file, snippet);
    await exec('bash', ['-n', file], { timeout: TIMEOUT_MS });
    for (const [script] of snippet.matchAll(/\bsrc\/[\w/.-]+\.ts/g)) assert.ok(existsSync(join(root, script)), script);
  }
});

test('the submission that README.md makes is one', async (t) => {
  const snippet = snippets.find((text) => text.includes('workspace.yaml'));
  assert.ok(snippet);
  const dir = temporaryDirectory(t);
  const env = { PATH: process.env['PATH'] ?? '', HOME: dir };
  await exec('bash', ['-e', '-c', snippet], { cwd: dir, env, timeout: TIMEOUT_MS });
  const archive = join(dir, 'archive.tar.gz');
  await packDirectory(join(dir, 'submission'), archive);
  const options = { scratchDir: dir, signal: AbortSignal.timeout(TIMEOUT_MS), gitProtocols: ['file'], gitHosts: [] };
  assert.equal((await inspectArchive(archive, DEFAULT_ARCHIVE_LIMITS, options)).taskCount, 1);
  assert.deepEqual(await readdir(join(dir, 'submission/tasks')), ['fix-add']);
});
