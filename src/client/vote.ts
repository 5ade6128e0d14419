/**
 * Casting a vote: one signed upload, tried again while the server cannot take it. Every try has a nonce of its own,
 * because a request whose answer was lost may have used its up; a vote that was taken twice counts once.
 */
import { CodedError } from '../errors.ts';
import type { Api, VoteAnswer } from './api.ts';
import type { LocalArchive } from './archive.ts';
import { withRetries } from './retry.ts';
import { newNonce, signVote, type Signer } from './sign.ts';

/**
 * Casts the signer's vote on an archive. @throws RefusedError, UnreachableError after the last try, CodedError
 * bad_answer when what arrived at the server is not what we sent
 */
export async function castVote(
  api: Api,
  options: {
    archive: LocalArchive;
    signer: Signer;
    concurrentTasks: number | null;
    signal: AbortSignal;
    onNotice: (text: string) => void;
  },
): Promise<VoteAnswer> {
  const { archive, signer, concurrentTasks, signal, onNotice } = options;
  const { file, bytes, fileName } = archive;
  const answer = await withRetries(
    () => api.submit({ file, bytes, fileName, headers: signVote(signer, newNonce()), concurrentTasks }, signal),
    { signal, onRetry: (error, pauseMs) => onNotice(`${error.message}; trying again in ${pauseMs / 1000} s`) },
  );
  if (answer.kind === 'pending' && answer.archiveHash !== archive.sha256) {
    throw new CodedError(
      'bad_answer',
      `${api.url} counted a vote on ${answer.archiveHash}, but ${archive.sha256} was sent`,
    );
  }
  return answer;
}
