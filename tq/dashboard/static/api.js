// Asking the server: every request and every stream of the dashboard goes through here.
//
// Addresses are relative to where the files are, so that the dashboard works below any path. The key, if
// the server wants one, is kept for this tab alone and sent in a header; it is never part of an address.

export const BASE = new URL("../../", import.meta.url);
const KEY = "tq.key";
const REPEAT_MAX_MS = 10_000;
const LEARN_AGAIN_MS = 2_000;
const LATER = [0, 429, 503]; // how a server answers that may answer otherwise in a moment

/** An answer that refuses, or none. `problem` is its body (RFC 9457). */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `the server answered ${status}`);
    this.status = status;
    this.problem = problem;
  }
}

export const access = {
  key: readKey(),
  granted: null, // what the key may do, `{key, scopes, queues}`, as the server told it
  asked: false, // whether the server has been asked for that
  denied: new Set(), // scopes that were refused
  listeners: new Set(),
  askForKey: null, // set by the shell: shows the dialog, gives a promise of a key
};

function readKey() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null;
  }
}

function useKey(key) {
  if (key === access.key) return;
  access.key = key;
  access.denied = new Set();
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    // Without storage, it lasts as long as the page.
  }
  learn();
}

/** Begin anew, without the key. */
export function forgetKey() {
  try {
    sessionStorage.removeItem(KEY);
  } catch {
    // It was never there.
  }
  location.reload();
}

function changed() {
  for (const each of access.listeners) each();
}

/** Whether the key may, as far as is known: what was refused once is not offered again. */
export const may = scope => (access.granted?.scopes.includes(scope) ?? true) && !access.denied.has(scope);

/** The queues that the key is limited to; null: it is not, as far as is known. */
export const ownQueues = () => access.granted?.queues ?? null;

const CHANGING = ["submit", "operate", "admin"];

/** Whether the key is for looking alone. */
export const onlyReads = () => !CHANGING.some(may);

let learning = null; // one question for all that want to know

/** Ask what the key may do. Where there is no answer, everything may be tried. */
export const learn = () => (learning ??= learnNow().finally(() => (learning = null)));

async function learnNow() {
  let used;
  do {
    used = access.key;
    try {
      access.granted = await get("v1/keys/current");
    } catch (error) {
      if (LATER.includes(error.status)) setTimeout(learn, LEARN_AGAIN_MS);
    }
  } while (used !== access.key);
  access.asked = true;
  changed();
}

let asking = null; // one dialog for all that wait for a key

async function newKey(wrong) {
  asking ??= access.askForKey(wrong).finally(() => (asking = null));
  useKey(await asking);
}

const headersWith = more => (access.key ? { authorization: `Bearer ${access.key}`, ...more } : { ...more });

/** One request. `scope` is what it needs, for remembering that it was refused. Raises Refused. */
export async function ask(method, path, { body, signal, scope } = {}) {
  const headers = headersWith(body === undefined ? {} : { "content-type": "application/json" });
  const used = access.key;
  let response;
  let text;
  try {
    response = await fetch(new URL(path, BASE), { method, body, headers, signal, cache: "no-store" });
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, { title: "No answer", detail: "The server does not answer. It is asked again." });
  }
  if (response.ok) return text;
  const problem = readProblem(text);
  if (response.status === 401) {
    if (used === access.key) await newKey(used !== null);
    return ask(method, path, { body, signal, scope });
  }
  if (response.status === 403 && (method !== "GET" || problem.scope)) {
    for (const each of problem.scope ? [problem.scope, scope] : [scope]) access.denied.add(each);
    changed();
  }
  throw new Refused(response.status, problem);
}

function readProblem(text) {
  try {
    return JSON.parse(text);
  } catch {
    return { detail: text.slice(0, 300) };
  }
}

/** What is at *path*, parsed. */
export const get = async (path, options) => JSON.parse(await ask("GET", path, options));

/** Send *content* as JSON; the answer, parsed, or null where it has no body. */
export async function send(method, path, content, options) {
  const body = content === undefined ? undefined : JSON.stringify(content);
  const text = await ask(method, path, { ...options, body });
  return text ? JSON.parse(text) : null;
}

/** A path of the API with *parts* in it, each escaped, as in pathOf`v1/tasks/${id}`. */
export const pathOf = (texts, ...parts) =>
  texts.reduce((path, text, at) => path + encodeURIComponent(parts[at - 1]) + text);

// Streams

/**
 * Follow the events at *path* until *signal*: `told({id, event, data})`, data being text.
 *
 * A stream that breaks off is opened again after the last event that came. It is closed while the page
 * is hidden: browsers keep few connections to one server, and other tabs need theirs. `onState` is told
 * `live`, `lost` or `ended`.
 */
export async function follow(path, told, { signal, onState = () => {} }) {
  let last = null;
  let failures = 0;
  const note = message => {
    failures = 0;
    if (message.id !== null) last = message.id;
    if (message.event !== null) told(message);
  };
  while (!signal.aborted) {
    await visible(signal);
    const hidden = hiding(signal);
    try {
      const response = await open(path, last, hidden.signal);
      if (response.status === 204) return onState("ended");
      onState("live");
      if (await read(response.body, note)) return onState("ended");
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refused && error.status >= 400 && error.status < 500) throw error;
    } finally {
      hidden.end();
    }
    if (document.hidden) continue;
    onState("lost");
    failures += 1;
    await pause(Math.min(REPEAT_MAX_MS, 250 * 2 ** failures) * (0.75 + Math.random() / 2), signal);
  }
}

async function open(path, last, signal) {
  const used = access.key;
  const headers = headersWith({ accept: "text/event-stream", ...(last ? { "last-event-id": last } : {}) });
  const response = await fetch(new URL(path, BASE), { headers, signal, cache: "no-store" });
  if (response.ok) return response;
  if (response.status === 401) {
    if (used === access.key) await newKey(used !== null);
    return open(path, last, signal);
  }
  throw new Refused(response.status, readProblem(await response.text()));
}

/** Read server-sent events to the end of *body*; whether the last of them said that there are no more. */
async function read(body, told) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let message = { id: null, event: null, data: "" };
  let ended = false;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return ended;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        ended = message.event === "end" || (message.event === "snapshot" && hasEnded(message.data));
        told(message);
        message = { id: null, event: null, data: "" };
      } else if (!line.startsWith(":")) {
        const at = line.indexOf(":");
        message[line.slice(0, at)] = line.slice(at + 1).replace(/^ /, "");
      }
    }
  }
}

const hasEnded = data => ["succeeded", "failed", "cancelled"].includes(JSON.parse(data).state);

function hiding(signal) {
  const controller = new AbortController();
  const stop = () => controller.abort();
  const look = () => document.hidden && stop();
  signal.addEventListener("abort", stop);
  document.addEventListener("visibilitychange", look);
  const end = () => {
    signal.removeEventListener("abort", stop);
    document.removeEventListener("visibilitychange", look);
  };
  return { signal: controller.signal, end };
}

const visible = signal =>
  new Promise(resolve => {
    if (!document.hidden || signal.aborted) return resolve();
    const look = () => {
      document.removeEventListener("visibilitychange", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
    signal.addEventListener("abort", look);
  });

const pause = (ms, signal) =>
  new Promise(resolve => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
