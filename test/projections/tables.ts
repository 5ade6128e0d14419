/** Compares read models by everything that is in their tables. */
import { DatabaseSync } from 'node:sqlite';

/** All rows of all tables of a database file, by table. The file may be in use. */
export function dump(file: string): Record<string, unknown[]> {
  const db = new DatabaseSync(file, { readOnly: true });
  try {
    const tables = db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").all();
    return Object.fromEntries(
      tables.map(({ name }) => [name, db.prepare(`SELECT * FROM "${String(name)}" ORDER BY 1, 2, 3`).all()]),
    );
  } finally {
    db.close();
  }
}
