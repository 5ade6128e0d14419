/** Decodes one name or value; text that is no valid encoding is returned as it is. */
export function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
