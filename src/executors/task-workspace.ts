/**
 * workspace.yaml → checked fields. Every fault is reported with the line it stands on; values never appear in a
 * message, because env holds what its owner may consider secret.
 */
import Type, { type Static } from 'typebox';
import { Compile } from 'typebox/compile';
import {
  CST,
  isAlias,
  isMap,
  isNode,
  isScalar,
  Lexer,
  LineCounter,
  parseDocument,
  visit,
  type Document,
  type Node,
} from 'yaml';
import { messageOf } from '../errors.ts';
import { ArchiveError, type ArchiveLimits } from './archive-limits.ts';
import { checkCommit, checkRepo, type Checked, type GitPolicy } from './task-repo.ts';
import type { TaskTimeouts } from './task-spec.ts';

const Command = Type.String({ minLength: 1, pattern: '^[^\\0]*$' });
const Commands = Type.Union([Type.Array(Command), Type.String()]);
const Seconds = Type.Number({ exclusiveMinimum: 0, maximum: 30 * 86_400 });
/** Read as it is written: a commit such as 1e12345 would be the number Infinity. See sourceText. */
const Scalar = Type.Unknown();

/** The fields whose type matters; unknown ones are accepted (the contract: "unknown keys are kept, not refused"). */
const Workspace = Type.Object({
  repo: Type.String(),
  base_commit: Type.Optional(Scalar),
  version: Type.Optional(Scalar),
  install: Type.Optional(Commands),
  install_config: Type.Optional(Type.Object({ install: Type.Optional(Type.Union([Commands, Type.Null()])) })),
  language: Type.Optional(Type.String()),
  fail_to_pass: Type.Optional(Commands),
  pass_to_pass: Type.Optional(Commands),
  difficulty: Type.Optional(Scalar),
  difficulty_score: Type.Optional(Type.Number()),
  patch: Type.Optional(Type.String()),
  prompt: Type.Optional(Type.String()),
  weight: Type.Optional(Type.Number({ minimum: 0 })),
  timeouts: Type.Optional(
    Type.Object(
      {
        clone: Type.Optional(Seconds),
        install: Type.Optional(Seconds),
        agent: Type.Optional(Seconds),
        test: Type.Optional(Seconds),
      },
      { additionalProperties: false },
    ),
  ),
  env: Type.Optional(Type.Record(Type.String(), Scalar)),
});
type Workspace = Static<typeof Workspace>;
const workspaceCheck = Compile(Workspace);

/** Aliases in a file, and nodes that they repeat; more is only ever a bomb ("billion laughs", or slow look-ups). */
const MAX_ALIASES = 100;
const MAX_INSTALL_COMMANDS = 100;
const ENV_FAULT = 'must map names of letters, digits and underscores to text, numbers or booleans';
const ENV_NAME = /^[A-Za-z_][A-Za-z0-9_]{0,127}$/;
/** Set by the executor or the sandbox, or able to change what they run. */
const RESERVED_ENV: ReadonlySet<string> = new Set([
  'PATH',
  'HOME',
  'LD_PRELOAD',
  'LD_LIBRARY_PATH',
  'NODE_OPTIONS',
  'TASK_PROMPT',
  'REPO_DIR',
  'TASK_ID',
  'REWARD_DIR',
]);
const RESERVED_ENV_PREFIXES = ['NATS_', 'GIT_'];

/** What the executor needs of a workspace.yaml. Names are those of TaskSpec. */
export interface WorkspaceFields {
  readonly repo: string;
  readonly baseCommit?: string;
  readonly install: readonly string[];
  readonly failToPass: readonly string[];
  readonly passToPass: readonly string[];
  readonly timeouts: TaskTimeouts;
  readonly env: Readonly<Record<string, string>>;
}

/**
 * Reads the text of a workspace.yaml. `where` is the file as it shall appear in messages (`tasks/<id>/workspace.yaml`).
 * @throws ArchiveError with `where:LINE` and the field.
 */
