// The shell: where the reader is, the way to everywhere, the key, the theme, the keyboard.

import { render } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { BASE, access, forgetKey, learn, may, onlyReads, ownQueues } from "./api.js";
import { start } from "./live.js";
import { go, here, to } from "./router.js";
import { quoted } from "./search.js";
import { plural } from "./text.js";
import { Dialog, Empty, Field, FocusHeading, Loading, Page, Told, html, useAccess, useLive } from "./ui.js";
import { Dead } from "./dead.js";
import { Overview, keepHistory } from "./overview.js";
import { Queues } from "./queues.js";
import { Schedules } from "./schedules.js";
import { Task } from "./task.js";
import { Tasks } from "./tasks.js";
import { Types } from "./types.js";
import { Workers } from "./workers.js";

/** Name in the address, title, page, picture; and whether it is of all queues, which not every key may see. */
const PAGES = [
  ["overview", "Overview", Overview, "M3 12h4l3-8 4 16 3-8h4"],
  ["tasks", "Tasks", Tasks, "M4 6h16M4 12h16M4 18h10"],
  ["queues", "Queues", Queues, "M4 5h16v4H4zM4 15h16v4H4z"],
  ["dead", "Dead letters", Dead, "M6 6l12 12M18 6L6 18", true],
  ["schedules", "Schedules", Schedules, "M12 7v5l3 3M12 3a9 9 0 1 0 .01 0", true],
  ["workers", "Workers", Workers, "M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM13 13h7v7h-7z", true],
  ["types", "Types", Types, "M8 6l-5 6 5 6M16 6l5 6-5 6"],
];

const KEYS = [
  ["/", "search tasks"],
  ["j k", "next, previous row"],
  ["Enter", "open the row"],
  ["x", "select the row"],
  ["g then o t q d s w y", "go to a page"],
  ["?", "this help"],
  ["Esc", "close"],
];
const GO = { o: "overview", t: "tasks", q: "queues", d: "dead", s: "schedules", w: "workers", y: "types" };

const focus = { wanted: false };

function App() {
  const [place, setPlace] = useState(here());
  const [help, setHelp] = useState(false);
  useEffect(() => {
    const moved = () => {
      setPlace(old => {
        const next = here();
        if (old.parts.join("/") !== next.parts.join("/")) {
          focus.wanted = true;
          window.scrollTo(0, 0);
        }
        return next;
      });
    };
    window.addEventListener("hashchange", moved);
    return () => window.removeEventListener("hashchange", moved);
  }, []);
  useKeyboard(() => setHelp(true));
  const [name = "overview"] = place.parts;
  return html`<${FocusHeading} value=${focus}>
    <a class="skip" href="#main" onClick=${skip}>Skip to the page</a>
    <${Nav} current=${name} openHelp=${() => setHelp(true)} />
    <main id="main" tabindex="-1"><${Place} place=${place} /></main>
    <${Told} /><${KeyDialog} />
    ${help && html`<${Help} close=${() => setHelp(false)} />`}
  <//>`;
}

/** The page of a place, once it is known what the key may see of it. */
function Place({ place }) {
  const [name = "overview", id] = place.parts;
  const [, title = "tq", shown, , isOfAll] = PAGES.find(([each]) => each === name) ?? [];
  const asked = useAccess(() => access.asked);
  const mayRead = useAccess(() => may("read"));
  const queues = useAccess(ownQueues);
  if (!shown) return html`<${Lost} />`;
  if (!asked) return html`<${Page} title=${title}><${Loading} /><//>`;
  if (!mayRead) return html`<${Page} title=${title}><${Empty} title="This key may not look">What is shown here needs a key with the scope <code>read</code>; this one has ${access.granted?.scopes.join(", ")}.<//><//>`;
  if (isOfAll && queues) return html`<${OfAll} title=${title} queues=${queues} />`;
  if (name === "tasks" && id !== undefined) return html`<${Task} key=${id} id=${id} />`;
  return html`<${shown} key=${name} id=${id} query=${place.query} />`;
}

const OfAll = ({ title, queues }) => html`<${Page} title=${title}><${Empty} title="This is of all queues">
  This key is for ${queues.length === 1 ? "one" : "some"}. ${title === "Dead letters" ? html`What failed there: ${queues.map(each => html`<a key=${each} class="user" href=${to("tasks", { q: `state:failed queue:${quoted(each)}` })}>${each}</a> `)}` : html`Go to <a href=${to("queues")}>its queues</a>.`}<//><//>`;

