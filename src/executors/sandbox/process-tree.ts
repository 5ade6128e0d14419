/**
 * Finds and kills everything that a command started, also what left its process group and session on purpose. A step
 * whose processes live on can rewrite the next step's results, so a tree is not just signalled: it is seen dead.
 *
 * A process belongs to a tree if it is in the leader's group or session, carries the tree's marks, or descends from
 * one that does. There are two marks, both inherited through fork and exec: a variable in the environment, and the
 * hard limit RLIMIT_RSS, which Linux has ignored since 2.4.30 (setrlimit(2)). The limit also survives `env -i`,
 * setsid, a double fork and closed descriptors. All of this is read from /proc, so it works on Linux alone.
 *
 * That finds what daemons do, not what malice does: an orphan that lowered the limit, dropped the variable and left the
 * session carries no mark any more and lives on. Only a sandbox with a PID namespace of its own rules that out.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';

/** Environment variable that marks the processes of one tree. */
export const TREE_VARIABLE = 'TERM_EXECUTOR_STEP';

/** How a tree is recognised. */
export interface ProcessTree {
  /** The process id of the leader, which is also its group and its session. */
  readonly leader: number;
  /** When the leader started, in clock ticks since boot (field 22 of proc_pid_stat(5)); nothing older belongs to it. */
  readonly startTicks: number;
  /** Value of TREE_VARIABLE. */
  readonly id: string;
  /** RLIMIT_RSS in bytes, in decimal. */
  readonly limitBytes: string;
}

/** One live process of a tree. */
export interface TreeMember {
  readonly pid: number;
  readonly name: string;
}

interface Found {
  readonly members: TreeMember[];
  readonly certain: boolean;
}

interface ProcessStat extends TreeMember {
  readonly state: string;
  readonly parent: number;
  readonly group: number;
  readonly session: number;
  readonly startTicks: number;
}

/** When a process started, in clock ticks since boot; 0 if that cannot be seen. */
export function startTicksOf(pid: number): number {
  return readStat(pid)?.startTicks ?? 0;
}

/**
 * The live processes of a tree. Zombies are dead: they wait for their parent to notice. `certain` is false when a
 * process ended while we looked: it may have started another that we did not see. `strangers` are passed over and
 * added to: a look that need not read the whole machine again is fast enough to catch what forks and exits all the time.
 */
function findTree(tree: ProcessTree, strangers: Set<number>): Found {
  const younger: ProcessStat[] = [];
  let certain = true;
  // The youngest first: what forks all the time is at the end of the list, and gone soon after it was listed.
  for (const pid of listPids().toReversed()) {
    if (pid === process.pid || strangers.has(pid)) continue;
    const stat = readStat(pid);
    if (!stat) certain = false;
    else if (stat.startTicks >= tree.startTicks) younger.push(stat);
    else strangers.add(pid);
  }
  const belonging = new Set(younger.filter((stat) => isMarked(stat, tree)).map((stat) => stat.pid));
  for (let before = -1; before < belonging.size;) {
    before = belonging.size;
    for (const { pid, parent } of younger) if (belonging.has(parent)) belonging.add(pid);
  }
  const [alive, dead]: [ProcessStat[], ProcessStat[]] = [[], []];
  for (const stat of younger) {
    if (!belonging.has(stat.pid)) strangers.add(stat.pid);
    else if (isAlive(stat)) alive.push(stat);
    else dead.push(stat);
  }
  if (dead.some(({ pid }) => pid !== tree.leader)) certain = false;
  return { members: alive.map(({ pid, name }) => ({ pid, name })), certain };
}

/** Sends a signal to every live process of a tree. */
export function signalTree(tree: ProcessTree, signal: NodeJS.Signals): void {
  for (const { pid } of findTree(tree, new Set()).members) sendSignal(pid, signal);
}

/** Waits until nothing of a tree lives, at most `boundMs`. Returns what still does. */
export async function waitForTree(tree: ProcessTree, boundMs: number): Promise<TreeMember[]> {
  return settle(tree, () => {}, boundMs);
}

