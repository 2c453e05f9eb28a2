// The one search box: words with qualifiers to filters of the API, and what could come next.

export const STATES = ["blocked", "scheduled", "pending", "running", "retrying", "succeeded", "failed", "cancelled"];
export const WAITING = ["blocked", "scheduled", "pending", "retrying"];
export const ENDED = ["succeeded", "failed", "cancelled"];

/** By qualifier: the filter of the API, and what it is for. */
const QUALIFIERS = new Map([
  ["state", ["state", "where it is: failed, running, waiting, ended …"]],
  ["queue", ["queue", "the lane it is in"]],
  ["type", ["type", "what is to be done"]],
  ["tag", ["tag", "one of its tags"]],
  ["key", ["key", "whose task it is"]],
  ["error", ["error", "a part of its last error"]],
  ["created", [null, "when it was submitted: >2026-01-31, <2026-01-31, or 2h for the last two hours"]],
  ["id", ["id", "exactly this task"]],
  ["parent", ["parent_id", "the children of a task"]],
  ["schedule", ["schedule", "those that a schedule made"]],
  ["fingerprint", ["fingerprint", "those that failed for one cause"]],
  ["payload.", ["where", "a value in the payload, as payload.user.id:42"]],
]);
const UNITS = { s: 1000, m: 60_000, min: 60_000, h: 3_600_000, d: 86_400_000 };
const WORD = /(?:([a-z]+(?:\.[^\s.:"]+)*):)?("(?:[^"\\]|\\.)*"?|\S+)/g;

/** What *text* asks for: `filter` for the API, or the `id` of one task, and the `faults` in it. */
export function parse(text, now) {
  const filter = {};
  const faults = [];
  let id = null;
  for (const [, name, raw] of text.matchAll(WORD)) {
    const value = unquoted(raw);
    if (name === undefined || name === "id") {
      if (id !== null) faults.push("Only one id can be asked for. A text is searched for as error:“…” or payload.NAME:…");
      id = value;
    } else if (name.startsWith("payload.")) put(filter, faults, "where", `${name}:${value}`);
    else if (name === "created") created(filter, faults, value, now);
    else if (!QUALIFIERS.has(name)) faults.push(`There is no qualifier ${name}: one of ${[...QUALIFIERS.keys()].join(", ")}.`);
    else put(filter, faults, QUALIFIERS.get(name)[0], value);
  }
  if (id !== null && Object.keys(filter).length) faults.push("An id says all there is to say: leave the rest out.");
  return { filter, id, faults };
}

function unquoted(raw) {
  if (!raw.startsWith('"')) return raw;
  return raw.replace(/^"|(?<!\\)"$/g, "").replace(/\\(.)/g, "$1");
}

function put(filter, faults, name, value) {
  if (!(name in filter)) filter[name] = value;
  else if (name === "state") filter.state += `,${value}`;
  else faults.push(`${name} is given twice.`);
}

function created(filter, faults, value, now) {
  const within = value.match(/^(\d+)(s|m|min|h|d)$/);
  if (within) return put(filter, faults, "created_after", new Date(now - within[1] * UNITS[within[2]]).toISOString());
  const sign = value[0];
  const at = new Date(value.slice(1));
  if ((sign !== ">" && sign !== "<") || Number.isNaN(at.getTime())) {
    faults.push("created: say >2026-01-31, <2026-01-31T12:00, or 2h for the last two hours.");
  } else put(filter, faults, sign === ">" ? "created_after" : "created_before", at.toISOString());
}

/** *value* as it is written behind a qualifier. */
export const quoted = value => (/^[^\s"]+$/.test(value) ? value : `"${value.replace(/["\\]/g, "\\$&")}"`);

/** *text* with its word for *name* replaced; an empty *value* takes it away. */
export function withWord(text, name, value) {
  const kept = [...text.matchAll(WORD)].filter(([, each]) => each !== name).map(([word]) => word);
  return [...kept, ...(value ? [`${name}:${quoted(value)}`] : [])].join(" ");
}

/**
 * What could stand where the cursor is, *at*: `{from, items: [{text, hint}]}`, each to replace what is from *from* on.
 * `known` has lists of names by qualifier.
 */
export function suggest(text, at, known) {
  const from = text.lastIndexOf(" ", at - 1) + 1;
  const word = text.slice(from, at).toLowerCase();
  const colon = word.indexOf(":");
  if (colon < 0) {
    const items = [...QUALIFIERS].filter(([name]) => name.startsWith(word));
    return { from, items: items.map(([name, [, hint]]) => ({ text: name.endsWith(".") ? name : `${name}:`, hint })) };
  }
  const name = word.slice(0, colon);
  const start = word.slice(colon + 1);
  const values = name === "state" ? [...STATES, "waiting", "ended"] : known[name] ?? [];
  const fitting = values.filter(each => each.toLowerCase().startsWith(start) && each.toLowerCase() !== start);
  return { from, items: fitting.slice(0, 12).map(each => ({ text: `${name}:${quoted(each)} `, hint: "" })) };
}
