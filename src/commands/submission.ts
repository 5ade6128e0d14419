/**
 * The rules of voting. A vote round opens with the first vote on an archive, lasts until its time is over or enough
 * validators have voted, and then leads to exactly one batch. Votes count only while their hotkey is whitelisted.
 */
import type { Event, Recorded } from '../events.ts';
import type { Decider, Decision } from './decider.ts';

interface Fraction {
  readonly numerator: number;
  readonly denominator: number;
}

export interface CastVote {
  readonly type: 'CastVote';
  readonly archiveHash: string;
  readonly archiveBytes: number;
  readonly hotkey: string;
  readonly nonce: string;
  readonly signature: string;
  readonly signatureVersion: 1 | 2;
  /** What this voter asks for; the value of the round's first voter is used. */
  readonly concurrentTasks: number;
  /** The validator set in force now. */
  readonly validators: readonly string[];
  readonly threshold: Fraction;
  readonly roundTtlMs: number;
  readonly batchTtlMs: number;
  /** The id that the batch gets if this vote completes the quorum. */
  readonly newBatchId: string;
  /** Other rounds that are open now, and how many there may be. */
  readonly openRounds: number;
  readonly maxOpenRounds: number;
  readonly nowMs: number;
}

export interface ExpireVoteRound {
  readonly type: 'ExpireVoteRound';
  readonly archiveHash: string;
  readonly nowMs: number;
}

export type SubmissionCommand = CastVote | ExpireVoteRound;

export type VoteResult =
  | {
      readonly kind: 'pending';
      readonly votes: number;
      readonly required: number;
      readonly totalValidators: number;
      /** This hotkey had voted in this round before. */
      readonly repeated: boolean;
    }
  | {
      readonly kind: 'approved';
      readonly batchId: string;
      readonly votes: number;
      readonly required: number;
      readonly concurrentTasks: number;
      /** The quorum was reached before this vote. */
      readonly late: boolean;
      readonly repeated: boolean;
    }
  | { readonly kind: 'too-many-pending' }
  | { readonly kind: 'not-whitelisted' }
  /** Answer to ExpireVoteRound. */
  | { readonly kind: 'expired' }
  | { readonly kind: 'nothing-to-expire' };

export interface SubmissionState {
  readonly phase: 'none' | 'open' | 'expired' | 'approved';
  readonly round: number;
  readonly expiresAtMs: number;
  readonly concurrentTasks: number;
  /** Hotkeys that voted in the current round, late votes included. */
  readonly voters: ReadonlySet<string>;
  readonly batchId: string | null;
  readonly required: number;
}

/**
 * Votes needed: max(1, ceil(validators x threshold)), in integers. Floating point would ask for 56 of 100 at 0.55.
 */
export function requiredVotes(validators: number, threshold: Fraction): number {
  const product = validators * threshold.numerator;
  const remainder = product % threshold.denominator;
  const whole = (product - remainder) / threshold.denominator;
  return Math.max(1, remainder === 0 ? whole : whole + 1);
}

export const submissionDecider: Decider<SubmissionState, SubmissionCommand, VoteResult> = {
  initialState: {
    phase: 'none',
    round: 0,
    expiresAtMs: 0,
    concurrentTasks: 0,
    voters: new Set(),
    batchId: null,
    required: 0,
  },
  evolve,
  decide: (state, command) => (command.type === 'CastVote' ? castVote(state, command) : expireRound(state, command)),
};

function evolve(state: SubmissionState, event: Recorded): SubmissionState {
  switch (event.type) {
    case 'VoteCast': {
      const { round, hotkey, roundExpiresAtMs, concurrentTasks } = event.data;
      if (round === state.round) return { ...state, voters: new Set([...state.voters, hotkey]) };
      return {
        ...state,
        phase: 'open',
        round,
        expiresAtMs: roundExpiresAtMs,
        concurrentTasks,
        voters: new Set([hotkey]),
      };
    }
    case 'VoteRoundExpired':
      return { ...state, phase: 'expired' };
    case 'QuorumReached':
      return { ...state, phase: 'approved', batchId: event.data.batchId, required: event.data.required };
    default:
      return state;
  }
}

