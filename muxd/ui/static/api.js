// Everything that the page asks: one stream of what changes, and single requests.

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function ask(method, path, body, headers = {}) {
  let answer;
  try {
    answer = await fetch(`/ui/api/${path}`, {
      method,
      headers: { "x-muxd-ui": "1", ...(body === undefined ? {} : { "content-type": "application/json" }), ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new Refused(0, "the console cannot be reached");
  }
  const value = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, value.error?.message ?? `the console answered ${answer.status}`);
  return value;
}

export const get = (path) => ask("GET", path);
export const post = (path, body = {}) => ask("POST", path, body);
export const ofModel = (name, rest) => `models/${encodeURIComponent(name)}/${rest}`;

// The stream.  It comes back by itself: EventSource tries again, and says which event it saw last.
export function live(tell) {
  const source = new EventSource("/ui/api/live");
  for (const kind of ["snapshot", "status", "event", "gone"]) {
    source.addEventListener(kind, (message) => tell(kind, JSON.parse(message.data)));
  }
  source.onerror = () => tell("gone", { message: "the console cannot be reached; it is tried again" });
  return () => source.close();
}

// The text of a stream, piece by piece, until it ends or `signal` ends it.
export async function* pieces(path, { method = "GET", body, headers = {}, signal } = {}) {
  const answer = await fetch(`/ui/api/${path}`, {
    method,
    signal,
    headers: { "x-muxd-ui": "1", ...(body ? { "content-type": "application/json" } : {}), ...headers },
    body: body ? JSON.stringify(body) : undefined,
  });
  if (!answer.ok) {
    const value = await answer.json().catch(() => ({}));
    throw new Refused(answer.status, value.error?.message ?? `${answer.status}`);
  }
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}
