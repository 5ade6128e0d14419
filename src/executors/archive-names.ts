/**
 * Which names an archive may contain. Pure, so that every trick with a name (`..`, absolute, drive letters, NUL) is
 * refused at one place before any of it reaches the file system.
 */
import { ArchiveError, shown, type ArchiveLimits } from './archive-limits.ts';

const CONTROL = /[\p{Cc}\u2028\u2029]/u;

/** Files that macOS and its Finder leave in archives; ignored wherever they are. */
function isJunk(component: string): boolean {
  return component === '__MACOSX' || component === '.DS_Store' || component.startsWith('._');
}

/**
 * The components of an entry's path, `.` and doubled slashes removed; empty for the archive's own root, null for the
 * leavings of macOS. @throws ArchiveError for every name that does not stay below the root or has no plain meaning.
 */
export function entryPath(name: string, limits: ArchiveLimits): readonly string[] | null {
  const refuse = (why: string): ArchiveError => new ArchiveError(`entry ${shown(name)}: ${why}`);
  if (name === '') throw refuse('an entry without a name');
  // Both readers decode names as UTF-8 and put U+FFFD for what is none.
  if (!name.isWellFormed() || name.includes('\ufffd')) throw refuse('the name is not valid UTF-8');
  if (CONTROL.test(name)) throw refuse('the name contains a control character');
  if (name.includes('\\')) throw refuse('the name contains a backslash; write paths with /');
  if (name.startsWith('/')) throw refuse('the path is absolute; paths must be relative to the archive');
  if (/^[A-Za-z]:/.test(name)) throw refuse('the path begins with a drive letter; paths must be relative');
  if (Buffer.byteLength(name) > limits.maxPathBytes) throw refuse(`the path is over ${limits.maxPathBytes} bytes`);
  const components = name.split('/').filter((component) => component !== '' && component !== '.');
  for (const component of components) {
    if (component === '..') throw refuse('the path leads out of the archive (..)');
    if (Buffer.byteLength(component) > limits.maxNameBytes) {
      throw refuse(`a part of the path is over ${limits.maxNameBytes} bytes`);
    }
  }
  if (components.length > limits.maxDepth) throw refuse(`the path is over ${limits.maxDepth} directories deep`);
  return components.some(isJunk) ? null : components;
}

/** Why a directory name under tasks/ cannot be a task's id; null when it can. Spaces, dots, `*`, `>` are fine. */
export function taskIdFault(id: string): string | null {
  if (id === '' || id === '.' || id === '..') return 'it must be a name';
  if (!id.isWellFormed() || id.includes('\ufffd')) return 'it is not valid UTF-8';
  if (CONTROL.test(id)) return 'it contains a control character';
  if (/[/\\]/.test(id)) return 'it contains a slash';
  if (id.startsWith(' ') || id.endsWith(' ')) return 'it begins or ends with a space';
  if (Buffer.byteLength(id) > 255) return 'it is over 255 bytes';
  return null;
}

/** Order by UTF-8 bytes: the same on every machine and in every locale. */
export function byBytes(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}
