/**
 * Which repositories and commits a task may name. Pure: git's own reading of addresses and revisions is generous
 * (options, helpers such as `ext::`, revision operators), so only what is plainly meant gets through to it.
 */

/** What GIT_PROTOCOLS and GIT_HOSTS allow; an empty list of hosts allows every host. */
export interface GitPolicy {
  readonly gitProtocols: readonly string[];
  readonly gitHosts: readonly string[];
}

/** A value as git takes it, or why it cannot be used: words that follow the field's name and never repeat a secret. */
export type Checked = { readonly value: string } | { readonly fault: string };

const MAX_REPO_CHARACTERS = 2048;
const MAX_REF_CHARACTERS = 255;
const MAX_PORT = 65_535;
const UNPRINTABLE = /[\s\p{Cc}\p{Zl}\p{Zp}\\]/u;
const HOST = String.raw`[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\]`;
const SHORTHAND = /^[A-Za-z0-9_][A-Za-z0-9_.-]*\/[A-Za-z0-9_.-]+$/;
const ADDRESS = new RegExp(String.raw`^([A-Za-z]+)://(?:([^@/]*)@)?(${HOST})?(?::(\d{1,5}))?(/.*)$`);
const SCP_FORM = new RegExp(String.raw`^[A-Za-z0-9_][A-Za-z0-9._-]*@(${HOST}):([^-].*)$`);

/**
 * Checks the address of a repository; `owner/name` becomes its address at GitHub, the scheme is put in lower case,
 * everything else stays as it is.
 * Accepted are http, https, ssh, git and file addresses and `git@host:path`, within the policy, without credentials.
 */
export function checkRepo(text: string, policy: GitPolicy): Checked {
  if (text === '') return { fault: 'must not be empty' };
  if (text.length > MAX_REPO_CHARACTERS) return { fault: `must be at most ${MAX_REPO_CHARACTERS} characters` };
  if (text.startsWith('-')) return { fault: 'must not begin with a dash' };
  if (UNPRINTABLE.test(text)) return { fault: 'must not contain spaces, control characters or backslashes' };
  if (SHORTHAND.test(text) && !/\/\.{1,2}$/.test(text)) return checkRepo(`https://github.com/${text}`, policy);

  const scp = SCP_FORM.exec(text);
  if (scp) return within(policy, text, 'ssh', scp[1] ?? '');
  const address = ADDRESS.exec(text);
  if (!address) return { fault: 'must be owner/name, an https, http, ssh, git or file address, or git@host:path' };
  const [, scheme = '', user, host = '', port = ''] = address;
  const protocol = scheme.toLowerCase();
  if (user !== undefined && (protocol !== 'ssh' || user.includes(':'))) {
    return { fault: 'must not contain credentials; the server clones without any' };
  }
  if (protocol === 'file' ? host !== '' && host !== 'localhost' : host === '') return { fault: 'has no valid host' };
  if (Number(port) > MAX_PORT) return { fault: `has a port over ${MAX_PORT}` };
  if (protocol !== 'file' && /[?#]/.test(text)) return { fault: 'must not have a query or a fragment' };
  // git knows its transports in lower case only.
  return within(policy, protocol + text.slice(scheme.length), protocol, host);
}

function within(policy: GitPolicy, value: string, protocol: string, host: string): Checked {
  if (!policy.gitProtocols.includes(protocol)) {
    const allowed = policy.gitProtocols.join(', ');
    return { fault: `uses ${protocol}, which GIT_PROTOCOLS of this server does not allow (allowed: ${allowed})` };
  }
  if (protocol !== 'file' && policy.gitHosts.length > 0 && !policy.gitHosts.includes(host.toLowerCase())) {
    return { fault: `is at ${host}, which GIT_HOSTS of this server does not allow` };
  }
  return { value };
}

/** Checks a commit: 7 to 64 hex digits or the name of a ref, by the rules of git-check-ref-format(1). */
export function checkCommit(text: string): Checked {
  if (text.length > MAX_REF_CHARACTERS) return { fault: `must be at most ${MAX_REF_CHARACTERS} characters` };
  const bad =
    UNPRINTABLE.test(text) ||
    /[~^:?*[]|\.\.|@\{|\/\/|\/\.|\.lock(?:\/|$)|[/.]$|^[-./]/.test(text) ||
    text === '@' ||
    text === '';
  return bad ? { fault: 'must be a commit (7 to 64 hex digits) or the name of a branch or tag' } : { value: text };
}
