/**
 * Vote rounds, the votes in them, and the proof of every quorum: who voted, with which signature, out of which
 * validators. Late votes are kept as votes but are no part of a proof they did not make.
 */
import type { DatabaseSync } from 'node:sqlite';
import type { Recorded } from '../events.ts';
import type { QuorumProof, ReadModel, RoundRow, VoteRow } from './read-model.ts';
import { type Model, type Row, json, number, text } from './model.ts';

const schema = `
CREATE TABLE rounds (
  archive_hash TEXT NOT NULL,
  round INTEGER NOT NULL,
  status TEXT NOT NULL DEFAULT 'open',
  expires_at_ms INTEGER NOT NULL,
  first_seq INTEGER NOT NULL,
  PRIMARY KEY (archive_hash, round)
) STRICT, WITHOUT ROWID;
CREATE INDEX rounds_open ON rounds (first_seq) WHERE status = 'open';

CREATE TABLE votes (
  archive_hash TEXT NOT NULL,
  round INTEGER NOT NULL,
  hotkey TEXT NOT NULL,
  nonce TEXT NOT NULL,
  signature TEXT NOT NULL,
  signature_version INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  voted_at TEXT NOT NULL,
  PRIMARY KEY (archive_hash, round, hotkey)
) STRICT, WITHOUT ROWID;

CREATE INDEX votes_nonce ON votes (hotkey, nonce);

CREATE TABLE quorums (
  batch_id TEXT PRIMARY KEY,
  archive_hash TEXT NOT NULL,
  round INTEGER NOT NULL,
  voters TEXT NOT NULL,
  required INTEGER NOT NULL,
  validators TEXT NOT NULL,
  threshold TEXT NOT NULL,
  seq INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
`;

function prepare(db: DatabaseSync): (event: Recorded) => void {
  const opened = db.prepare(`
    INSERT INTO rounds (archive_hash, round, expires_at_ms, first_seq)
    VALUES (:archiveHash, :round, :roundExpiresAtMs, :seq) ON CONFLICT DO NOTHING`);
  const voted = db.prepare(`
    INSERT INTO votes (archive_hash, round, hotkey, nonce, signature, signature_version, seq, voted_at)
    VALUES (:archiveHash, :round, :hotkey, :nonce, :signature, :signatureVersion, :seq, :time)
    ON CONFLICT DO NOTHING`);
  const closed = db.prepare(`
    UPDATE rounds SET status = :status WHERE archive_hash = :archiveHash AND round = :round AND status = 'open'`);
  const reached = db.prepare(`
    INSERT INTO quorums (batch_id, archive_hash, round, voters, required, validators, threshold, seq)
    VALUES (:batchId, :archiveHash, :round, :voters, :required, :validators, :threshold, :seq)
    ON CONFLICT DO NOTHING`);

  return (event) => {
    const { seq, time } = event;
    switch (event.type) {
      case 'VoteCast': {
        const { archiveHash, round, hotkey, nonce, signature, signatureVersion, roundExpiresAtMs } = event.data;
        opened.run({ archiveHash, round, roundExpiresAtMs, seq });
        voted.run({ archiveHash, round, hotkey, nonce, signature, signatureVersion, seq, time });
        return;
      }
      case 'VoteRoundExpired': {
        const { archiveHash, round } = event.data;
        closed.run({ archiveHash, round, status: 'expired' });
        return;
      }
      case 'QuorumReached': {
        const { archiveHash, round, batchId, required } = event.data;
        closed.run({ archiveHash, round, status: 'approved' });
        reached.run({
          batchId,
          archiveHash,
          round,
          required,
          seq,
          voters: JSON.stringify(event.data.voters),
          validators: JSON.stringify(event.data.validators),
          threshold: JSON.stringify(event.data.threshold),
        });
        return;
      }
      default:
        return;
    }
  };
}

export const submissionsModel: Model = { name: 'submissions', schema, prepare };

/** The questions about votes, prepared once. */
export function submissionQueries(db: DatabaseSync): Pick<ReadModel, 'quorum' | 'openRounds' | 'hasVotedWith'> {
  const quorum = db.prepare('SELECT * FROM quorums WHERE batch_id = ?');
  const votes = db.prepare('SELECT * FROM votes WHERE archive_hash = ? AND round = ? ORDER BY seq');
  const votedWith = db.prepare('SELECT 1 FROM votes WHERE hotkey = ? AND nonce = ? LIMIT 1');
  const open = db.prepare(`
    SELECT archive_hash, round, expires_at_ms, (
      SELECT count(*) FROM votes WHERE votes.archive_hash = rounds.archive_hash AND votes.round = rounds.round
    ) AS votes
    FROM rounds WHERE status = 'open' ORDER BY first_seq`);
  return {
    quorum(batchId) {
      const row = quorum.get(batchId);
      return row ? toProof(row, votes.all(text(row, 'archive_hash'), number(row, 'round'))) : null;
    },
    hasVotedWith(hotkey, nonce) {
      return votedWith.get(hotkey, nonce) !== undefined;
    },
    openRounds() {
      return open.all().map(toRound);
    },
  };
}

function toProof(row: Row, votes: readonly Row[]): QuorumProof {
  const voters = json<string[]>(row, 'voters');
  return {
    archiveHash: text(row, 'archive_hash'),
    round: number(row, 'round'),
    votes: votes.map(toVote).filter((vote) => voters.includes(vote.hotkey)),
    voters,
    required: number(row, 'required'),
    validators: json(row, 'validators'),
    threshold: json(row, 'threshold'),
    seq: number(row, 'seq'),
  };
}

function toVote(row: Row): VoteRow {
  return {
    hotkey: text(row, 'hotkey'),
    nonce: text(row, 'nonce'),
    signature: text(row, 'signature'),
    signatureVersion: number(row, 'signature_version'),
    seq: number(row, 'seq'),
    votedAt: text(row, 'voted_at'),
  };
}

function toRound(row: Row): RoundRow {
  return {
    archiveHash: text(row, 'archive_hash'),
    round: number(row, 'round'),
    votes: number(row, 'votes'),
    expiresAtMs: number(row, 'expires_at_ms'),
  };
}
