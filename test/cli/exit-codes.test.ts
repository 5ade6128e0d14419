import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EXIT, exitCodeHelp, exitCodeOf } from '../../src/cli/exit-codes.ts';
import { CodedError } from '../../src/errors.ts';
import { runClient } from './run-client.ts';

test('every exit code has a line in the help', async () => {
  for (const code of Object.values(EXIT)) assert.match(exitCodeHelp(), new RegExp(`^ +${code}  \\S`, 'm'));
  const { code, stdout } = await runClient(['--help']);
  assert.equal(code, EXIT.ok);
  assert.equal(stdout.includes(exitCodeHelp()), true);
});

test('errors are told apart by their code, and what nobody foresaw is internal', () => {
  assert.equal(exitCodeOf(new CodedError('nats_too_old', '')), EXIT.nats);
  assert.equal(exitCodeOf(new CodedError('nats_auth_failed', '')), EXIT.unreachable);
  for (const code of ['config_invalid', 'data_dir_not_writable', 'data_dir_in_use', 'port_taken']) {
    assert.equal(exitCodeOf(new CodedError(code, '')), EXIT.config, code);
  }
  assert.equal(exitCodeOf(new CodedError('who_knows', '')), EXIT.internal);
  assert.equal(exitCodeOf(new TypeError('x')), EXIT.internal);
  assert.equal(exitCodeOf('thrown text'), EXIT.internal);
});

test('a wrong command line exits 2 and names what is wrong, as JSON too', async () => {
  const cases = [
    ['submit', '.'],
    ['submit', '.', '--key', 'k', '--concurrent', '0'],
    ['submit', '.', '--key', 'k', '--concurrent', '1e9'],
    ['watch', 'b', '--url', 'ftp://x'],
    ['watch', 'b', '--url', 'http://user:pass@x'],
    ['watch'],
    ['nonsense'],
  ];
  for (const args of cases) {
    const { code, stderr, json } = await runClient([...args, '--json']);
    assert.equal(code, EXIT.usage, args.join(' '));
    assert.match(stderr, /error: /);
    assert.equal((json()[0] as { error: string }).error, 'usage');
  }
});
