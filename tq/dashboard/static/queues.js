// Queues: what is in them, and the rules that they have.

import { useState } from "preact/hooks";
import { pathOf, send } from "./api.js";
import { to } from "./router.js";
import { quoted } from "./search.js";
import { count, duration, plural } from "./text.js";
import { Action, Confirm, Dialog, Empty, Field, Loading, MaySubmit, Page, Problem, Since, State, html, useData } from "./ui.js";

const POLL_MS = 3000;
/** The columns of counts, and the states that each counts. */
const COLUMNS = [["Pending", "pending"], ["Running", "running"], ["Later", "scheduled", "retrying", "blocked"], ["Failed", "failed"], ["Succeeded", "succeeded"]];

export function Queues() {
  const { data, error, reload } = useData("v1/queues", { every: POLL_MS, on: event => event.event === "queue.changed" });
  const [edited, setEdited] = useState(null);
  const [purged, setPurged] = useState(null);
  return html`<${Page} title="Queues">
    <${Problem} error=${error} retry=${reload} />
    ${!data && !error && html`<${Loading} />`}
    ${data?.queues.length === 0 && html`<${Empty} title="No queues yet">A queue is there as soon as a task names it. <${MaySubmit}><a href=${to("types")}>Submit one</a>.<//><//>`}
    ${data?.queues.length > 0 && html`<div class="scroll"><table class="stacked">
      <thead><tr><th>Queue</th>${COLUMNS.map(([title]) => html`<th class="num" key=${title}>${title}</th>`)}<th>Oldest</th><th>Rules</th><th><span class="sr">Actions</span></th></tr></thead>
      <tbody>${data.queues.map(queue => html`<${Row} key=${queue.queue} queue=${queue} reload=${reload} edit=${() => setEdited(queue)} purge=${setPurged} />`)}</tbody></table></div>`}
    ${edited && html`<${Rules} queue=${edited} close=${() => setEdited(null)} reload=${reload} />`}
    ${purged && html`<${Purge} ...${purged} close=${() => setPurged(null)} reload=${reload} />`}
  <//>`;
}

function Row({ queue, reload, edit, purge }) {
  const { queue: name, paused, tasks, pending_since } = queue;
  const path = pathOf`v1/queues/${name}`;
  const turn = async () => {
    await send("POST", `${path}/${paused ? "resume" : "pause"}`, undefined, { scope: "operate" });
    reload();
    return paused ? `${name} goes on.` : `${name} is paused: nothing more of it starts.`;
  };
  const ask = async () => purge({ name, matched: (await send("POST", `${path}/purge`, { dry_run: true }, { scope: "operate" })).matched });
  return html`<tr data-row>
    <td class="name"><a data-open class="user" href=${to("tasks", { q: `queue:${quoted(name)}` })}>${name}</a> ${paused && html`<${State} state="paused" />`}</td>
    ${COLUMNS.map(([title, ...states]) => html`<${Count} key=${title} title=${title} name=${name} states=${states} n=${states.reduce((sum, each) => sum + (tasks[each] ?? 0), 0)} />`)}
    <td data-label="Oldest">${pending_since ? html`<${Since} at=${pending_since} />` : html`<span class="quiet">–</span>`}</td>
    <td class="quiet rules" data-label="Rules">${rulesInWords(queue)}</td>
    <td class="row-actions"><${Action} act=${turn}>${paused ? "Resume" : "Pause"}<//><${Action} scope="admin" act=${edit}>Rules<//><${Action} act=${ask}>Purge<//></td>
  </tr>`;
}

/** How many, and the way to them. */
function Count({ title, name, states, n }) {
  if (!n) return html`<td class="num" data-label=${title}><span class="quiet">0</span></td>`;
  return html`<td class="num" data-label=${title}><a class=${states[0] === "failed" ? "bad" : "count"} href=${to("tasks", { q: `queue:${quoted(name)} state:${states.join(",")}` })}>${count(n)}</a></td>`;
}

function rulesInWords(queue) {
  const words = [queue.order === "aging" ? "aging" : null, limits(queue), limits(queue.per_key) && `each key: ${limits(queue.per_key)}`].filter(Boolean);
  return words.join("; ") || "none";
}

const limits = ({ concurrency, rate }) =>
  [concurrency && `${concurrency} at a time`, rate && `${rate.limit} per ${duration(rate.period * 1000)}`].filter(Boolean).join(", ");

function Purge({ name, matched, close, reload }) {
  const act = async () => {
    const { changed } = await send("POST", pathOf`v1/queues/${name}/purge`, undefined, { scope: "operate" });
    reload();
    return `${plural(changed, "task")} cancelled.`;
  };
  if (!matched) return html`<${Confirm} title="Nothing waits" verb="All right" kind="primary" close=${close} act=${async () => ""}><p>There is nothing to cancel in <span class="user">${name}</span>.</p><//>`;
  return html`<${Confirm} title=${`Cancel what waits in ${name}?`} verb=${`Cancel ${plural(matched, "task")}`} close=${close} act=${act}><p>What runs goes on.</p><//>`;
}

// Rules

function Rules({ queue, close, reload }) {
  const [fault, setFault] = useState(null);
  const save = async event => {
    event.preventDefault();
    const form = new FormData(event.target);
    const read = before => ({ concurrency: number(form.get(`${before}concurrency`)), rate: readRate(form, before) });
    try {
      await send("PUT", pathOf`v1/queues/${queue.queue}`, { order: form.get("order"), ...read(""), per_key: read("key.") }, { scope: "admin" });
      reload();
      close();
    } catch (error) {
      setFault(error);
    }
  };
  return html`<${Dialog} title=${`Rules of ${queue.queue}`} close=${close}>
    <form onSubmit=${save}><div class="dialog-body form">
      <${Field} label="Order" hint="aging: who waits rises, so that nothing waits for ever"><select name="order">${["strict", "aging"].map(each => html`<option key=${each} selected=${each === queue.order}>${each}</option>`)}</select><//>
      <${Limits} title="Of the whole queue" before="" values=${queue} />
      <${Limits} title="Of each key in it" before="key." values=${queue.per_key} />
      <${Problem} error=${fault} />
    </div><footer><button type="button" onClick=${close}>Leave as it is</button><button class="primary">Save</button></footer></form>
  <//>`;
}

const Limits = ({ title, before, values }) => html`<fieldset><legend>${title}</legend>
  <${Field} label="At a time"><input name=${`${before}concurrency`} type="number" min="1" defaultValue=${values.concurrency ?? ""} placeholder="no limit" /><//>
  <div class="together"><${Field} label="Starts"><input name=${`${before}limit`} type="number" min="1" defaultValue=${values.rate?.limit ?? ""} placeholder="no limit" /><//>
  <${Field} label="in seconds"><input name=${`${before}period`} type="number" min="0.001" step="any" defaultValue=${values.rate?.period ?? ""} placeholder="1" /><//>
  <${Field} label="at once"><input name=${`${before}burst`} type="number" min="1" defaultValue=${values.rate?.burst ?? ""} placeholder="as many" /><//></div>
</fieldset>`;

const number = text => (text === "" || text === null ? null : Number(text));

function readRate(form, before) {
  const limit = number(form.get(`${before}limit`));
  if (limit === null) return null;
  const [period, burst] = [number(form.get(`${before}period`)), number(form.get(`${before}burst`))];
  return { limit, ...(period !== null && { period }), ...(burst !== null && { burst }) };
}
