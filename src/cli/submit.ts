/**
 * `term-executor submit`: a validator's vote from a directory or an archive, and with --follow the way of the batch to
 * its result.
 */
import type { Command } from 'commander';
import { createApi, type VoteAnswer } from '../client/api.ts';
import { openArchive, type LocalArchive } from '../client/archive.ts';
import { waitForQuorum } from '../client/follow.ts';
import { loadKey } from '../client/key-file.ts';
import { describeVote } from '../client/render.ts';
import { withDeadline } from '../client/retry.ts';
import { castVote } from '../client/vote.ts';
import { EXIT } from './exit-codes.ts';
import { runAction, wholeNumber, withJson } from './output.ts';
import { DEFAULT_FOLLOW_SECS, DEFAULT_URL, MAX_TIMEOUT_SECS, showBatch } from './watch.ts';

const DEFAULT_SUBMIT_SECS = 900;
const MAX_CONCURRENT = 1_000_000;

interface SubmitOptions {
  readonly key: string;
  readonly url: string;
  readonly concurrent?: number;
  readonly follow?: true;
  readonly timeout?: number;
  readonly dev?: true;
  readonly json?: true;
}

/** Adds the command to the program. */
export function registerSubmit(program: Command): void {
  const command = program
    .command('submit')
    .description('Vote for an archive of tasks and agent code; with the quorum it becomes a batch.')
    .argument('<path>', 'a directory with agent_code/ and tasks/ (packed the same way everywhere), or a zip or tar.gz')
    .requiredOption('--key <file>', 'key file of the validator (see: term-executor keys new); with --dev also //Alice')
    .option('--url <url>', 'address of the server', DEFAULT_URL)
    .option(
      '--concurrent <n>',
      "tasks to run at a time; the first voter's value counts",
      wholeNumber(1, MAX_CONCURRENT),
    )
    .option('--follow', 'wait for the quorum, show the progress and the result')
    .option(
      '--timeout <secs>',
      `give up after so many seconds (default: ${DEFAULT_SUBMIT_SECS}, with --follow ${DEFAULT_FOLLOW_SECS})`,
      wholeNumber(1, MAX_TIMEOUT_SECS),
    )
    .option('--dev', 'allow development keys such as //Alice, which everybody has');
  withJson(command)
    .addHelpText(
      'after',
      `
Exits 0 once the vote is taken. With --follow: 0 if the batch completed and all of its tasks passed, 1 if not, also
when the vote round expires without a quorum.
With --json: {"vote": …}; with --follow then the progress messages, one a line, and {"result": …} as in watch.
Every validator has to submit the same bytes: submit the same directory, or pass the same archive on.

Examples:
  $ term-executor submit ./submission --key hotkey.json --follow
  $ term-executor submit tasks.tar.gz --key hotkey.json --url http://10.0.0.5:8080 --concurrent 4 --json`,
    )
    .action((path: string, options: SubmitOptions) =>
      runAction(options.json === true, async (io) => {
        const api = createApi(options.url);
        const seconds = options.timeout ?? (options.follow ? DEFAULT_FOLLOW_SECS : DEFAULT_SUBMIT_SECS);
        const signal = withDeadline(io.signal, seconds, 'the submission');
        const key = await loadKey(options.key, options.dev === true);
        if (key.warning !== null) io.note(key.warning);

        let vote: VoteAnswer;
        let sha256: string;
        {
          await using archive = await openArchive(path, signal);
          sha256 = archive.sha256;
          io.print(`archive ${sha256}, ${archive.bytes} bytes`);
          const concurrentTasks = options.concurrent ?? null;
          vote = await castVote(api, { archive, signer: key.signer, concurrentTasks, signal, onNotice: io.note });
          io.print(describeVote(vote));
          io.data({ vote: voteDocument(vote, archive, key.signer.address) });
        }
        if (options.follow !== true) return EXIT.ok;

        let batchId: string;
        if (vote.kind === 'approved') batchId = vote.batchId;
        else {
          io.print('waiting for the quorum');
          const { address: hotkey } = key.signer;
          batchId = await waitForQuorum(api, { archiveHash: sha256, hotkey, signal, onNotice: io.note });
        }
        return showBatch(io, api, { batchId, after: 0, signal, justApproved: true });
      }),
    );
}

/** A vote as --json shows it, with the contract's names. */
export function voteDocument(vote: VoteAnswer, archive: LocalArchive, hotkey: string): Record<string, unknown> {
  const common = {
    archive_hash: archive.sha256,
    archive_bytes: archive.bytes,
    hotkey,
    votes: vote.votes,
    required: vote.required,
    ...(vote.note === null ? {} : { note: vote.note }),
  };
  return vote.kind === 'pending'
    ? { status: 'pending_consensus', ...common, total_validators: vote.totalValidators }
    : {
        status: 'approved',
        ...common,
        batch_id: vote.batchId,
        total_tasks: vote.totalTasks,
        concurrent_tasks: vote.concurrentTasks,
      };
}
