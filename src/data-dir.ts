/**
 * The data directory has one owner at a time. Two servers over one store would corrupt it, and a lock file with a
 * process id would outlive a `kill -9` and point at a stranger.
 */
import { accessSync, constants, mkdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { CodedError, messageOf } from './errors.ts';

/** The data directory, ours until release(). */
export interface DataDirLock extends Disposable {
  /** Absolute path. */
  readonly path: string;
  release(): void;
}

/**
 * Creates the directory (mode 0700) if it is missing and takes it for this process. The lock is an exclusive SQLite
 * transaction on `lock.db`: in effect flock without a native module, which the kernel frees however the process ends.
 * @throws CodedError data_dir_not_writable, data_dir_in_use
 */
export function lockDataDir(dir: string): DataDirLock {
  const path = resolve(dir);
  let db: DatabaseSync | null = null;
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 });
    accessSync(path, constants.W_OK | constants.X_OK);
    db = new DatabaseSync(join(path, 'lock.db'), { timeout: 0 });
    db.exec('PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE');
  } catch (error) {
    db?.close();
    if (/database is locked/.test(messageOf(error))) {
      throw new CodedError(
        'data_dir_in_use',
        `${path} is in use by another term-executor; end that one, or set DATA_DIR to another directory`,
      );
    }
    throw new CodedError(
      'data_dir_not_writable',
      `DATA_DIR: cannot write to ${path}: ${messageOf(error)}; make it writable or set DATA_DIR to another directory`,
      { cause: error },
    );
  }
  const owned = db;
  const release = (): void => {
    if (owned.isOpen) owned.close();
  };
  return { path, release, [Symbol.dispose]: release };
}
