// All tasks: one search box, a page of them, and what can be done to some or to all that match.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { get, ownQueues, pathOf, send } from "./api.js";
import { go, to } from "./router.js";
import { ENDED, STATES, WAITING, parse, suggest, withWord } from "./search.js";
import { count, plural } from "./text.js";
import { Action, Ago, Confirm, Empty, Held, Loading, MaySubmit, Page, Problem, State, html, useAccess, useData, useMay, useScrolled } from "./ui.js";

const PAGE = 50;
const HINT = 'state:failed queue:mail error:"timed out" created:2h …  or an id';
const AT_ONCE = 6; // requests beside each other, where some are to be changed one by one

export function Tasks({ query }) {
  const q = query.get("q") ?? "";
  const cursor = query.get("cursor") ?? "";
  const scrolled = useScrolled();
  const [selected, setSelected] = useState(new Set());
  const [everything, setEverything] = useState(false);
  const asked = useMemo(() => parse(q, Date.now()), [q]);
  const held = scrolled || cursor !== "" || selected.size > 0;
  const queues = useAccess(ownQueues);
  const maySubmit = useMay("submit");
  // There is no list of some queues: of one, or of all.
  const isUnsaid = queues?.length > 1 && asked.id === null && !asked.filter.queue;
  const path = asked.faults.length || isUnsaid ? null : listPath(asked, cursor);
  const { data, error, reload, missed } = useData(path, { on: isOfTask, held, read });
  const show = () => {
    window.scrollTo(0, 0);
    reload();
  };
  useEffect(() => {
    setSelected(new Set());
    setEverything(false);
  }, [path]);
  const before = useRef([]);
  const tasks = data?.tasks ?? [];
  const chosen = tasks.filter(each => selected.has(each.id));
  return html`<${Page} title="Tasks" actions=${maySubmit && html`<a class="button primary" href=${to("types")}>Submit a task</a>`}>
    <${Search} q=${q} wanted=${query.get("focus") === "search"} />
    <${Quick} q=${q} />
    ${isUnsaid && html`<${Empty} title="Which queue?">This key is for some: ${queues.map(each => html`<a key=${each} class="user" href=${to("tasks", { q: withWord(q, "queue", each) })}>${each}</a> `)}<//>`}
    ${asked.faults.map(each => html`<div class="problem" role="alert" key=${each}>${each}</div>`)}
    <${Problem} error=${error} retry=${reload} />
    <${Held} missed=${missed} show=${show} />
    ${chosen.length > 0 && html`<${Selection} chosen=${chosen} whole=${chosen.length === tasks.length} asked=${asked} everything=${everything} setEverything=${setEverything}
      done=${() => { setSelected(new Set()); setEverything(false); reload(); }} />`}
    ${path && !data && !error && html`<${Loading} />`}
    ${data && (tasks.length ? html`<${Table} tasks=${tasks} selected=${selected} select=${setSelected} />` : html`<${Nothing} q=${q} next=${data.next} />`)}
    ${data && html`<${Pager} q=${q} cursor=${cursor} next=${data.next} before=${before.current} />`}
  <//>`;
}

const isOfTask = event => event.task_id !== undefined || event.event === "tasks.pruned";

function listPath({ filter, id }, cursor) {
  if (id !== null) return pathOf`v1/tasks/${id}`;
  return `v1/tasks?${new URLSearchParams({ ...filter, view: "brief", limit: PAGE, ...(cursor && { cursor }) })}`;
}

/** A page of tasks; of one that is asked for by its id, a page with it. */
async function read(path, options) {
  const found = await get(path, options).catch(error => {
    if (error.status === 404) return { tasks: [], next: null };
    throw error;
  });
  return found.tasks ? found : { tasks: [found], next: null };
}

// Searching

