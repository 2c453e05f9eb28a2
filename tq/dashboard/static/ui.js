// The parts that all pages are made of. Text that users gave is only ever set as text.

import { h, createContext } from "preact";
import { useCallback, useContext, useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import htm from "htm";
import { access, get, may } from "./api.js";
import { listen, listenState, live } from "./live.js";
import { ago, duration, moment, plural, pretty, tick } from "./text.js";

export const html = htm.bind(h);

// Time

const clocks = new Set();
setInterval(() => clocks.forEach(each => each(Date.now())), 1000);

/** Now, kept up to the second. */
export function useNow() {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    clocks.add(setNow);
    return () => clocks.delete(setNow);
  }, []);
  return now;
}

export function Ago({ at }) {
  const now = useNow();
  if (!at) return html`<span class="quiet">–</span>`;
  return html`<time datetime=${at} title=${moment(new Date(at))}>${ago(Date.parse(at), now)}</time>`;
}

export const Moment = ({ at }) => html`<time datetime=${at} title=${at}>${moment(new Date(at))}</time>`;

export const Tick = ({ at }) => html`<time datetime=${at} title=${moment(new Date(at))}>${tick(new Date(at))}</time>`;

export function Since({ at }) {
  const now = useNow();
  return html`<time datetime=${at} title=${moment(new Date(at))}>${duration(Math.max(0, now - Date.parse(at)))}</time>`;
}

// Asking

const RELOAD_MS = 700; // between two reloads for the sake of what happens

const UNTOLD_MS = 5000; // between two reloads where nothing tells what happens

/**
 * What is at *path*: `{data, error, reload}`; `data` is the last good one. With `every`, asked again and again; with
 * `on`, when an event comes for which it is true, unless `held`, which counts them instead in `missed`.
 */
export function useData(path, { every = 0, on = null, held = false, read = get } = {}) {
  const [state, setState] = useState({ path, data: null, error: null });
  const [missed, setMissed] = useState(0);
  const [turn, setTurn] = useState({ changes: null }); // for the sake of how many; null: the reader wants it
  const isLive = useLive() !== "refused";
  const reload = useCallback(() => setTurn({ changes: null }), []);
  const now = useRef({});
  now.current = { on, held, shown: state.data && !state.error && state.path };
  useEffect(() => {
    if (path === null) return undefined;
    const controller = new AbortController();
    setMissed(0);
    read(path, { signal: controller.signal }).then(
      data => {
        // The reader may have begun to read while it was asked for.
        const moves = turn.changes !== null && now.current.held && now.current.shown === path;
        if (moves) setMissed(each => each + turn.changes);
        else setState({ path, data, error: null });
      },
      error => error.name !== "AbortError" && setState(old => ({ path, data: old.path === path ? old.data : null, error })),
    );
    return () => controller.abort();
  }, [path, turn]);
  useEffect(() => {
    // What does not answer is asked again, by and by.
    const isAway = state.error && (state.error.status === 0 || state.error.status === 503);
    const wait = isAway ? 2000 : every || (on && !isLive ? UNTOLD_MS : 0);
    if (!wait) return undefined;
    const timer = setInterval(() => document.hidden || (now.current.held && !isAway) || setTurn({ changes: 0 }), wait);
    return () => clearInterval(timer);
  }, [every, state.error, isLive]);
  useEffect(() => {
    if (!on) return undefined;
    let timer = 0;
    let waiting = 0; // changes for which nothing is asked yet
    const quiet = () => {
      timer = 0;
      // The reader may have begun to read meanwhile.
      if (!now.current.held) return go();
      setMissed(each => each + waiting);
      waiting = 0;
    };
    const go = () => {
      if (timer || !waiting) return;
      timer = setTimeout(quiet, RELOAD_MS);
      setTurn({ changes: waiting });
      waiting = 0;
    };
    const stop = listen((events, others) => {
      const hits = events.filter(now.current.on).length + (others ? 1 : 0);
      if (hits && now.current.held) return setMissed(each => each + hits);
      waiting += hits;
      go();
    });
    return () => {
      stop();
      clearTimeout(timer);
    };
  }, [on !== null]);
  const fresh = state.path === path;
  return { data: fresh ? state.data : null, error: fresh ? state.error : null, reload, missed };
}

