#!/usr/bin/env node
/**
 * Entry of the command line. Nothing imports it. Only the command that is asked for is loaded: a server does not pay
 * for the client's libraries with memory, nor `keys` for the server's with a second of starting.
 */
import { setFlagsFromString } from 'node:v8';
import { Command } from 'commander';
import { prepareProgram, runProgram } from './cli/output.ts';
import { readVersion } from './version.ts';

// While modules load, V8 would grow its young generation to over 100 MB, and never give it back.
setFlagsFromString('--semi-space-growth-factor=1');

const COMMANDS: Readonly<Record<string, () => Promise<(program: Command) => void>>> = {
  serve: async () => (await import('./cli/serve.ts')).registerServe,
  work: async () => (await import('./cli/serve.ts')).registerWork,
  submit: async () => (await import('./cli/submit.ts')).registerSubmit,
  watch: async () => (await import('./cli/watch.ts')).registerWatch,
  keys: async () => (await import('./cli/keys.ts')).registerKeys,
  demo: async () => (await import('./cli/demo.ts')).registerDemo,
};

const program = prepareProgram(
  new Command('term-executor')
    .description('Runs quorum-approved batches of coding tasks and reports verifiable results.')
    .version(readVersion()),
);
const named = COMMANDS[process.argv[2] ?? ''];
for (const load of named ? [named] : Object.values(COMMANDS)) (await load())(program);
await runProgram(program, process.argv);
