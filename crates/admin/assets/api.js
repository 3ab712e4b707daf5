// Asking the gateway: one poll a second, the token, and going on when it is away.

const EVERY = 1000, HIDDEN = 5000, LIMIT = 8000;
const KEY = 'tidegate-token';

// A browser may refuse storage altogether; the token then lives as long as the page.
let token = null;
try { token = sessionStorage.getItem(KEY); } catch { /* not kept */ }

export function setToken(value) {
  token = value;
  try { sessionStorage.setItem(KEY, value); } catch { /* not kept */ }
}

export class Refused extends Error {
  constructor(status, problem) {
    super(problem?.detail ?? `status ${status}`);
    this.status = status;
    this.problem = problem;
  }
}

/** JSON of a path under this page; throws `Refused` for an error answer, other errors when there is none. */
export async function ask(path, method = 'GET') {
  const headers = { accept: 'application/json' };
  if (token) headers.authorization = `Bearer ${token}`;
  const signal = AbortSignal.timeout(method === 'GET' ? LIMIT : 60000);
  const response = await fetch(path, { method, headers, cache: 'no-store', signal });
  const body = await response.json().catch(() => null);
  if (!response.ok) throw new Refused(response.status, body);
  if (body == null) throw new Error('the answer was not JSON');
  return body;
}

/** Polls until the page ends. `on.data(answer)`, `on.lost(error)`, `on.token(wasWrong)` → a promise of the token. */
export async function poll(on) {
  let instance = null, after = null;
  for (;;) {
    const begun = performance.now();
    try {
      let answer = await ask(after == null ? 'api/v1/overview' : `api/v1/overview?after=${after}`);
      if (instance !== null && answer.instance !== instance) {
        // Another run: its event numbers began anew, the ones asked for mean nothing there.
        answer = await ask('api/v1/overview');
      }
      instance = answer.instance;
      after = answer.last_event;
      on.data(answer);
    } catch (error) {
      if (error.status === 401) {
        setToken(await on.token(token !== null));
        continue;
      }
      on.lost(error);
    }
    await pause(Math.max(50, (document.hidden ? HIDDEN : EVERY) - (performance.now() - begun)));
  }
}

/** Waits; a page that is looked at again asks at once. */
function pause(ms) {
  return new Promise(resolve => {
    const done = () => {
      clearTimeout(timer);
      document.removeEventListener('visibilitychange', seen);
      resolve();
    };
    const seen = () => { if (!document.hidden) done(); };
    const timer = setTimeout(done, ms);
    document.addEventListener('visibilitychange', seen);
  });
}
