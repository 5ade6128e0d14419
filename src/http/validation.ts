/**
 * Strict reading of what a URL carries. The usual coercions take `1.5`, `1e3`, `0x10` or an empty value for a number;
 * here a number is written in digits, and a boolean is `true` or `false`, or the request is refused.
 */
import type { FastifySchemaCompiler } from 'fastify';
import type { TSchema } from 'typebox';
import { Compile } from 'typebox/compile';

/** A validator compiler for fastify over TypeBox schemas. Bodies are checked as they are. */
export const compileValidator: FastifySchemaCompiler<TSchema> = ({ schema, httpPart }) => {
  const compiled = Compile(schema);
  return (value: unknown) => {
    const read = httpPart === 'body' ? value : readText(schema, value);
    return compiled.Check(read) ? { value: read } : { error: compiled.Errors(read) };
  };
};

function readText(schema: TSchema, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || !('properties' in schema)) return value;
  const properties = schema.properties as Readonly<Record<string, { type?: unknown } | undefined>>;
  return Object.fromEntries(
    Object.entries(value).map(([name, text]) => [
      name,
      Object.hasOwn(properties, name) ? readValue(properties[name]?.type, text) : text,
    ]),
  );
}

function readValue(type: unknown, text: unknown): unknown {
  if (typeof text !== 'string') return text;
  if (type === 'integer' && /^\d{1,15}$/.test(text)) return Number(text);
  if (type === 'boolean' && /^(true|false)$/.test(text)) return text === 'true';
  return text;
}
