/**
 * What a task asks for, after its files were read and checked. The archive reader produces it, the steps consume it;
 * nothing between them looks at YAML or at directory layouts again.
 */

/** One test of a task, in the order they run. Every one must exit 0 for the reward 1.0. */
export type TestSpec =
  | {
      readonly kind: 'script';
      readonly name: string;
      /** path under tests/, also under the repository */ readonly path: string;
    }
  | { readonly kind: 'command'; readonly name: string; readonly command: string };

/** Seconds; absent means the server's default. The server's maximum wins. */
export interface TaskTimeouts {
  readonly cloneSecs?: number;
  readonly installSecs?: number;
  readonly agentSecs?: number;
  readonly testSecs?: number;
}

/** A task, ready to be run. Paths are relative to the task's directory unless said otherwise. */
export interface TaskSpec {
  readonly taskId: string;
  /** Repository address as git takes it; `owner/name` has become a GitHub address. */
  readonly repo: string;
  /** Commit to start from; absent means the tip of the default branch. */
  readonly baseCommit?: string;
  /** Shell commands, run in the repository in this order before the agent. */
  readonly install: readonly string[];
  readonly tests: readonly TestSpec[];
  /** Files under tests/ (scripts included) with their paths relative to tests/; copied into the repository. */
  readonly testFiles: readonly string[];
  readonly timeouts: TaskTimeouts;
  /** Variables for install, agent and test steps. */
  readonly env: Readonly<Record<string, string>>;
}
