/**
 * The client commands as a program of their own, so that tests run them as real processes without the server's part.
 */
import { Command } from 'commander';
import { registerDemo } from '../../src/cli/demo.ts';
import { registerKeys } from '../../src/cli/keys.ts';
import { prepareProgram, runProgram } from '../../src/cli/output.ts';
import { registerSubmit } from '../../src/cli/submit.ts';
import { registerWatch } from '../../src/cli/watch.ts';

const program = prepareProgram(new Command('term-executor'));
registerSubmit(program);
registerWatch(program);
registerKeys(program);
registerDemo(program, process.env['DEMO_CLI']);
await runProgram(program, process.argv);
