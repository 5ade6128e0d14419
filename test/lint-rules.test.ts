import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cp, mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, test } from 'node:test';
import { promisify } from 'node:util';
import { temporaryDirectory } from './support/tmp.ts';

const ROOT = new URL('..', import.meta.url).pathname;

/** Imports that must never be, each as the file that would do it. */
const FORBIDDEN: readonly (readonly [file: string, imports: string])[] = [
  ['src/events.ts', './errors.ts'],
  ['src/events.ts', 'node:crypto'],
  ['src/commands/batch.ts', 'node:crypto'],
  ['src/commands/task.ts', '../log.ts'],
  ['src/commands/submission.ts', '@nats-io/jetstream'],
  ['src/commands/handle.ts', '../jetstream-log.ts'],
  ['src/projections/batches.ts', '../commands/batch.ts'],
  ['src/projections/run.ts', '../executors/run.ts'],
  ['src/projections/tasks.ts', '../http/app.ts'],
  ['src/executors/run.ts', '../projections/run.ts'],
  ['src/executors/plan.ts', '../http/app.ts'],
  ['src/executors/run.ts', '@nats-io/transport-node'],
  ['src/executors/archive.ts', '../log.ts'],
  ['src/executors/git.ts', '../jetstream-log.ts'],
  ['src/executors/sandbox/process.ts', '../../log.ts'],
  ['src/http/app.ts', '../executors/run.ts'],
  ['src/http/ws.ts', '../jetstream-log.ts'],
  ['src/http/routes/batches.ts', '../../projections/run.ts'],
  ['src/http/routes/signed.ts', '../../commands/handle.ts'],
  ['src/http/app.ts', '@nats-io/transport-node'],
  ['src/service-http.ts', './cli.ts'],
  ['src/config.ts', '@nats-io/transport-node'],
];

describe('the import rules', () => {
  test('hold without a way round: each forbidden import is an error of the linter', async (t) => {
    const dir = temporaryDirectory(t);
    await symlink(join(ROOT, 'node_modules'), join(dir, 'node_modules'));
    for (const name of ['.oxlintrc.json', 'tsconfig.json']) await cp(join(ROOT, name), join(dir, name));
    const expected = new Map<string, number>();
    for (const [file, target] of FORBIDDEN) {
      const path = join(dir, file);
      await mkdir(dirname(path), { recursive: true });
      const before = await readFile(path, 'utf8').catch(() => '');
      await writeFile(path, `${before}import '${target}';\n`);
      expected.set(file, (expected.get(file) ?? 0) + 1);
    }
    const lint = promisify(execFile)(join(ROOT, 'node_modules/.bin/oxlint'), ['--format', 'json', 'src'], {
      cwd: dir,
      timeout: 60_000,
    });
    const output = await lint.then(
      () => '{"diagnostics":[]}',
      (error: { stdout?: string }) => error.stdout ?? '',
    );
    const { diagnostics } = JSON.parse(output) as { diagnostics: { code: string; filename: string }[] };
    const found = new Map<string, number>();
    for (const { code, filename } of diagnostics) {
      if (code.includes('no-restricted-imports')) found.set(filename, (found.get(filename) ?? 0) + 1);
    }
    assert.deepEqual(found, expected);
  });
});
