/** Which file of agent_code/ is the agent. Pure and apart, because the archive reader and the agent step must agree. */

/** Accepted names, the first match wins. */
export const AGENT_ENTRIES = [
  'agent.py',
  'main.py',
  'agent.js',
  'main.js',
  'agent.mjs',
  'main.mjs',
  'agent.ts',
  'main.ts',
  'agent.sh',
  'main.sh',
  'agent.go',
  'main.go',
  'agent.rb',
  'main.rb',
] as const;

const EXTENSIONS: ReadonlySet<string> = new Set(AGENT_ENTRIES.map(extensionOf));

function extensionOf(name: string): string {
  const dot = name.lastIndexOf('.');
  return dot <= 0 ? '' : name.slice(dot);
}

/**
 * The agent's entry among the names of the files at the root of agent_code/: the first of AGENT_ENTRIES that is there,
 * else the only file with one of their extensions, else null.
 */
export function findAgentEntry(names: readonly string[]): string | null {
  const named = AGENT_ENTRIES.find((entry) => names.includes(entry));
  if (named !== undefined) return named;
  const [only, ...others] = names.filter((name) => EXTENSIONS.has(extensionOf(name)));
  return only === undefined || others.length > 0 ? null : only;
}
