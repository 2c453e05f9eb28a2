// Workers: what each of this server runs, and how many there are; and the servers that share its store.

import { useState } from "preact/hooks";
import { send } from "./api.js";
import { to } from "./router.js";
import { plural } from "./text.js";
import { Ago, Card, Field, Loading, Page, Problem, Since, State, html, tell, useData, useMay } from "./ui.js";

const POLL_MS = 2000;

export function Workers() {
  const { data, error, reload } = useData("v1/workers", { every: POLL_MS, on: event => event.event === "workers.resized" });
  const servers = useData("v1/servers", { every: POLL_MS });
  const others = (servers.data?.servers ?? []).filter(each => !each.here);
  return html`<${Page} title="Workers" note=${data && `${data.busy} of ${plural(data.count, "worker")} busy${others.length ? ", of this server" : ""}`}>
    ${others.length > 0 && html`<${Elsewhere} others=${others} />`}
    <${Problem} error=${error} retry=${reload} />
    ${!data && !error && html`<${Loading} />`}
    ${data && html`<div class="columns wide-first"><${List} workers=${data.workers} /><${Resize} data=${data} reload=${reload} /></div>`}
    <${Problem} error=${servers.error} />
    ${servers.data && html`<${Servers} servers=${servers.data.servers} />`}
  <//>`;
}

/** That there is more than is shown here, and where. */
function Elsewhere({ others }) {
  const busy = others.reduce((sum, each) => sum + each.busy, 0);
  const all = others.reduce((sum, each) => sum + each.workers, 0);
  return html`<p class="note">These are the workers of the server that you ask. ${plural(others.length, "other server")} with ${plural(all, "worker")}, ${busy} of them busy, ${others.length === 1 ? "shares" : "share"} its store: see below.</p>`;
}

function List({ workers }) {
  return html`<div class="scroll"><table class="crew-table"><thead><tr><th class="num">Worker</th><th>State</th><th>Task</th><th class="wide-only">Queue</th><th class="num wide-only">Attempt</th><th class="num">For</th></tr></thead>
    <tbody>${workers.map(({ worker, state, since, task_id, type, queue, attempt, overran }) => html`<tr key=${worker} data-row tabindex=${task_id ? undefined : "-1"}>
      <td class="num">${worker}</td><td><${State} state=${overran ? "overran" : state} /></td>
      <td class="main">${task_id && html`<span class="user">${type}</span> <a data-open class="user id" href=${to("tasks", task_id)}>${task_id}</a>`}</td>
      <td class="user wide-only">${queue ?? ""}</td><td class="num wide-only">${attempt ?? ""}</td><td class="num"><${Since} at=${since} /></td></tr>`)}</tbody></table></div>`;
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

const Servers = ({ servers }) => html`<${Card} title="Servers" note=${servers.length > 1 ? `${servers.length} share the store` : "this one alone has the store"}>
  <div class="scroll"><table class="stacked servers">
    <thead><tr><th>Server</th><th>Role</th><th class="num">Busy</th><th>Handles</th><th>Version</th><th class="num">Up</th><th class="num">Seen</th></tr></thead>
    <tbody>${servers.map(each => html`<${Server} key=${each.id} server=${each} />`)}</tbody></table></div><//>`;

function Server({ server }) {
  const { id, host, pid, version, url, started_at, seen_at, types, workers, busy, leads, draining, here } = server;
  const way = here ? null : dashboardAt(url);
  const roles = [leads && "leads", draining && "drains"].filter(Boolean);
  return html`<tr data-row class=${here ? "here" : ""}>
    <td class="name">${way ? html`<a data-open class="id" href=${way}>${id}</a>` : html`<span class="id">${id}</span>`}${here && html`<span class="chip">this one</span>`}
      <div class="quiet user">${host}, process ${pid}${url && `, ${url}`}</div></td>
    <td data-label="Role">${roles.length ? roles.map(role => html`<${State} key=${role} state=${role} />`) : html`<span class="quiet">–</span>`}</td>
    <td class="num" data-label="Busy">${busy}<span class="quiet"> of ${workers}</span></td>
    <td class="wide user" data-label="Handles">${types === null ? "any type" : types.join(", ") || html`<span class="quiet">nothing</span>`}</td>
    <td data-label="Version">${version}</td><td class="num" data-label="Up"><${Since} at=${started_at} /></td><td class="num" data-label="Seen"><${Ago} at=${seen_at} /></td></tr>`;
}

const LOOPBACK = /^(localhost|127\..*|\[::1\])$/;
const NOWHERE = /^(0\.0\.0\.0|\[::\])$/; // it listens at all addresses and knows of none

/** The workers of another server, on its own dashboard; null where its address leads nowhere from here. */
function dashboardAt(url) {
  const { protocol, hostname, href } = URL.canParse(url ?? "") ? new URL("./#/workers", url) : {};
  if (!/^https?:$/.test(protocol) || NOWHERE.test(hostname)) return null;
  return LOOPBACK.test(hostname) && !LOOPBACK.test(location.hostname) ? null : href;
}