/** Whether the reader has scrolled away from the top: then nothing is to move. */
export function useScrolled() {
  const [scrolled, setScrolled] = useState(false);
  useEffect(() => {
    const look = () => setScrolled(window.scrollY > 120);
    window.addEventListener("scroll", look, { passive: true });
    look();
    return () => window.removeEventListener("scroll", look);
  }, []);
  return scrolled;
}

/** Whether the stream of events is live. */
export function useLive() {
  const [state, setState] = useState(live.state);
  useEffect(() => listenState(() => setState(live.state)), []);
  return state;
}

/** What *look* finds of what the key may do, kept up to date. */
export function useAccess(look) {
  const [, setTurn] = useState(0);
  useEffect(() => {
    const again = () => setTurn(each => each + 1);
    access.listeners.add(again);
    again();
    return () => access.listeners.delete(again);
  }, []);
  return look();
}

/** Whether the key may do what needs *scope*, as far as is known. */
export const useMay = scope => useAccess(() => may(scope));

/** *children* for whom may submit. */
export const MaySubmit = ({ children }) => useMay("submit") && children;

// Telling

const telling = { set: () => {} };

/** Say *text* for a while, to readers of screens too. */
export const tell = (text, isBad = false) => telling.set({ text, isBad });

export function Told() {
  const [told, setTold] = useState(null);
  telling.set = setTold;
  useEffect(() => {
    if (!told) return undefined;
    const timer = setTimeout(() => setTold(null), told.isBad ? 12_000 : 5000);
    return () => clearTimeout(timer);
  }, [told]);
  return html`<div class="told" role="status" aria-live="polite">
    ${told && html`<div class=${told.isBad ? "toast bad" : "toast"}><span>${told.text}</span>
      <button class="plain" aria-label="Dismiss" onClick=${() => setTold(null)}>✕</button></div>`}
  </div>`;
}

/** What went wrong, and what to do. */
export function Problem({ error, retry }) {
  if (!error) return null;
  const { problem = {}, status } = error;
  const title = status === 404 ? "Not there" : problem.title ?? "That did not work";
  return html`<div class="problem" role="alert">
    <strong>${title}</strong><p>${error.message}</p>
    ${problem.code && html`<p class="quiet">${status} <code>${problem.code}</code></p>`}
    ${retry && html`<button onClick=${retry}>Try again</button>`}
  </div>`;
}

export const Loading = () => html`<div class="loading" role="status"><span class="sr">Loading …</span></div>`;

export function Empty({ title, children }) {
  return html`<div class="empty"><svg viewBox="0 0 48 32" aria-hidden="true"><path d="M6 8h36M6 16h24M6 24h12" /></svg>
    <strong>${title}</strong><div>${children}</div></div>`;
}

// Pages

const Focus = createContext({ wanted: false });
export const FocusHeading = Focus.Provider;

/** A page: its heading takes the focus when it is come to, so that readers of screens are where it is. */
export function Page({ title, heading = title, note, actions, children }) {
  const ref = useRef();
  const focus = useContext(Focus);
  useEffect(() => {
    document.title = `${title} · tq`;
  }, [title]);
  useLayoutEffect(() => {
    if (focus.wanted) ref.current.focus({ preventScroll: true });
    focus.wanted = false;
  }, []);
  return html`<div class="page">
    <header class="page-head"><h1 tabindex="-1" ref=${ref}>${heading}</h1>
      ${note && html`<div class="page-note">${note}</div>`}
      ${actions && html`<div class="actions">${actions}</div>`}</header>
    ${children}
  </div>`;
}

export const Card = ({ title, note, actions, children, kind = "" }) => html`<section class=${`card ${kind}`} aria-label=${title}>
  ${title && html`<header><h2>${title}</h2>${note && html`<span class="quiet">${note}</span>`}
    ${actions && html`<div class="actions">${actions}</div>`}</header>`}
  ${children}
</section>`;

