/** A GET injected into the app. */
import type { Rig } from './support.ts';

export async function get(app: Rig['app'], url: string, headers: Record<string, string> = {}) {
  const response = await app.inject({ url, headers });
  return { status: response.statusCode, headers: response.headers, text: response.body, json: () => response.json() };
}
