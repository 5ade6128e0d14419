/** Decodes one name or value, plus signs being spaces; text that is no valid encoding is returned as it is. */
export function decode(text) {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '));
  } catch {
    return text;
  }
}