export function parseWorkspace(text: string, where: string, limits: ArchiveLimits, policy: GitPolicy): WorkspaceFields {
  boundParsing(text, where, limits);
  const file = new WorkspaceFile(text, where);
  const fields = file.fields();
  const checked = (key: string, result: Checked): string => {
    if ('fault' in result) throw file.error([key], result.fault);
    return result.value;
  };
  const commands = (
    path: readonly string[],
    value: string | readonly string[] | null | undefined,
  ): readonly string[] => {
    const list = commandList(file, path, value);
    list.forEach((command, index) => {
      if (command.trim() === '') throw file.error([...path, index], 'must not be blank');
      if (Buffer.byteLength(command) > limits.maxPromptBytes) {
        throw file.error(
          [...path, index],
          `must be at most ${limits.maxPromptBytes} bytes; put it into a file under tests/`,
        );
      }
    });
    return list;
  };

  const install =
    fields.install === undefined
      ? commands(['install_config', 'install'], fields.install_config?.install)
      : commands(['install'], fields.install);
  if (install.length > MAX_INSTALL_COMMANDS) {
    throw file.error(['install'], `must have at most ${MAX_INSTALL_COMMANDS} commands`);
  }
  const commit = fields.base_commit === undefined ? null : file.sourceText(['base_commit']);
  const { clone, install: installSecs, agent, test } = fields.timeouts ?? {};
  return {
    repo: checked('repo', checkRepo(fields.repo, policy)),
    ...(commit === null ? {} : { baseCommit: checked('base_commit', checkCommit(commit)) }),
    install,
    failToPass: commands(['fail_to_pass'], fields.fail_to_pass),
    passToPass: commands(['pass_to_pass'], fields.pass_to_pass),
    timeouts: {
      ...(clone === undefined ? {} : { cloneSecs: clone }),
      ...(installSecs === undefined ? {} : { installSecs }),
      ...(agent === undefined ? {} : { agentSecs: agent }),
      ...(test === undefined ? {} : { testSecs: test }),
    },
    env: readEnv(file, fields.env ?? {}, limits),
  };
}