function castVote(state: SubmissionState, vote: CastVote): Decision<VoteResult> {
  if (!vote.validators.includes(vote.hotkey)) return { events: [], result: { kind: 'not-whitelisted' } };
  const repeated = state.voters.has(vote.hotkey);
  if (state.phase === 'approved') return voteLate(state, vote, repeated);

  const timedOut = state.phase === 'open' && vote.nowMs >= state.expiresAtMs;
  const continues = state.phase === 'open' && !timedOut;
  const events: Event[] = timedOut ? [roundExpired(state, vote.archiveHash)] : [];
  const round = continues ? state.round : state.round + 1;
  const expiresAtMs = continues ? state.expiresAtMs : vote.nowMs + vote.roundTtlMs;
  const concurrentTasks = continues ? state.concurrentTasks : vote.concurrentTasks;
  const voters = continues ? new Set([...state.voters, vote.hotkey]) : new Set([vote.hotkey]);
  if (!(continues && repeated)) events.push(voteCast(vote, round, expiresAtMs, concurrentTasks));

  const counting = vote.validators.filter((hotkey) => voters.has(hotkey));
  const required = requiredVotes(vote.validators.length, vote.threshold);
  if (counting.length < required) {
    if (!continues && vote.openRounds >= vote.maxOpenRounds) {
      return { events: [], result: { kind: 'too-many-pending' } };
    }
    return {
      events,
      result: {
        kind: 'pending',
        votes: counting.length,
        required,
        totalValidators: vote.validators.length,
        repeated: continues && repeated,
      },
    };
  }
  events.push(
    {
      type: 'QuorumReached',
      data: {
        archiveHash: vote.archiveHash,
        round,
        batchId: vote.newBatchId,
        voters: counting,
        required,
        validators: [...vote.validators],
        threshold: { numerator: vote.threshold.numerator, denominator: vote.threshold.denominator },
      },
    },
    {
      type: 'BatchApproved',
      data: {
        batchId: vote.newBatchId,
        archiveHash: vote.archiveHash,
        archiveBytes: vote.archiveBytes,
        round,
        voters: counting,
        concurrentTasks,
        ttlMs: vote.batchTtlMs,
      },
    },
  );
  return {
    events,
    result: {
      kind: 'approved',
      batchId: vote.newBatchId,
      votes: counting.length,
      required,
      concurrentTasks,
      late: false,
      repeated: continues && repeated,
    },
  };
}

/** The archive has its batch: a further vote is recorded as evidence, and never runs it again. */
function voteLate(state: SubmissionState, vote: CastVote, repeated: boolean): Decision<VoteResult> {
  const votes = vote.validators.filter((hotkey) => hotkey === vote.hotkey || state.voters.has(hotkey)).length;
  return {
    events: repeated ? [] : [voteCast(vote, state.round, state.expiresAtMs, state.concurrentTasks)],
    result: {
      kind: 'approved',
      batchId: state.batchId ?? '',
      votes,
      required: state.required,
      concurrentTasks: state.concurrentTasks,
      late: true,
      repeated,
    },
  };
}

function expireRound(state: SubmissionState, command: ExpireVoteRound): Decision<VoteResult> {
  if (state.phase !== 'open' || command.nowMs < state.expiresAtMs) {
    return { events: [], result: { kind: 'nothing-to-expire' } };
  }
  return { events: [roundExpired(state, command.archiveHash)], result: { kind: 'expired' } };
}

function roundExpired(state: SubmissionState, archiveHash: string): Event {
  return { type: 'VoteRoundExpired', data: { archiveHash, round: state.round, votes: state.voters.size } };
}

function voteCast(vote: CastVote, round: number, roundExpiresAtMs: number, concurrentTasks: number): Event {
  return {
    type: 'VoteCast',
    data: {
      archiveHash: vote.archiveHash,
      round,
      hotkey: vote.hotkey,
      nonce: vote.nonce,
      signature: vote.signature,
      signatureVersion: vote.signatureVersion,
      archiveBytes: vote.archiveBytes,
      concurrentTasks,
      roundExpiresAtMs,
    },
  };
}