/**
 * Kills a tree with SIGKILL until nothing of it is left, at most for `boundMs`. Returns what could not be killed: a
 * process in uninterruptible sleep, or one of another user.
 */
export async function killTree(tree: ProcessTree, boundMs: number): Promise<TreeMember[]> {
  return settle(tree, (pid) => sendSignal(pid, 'SIGKILL'), boundMs);
}

/** Empty looks in a row after which a tree is dead: few if they were certain, more on a machine that is never still. */
const CERTAIN_LOOKS = 2;
const UNCERTAIN_LOOKS = 25;
const LONGEST_PAUSE_MS = 100;

async function settle(tree: ProcessTree, act: (pid: number) => void, boundMs: number): Promise<TreeMember[]> {
  const deadline = performance.now() + boundMs;
  const strangers = new Set<number>();
  const seen = new Set<number>();
  let emptyLooks = 0;
  let certainLooks = 0;
  let pauseMs = 1;
  for (;;) {
    const { members, certain } = findTree(tree, strangers);
    for (const { pid } of members) act(pid);
    if (members.length > 0) {
      if (performance.now() >= deadline) return members;
      emptyLooks = certainLooks = 0;
      const fresh = members.some(({ pid }) => !seen.has(pid));
      for (const { pid } of members) seen.add(pid);
      // What is new may be one of a chain: look again at once, but let others have their turn.
      await (fresh ? nextTurn() : sleep(pauseMs));
      if (!fresh) pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS);
      continue;
    }
    // An empty look counts only if it was at the whole machine: a number may have been given to a new process.
    if (emptyLooks > 0) certainLooks = certain ? certainLooks + 1 : 0;
    emptyLooks += 1;
    if (certainLooks >= CERTAIN_LOOKS || emptyLooks >= UNCERTAIN_LOOKS) return [];
    strangers.clear();
  }
}

function sendSignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It is gone already, or not ours to kill: the next look tells which.
  }
}

function isMarked(stat: ProcessStat, tree: ProcessTree): boolean {
  if (stat.pid === tree.leader) return stat.startTicks === tree.startTicks;
  if (stat.group === tree.leader || stat.session === tree.leader) return true;
  const limits = readProc(`${stat.pid}/limits`);
  if (/^Max resident set +(\d+) /m.exec(limits)?.[1] === tree.limitBytes) return true;
  return `\0${readProc(`${stat.pid}/environ`)}`.includes(`\0${TREE_VARIABLE}=${tree.id}\0`);
}

/** A process whose first thread ended shows as a zombie while its other threads run. */
function isAlive(stat: ProcessStat): boolean {
  if (stat.state !== 'Z' && stat.state !== 'X') return true;
  return stat.state === 'Z' && countThreads(stat.pid) > 1;
}

function countThreads(pid: number): number {
  try {
    return readdirSync(`/proc/${pid}/task`).length;
  } catch {
    return 0;
  }
}

function listPids(): number[] {
  try {
    return readdirSync('/proc').map(Number).filter(Number.isInteger);
  } catch {
    return [];
  }
}

/** Parses /proc/<pid>/stat (proc_pid_stat(5)); the name stands in parentheses and may hold any character. */
function readStat(pid: number): ProcessStat | null {
  const text = readProc(`${pid}/stat`);
  const nameEnd = text.lastIndexOf(')');
  if (nameEnd < 0) return null;
  const fields = text.slice(nameEnd + 2).split(' ');
  return {
    pid,
    name: text.slice(text.indexOf('(') + 1, nameEnd),
    state: fields[0] ?? '',
    parent: Number(fields[1]),
    group: Number(fields[2]),
    session: Number(fields[3]),
    startTicks: Number(fields[19]),
  };
}

function readProc(path: string): string {
  try {
    return readFileSync(`/proc/${path}`, 'latin1');
  } catch {
    return '';
  }
}
