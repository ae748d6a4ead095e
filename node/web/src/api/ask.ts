// Asking the node. Every answer is what was asked for or a `Refused` that knows why, in a word for the page (`error`) and a
// sentence (`reason`).

/** Ending a session waits for the disk and takes longest. */
const PATIENCE_MS = 130_000;

/** Why the node did not do something. `error` is its word, or `unreachable` when it did not answer. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly error: string,
    readonly reason: string,
    readonly after: number | null = null,
  ) {
    super(reason);
  }
}

async function answered(path: string, init: RequestInit, patience: number): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(patience), ...init });
  } catch {
    throw new Refused(0, 'unreachable', '');
  }
  if (response.ok) return response;
  const told: unknown = await response.json().catch(() => null);
  const said = (told ?? {}) as { error?: string; reason?: string; after?: number | null };
  throw new Refused(response.status, said.error ?? 'failed', said.reason ?? '', said.after ?? null);
}

export async function get<T>(path: string, patience = 10_000): Promise<T> {
  const response = await answered(path, {}, patience);
  return (await response.json()) as T;
}

export async function post<T>(path: string, body: unknown = {}, patience = PATIENCE_MS): Promise<T | null> {
  const headers = { 'Content-Type': 'application/json' };
  const response = await answered(path, { method: 'POST', headers, body: JSON.stringify(body) }, patience);
  return response.status === 204 ? null : ((await response.json()) as T);
}

/** An offer to the node's WebRTC side (WHIP, WHEP): the answer, and where the connection is to be changed and ended. */
export async function offer(path: string, sdp: string): Promise<{ sdp: string; at: string }> {
  const headers = { 'Content-Type': 'application/sdp' };
  const response = await answered(path, { method: 'POST', headers, body: sdp }, 10_000);
  return { sdp: await response.text(), at: response.headers.get('Location') ?? '' };
}

export async function put(path: string, body: unknown): Promise<void> {
  const headers = { 'Content-Type': 'application/json' };
  await answered(path, { method: 'PUT', headers, body: JSON.stringify(body) }, 10_000);
}

/** Ends a connection. Nobody waits for it, and it is sent even while the page is being closed. */
export function end(path: string): void {
  fetch(path, { method: 'DELETE', keepalive: true }).catch(() => {});
}
