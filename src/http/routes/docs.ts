/** The documentation of the routes, made out of their schemas: /openapi.json, and a page for people without any CDN. */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import Type from 'typebox';
import type { Context } from '../context.ts';
import { errorResponses } from '../errors.ts';

const METHODS = ['get', 'post', 'put', 'delete', 'patch'] as const;
const STYLE =
  'body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}' +
  'table{border-collapse:collapse;width:100%}td{padding:.3rem .6rem;border-top:1px solid #8884;vertical-align:top}' +
  'code{font:13px ui-monospace,monospace}';

export const docsRoutes: FastifyPluginAsyncTypebox<Context> = async (app) => {
  app.get(
    '/openapi.json',
    {
      schema: {
        summary: 'This API as OpenAPI 3.1',
        tags: ['docs'],
        response: { 200: Type.Object({}, { additionalProperties: true }), ...errorResponses },
      },
    },
    () => app.swagger(),
  );

  app.get(
    '/docs',
    {
      schema: {
        summary: 'The routes as a page',
        tags: ['docs'],
        produces: ['text/html'],
        response: { 200: Type.String(), ...errorResponses },
      },
    },
    (_request, reply) => {
      reply.type('text/html; charset=utf-8');
      reply.header('content-security-policy', "default-src 'none'; style-src 'unsafe-inline'");
      const { info, paths = {} } = app.swagger();
      const rows = Object.entries(paths).flatMap(([path, item]) =>
        METHODS.flatMap((method) => {
          const operation = item?.[method];
          return operation === undefined ? [] : [row(method, path, operation.summary ?? '')];
        }),
      );
      return page(info.title, info.version, rows.join(''));
    },
  );
};

function row(method: string, path: string, summary: string): string {
  return `<tr><td><code>${method.toUpperCase()}</code><td><code>${escape(path)}</code><td>${escape(summary)}`;
}

function page(title: string, version: string, rows: string): string {
  return (
    `<!doctype html><html lang="en"><meta charset="utf-8"><title>${escape(title)}</title><style>${STYLE}</style>` +
    `<h1>${escape(title)} ${escape(version)}</h1><p>Parameters and answers: <a href="/openapi.json">/openapi.json</a>.` +
    ` WebSocket: <code>/ws?batch_id=…</code></p><table>${rows}</table></html>`
  );
}

function escape(text: string): string {
  return text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
}
