import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { requiredVotes, submissionDecider, type CastVote } from '../../src/commands/submission.ts';
import type { Event } from '../../src/events.ts';
import { given } from '../support/specification.ts';

const ARCHIVE = 'a'.repeat(64);
const BATCH = '0199aaaa-0000-7000-8000-000000000000';
const FOUR = ['V1', 'V2', 'V3', 'V4'];
const TTL = 60_000;

function vote(hotkey: string, overrides: Partial<CastVote> = {}): CastVote {
  return {
    type: 'CastVote',
    archiveHash: ARCHIVE,
    archiveBytes: 10,
    hotkey,
    nonce: `nonce-${hotkey}`,
    signature: 'ab',
    signatureVersion: 1,
    concurrentTasks: 4,
    validators: FOUR,
    threshold: { numerator: 1, denominator: 2 },
    roundTtlMs: TTL,
    batchTtlMs: 7_200_000,
    newBatchId: BATCH,
    openRounds: 0,
    maxOpenRounds: 100,
    nowMs: 1_000,
    ...overrides,
  };
}

function cast(hotkey: string, round = 1, roundExpiresAtMs = 1_000 + TTL): Event {
  return {
    type: 'VoteCast',
    data: {
      archiveHash: ARCHIVE,
      round,
      hotkey,
      nonce: `nonce-${hotkey}`,
      signature: 'ab',
      signatureVersion: 1,
      archiveBytes: 10,
      concurrentTasks: 4,
      roundExpiresAtMs,
    },
  };
}

function expired(votes: number): Event {
  return { type: 'VoteRoundExpired', data: { archiveHash: ARCHIVE, round: 1, votes } };
}

function quorum(): Event {
  return {
    type: 'QuorumReached',
    data: {
      archiveHash: ARCHIVE,
      round: 1,
      batchId: BATCH,
      voters: ['V1', 'V2'],
      required: 2,
      validators: FOUR,
      threshold: { numerator: 1, denominator: 2 },
    },
  };
}

function spec(...events: Event[]) {
  return given(submissionDecider, events);
}

describe('required votes', () => {
  test('are the exact ceiling: 100 validators at 0.55 need 55', () => {
    assert.equal(requiredVotes(100, { numerator: 55, denominator: 100 }), 55);
    assert.equal(requiredVotes(3, { numerator: 5, denominator: 10 }), 2);
    assert.equal(requiredVotes(0, { numerator: 5, denominator: 10 }), 1);
    assert.equal(requiredVotes(5, { numerator: 1, denominator: 1 }), 5);
  });

  test('agree with exact rational arithmetic for every threshold of up to nine digits', () => {
    const denominator = 1_000_000_000;
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 65_535 }), fc.integer({ min: 1, max: denominator }), (n, numerator) => {
        const product = BigInt(n) * BigInt(numerator);
        const exact = (product + BigInt(denominator) - 1n) / BigInt(denominator);
        assert.equal(requiredVotes(n, { numerator, denominator }), Math.max(1, Number(exact)));
      }),
    );
  });
});

describe('a vote', () => {
  test('opens a round and is pending while the quorum is not reached', () => {
    spec()
      .when(vote('V1'))
      .then([cast('V1')], { kind: 'pending', votes: 1, required: 2, totalValidators: 4, repeated: false });
  });

  test('that completes the quorum approves the batch in the same decision', () => {
    const events = spec(cast('V1'))
      .when(vote('V2', { concurrentTasks: 9 }))
      .thenTypes(['VoteCast', 'QuorumReached', 'BatchApproved'], { kind: 'approved', batchId: BATCH });
    const approved = events[2];
    assert.ok(approved?.type === 'BatchApproved');
    assert.equal(approved.data.concurrentTasks, 4, 'the first voter’s value wins');
    assert.deepEqual(approved.data.voters, ['V1', 'V2']);
  });

  test('of a lone validator is a quorum at once, also at capacity', () => {
    spec()
      .when(vote('V1', { validators: ['V1'], openRounds: 100 }))
      .thenTypes(['VoteCast', 'QuorumReached', 'BatchApproved']);
  });

  test('that was cast before is not counted twice', () => {
    spec(cast('V1')).when(vote('V1')).thenNothingHappened({ kind: 'pending', votes: 1, repeated: true });
  });

  test('of a hotkey that is not whitelisted changes nothing', () => {
    spec(cast('V1')).when(vote('X')).thenNothingHappened({ kind: 'not-whitelisted' });
  });

  test('counts only while its hotkey is whitelisted: one that left does not help the quorum', () => {
    spec(cast('V1'))
      .when(vote('V2', { validators: ['V2', 'V3', 'V4'] }))
      .thenTypes(['VoteCast'], { kind: 'pending', votes: 1, required: 2 });
  });

  test('repeated after the set shrank may complete the quorum with the votes that still count', () => {
    spec(cast('V1'))
      .when(vote('V1', { validators: ['V1', 'V2'] }))
      .thenTypes(['QuorumReached', 'BatchApproved']);
  });

  test('on a new archive is refused at capacity, and leaves nothing', () => {
    spec()
      .when(vote('V1', { openRounds: 100 }))
      .thenNothingHappened({ kind: 'too-many-pending' });
  });

  test('on a round that exists is taken at capacity', () => {
    spec(cast('V1'))
      .when(vote('V2', { openRounds: 100, threshold: { numerator: 1, denominator: 1 } }))
      .thenTypes(['VoteCast'], { kind: 'pending', votes: 2 });
  });

  test('after the round’s time expires it and opens the next, in which earlier votes do not count', () => {
    const nowMs = 1_000 + TTL;
    spec(cast('V1'))
      .when(vote('V2', { nowMs }))
      .then([expired(1), cast('V2', 2, nowMs + TTL)], { kind: 'pending', votes: 1 });
  });

  test('by the same hotkey in the next round counts there', () => {
    spec(cast('V1'), expired(1))
      .when(vote('V1', { nowMs: 100_000 }))
      .then([cast('V1', 2, 100_000 + TTL)], { kind: 'pending', votes: 1, repeated: false });
  });

  test('that comes late is recorded and answered with the batch that exists', () => {
    spec(cast('V1'), cast('V2'), quorum())
      .when(vote('V3', { nowMs: 10_000_000, newBatchId: 'another' }))
      .then([cast('V3')], { kind: 'approved', batchId: BATCH, late: true, votes: 3 });
  });

  test('that comes late a second time changes nothing', () => {
    spec(cast('V1'), cast('V2'), quorum())
      .when(vote('V2'))
      .thenNothingHappened({ kind: 'approved', batchId: BATCH, late: true, repeated: true });
  });
});

describe('a vote round', () => {
  const expire = (nowMs: number) => ({ type: 'ExpireVoteRound', archiveHash: ARCHIVE, nowMs }) as const;

  test('expires when its time is over', () => {
    given(submissionDecider, [cast('V1'), cast('V2')])
      .when(expire(1_000 + TTL))
      .then([expired(2)], { kind: 'expired' });
  });

  test('does not expire before its time, nor twice, nor after the quorum', () => {
    given(submissionDecider, [cast('V1')])
      .when(expire(999 + TTL))
      .thenNothingHappened();
    given(submissionDecider, [cast('V1'), expired(1)])
      .when(expire(999_999))
      .thenNothingHappened();
    given(submissionDecider, [cast('V1'), cast('V2'), quorum()])
      .when(expire(999_999))
      .thenNothingHappened();
    given(submissionDecider, []).when(expire(999_999)).thenNothingHappened();
  });
});