const GLYPHS = { blocked: "◌", scheduled: "◷", pending: "○", running: "◐", retrying: "↻", succeeded: "✓", failed: "✕", cancelled: "–", paused: "‖", busy: "◐", idle: "○", overran: "!", leads: "★", drains: "↓" };

export const State = ({ state, reason }) => html`<span class=${`state ${state}`}><span class="glyph" aria-hidden="true">${GLYPHS[state] ?? "·"}</span>
  ${state}${reason && reason !== "ok" && reason !== "error" ? html`<small> ${reason}</small>` : ""}</span>`;

/** What stays while new things come, and how to see them. */
export function Held({ missed, show }) {
  return html`<div class="held" role="status">
    ${missed > 0 && html`<button onClick=${show}>${plural(missed, "change")} while you read · Show</button>`}
  </div>`;
}

// Doing

/** A button for *act*, which may fail; hidden where the key must not. `confirm` asks first. */
export function Action({ scope = "operate", act, done, kind = "", children, disabled = false, title }) {
  const allowed = useMay(scope);
  const [busy, setBusy] = useState(false);
  if (!allowed) return null;
  const click = async () => {
    setBusy(true);
    try {
      const text = await act();
      if (text ?? done) tell(text ?? done);
    } catch (error) {
      tell(error.message, true);
    } finally {
      setBusy(false);
    }
  };
  return html`<button class=${kind} onClick=${click} disabled=${disabled || busy} aria-busy=${busy} title=${title}>${children}</button>`;
}

/** A dialog of the browser's own kind: it holds the focus, Escape closes it. */
export function Dialog({ title, close, children, wide = false }) {
  const ref = useRef();
  useLayoutEffect(() => {
    const before = document.activeElement;
    ref.current.showModal();
    return () => before?.focus?.();
  }, []);
  const outside = event => event.target === ref.current && close();
  return html`<dialog ref=${ref} class=${wide ? "wide" : ""} aria-label=${title} onClose=${close} onClick=${outside}
      onCancel=${event => { event.preventDefault(); close(); }}>
    <header><h2>${title}</h2><button class="plain" aria-label="Close" onClick=${close}>✕</button></header>
    ${children}
  </dialog>`;
}

/** Asks before *act*; the button that does it is named by what it does. */
export function Confirm({ title, verb, kind = "danger", act, close, children }) {
  const [fault, setFault] = useState(null);
  const [busy, setBusy] = useState(false);
  const go = async () => {
    setBusy(true);
    try {
      const text = await act();
      close();
      if (text) tell(text);
    } catch (error) {
      setFault(error);
      setBusy(false);
    }
  };
  return html`<${Dialog} title=${title} close=${close}>
    <div class="dialog-body">${children}<${Problem} error=${fault} /></div>
    <footer><button onClick=${close}>Not now</button><button class=${kind} disabled=${busy} onClick=${go}>${verb}</button></footer>
  <//>`;
}

/** A button that copies *text*. */
export function Copy({ text, children = "Copy", kind = "plain" }) {
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(typeof text === "function" ? text() : text);
      tell("Copied.");
    } catch {
      tell("The browser does not let this page copy: select the text instead.", true);
    }
  };
  return html`<button class=${kind} onClick=${copy}>${children}</button>`;
}

const SHOWN_MAX = 20_000; // characters of a text that are shown at first

/** JSON as the text that it is, on several lines. */
export function Json({ text, label }) {
  const [all, setAll] = useState(false);
  const lines = pretty(text);
  const shown = all ? lines : lines.slice(0, SHOWN_MAX);
  return html`<div class="raw"><pre tabindex="0" aria-label=${label} dir="ltr">${shown}</pre>
    <div class="raw-actions">${shown.length < lines.length && html`<button class="plain" onClick=${() => setAll(true)}>Show all ${plural(lines.length, "character")}</button>`}
      <${Copy} text=${text} /></div></div>`;
}

/** A label and its control. */
export const Field = ({ label, hint, children }) => html`<label class="field"><span>${label}</span>${children}${hint && html`<small>${hint}</small>`}</label>`;
