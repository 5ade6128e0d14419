/** The fingerprint of a batch's results, the same for everybody who computes it; validators compare it. */
import { createHash } from 'node:crypto';

const PASSED = '1';
const NOT_PASSED = '0';

/**
 * SHA-256 (hex) over the batch id, then for each task in the byte order of its id: the id, "1" or "0", and the reward
 * as the 8 bytes of an IEEE 754 double, little-endian. Texts are UTF-8, without separators. Source: the contract.
 */
export function resultsHash(
  batchId: string,
  tasks: readonly { readonly taskId: string; readonly passed: boolean | null; readonly reward: number }[],
): string {
  const hash = createHash('sha256').update(batchId, 'utf8');
  const sorted = tasks
    .map((task) => ({ id: Buffer.from(task.taskId, 'utf8'), task }))
    .toSorted((a, b) => Buffer.compare(a.id, b.id));
  for (const { id, task } of sorted) {
    const reward = Buffer.alloc(8);
    reward.writeDoubleLE(task.reward);
    hash
      .update(id)
      .update(task.passed === true ? PASSED : NOT_PASSED)
      .update(reward);
  }
  return hash.digest('hex');
}