function Search({ q, wanted }) {
  const [text, setText] = useState(q);
  const [open, setOpen] = useState(false);
  const [at, setAt] = useState(-1);
  const input = useRef();
  const known = useKnown(open);
  useEffect(() => setText(q), [q]);
  useEffect(() => {
    if (wanted) input.current.focus();
  }, [wanted]);
  const { from, items } = open ? suggest(text, input.current?.selectionStart ?? text.length, known) : { from: 0, items: [] };
  const search = () => {
    setOpen(false);
    go(to("tasks", { q: text.trim() }));
  };
  const take = item => {
    const end = input.current.selectionStart;
    setText(text.slice(0, from) + item.text + text.slice(end));
    setAt(-1);
    input.current.focus();
  };
  const keys = event => {
    if (event.key === "Escape") {
      if (open) setOpen(false);
      else input.current.blur();
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      setOpen(true);
      const step = event.key === "ArrowDown" ? 1 : -1;
      setAt((at + step + items.length + (at < 0 && step < 0 ? 1 : 0)) % Math.max(1, items.length));
    } else if (event.key === "Enter" && open && items[at]) take(items[at]);
    else if (event.key === "Enter") search();
    else return;
    event.preventDefault();
  };
  const typed = event => {
    setText(event.target.value);
    setOpen(true);
    setAt(-1);
  };
  return html`<form class="search" role="search" onSubmit=${event => { event.preventDefault(); search(); }}>
    <label class="sr" for="search">Search tasks</label>
    <input id="search" ref=${input} type="text" value=${text} placeholder=${HINT} autocomplete="off" autocapitalize="off" spellcheck=${false}
      role="combobox" aria-expanded=${items.length > 0} aria-controls="suggestions" aria-autocomplete="list" aria-activedescendant=${items[at] ? `suggestion-${at}` : undefined}
      onInput=${typed} onKeyDown=${keys} onFocus=${() => setOpen(true)} onBlur=${() => setOpen(false)} />
    <button>Search</button>
    <ul id="suggestions" role="listbox" aria-label="Suggestions" hidden=${items.length === 0}>
      ${items.map((item, each) => html`<li key=${item.text} id=${`suggestion-${each}`} role="option" aria-selected=${each === at}
        onMouseDown=${event => { event.preventDefault(); take(item); }}><code>${item.text}</code><span class="quiet">${item.hint}</span></li>`)}
    </ul>
  </form>`;
}

/** The names that can be suggested, asked for when the box is first used. */
function useKnown(wanted) {
  const [known, setKnown] = useState(null);
  useEffect(() => {
    if (!wanted || known) return;
    // Types and schedules are of all queues, and not for a key that is for some.
    const others = ownQueues() ? [{ types: [] }, { schedules: [] }] : [get("v1/types"), get("v1/schedules")];
    const all = Promise.all([get("v1/queues"), ...others]);
    all.then(
      ([{ queues }, { types }, { schedules }]) =>
        setKnown({ queue: queues.map(each => each.queue), type: types.map(each => each.type), schedule: schedules.map(each => each.name) }),
      () => setKnown({}),
    );
  }, [wanted]);
  return known ?? {};
}

const QUICK = ["", "waiting", ...STATES];

/** The states as links: the search with another state in it. */
function Quick({ q }) {
  const current = q.match(/(?:^| )state:(\S+)/)?.[1] ?? "";
  return html`<nav class="quick" aria-label="States">${QUICK.map(state => html`<a key=${state} href=${to("tasks", { q: withWord(q, "state", state) })} aria-current=${state === current ? "true" : undefined}>${state || "all"}</a>`)}</nav>`;
}

const Nothing = ({ q, next }) =>
  next
    ? html`<${Empty} title="None on this page">What one page looks at has a bound. Go on with Older.<//>`
    : q
      ? html`<${Empty} title="No task matches">Ended tasks are kept for a day, failed ones for a week. <a href=${to("tasks")}>Show all tasks</a>.<//>`
      : html`<${Empty} title="No tasks yet">Tasks are shown here as they are submitted. <${MaySubmit}><a href=${to("types")}>Submit the first one</a>.<//><//>`;

function Pager({ q, cursor, next, before }) {
  if (!cursor && !next) return null;
  const older = () => before.push(cursor);
  const newer = () => before.pop();
  return html`<nav class="pager" aria-label="Pages of tasks">
    ${cursor && html`<a class="button" href=${to("tasks", { q, cursor: before.at(-1) ?? "" })} onClick=${newer}>← Newer</a>`}
    ${next && html`<a class="button" href=${to("tasks", { q, cursor: next })} onClick=${older}>Older →</a>`}
  </nav>`;
}

// The table

function Table({ tasks, selected, select }) {
  const mayChange = useMay("operate");
  const all = tasks.every(each => selected.has(each.id));
  const toggle = id => {
    const next = new Set(selected);
    if (!next.delete(id)) next.add(id);
    select(next);
  };
  const everyone = () => select(all ? new Set() : new Set(tasks.map(each => each.id)));
  return html`<div class="scroll"><table class="tasks">
    <thead><tr>${mayChange && html`<th class="pick"><input type="checkbox" aria-label="Select all on this page" checked=${all} onClick=${everyone} /></th>`}
      <th>State</th><th>Type</th><th>Task</th><th>Queue</th><th class="num">Attempt</th><th>Submitted</th></tr></thead>
    <tbody>${tasks.map(task => html`<${Row} key=${task.id} task=${task} checked=${selected.has(task.id)} toggle=${mayChange ? toggle : null} />`)}</tbody>
  </table></div>`;
}

