// Workers and servers: who does what, and how many there are to be.

import { useEffect, useState } from "preact/hooks";
import { get, has, send } from "./api.js";
import { live } from "./live.js";
import { to } from "./router.js";
import { plural } from "./text.js";
import { Ago, Card, Field, Loading, Page, Problem, Since, State, html, tell, useData, useMay } from "./ui.js";

const POLL_MS = 2000;

export function Workers() {
  const { data, error, reload } = useData("v1/workers", { every: POLL_MS, on: event => event.event === "workers.resized" });
  return html`<${Page} title="Workers" note=${data && `${data.busy} of ${plural(data.count, "worker")} busy`}>
    <${Problem} error=${error} retry=${reload} />
    ${!data && !error && html`<${Loading} />`}
    ${data && html`<div class="columns wide-first"><${List} workers=${data.workers} /><div class="stack"><${Resize} data=${data} reload=${reload} /><${Servers} /></div></div>`}
  <//>`;
}

function List({ workers }) {
  return html`<div class="scroll"><table><thead><tr><th class="num">Worker</th><th>State</th><th>Task</th><th>Queue</th><th class="num">Attempt</th><th>For</th></tr></thead>
    <tbody>${workers.map(({ worker, state, since, task_id, type, queue, attempt, overran }) => html`<tr key=${worker} data-row tabindex=${task_id ? undefined : "-1"}>
      <td class="num">${worker}</td><td><${State} state=${overran ? "overran" : state} /></td>
      <td class="main">${task_id && html`<span class="user">${type}</span> <a data-open class="user id" href=${to("tasks", task_id)}>${task_id}</a>`}</td>
      <td class="user">${queue ?? ""}</td><td class="num">${attempt ?? ""}</td><td><${Since} at=${since} /></td></tr>`)}</tbody></table></div>`;
}

function Resize({ data, reload }) {
  const allowed = useMay("admin");
  const [fault, setFault] = useState(null);
  const save = async event => {
    event.preventDefault();
    const form = new FormData(event.target);
    try {
      await send("PUT", "v1/workers", { min: Number(form.get("min")), max: Number(form.get("max")) }, { scope: "admin" });
      setFault(null);
      tell("So many workers from now on, until this server ends.");
      reload();
    } catch (error) {
      setFault(error);
    }
  };
  return html`<${Card} title="How many">
    ${allowed ? html`<form class="form" onSubmit=${save}><div class="together">
      <${Field} label="At least"><input name="min" type="number" min="1" max="1000" required defaultValue=${data.min} /><//>
      <${Field} label="At most"><input name="max" type="number" min="1" max="1000" required defaultValue=${data.max} /><//></div>
      <button class="primary">Set</button></form>` : html`<p>${data.min === data.max ? data.min : `${data.min} to ${data.max}`}</p>`}
    <${Problem} error=${fault} />
    <p class="quiet">Of this server, until it ends. With fewer, busy ones end when their task has.</p>
  <//>`;
}

function Servers() {
  const [many, setMany] = useState(null);
  useEffect(() => {
    has("/v1/servers").then(setMany, () => setMany(false));
  }, []);
  return html`<${Card} title="Servers">${many === null ? html`<${Loading} />` : many ? html`<${All} />` : html`<p>This one: <code>${live.server ?? "…"}</code></p><p class="quiet">It has its store to itself.</p>`}<//>`;
}

function All() {
  const { data, error } = useData("v1/servers", { every: POLL_MS, read: get });
  if (!data) return html`<${Problem} error=${error} />`;
  return html`<ul class="servers">${data.servers.map(each => html`<li key=${each.server}><code>${each.server}</code>${each.server === live.server && html` <span class="chip">this one</span>`}
    <span class="quiet">${each.started_at && html` up <${Since} at=${each.started_at} />`}${each.seen_at && html`, seen <${Ago} at=${each.seen_at} />`}</span></li>`)}</ul>`;
}
