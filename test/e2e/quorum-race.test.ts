import assert from 'node:assert/strict';
import { test } from 'node:test';
import { makeSubmission } from '../support/submissions.ts';
import { makeValidators, startServer, submit } from '../support/server.ts';
import { temporaryDirectory } from '../support/tmp.ts';

const ROUNDS = 20;

test('five validators voting on two archives at once over ten connections: one batch for each, every round', async (t) => {
  const dir = temporaryDirectory(t);
  const validators = await makeValidators(5);
  // No executor: only the votes are of interest.
  const args = ['serve', '--roles', 'http,planner'];
  const server = await startServer(t, { validators, dataDir: `${dir}/data`, args });
  const approved = new Map<string, string>();
  for (let round = 0; round < ROUNDS; round += 1) {
    const archives = await Promise.all(
      ['a', 'b'].map((name) => makeSubmission(temporaryDirectory(t), { tasks: { [`${name}-${round}`]: {} } })),
    );
    const answers = await Promise.all(
      validators.flatMap((validator, index) => {
        // Alternately: one begins with the first archive, the next with the second.
        const order = index % 2 === 0 ? archives : archives.toReversed();
        return order.map(async ({ file }) => ({ file, ...(await submit(server.url, validator, file)) }));
      }),
    );
    for (const { file } of archives) {
      const mine = answers.filter((answer) => answer.file === file);
      for (const { status, body } of mine) assert.equal(status, 202, JSON.stringify(body));
      const ids = new Set(
        mine.flatMap(({ body }) => (body['batch_id'] === undefined ? [] : [body['batch_id'] as string])),
      );
      assert.equal(ids.size, 1, JSON.stringify(mine));
      for (const id of ids) approved.set(file, id);
    }
  }
  assert.equal(new Set(approved.values()).size, ROUNDS * 2);
  const batches = await server.get<{ batch_id: string }[]>('/batches?limit=1000');
  assert.deepEqual(new Set(batches.map(({ batch_id: id }) => id)), new Set(approved.values()));
  assert.equal(batches.length, ROUNDS * 2);
});
