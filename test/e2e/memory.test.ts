import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { packDirectory } from '../../src/pack.ts';
import { makeSubmission } from '../support/submissions.ts';
import { makeValidators, startServer, vote, waitForEnd } from '../support/server.ts';
import { temporaryDirectory } from '../support/tmp.ts';

const ARCHIVE_MIB = 400;
const LIMIT_MIB = 350;

test('a submission of 400 MB runs, and the server never holds it in memory', async (t) => {
  const dir = temporaryDirectory(t);
  const validators = await makeValidators(1);
  const server = await startServer(t, { validators, dataDir: `${dir}/data` });
  const { file, root } = await makeSubmission(dir, { tasks: { large: {} } });
  {
    // Random bytes: they do not compress, so that the archive really has this size.
    await using handle = await open(join(root, 'tasks', 'large', 'tests', 'data.bin'), 'wx');
    for (let mib = 0; mib < ARCHIVE_MIB; mib += 1) await handle.write(randomBytes(1024 ** 2));
  }
  await packDirectory(root, file);
  const batchId = await vote(server, validators, file);
  assert.equal((await waitForEnd(server, batchId)).status, 'completed');
  const status = await readFile(`/proc/${server.pid}/status`, 'utf8');
  const peakMib = Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1]) / 1024;
  t.diagnostic(`peak ${peakMib.toFixed(0)} MiB`);
  assert.ok(peakMib > 0 && peakMib < LIMIT_MIB, `${peakMib} MiB`);
});