/** A list as it is; one text for install is one command; for tests it must be a list in JSON, as SWE-bench exports. */
function commandList(
  file: WorkspaceFile,
  path: readonly string[],
  value: string | readonly string[] | null | undefined,
): readonly string[] {
  if (value === undefined || value === null) return [];
  if (typeof value !== 'string') return value;
  if (path.at(-1) === 'install') return value.trim() === '' ? [] : [value];
  const list = parseJson(value);
  if (!Array.isArray(list) || !list.every((item) => typeof item === 'string' && !item.includes('\0'))) {
    throw file.error(path, 'must be a list of strings, or a JSON list of strings in one string');
  }
  return list;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function readEnv(
  file: WorkspaceFile,
  env: NonNullable<Workspace['env']>,
  limits: ArchiveLimits,
): Record<string, string> {
  const entries = Object.keys(env).map((name): [string, string] => {
    // A name that is none may be a whole assignment, value included: it is not repeated.
    if (!ENV_NAME.test(name)) throw file.error(['env'], ENV_FAULT);
    if (RESERVED_ENV.has(name) || RESERVED_ENV_PREFIXES.some((prefix) => name.startsWith(prefix))) {
      throw file.error(['env', name], 'is reserved; choose another name');
    }
    const value = file.sourceText(['env', name]);
    if (value.includes('\0')) throw file.error(['env', name], 'must not contain NUL');
    // An environment string is limited by MAX_ARG_STRLEN as an argument is.
    if (Buffer.byteLength(value) > limits.maxPromptBytes) {
      throw file.error(['env', name], `must be at most ${limits.maxPromptBytes} bytes`);
    }
    return [name, value];
  });
  return Object.fromEntries(entries);
}

/**
 * Refuses what would keep the parser busy: a token, however short, becomes objects of hundreds of bytes; an alias a look
 * at every node before it. The lexer makes tokens one by one, so that this is over at the first one too many.
 */
function boundParsing(text: string, where: string, limits: ArchiveLimits): void {
  let tokens = 0;
  let aliases = 0;
  let previous = '';
  for (const token of new Lexer().lex(text)) {
    tokens += 1;
    if (tokens > limits.maxYamlTokens) {
      throw new ArchiveError(
        `${where}: has over ${limits.maxYamlTokens} YAML tokens; put long lists into files under tests/`,
      );
    }
    // What follows the mark of a scalar is its text, whatever it begins with.
    if (previous !== CST.SCALAR && token.startsWith('*')) aliases += 1;
    if (aliases > MAX_ALIASES) throw new ArchiveError(`${where}:1: not valid YAML: too many aliases`);
    previous = token;
  }
}

type Path = readonly (string | number)[];

/** What a field must be, by its path. */
function expected(path: readonly string[]): string {
  switch (path[0]) {
    case 'install':
    case 'fail_to_pass':
    case 'pass_to_pass':
      return path.length > 1 ? 'must be a command: text that is not empty' : 'must be a list of strings';
    case 'install_config':
      return path.length > 1 ? 'must be a command or a list of commands' : 'must be a mapping';
    case 'timeouts':
      return path.length > 1
        ? 'must be one of clone, install, agent, test, a number of seconds over 0'
        : 'must be a mapping';
    case 'env':
      return ENV_FAULT;
    case 'difficulty_score':
      return 'must be a number';
    case 'weight':
      return 'must be a number of at least 0';
    default:
      return 'must be text';
  }
}

/** One step of a JSON pointer as the key it names (RFC 6901, section 4). */
function unescapePointer(step: string): string {
  return step.replaceAll('~1', '/').replaceAll('~0', '~');
}

/** Offset of the first key that its mapping already has; null if there is none. */
function findRepeatedKey(document: Document.Parsed): number | null {
  let found: number | null = null;
  visit(document, {
    Map(_, map) {
      const seen = new Set<unknown>();
      for (const { key } of map.items) {
        if (!isScalar(key)) continue;
        if (seen.has(key.value)) {
          found = key.range?.[0] ?? 0;
          return visit.BREAK;
        }
        seen.add(key.value);
      }
      return undefined;
    },
  });
  return found;
}

/** A parsed document that can say where each of its fields stands. */
class WorkspaceFile {
  readonly #where: string;
  readonly #lines = new LineCounter();
  readonly #document: Document.Parsed;

  constructor(text: string, where: string) {
    this.#where = where;
    try {
      this.#document = parseDocument(text, {
        lineCounter: this.#lines,
        prettyErrors: false,
        strict: true,
        // Looked for below: the parser compares each key with all before it, for minutes in a file of many keys.
        uniqueKeys: false,
        merge: false,
        // `silent` would also silence the error about a second document.
        logLevel: 'error',
      });
    } catch (error) {
      throw new ArchiveError(`${where}:1: not valid YAML: too deeply nested or damaged`, { cause: error });
    }
    // A tag that nobody knows is only a warning of the parser's; the value under it is not what its author meant.
    const fault = [...this.#document.errors, ...this.#document.warnings].sort((a, b) => a.pos[0] - b.pos[0])[0];
    // The parser's own messages quote the source, which may be a secret; its codes are words enough.
    if (fault) throw this.#invalid(fault.pos[0], fault.code.toLowerCase().replaceAll('_', ' '));
    const repeated = findRepeatedKey(this.#document);
    if (repeated !== null) throw this.#invalid(repeated, 'duplicate key');
  }

  #invalid(offset: number, words: string): ArchiveError {
    const { line, col } = this.#lines.linePos(offset);
    return new ArchiveError(`${this.#where}:${line}: not valid YAML: ${words} (column ${col})`);
  }

  /** The typed fields; a field that is empty (null) counts as absent. */
  fields(): Workspace {
    if (!isMap(this.#document.contents))
      throw this.error([], 'must be a mapping of fields, such as "repo: owner/name"');
    const value = this.#value();
    if (workspaceCheck.Check(value)) return value;
    const [first] = workspaceCheck.Errors(value);
    const path = (first?.instancePath ?? '').split('/').slice(1).map(unescapePointer);
    if (first?.keyword === 'required') throw this.error([...path, 'repo'], 'is required');
    throw this.error(path, expected(path));
  }

  #value(): Record<string, unknown> {
    let value: unknown;
    try {
      value = this.#document.toJS({ maxAliasCount: MAX_ALIASES });
    } catch (error) {
      throw new ArchiveError(
        `${this.#where}:1: not valid YAML: ${/alias/i.test(messageOf(error)) ? 'too many aliases' : 'damaged'}`,
      );
    }
    return Object.fromEntries(Object.entries(value ?? {}).filter(([, field]) => field !== null));
  }

  /**
   * The text of a scalar as it is written, so that a commit such as 1234567 or 1e12345 is no number.
   * @throws ArchiveError when the field is a list or a mapping, or its name is an alias.
   */
  sourceText(path: Path): string {
    const node = this.#node(path);
    if (!isScalar(node) || node.value === null || node.source === undefined) throw this.error(path, 'must be text');
    return typeof node.value === 'string' ? node.value : node.source;
  }

  /** An error at the line of the field, or of what contains it. */
  error(path: Path, fault: string): ArchiveError {
    const field = path.join('.');
    return new ArchiveError(`${this.#where}:${this.#line(path)}: ${field === '' ? '' : `${field} `}${fault}`);
  }

  #node(path: Path): Node | null | undefined {
    let node: Node | null | undefined = this.#document.contents;
    for (const key of path) {
      const resolved = this.#resolve(node);
      const next: unknown = resolved !== undefined && 'get' in resolved ? resolved.get(key, true) : undefined;
      node = isNode(next) ? next : undefined;
    }
    return this.#resolve(node);
  }

  #resolve(node: Node | null | undefined): Exclude<Node, { source: string; resolve: unknown }> | undefined {
    const resolved = isAlias(node) ? node.resolve(this.#document) : node;
    return resolved === null || isAlias(resolved) ? undefined : resolved;
  }

  #line(path: Path): number {
    for (let length = path.length; length >= 0; length -= 1) {
      const range = this.#node(path.slice(0, length))?.range;
      if (range) return this.#lines.linePos(range[0]).line;
    }
    return 1;
  }
}
