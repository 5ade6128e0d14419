/**
 * Tells addresses of the public internet from all others, so that a repository address cannot lead git to a service
 * inside our network. An address that only wraps another (NAT64, 6to4, Teredo, mapped) leads wherever that one does.
 */
import { lookup } from 'node:dns/promises';
import { BlockList, isIP } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../errors.ts';
import { gitError } from './git-run.ts';

/** The IANA IPv4 special-purpose address registry (RFC 6890), and multicast with all that is reserved. */
const NOT_PUBLIC_V4 = [
  ['0.0.0.0', 8],
  ['10.0.0.0', 8],
  ['100.64.0.0', 10],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['172.16.0.0', 12],
  ['192.0.0.0', 24],
  ['192.0.2.0', 24],
  ['192.88.99.0', 24],
  ['192.168.0.0', 16],
  ['198.18.0.0', 15],
  ['198.51.100.0', 24],
  ['203.0.113.0', 24],
  ['224.0.0.0', 3],
] as const;

/**
 * Only 2000::/3 is given out as global unicast (RFC 4291). The first three are the rest: loopback, mapped, NAT64,
 * unique local, link-local, site-local and multicast are in there. Then the special-purpose registry within 2000::/3:
 * protocol assignments with Teredo, documentation, 6to4, documentation.
 */
const NOT_PUBLIC_V6 = [
  ['::', 3],
  ['4000::', 2],
  ['8000::', 1],
  ['2001::', 23],
  ['2001:db8::', 32],
  ['2002::', 16],
  ['3fff::', 20],
] as const;

// One list for each version: a list compares IPv4 addresses with IPv6 networks too, as mapped ones.
const BLOCKED_V4 = blockList('ipv4', NOT_PUBLIC_V4);
const BLOCKED_V6 = blockList('ipv6', NOT_PUBLIC_V6);

function blockList(family: 'ipv4' | 'ipv6', networks: readonly (readonly [net: string, prefix: number])[]): BlockList {
  const list = new BlockList();
  for (const [net, prefix] of networks) list.addSubnet(net, prefix, family);
  return list;
}

/** Whether an address is one of the public internet. What is no address, or has a zone, is not. */
export function isPublicAddress(address: string): boolean {
  switch (isIP(address)) {
    case 4:
      return !BLOCKED_V4.check(address, 'ipv4');
    case 6:
      return !address.includes('%') && !BLOCKED_V6.check(address, 'ipv6');
    default:
      return false;
  }
}

const LONGEST_TIMER_MS = 2_147_483_647;
const askNameServer = async (host: string) => (await lookup(host, { all: true })).map(({ address }) => address);

/**
 * The addresses of a host. Rejects with GitError after `timeoutMs` or when there is none, with the signal's reason
 * when it is aborted; a question that was put to the name server cannot be taken back, its answer is dropped.
 */
export async function addressesOf(
  host: string,
  limits: { readonly timeoutMs: number; readonly signal: AbortSignal },
  ask: (host: string) => Promise<string[]> = askNameServer,
): Promise<string[]> {
  const { timeoutMs, signal } = limits;
  signal.throwIfAborted();
  const answered = new AbortController();
  const overdue = sleep(Math.min(timeoutMs, LONGEST_TIMER_MS), null, {
    signal: AbortSignal.any([signal, answered.signal]),
  });
  let addresses: string[] | null;
  try {
    addresses = await Promise.race([ask(host), overdue]);
  } catch (error) {
    signal.throwIfAborted();
    throw gitError('git_network', `the host ${host} has no address`, messageOf(error));
  } finally {
    answered.abort();
    overdue.catch(() => {});
  }
  if (addresses === null) {
    throw gitError('git_timeout', `the search for the address of ${host} took longer than ${timeoutMs / 1000} s`);
  }
  if (addresses.length === 0) throw gitError('git_network', `the host ${host} has no address`);
  return addresses;
}
