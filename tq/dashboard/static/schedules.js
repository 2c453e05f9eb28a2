// Schedules: when they tick, what came of it, and running one now.

import { useState } from "preact/hooks";
import { get, pathOf, send } from "./api.js";
import { to } from "./router.js";
import { inWords } from "./words.js";
import { Action, Ago, Confirm, Empty, Loading, Page, Problem, State, Tick, html, useData } from "./ui.js";

const POLL_MS = 10_000;
const TICKS = 5;

export function Schedules({ id, query }) {
  const after = query.get("cursor");
  const path = id !== undefined ? pathOf`v1/schedules/${id}` : `v1/schedules${after ? `?cursor=${encodeURIComponent(after)}` : ""}`;
  const { data, error, reload } = useData(path, { every: POLL_MS, on: event => event.event.startsWith("schedule."), read });
  const [wanted, setWanted] = useState(null);
  return html`<${Page} title=${id ?? "Schedules"} heading=${id !== undefined ? html`Schedule <span class="user">${id}</span>` : "Schedules"}>
    <${Problem} error=${error} retry=${reload} />
    ${!data && !error && html`<${Loading} />`}
    ${data?.schedules.length === 0 && html`<${Empty} title="No schedules">A schedule makes tasks on a calendar: <code>@app.schedule("0 3 * * *")</code> above a handler, or <code>PUT /v1/schedules/NAME</code>.<//>`}
    ${data?.schedules.map(each => html`<${Schedule} key=${each.name} schedule=${each} reload=${reload} remove=${() => setWanted(each.name)} />`)}
    ${data?.next && html`<nav class="pager" aria-label="Pages of schedules"><a class="button" href=${to("schedules", { cursor: data.next })}>More →</a></nav>`}
    ${wanted && html`<${Confirm} title=${`Delete ${wanted}?`} verb="Delete the schedule" close=${() => setWanted(null)}
      act=${async () => { await send("DELETE", pathOf`v1/schedules/${wanted}`, undefined, { scope: "admin" }); reload(); return "Deleted."; }}>
      <p>The tasks that it made stay. One that is in the program comes back when a server starts.</p><//>`}
  <//>`;
}

async function read(path, options) {
  const found = await get(path, options);
  return found.schedules ? found : { schedules: [found], next: null };
}

function Schedule({ schedule, reload, remove }) {
  const { name, paused, task, next, ticks, overlap, last_task_id } = schedule;
  const path = pathOf`v1/schedules/${name}`;
  const turn = async () => {
    await send("POST", `${path}/${paused ? "resume" : "pause"}`, undefined, { scope: "operate" });
    reload();
  };
  const run = async () => {
    const made = await send("POST", `${path}/run`, undefined, { scope: "operate" });
    reload();
    return `Task ${made.id} is made.`;
  };
  const actions = html`<${Action} kind="primary" act=${run}>Run now<//><${Action} act=${turn}>${paused ? "Resume" : "Pause"}<//><${Action} scope="admin" act=${remove}>Delete<//>`;
  return html`<section class="card schedule" data-row aria-label=${name}>
    <header><h2><a data-open class="user" href=${to("schedules", name)}>${name}</a> ${paused && html`<${State} state="paused" />`}</h2><div class="actions">${actions}</div></header>
    <p class="words">${inWords(schedule)}</p>
    <p class="quiet">makes <span class="user">${task.type}</span> in <span class="user">${task.queue}</span>${schedule.cron && html` · <code>${schedule.cron}</code>`} · ${overlap === "skip" ? "not while the last one goes on" : "also while the last one goes on"}</p>
    <div class="ticks">
      <div><h3>Next, by your clock</h3>${next.length ? html`<ol>${next.map((at, each) => html`<li key=${at}><${Tick} at=${at} />${each === 0 && html` <span class="quiet">(<${Ago} at=${at} />)</span>`}</li>`)}</ol>` : html`<p class="quiet">${paused ? "None while it is paused." : "None."}</p>`}</div>
      <div><h3>Last, by your clock</h3>${ticks.length ? html`<ol>${ticks.slice(-TICKS).reverse().map(tick => html`<${Past} key=${tick.at} tick=${tick} />`)}</ol>` : html`<p class="quiet">It has not fired yet.</p>`}
        ${last_task_id && html`<p><a href=${to("tasks", { q: `schedule:${name}` })}>All its tasks</a></p>`}</div>
    </div>
  </section>`;
}

const SKIPPED = { overlap: "the last one went on", misfire: "too late" };

const Past = ({ tick }) => html`<li><${Tick} at=${tick.at} /> ${tick.task_id ? html`<a href=${to("tasks", tick.task_id)}>task</a>` : html`<span class="quiet">skipped: ${SKIPPED[tick.skipped] ?? tick.skipped}</span>`}
  ${tick.missed_before > 0 && html`<span class="quiet"> ${tick.missed_before} missed before</span>`}</li>`;
