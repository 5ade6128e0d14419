import { decode } from './decode.js';

/** Parses a query string, with or without `?`. A name that comes again makes its value a list. */
export function parse(query) {
  const bag = Object.create(null);
  for (const pair of query.replace(/^\?/, '').split('&')) {
    if (pair === '') continue;
    const at = pair.indexOf('=');
    const name = decode(at < 0 ? pair : pair.slice(0, at));
    const value = at < 0 ? '' : decode(pair.slice(at + 1));
    if (!(name in bag)) bag[name] = value;
    else bag[name] = [].concat(bag[name], value);
  }
  return bag;
}
