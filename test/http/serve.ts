/** The app over ports in memory as a process of its own, so that a test can measure its memory. Prints its port. */
import { buildRig, listen } from './support.ts';

const dataDir = process.argv[2];
if (dataDir === undefined) throw new Error('usage: serve.ts DATA_DIR');
const { app } = await buildRig(dataDir, { env: { MAX_ARCHIVE_BYTES: '524288000' } });
process.stdout.write(`${await listen(app)}\n`);
process.stdin.resume().once('end', () => void app.close());
