/** The server that a benchmark measures against: embedded, as `serve` starts it, in a directory that goes with it. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { NatsConnection } from '@nats-io/transport-node';
import { lockDataDir } from '../src/data-dir.ts';
import { connectNats } from '../src/nats/connect.ts';
import { startEmbeddedNats, type EmbeddedNats } from '../src/nats/embedded.ts';
import { ensureStreams } from '../src/nats/setup.ts';

/** Runs `measure` with a server that has all streams, and a connection to it. */
export async function withNats(measure: (nats: EmbeddedNats, nc: NatsConnection) => Promise<void>): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), 'bench-'));
  using lock = lockDataDir(dir);
  try {
    await using nats = await startEmbeddedNats({
      dataDir: lock.path,
      natsServer: process.env['NATS_SERVER'] ?? null,
      onDeath: (error) => process.stderr.write(`${error.message}\n`),
    });
    const nc = await connectNats(nats.access, { name: 'bench', timeoutMs: 5_000 });
    await ensureStreams(nc, { replicas: 1, nonceTtlSecs: 300 });
    await measure(nats, nc);
    await nc.close();
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}
