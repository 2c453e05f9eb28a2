// What happens on the server, as it happens: one stream for the whole page, told once a frame.

import { follow, ownQueues } from "./api.js";

const HELD_MAX = 2_000; // events between two frames; of more, the oldest are left out

const listeners = new Set();
const states = new Set();
let held = [];
let frame = 0;
let missed = false;

export const live = { state: "lost" };

/** Be told of events, once a frame: `told(events, missed)`. `missed`: there were others. Gives the way out. */
export function listen(told) {
  listeners.add(told);
  return () => listeners.delete(told);
}

/** Be told when the stream is live, or lost. */
export function listenState(told) {
  states.add(told);
  return () => states.delete(told);
}

/** Open the stream, for as long as the page is there. There is none of some queues: of one, or of all. */
export function start() {
  if (ownQueues()?.length > 1) return setState("refused");
  const forEver = new AbortController().signal;
  follow("v1/events", take, { signal: forEver, onState: setState }).catch(() => setState("refused"));
}

function setState(state) {
  if (live.state === state) return;
  // What came while there was no stream may have been missed.
  if (state === "live") missed = true;
  live.state = state;
  for (const each of states) each();
}

function take({ event, data }) {
  if (event === "opened" || event === "gap" || event === "dropped") missed = true;
  else held.push({ event, data });
  if (held.length > HELD_MAX) {
    held = held.slice(-HELD_MAX / 2);
    missed = true;
  }
  frame ||= requestAnimationFrame(flush);
}

function flush() {
  frame = 0;
  const events = held.map(({ event, data }) => ({ ...JSON.parse(data), event }));
  const were = missed;
  held = [];
  missed = false;
  for (const each of listeners) each(events, were);
}
