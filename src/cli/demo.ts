/**
 * `term-executor demo`: the whole way once, on one machine and without a network, as proof that it works here. What is
 * shown comes from the same commands and routes that validators use; the demo has no door of its own.
 */
import { execFile } from 'node:child_process';
import { rmSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Command } from 'commander';
import { CodedError } from '../errors.ts';
import { prepareExamples } from '../demo/examples.ts';
import { resultsHash } from '../http/results-hash.ts';
import { createApi, type Api, type VoteAnswer } from '../client/api.ts';
import { openArchive } from '../client/archive.ts';
import { findDifferences, type Expected } from '../client/compare.ts';
import { generateKey, writeKeyFile } from '../client/key-file.ts';
import { startLocalServer } from '../client/local-server.ts';
import { describeVote, formatDuration, formatReward, renderTable } from '../client/render.ts';
import { sanitize } from '../client/sanitize.ts';
import { withDeadline } from '../client/retry.ts';
import type { Signer } from '../client/sign.ts';
import { castVote } from '../client/vote.ts';
import { EXIT, type ExitCode } from './exit-codes.ts';
import { runAction, wholeNumber, withJson, type Io } from './output.ts';
import { voteDocument } from './submit.ts';
import { fetchResult, showProgress, type BatchResult } from './watch.ts';

const DEFAULT_TIMEOUT_SECS = 300;
const MAX_TIMEOUT_SECS = 86_400;
const VALIDATORS = 3;
const CONCURRENT_TASKS = 2;
const DRAIN_TIMEOUT_SECS = 5;
const CHECK_TIMEOUT_MS = 15_000;
/** What the example tasks need, and the Debian package that has it. */
const PREREQUISITES = [
  { program: 'git', debian: 'git' },
  { program: 'python3', debian: 'python3' },
  { program: 'node', debian: 'nodejs' },
  { program: 'make', debian: 'make' },
  { program: 'cc', debian: 'gcc' },
] as const;
/** What of our own environment the server needs to find programs; the rest is none of its business. */
const PASSED_ON = ['PATH', 'HOME', 'LANG', 'LC_ALL', 'TMPDIR', 'NATS_SERVER'];
const CLI = fileURLToPath(new URL('../cli.ts', import.meta.url));

/** Adds the command to the program. `cli`: the program that has the command serve; set by tests alone. */
export function registerDemo(program: Command, cli: string = CLI): void {
  const command = program
    .command('demo')
    .description('Run the example tasks from three votes to the result, in a temporary directory.')
    .option('--timeout <secs>', 'give up after so many seconds', wholeNumber(1, MAX_TIMEOUT_SECS), DEFAULT_TIMEOUT_SECS)
    .option('--keep', 'keep the temporary directory, with the log of all events, and say where it is');
  withJson(command)
    .addHelpText(
      'after',
      `
Needs ${PREREQUISITES.map(({ program: name }) => name).join(', ')}, and no network. The tasks run without a sandbox; they are the ones in examples/.
Exits 0 only if every task came to what is expected of it; some are expected to fail.
With --json: {"vote": …} for each of the three, the progress messages, {"result": …, "differences": […]}.

Example:
  $ term-executor demo --keep`,
    )
    .action((options: { timeout: number; keep?: true; json?: true }) =>
      runAction(options.json === true, async (io) => {
        await checkPrerequisites(io.signal);
        const signal = withDeadline(io.signal, options.timeout, 'the demo');
        const dir = await mkdtemp(join(tmpdir(), 'term-executor-demo-'));
        const keep = options.keep === true;
        // For a second Ctrl-C, which ends us in the middle of the orderly way out.
        const onExit = (): void => rmSync(dir, { recursive: true, force: true });
        if (!keep) process.once('exit', onExit);
        try {
          return await runDemo(io, { dir, cli, signal });
        } finally {
          if (keep) io.note(`everything is kept in ${dir}`);
          else await rm(dir, { recursive: true, force: true, maxRetries: 5 });
          process.off('exit', onExit);
        }
      }),
    );
}

async function checkPrerequisites(signal: AbortSignal): Promise<void> {
  const found = await Promise.all(
    PREREQUISITES.map(({ program }) =>
      promisify(execFile)(program, ['--version'], { timeout: CHECK_TIMEOUT_MS, killSignal: 'SIGKILL', signal }).then(
        () => true,
        () => false,
      ),
    ),
  );
  const missing = PREREQUISITES.filter((_, index) => found[index] !== true);
  if (missing.length === 0 || signal.aborted) return;
  throw new CodedError(
    'prerequisite_missing',
    `the example tasks need ${missing.map(({ program }) => program).join(', ')}, which cannot be run here; ` +
      `on Debian: apt-get install ${missing.map(({ debian }) => debian).join(' ')}`,
  );
}

async function runDemo(io: Io, options: { dir: string; cli: string; signal: AbortSignal }): Promise<ExitCode> {
  const { dir, cli } = options;
  const validators = await makeValidators(dir);
  const examples = await prepareExamples(join(dir, 'examples'));
  io.print(`${validators.length} validators, ${examples.expected.length} example tasks; starting the server`);

  await using server = await startLocalServer({
    command: [process.execPath, cli, 'serve', '--json', '--until-stdin-ends'],
    env: serverEnvironment(dir, validators),
    cwd: dir,
    signal: options.signal,
  });
  const signal = AbortSignal.any([options.signal, server.died]);
  const api = createApi(server.url);
  io.print(`the server listens on ${server.url}`);

  const batchId = await vote(io, api, { submissionDir: examples.submissionDir, validators, signal });
  io.print('');
  await showProgress(io, api, { batchId, after: 0, signal, justApproved: true });
  const result = await fetchResult(io, api, batchId, signal);
  const exitCode = await judge(io, api, { result, expected: examples.expected, signal });
  if (exitCode !== EXIT.ok)
    for (const line of server.stderrTail().split('\n').filter(Boolean)) io.note(`server: ${line}`);
  return exitCode;
}

