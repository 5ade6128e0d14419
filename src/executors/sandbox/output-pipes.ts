/**
 * The pipes through which a command's output comes. Node's own are socket pairs, and a program that opens
 * /dev/stdout or /dev/stderr fails on those, so these are FIFOs: made, opened at both ends and removed from the
 * directory before the command starts.
 */
import { execFile } from 'node:child_process';
import { closeSync, constants, openSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

/** Takes what a command prints, in the order it arrives. If it throws, the command is ended and the error thrown on. */
export type Sink = (chunk: Buffer) => void;

/** One pipe for each sink. The first one is stdout; stderr shares it unless there is a second. */
export interface OutputPipes extends AsyncDisposable {
  /** The writing ends, ours until `handOver`. */
  readonly stdoutFd: number;
  readonly stderrFd: number;
  /** Resolves when a sink threw; never rejects. */
  readonly failed: Promise<void>;
  /** Closes our writing ends and starts to read: from now on the command alone holds the pipes open. */
  handOver(): void;
  /** Waits until everything was read, at most `boundMs`: something that was not killed may hold a pipe open. */
  drain(boundMs: number): Promise<void>;
  throwIfFailed(): void;
}

const MKFIFO_BOUND_MS = 10_000;

/** Opens the pipes. Rejects when the temporary directory cannot take them. */
export async function openOutputPipes(scratchDir: string, sinks: readonly [Sink, Sink?]): Promise<OutputPipes> {
  const directory = await mkdtemp(join(scratchDir, 'output-'));
  try {
    const paths = sinks.map((_, index) => join(directory, String(index)));
    await promisify(execFile)('mkfifo', ['-m', '600', ...paths], { timeout: MKFIFO_BOUND_MS });
    return new FifoPipes(paths, sinks);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

class FifoPipes implements OutputPipes {
  readonly stdoutFd: number;
  readonly stderrFd: number;
  readonly failed: Promise<void>;
  readonly #fail: () => void;
  readonly #sinks: readonly (Sink | undefined)[];
  readonly #sockets: Socket[] = [];
  readonly #closed: Promise<void>[] = [];
  #readFds: number[] = [];
  #writeFds: number[] = [];
  #failure: { readonly error: unknown } | null = null;

  constructor(paths: readonly string[], sinks: readonly [Sink, Sink?]) {
    ({ promise: this.failed, resolve: this.#fail } = Promise.withResolvers<void>());
    this.#sinks = sinks;
    try {
      for (const path of paths) {
        // Without O_NONBLOCK this would wait for a writer, and the writer below for a reader.
        this.#readFds.push(openSync(path, constants.O_RDONLY | constants.O_NONBLOCK));
        this.#writeFds.push(openSync(path, constants.O_WRONLY));
      }
    } catch (error) {
      this.#closeFds();
      throw error;
    }
    this.stdoutFd = this.#writeFds[0] ?? -1;
    this.stderrFd = this.#writeFds[1] ?? this.stdoutFd;
  }

  handOver(): void {
    for (const [index, fd] of this.#readFds.entries()) this.#read(fd, this.#sinks[index]);
    this.#readFds = [];
    this.#closeFds();
  }

  #read(fd: number, sink: Sink | undefined): void {
    const socket = new Socket({ fd, readable: true, writable: false });
    this.#sockets.push(socket);
    this.#closed.push(
      new Promise((resolve) => {
        socket.once('end', resolve);
        socket.once('close', () => resolve());
      }),
    );
    socket.on('error', (error) => this.#failWith(error));
    socket.on('data', (chunk) => {
      try {
        if (!this.#failure) sink?.(chunk);
      } catch (error) {
        this.#failWith(error);
      }
    });
  }

  #failWith(error: unknown): void {
    this.#failure ??= { error };
    this.#fail();
  }

  async drain(boundMs: number): Promise<void> {
    const bound = new AbortController();
    const late = sleep(boundMs, undefined, { signal: bound.signal }).catch(() => {});
    await Promise.race([Promise.all(this.#closed), late]);
    bound.abort();
  }

  throwIfFailed(): void {
    if (this.#failure) throw this.#failure.error;
  }

  #closeFds(): void {
    for (const fd of [...this.#readFds, ...this.#writeFds]) closeSync(fd);
    this.#readFds = [];
    this.#writeFds = [];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closeFds();
    for (const socket of this.#sockets) socket.destroy();
  }
}