function Row({ task, checked, toggle }) {
  const { id, type, queue, state, reason, attempt, max_attempts, created_at, errors, progress, tags = [], key } = task;
  const last = errors.at(-1);
  return html`<tr data-row class=${checked ? "chosen" : ""}>
    ${toggle && html`<td class="pick"><input type="checkbox" aria-label=${`Select ${id}`} checked=${checked} onClick=${() => toggle(id)} /></td>`}
    <td><${State} state=${state} reason=${reason} />${state === "running" && progress && html`<progress value=${progress.fraction ?? 0} aria-label="Progress"></progress>`}</td>
    <td class="user type">${type}</td>
    <td class="main"><a data-open class="id" href=${to("tasks", id)}>${id}</a>
      ${key && html`<span class="chip user" title="key">${key}</span>`}${tags.slice(0, 4).map(each => html`<span class="chip user" key=${each}>${each}</span>`)}
      ${last && state !== "succeeded" && html`<div class="user fault">${last.type}: ${last.message.slice(0, 160)}</div>`}</td>
    <td class="user">${queue}</td><td class="num">${attempt}<span class="quiet">/${max_attempts}</span></td><td><${Ago} at=${created_at} /></td>
  </tr>`;
}

// Doing something to many

const CAN = { cancel: [...WAITING, "running"], retry: ENDED, delete: ENDED };
const VERBS = { cancel: "Cancel", retry: "Retry", delete: "Delete" };
const DONE = { cancel: "cancelled", retry: "retried", delete: "deleted" };

function Selection({ chosen, whole, asked, everything, setEverything, done }) {
  const [wanted, setWanted] = useState(null);
  const [one, many] = [useMay("operate"), asked.id === null];
  if (!one) return null;
  const whom = everything ? "all that match" : plural(chosen.length, "task");
  return html`<div class="selection" role="region" aria-label="Selected tasks"><span><strong>${everything ? "All that match" : plural(chosen.length, "task")}</strong> selected</span>
    ${whole && many && html`<button class="plain" onClick=${() => setEverything(!everything)}>${everything ? "Only this page" : "Select all that match"}</button>`}
    <span class="actions">${Object.keys(CAN).map(action => {
      const fitting = chosen.filter(each => CAN[action].includes(each.state));
      const count = async () => setWanted(everything ? await counted(action, asked.filter) : { action, tasks: fitting, matched: fitting.length });
      return html`<${Action} key=${action} act=${count} disabled=${!everything && !fitting.length} title=${`${VERBS[action]} ${whom}`}>${VERBS[action]}<//>`;
    })}</span>
    ${wanted && html`<${Sure} wanted=${wanted} filter=${asked.filter} close=${() => setWanted(null)} done=${done} />`}
  </div>`;
}

const bodyOf = filter => (Object.keys(filter).length ? { filter } : { all: true });

async function counted(action, filter) {
  const { matched, more } = await send("POST", `v1/tasks/${action}`, { ...bodyOf(filter), dry_run: true }, { scope: "operate" });
  return { action, tasks: null, matched, more };
}

function Sure({ wanted, filter, close, done }) {
  const { action, tasks, matched, more } = wanted;
  const words = plural(matched, "task");
  const act = async () => {
    const changed = tasks ? await oneByOne(action, tasks) : (await send("POST", `v1/tasks/${action}`, bodyOf(filter), { scope: "operate" })).changed;
    done();
    return `${plural(changed, "task")} ${DONE[action]}.`;
  };
  if (!matched) return html`<${Confirm} title="None of them" verb="All right" kind="primary" close=${close} act=${async () => ""}><p>No task that matches can be ${DONE[action]}.</p><//>`;
  return html`<${Confirm} title=${`${VERBS[action]} ${words}?`} verb=${`${VERBS[action]} ${count(matched)}`} kind=${action === "retry" ? "primary" : "danger"} close=${close} act=${act}>
    <p>${MEANS[action]}</p>${more && html`<p>There are more than can be changed at once: the newest ${count(matched)} are.</p>`}<//>`;
}

const MEANS = {
  cancel: "What waits will not start; what runs is told to stop. Children go with their parents.",
  retry: "They wait again, with all their attempts before them.",
  delete: "They and their results are gone for good.",
};

/** Do it to each of *tasks*, a few beside each other; how many it was done to. Raises what the last refusal said if none was. */
async function oneByOne(action, tasks) {
  const left = [...tasks];
  let changed = 0;
  let fault = null;
  const go = async () => {
    for (let task; (task = left.pop()); ) {
      const path = pathOf`v1/tasks/${task.id}`;
      try {
        await (action === "delete" ? send("DELETE", path, undefined, { scope: "operate" }) : send("POST", `${path}/${action}`, undefined, { scope: "operate" }));
        changed += 1;
      } catch (error) {
        fault = error;
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, go));
  if (!changed && fault) throw fault;
  return changed;
}
