// Dead letters: what failed for good, by cause, and running it again.

import { useState } from "preact/hooks";
import { send } from "./api.js";
import { to } from "./router.js";
import { count, plural } from "./text.js";
import { Action, Ago, Confirm, Empty, Held, Loading, Page, Problem, html, useData, useScrolled } from "./ui.js";

const GROUPS = 100;

export function Dead() {
  const held = useScrolled();
  const { data, error, reload, missed } = useData(`v1/failures?limit=${GROUPS}`, { on: matters, held });
  const [wanted, setWanted] = useState(null);
  const groups = data?.groups ?? [];
  const all = groups.reduce((sum, each) => sum + each.count, 0);
  const note = groups.length > 0 && (groups.length < GROUPS ? `${plural(all, "failed task")}, ${plural(groups.length, "cause")}` : html`the ${GROUPS} most frequent causes of <a href=${to("tasks", { q: "state:failed" })}>all failed tasks</a>`);
  // There may be more than those that are shown, and by now others.
  const want = action => async () => {
    const filter = { state: "failed" };
    const { matched, more } = await send("POST", `v1/tasks/${action}`, { filter, dry_run: true }, { scope: "operate" });
    setWanted({ action, filter, matched, more });
  };
  const everything = groups.length > 0 && html`<${Action} act=${want("retry")}>Retry all<//><${Action} act=${want("delete")}>Delete all<//>`;
  const show = () => {
    window.scrollTo(0, 0);
    reload();
  };
  return html`<${Page} title="Dead letters" note=${note} actions=${everything}>
    <${Problem} error=${error} retry=${reload} />
    <${Held} missed=${missed} show=${show} />
    ${!data && !error && html`<${Loading} />`}
    ${data && !groups.length && html`<${Empty} title="No dead letters">Tasks whose last attempt failed would be here, by cause, for a week.<//>`}
    <ul class="groups">${groups.map(group => html`<${Group} key=${group.fingerprint} group=${group} ask=${setWanted} />`)}</ul>
    ${wanted && html`<${Sure} ...${wanted} close=${() => setWanted(null)} reload=${reload} />`}
  <//>`;
}

const matters = event => event.event === "task.retried" || event.event === "task.deleted" || event.event === "tasks.pruned" || event.state === "failed";

function Group({ group, ask }) {
  const { fingerprint, type, latest, error } = group;
  const filter = { fingerprint, state: "failed" };
  const want = action => () => ask({ action, filter, matched: group.count });
  return html`<li class="card group" data-row>
    <div class="group-count"><strong>${count(group.count)}</strong><span class="quiet">${group.count === 1 ? "task" : "tasks"}</span></div>
    <div class="group-body"><h2><span class="user">${type}</span> <span class="user fault">${error.type}</span></h2>
      <p class="user message">${error.message.slice(0, 500)}</p>
      <p class="quiet">Last <${Ago} at=${error.at} />${error.frame && html` in <code class="user">${error.frame}</code>`} · <a data-open href=${to("tasks", latest)}>latest task</a> · <a href=${to("tasks", { q: `fingerprint:${fingerprint}` })}>all of them</a></p>
      ${error.traceback && html`<details><summary>Traceback</summary><pre class="user" tabindex="0" aria-label="Traceback">${error.traceback}</pre></details>`}</div>
    <div class="row-actions"><${Action} kind="primary" act=${want("retry")}>Retry ${count(group.count)}<//><${Action} act=${want("delete")}>Delete<//></div>
  </li>`;
}

function Sure({ action, filter, matched, more, close, reload }) {
  const verb = action === "retry" ? "Retry" : "Delete";
  const act = async () => {
    const { changed } = await send("POST", `v1/tasks/${action}`, { filter }, { scope: "operate" });
    reload();
    return `${plural(changed, "task")} ${action === "retry" ? "wait again" : "deleted"}.`;
  };
  return html`<${Confirm} title=${`${verb} ${plural(matched, "failed task")}?`} verb=${`${verb} ${count(matched)}`} kind=${action === "retry" ? "primary" : "danger"} close=${close} act=${act}>
    <p>${action === "retry" ? "They wait again, with all their attempts before them." : "They are gone for good."}</p>
    ${more && html`<p>There are more than can be changed at once: the newest ${count(matched)} are.</p>`}<//>`;
}