async function makeValidators(dir: string): Promise<Signer[]> {
  const keys = join(dir, 'keys');
  await mkdir(keys, { mode: 0o700 });
  const signers: Signer[] = [];
  for (let number = 1; number <= VALIDATORS; number++) {
    const { signer, phrase } = await generateKey();
    await writeKeyFile(join(keys, `validator-${number}.json`), signer, phrase);
    signers.push(signer);
  }
  return signers;
}

function serverEnvironment(dir: string, validators: readonly Signer[]): NodeJS.ProcessEnv {
  return {
    ...Object.fromEntries(PASSED_ON.flatMap((name) => (process.env[name] ? [[name, process.env[name]]] : []))),
    TRUSTED_VALIDATORS: validators.map(({ address }) => address).join(','),
    SUBTENSOR_ENDPOINTS: '',
    GIT_PROTOCOLS: 'https,file',
    SANDBOX: 'process',
    DATA_DIR: join(dir, 'data'),
    WORKSPACE_BASE: join(dir, 'sessions'),
    HOST: '127.0.0.1',
    PORT: '0',
    LOG_LEVEL: 'warn',
    DRAIN_TIMEOUT_SECS: String(DRAIN_TIMEOUT_SECS),
  };
}

/** Lets every validator vote and returns the batch's id. The last vote comes when the quorum is reached already. */
async function vote(
  io: Io,
  api: Api,
  options: { submissionDir: string; validators: readonly Signer[]; signal: AbortSignal },
): Promise<string> {
  const { signal } = options;
  await using archive = await openArchive(options.submissionDir, signal);
  io.print(`archive ${archive.sha256}, ${archive.bytes} bytes`);
  const batchIds = new Set<string>();
  for (const [index, signer] of options.validators.entries()) {
    const request = { archive, signer, concurrentTasks: CONCURRENT_TASKS, signal, onNotice: io.note };
    const answer: VoteAnswer = await castVote(api, request);
    io.print(`validator ${index + 1}, ${signer.address}: ${describeVote(answer)}`);
    io.data({ vote: voteDocument(answer, archive, signer.address) });
    if (answer.kind === 'approved') batchIds.add(answer.batchId);
  }
  const [batchId] = batchIds;
  if (batchId === undefined || batchIds.size > 1) {
    throw new CodedError(
      'bad_answer',
      `${options.validators.length} votes on one archive made ${batchIds.size} batches`,
    );
  }
  return batchId;
}

/** Shows the result beside what is expected; the exit code says whether they agree. */
async function judge(
  io: Io,
  api: Api,
  options: { result: BatchResult; expected: readonly Expected[]; signal: AbortSignal },
): Promise<ExitCode> {
  const { batch, tasks } = options.result;
  const proof = await api.verify(batch.batch_id, options.signal);
  const ours = resultsHash(
    batch.batch_id,
    tasks.map((task) => ({ taskId: task.task_id, passed: task.passed ?? null, reward: task.reward })),
  );
  const differences = findDifferences(options.expected, tasks);
  if (batch.status !== 'completed')
    differences.push(`the batch is ${batch.status}: ${batch.error ?? 'no reason is given'}`);
  if (proof.results_hash !== ours)
    differences.push(`results_hash is ${proof.results_hash}, computed from the tasks: ${ours}`);

  const expectedOf = new Map(options.expected.map((one) => [one.taskId, one]));
  const rows = tasks.map((task) => {
    const expected = expectedOf.get(task.task_id);
    return [
      task.task_id,
      expected === undefined ? '-' : outcome(expected.passed, expected.reward, expected.cause),
      outcome(task.passed === true, task.reward, task.cause ?? null),
      typeof task.duration_ms === 'number' ? formatDuration(task.duration_ms) : '-',
    ];
  });
  io.print('');
  for (const line of renderTable([['task', 'expected', 'got', 'duration'], ...rows], io.paint)) io.print(line);
  const duration = typeof batch.duration_ms === 'number' ? `, ${formatDuration(batch.duration_ms)}` : '';
  io.print('');
  io.print(
    `aggregate reward ${formatReward(batch.aggregate_reward)}, ${batch.passed_tasks} of ${batch.total_tasks} passed${duration}`,
  );
  io.print(
    `results_hash ${sanitize(proof.results_hash)}${proof.results_hash === ours ? ' (computed here: the same)' : ''}`,
  );
  for (const difference of differences) io.print(io.paint('red', `not as expected: ${sanitize(difference)}`));
  if (differences.length === 0) io.print(io.paint('green', 'every result is the expected one'));
  io.data({ result: { batch, tasks, results_hash: proof.results_hash }, differences });
  return differences.length === 0 ? EXIT.ok : EXIT.failed;
}

function outcome(passed: boolean, reward: number, cause: string | null): string {
  return `${passed ? 'passed' : 'failed'} ${formatReward(reward)}${cause === null ? '' : ` ${cause}`}`;
}
