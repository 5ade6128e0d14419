/** Formats an object as a query string without `?`; lists become repeated names, null and undefined are left out. */
export function format(bag) {
  const pairs = [];
  for (const [name, value] of Object.entries(bag)) {
    const values = Array.isArray(value) ? value : [value];
    for (const item of values) {
      if (item === null || item === undefined) continue;
      pairs.push(`${encodeURIComponent(name)}=${encodeURIComponent(item.toString())}`);
    }
  }
  return pairs.join('&');
}