function skip(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

const Lost = () => html`<${Page} title="Nothing here"><${Empty} title="There is no such page"><a href=${to("overview")}>Go to the overview</a><//><//>`;

const Icon = ({ path }) => html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true"><path d=${path} /></svg>`;

function Nav({ current, openHelp }) {
  const queues = useAccess(ownQueues);
  const list = useRef();
  useEffect(() => {
    // Where the bar is narrow, it shows where one is.
    list.current.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }, [current]);
  return html`<header class="bar">
    <a class="brand" href=${to("overview")}><svg viewBox="0 0 32 32" aria-hidden="true"><path d="M5 9h22M5 16h14M5 23h7" /></svg><span>tq</span></a><${Limits} />
    <nav aria-label="Pages"><ul ref=${list}>
      ${PAGES.filter(each => !queues || !each[4]).map(([name, title, , path]) => html`<li key=${name}><a href=${to(name)} aria-current=${name === current ? "page" : undefined}><${Icon} path=${path} /><span>${title}</span></a></li>`)}
      <li><a href=${new URL("docs", BASE).href}><${Icon} path="M5 4h11l3 3v13H5zM9 11h6M9 15h6" /><span>API</span></a></li>
    </ul></nav>
    <div class="bar-end"><${LiveMark} /><${ThemeButton} />
      ${access.key && html`<button class="plain" onClick=${forgetKey}>Forget key</button>`}
      <button class="plain" onClick=${openHelp} aria-label="Keyboard help" title="Keyboard help (?)">?</button></div>
  </header>`;
}

const MARKS = { live: ["live", "Live"], lost: ["lost", "Connecting …"], refused: ["lost", "Not live"], ended: ["lost", "Ended"] };

function LiveMark() {
  const [kind, text] = MARKS[useLive()];
  return html`<span class=${`mark ${kind}`} role="status">${text}</span>`;
}

/** What the key is not for. */
function Limits() {
  const isReader = useAccess(onlyReads);
  const queues = useAccess(ownQueues);
  if (!isReader && !queues) return null;
  return html`<p class="limits" role="status">
    ${isReader && html`<span class="chip" title="This key may look, and change nothing.">read-only</span>`}
    ${queues && html`<span class="chip user" title=${`This key is for ${queues.join(", ")}.`}>${queues.length === 1 ? queues[0] : plural(queues.length, "queue")}</span>`}</p>`;
}

const THEMES = { auto: ["◑", "as the system"], light: ["☀", "light"], dark: ["☾", "dark"] };

function ThemeButton() {
  const [theme, setTheme] = useState(document.documentElement.dataset.theme ?? "auto");
  const turn = () => {
    const names = Object.keys(THEMES);
    const next = names[(names.indexOf(theme) + 1) % names.length];
    if (next === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    try {
      localStorage.setItem("tq.theme", next);
    } catch {
      // It lasts as long as the page.
    }
    setTheme(next);
    window.dispatchEvent(new Event("tq-theme"));
  };
  const label = `Theme: ${THEMES[theme][1]}`;
  return html`<button class="plain" onClick=${turn} aria-label=${label} title=${label}>${THEMES[theme][0]}</button>`;
}

function KeyDialog() {
  const [asked, setAsked] = useState(null);
  const input = useRef();
  useLayoutEffect(() => {
    // Before anything can be asked.
    access.askForKey = wrong => new Promise(resolve => setAsked({ wrong, resolve }));
    learn().then(() => {
      start();
      keepHistory();
    });
  }, []);
  if (!asked) return null;
  const give = event => {
    event.preventDefault();
    const key = input.current.value.trim();
    if (!key) return;
    setAsked(null);
    asked.resolve(key);
  };
  return html`<${Dialog} title="This server asks for a key" close=${() => {}}>
    <form onSubmit=${give} class="dialog-body">
      <p>${asked.wrong ? "That key is not known, or no longer good." : "Keys are made with tq keys create."} It stays in this tab, and is forgotten when you close it.</p>
      <${Field} label="Key"><input ref=${input} type="password" autocomplete="off" autofocus spellcheck=${false} /><//>
      <footer><button class="primary">Use this key</button></footer>
    </form>
  <//>`;
}

const Help = ({ close }) => html`<${Dialog} title="Keyboard" close=${close}>
  <dl class="keys dialog-body">${KEYS.map(([keys, what]) => html`<div key=${keys}><dt>${keys.split(" ").map(each => (each === "then" ? " then " : html`<kbd>${each}</kbd>`))}</dt><dd>${what}</dd></div>`)}</dl>
<//>`;

// The keyboard

function useKeyboard(openHelp) {
  useEffect(() => {
    let afterG = false;
    const pressed = event => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.target.closest("input:not([type=checkbox]), textarea, select, dialog")) return;
      const { key } = event;
      const wasG = afterG;
      afterG = key === "g";
      if (wasG && GO[key]) go(to(GO[key]));
      else if (key === "/") search();
      else if (key === "?") openHelp();
      else if (key === "j" || key === "k") move(key === "j" ? 1 : -1);
      else if (key === "x") rowOf(document.activeElement)?.querySelector("input[type=checkbox]")?.click();
      else return;
      event.preventDefault();
    };
    document.addEventListener("keydown", pressed);
    return () => document.removeEventListener("keydown", pressed);
  }, []);
}

function search() {
  const box = document.getElementById("search");
  if (box) box.focus();
  else go(to("tasks", { focus: "search" }));
}

const rowOf = element => element?.closest("[data-row]");

/** Move to the next row, or the one before: to the link in it, so that Enter opens it. */
function move(step) {
  const rows = [...document.querySelectorAll("[data-row]")];
  const at = rows.indexOf(rowOf(document.activeElement));
  const next = rows[at < 0 ? (step > 0 ? 0 : rows.length - 1) : Math.max(0, Math.min(rows.length - 1, at + step))];
  const target = next?.querySelector("[data-open]") ?? next;
  target?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

render(html`<${App} />`, document.getElementById("app"));
