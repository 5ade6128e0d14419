/**
 * Makes text from elsewhere safe to print. Task ids, errors and outputs come from people we do not know; an escape
 * sequence in them could rewrite what the terminal shows, and a bidirectional override could reorder it.
 */

// Controls, format characters (bidirectional, zero-width, tags), line and paragraph separators.
const UNSAFE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;
const SHORT: Readonly<Record<string, string>> = { '\n': '\\n', '\r': '\\r', '\t': '\\t' };

/**
 * One printable line: unsafe characters, line breaks among them, become visible escapes such as `\x1b`; what is longer
 * than `maxChars` characters is cut between characters and ends in `…`.
 */
export function sanitize(text: string, maxChars = 1000): string {
  const escaped = text.toWellFormed().replace(UNSAFE, (char) => {
    const code = char.codePointAt(0) ?? 0;
    return (
      SHORT[char] ??
      (code < 0x100 ? `\\x${hex(code, 2)}` : code < 0x10000 ? `\\u${hex(code, 4)}` : `\\u{${hex(code, 5)}}`)
    );
  });
  if (escaped.length <= maxChars) return escaped;
  const chars = Array.from(escaped);
  return chars.length <= maxChars ? escaped : `${chars.slice(0, maxChars - 1).join('')}…`;
}

/** One line of JSON with nothing in it that acts on a terminal; parses to the same value. */
export function safeJson(value: unknown): string {
  return JSON.stringify(value).replace(UNSAFE, (char) =>
    char
      .split('')
      .map((unit) => `\\u${hex(unit.charCodeAt(0), 4)}`)
      .join(''),
  );
}

function hex(code: number, digits: number): string {
  return code.toString(16).padStart(digits, '0');
}
