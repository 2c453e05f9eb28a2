// One task: how it went through its states, what it was given and gave, what it told, its family.

import { useEffect, useMemo, useState } from "preact/hooks";
import { BASE, access, ask, follow, pathOf, send } from "./api.js";
import { to, go } from "./router.js";
import { ENDED } from "./search.js";
import { duration, members, plural, shellWord } from "./text.js";
import { Action, Ago, Card, Confirm, Copy, Dialog, Json, Loading, MaySubmit, Moment, Page, Problem, Since, State, html, useData } from "./ui.js";

const LOGS_MAX = 500;
const AGAIN_MS = 300;

export function Task({ id }) {
  const { task, error, reload } = useTask(id);
  const [asking, setAsking] = useState(null);
  if (!task) {
    return html`<${Page} title="Task" heading=${html`Task <span class="user id">${id}</span>`}>${error ? html`<${Problem} error=${error} retry=${reload} />
      ${error.status === 404 && html`<p>It may have ended and been cleaned up, or never been. <a href=${to("tasks")}>All tasks</a></p>`}` : html`<${Loading} />`}<//>`;
  }
  const ended = ENDED.includes(task.state);
  const path = pathOf`v1/tasks/${id}`;
  const retry = async () => {
    await send("POST", `${path}/retry`, undefined, { scope: "operate" });
    reload();
  };
  const actions = html`${!ended && html`<${Action} act=${() => setAsking("cancel")}>Cancel<//>`}
    ${ended && html`<${Action} kind="primary" act=${retry} done="It waits again.">Retry<//>`}
    <${MaySubmit}><a class="button" href=${to("types", task.type, { from: id })}>${ended ? "Retry with another payload" : "Submit one like it"}</a><//>
    ${ended && html`<${Action} act=${() => setAsking("delete")}>Delete<//>`}
    <${MaySubmit}><button onClick=${() => setAsking("curl")}>As curl</button><//>`;
  return html`<${Page} title=${`${task.type} ${id}`} heading=${html`<span class="user">${task.type}</span> <span class="user id">${id}</span>`}
      note=${html`<${State} state=${task.state} reason=${task.reason} /> ${task.cancel_requested && html`<span class="chip">asked to stop</span>`}`} actions=${actions}>
    <${Problem} error=${error} retry=${reload} />
    ${task.state === "running" && html`<${Progress} progress=${task.progress} />`}
    <div class="columns wide-first">
      <div class="stack">
        <${Errors} task=${task} />
        <${Card} title="Payload"><${Json} text=${task.raw.payload} label="Payload" /><//>
        ${task.state === "succeeded" && html`<${Card} title="Result"><${Json} text=${task.raw.result} label="Result" /><//>`}
        <${Logs} logs=${task.logs ?? []} />
        <${Tree} id=${id} task=${task} />
      </div>
      <div class="stack"><${Timeline} task=${task} /><${Facts} task=${task} /></div>
    </div>
    ${asking === "curl" && html`<${AsCurl} task=${task} close=${() => setAsking(null)} />`}
    ${asking === "cancel" && html`<${Confirm} title="Cancel this task?" verb="Cancel the task" close=${() => setAsking(null)}
      act=${async () => { await send("POST", `${path}/cancel`, undefined, { scope: "operate" }); reload(); return "Cancelled, or told to stop."; }}>
      <p>${cancelMeans(task)}</p><//>`}
    ${asking === "delete" && html`<${Confirm} title="Delete this task?" verb="Delete the task" close=${() => setAsking(null)}
      act=${async () => { await send("DELETE", path, undefined, { scope: "operate" }); go(to("tasks"), { replace: true }); return "Deleted."; }}>
      <p>It and its result are gone for good.</p><//>`}
  <//>`;
}

const cancelMeans = task =>
  task.state !== "running"
    ? "It will not start. Its children are cancelled too."
    : task.cancellable === "thread"
      ? "It runs in a thread, which cannot be stopped: the task ends when its function returns."
      : "It is told to stop now. Its children are cancelled too.";

/** The task as it is and becomes: `raw` has the texts of its payload and its result. */
function useTask(id) {
  const [task, setTask] = useState(null);
  const [error, setError] = useState(null);
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const controller = new AbortController();
    const { signal } = controller;
    const path = pathOf`v1/tasks/${id}`;
    let timer = 0;
    let frame = 0;
    let said = [];
    const show = text => {
      // What was said before it is in it.
      said = [];
      setTask(read(text));
      setError(null);
    };
    // The stream alone knows which lines came before this answer was made, and which after.
    const showBesideLogs = text => {
      setTask(old => ({ ...read(text), ...(old && { logs: old.logs }) }));
      setError(null);
    };
    const load = () => ask("GET", path, { signal }).then(showBesideLogs, each => each.name !== "AbortError" && setError(each));
    const soon = () => (timer ||= setTimeout(() => { timer = 0; load(); }, AGAIN_MS));
    const flush = () => {
      frame = 0;
      const told = said;
      said = [];
      setTask(old => old && told.reduce(withSaid, old));
    };
    const told = ({ event, data }) => {
      if (event === "snapshot" || event === "end") {
        if (data === "null") setError({ status: 404, message: "It was deleted.", problem: {} });
        else show(data);
      } else if (event === "task.progressed" || event === "task.logged") {
        said = [...said.slice(1 - LOGS_MAX), { event, ...JSON.parse(data) }];
        frame ||= requestAnimationFrame(flush);
      } else soon();
    };
    load().then(() => follow(`${path}/events`, told, { signal })).catch(() => {});
    return () => {
      controller.abort();
      clearTimeout(timer);
      cancelAnimationFrame(frame);
    };
  }, [id, turn]);
  return { task, error, reload: () => setTurn(each => each + 1) };
}

function read(text) {
  const raw = members(text);
  return { ...JSON.parse(text), raw: { payload: raw.get("payload") ?? "null", result: raw.get("result") ?? "null" } };
}

function withSaid(task, { event, at, attempt, text, fraction, message }) {
  if (event === "task.progressed") return { ...task, progress: { fraction, message } };
  return { ...task, logs: [...(task.logs ?? []).slice(1 - LOGS_MAX), { at, attempt, text }] };
}

// Its parts

function Progress({ progress }) {
  if (!progress) return null;
  const { fraction, message } = progress;
  const known = fraction !== null && fraction !== undefined;
  return html`<div class="progress"><progress value=${known ? fraction : undefined} aria-label="Progress"></progress>
    <span>${known && html`<strong>${Math.round(fraction * 100)} %</strong> `}<span class="user">${message ?? ""}</span></span></div>`;
}

function Errors({ task }) {
  const errors = [...task.errors].reverse();
  if (!errors.length) return null;
  return html`<${Card} title=${task.state === "failed" ? "Why it failed" : "Failed attempts"} note=${plural(errors.length, "attempt")}
      actions=${task.fingerprint && html`<a href=${to("tasks", { q: `fingerprint:${task.fingerprint}` })}>Others like it</a>`}>
    ${errors.map((error, at) => html`<details class="attempt" key=${error.attempt + error.at} open=${at === 0}>
      <summary><span class="quiet">Attempt ${error.attempt}</span> <strong class="user">${error.type}</strong> <span class="user">${error.message.slice(0, 300)}</span></summary>
      <p class="quiet">${error.reason}${error.duration !== undefined && ` after ${duration(error.duration * 1000)}`}, <${Ago} at=${error.at} />${error.frame && html`, in <code class="user">${error.frame}</code>`}</p>
      ${error.message.length > 300 && html`<pre class="user">${error.message}</pre>`}
      ${error.traceback && html`<div class="raw"><pre class="user" tabindex="0" aria-label="Traceback">${error.traceback}</pre><div class="raw-actions"><${Copy} text=${error.traceback} /></div></div>`}
    </details>`)}
  <//>`;
}

function Logs({ logs }) {
  if (!logs.length) return null;
  return html`<${Card} title="Log" note=${plural(logs.length, "line")}><ol class="log" tabindex="0" aria-label="Log">
    ${logs.map((line, at) => html`<li key=${at}><time class="quiet" datetime=${line.at}>${line.at.slice(11, 23)}</time> <span class="user">${line.text}</span></li>`)}
  </ol><//>`;
}

/** The moments of *task*, the oldest first: `{at, what, state}`. */
function moments(task) {
  const found = [{ at: task.created_at, state: "pending", what: task.schedule ? html`Made by the schedule <a href=${to("schedules", task.schedule)}>${task.schedule}</a>` : "Submitted" }];
  const starts = Date.parse(task.run_at);
  if (!task.errors.length && starts - Date.parse(task.created_at) > 1) found.push({ at: task.run_at, state: "scheduled", what: starts > Date.now() ? "May start" : "Could start" });
  for (const error of task.errors) {
    const what = error.duration === undefined ? error.reason : `${error.reason} after ${duration(error.duration * 1000)}`;
    found.push({ at: error.at, state: "failed", what: html`Attempt ${error.attempt}: ${what}<div class="user quiet">${error.type}</div>` });
  }
  const last = task.errors.at(-1)?.at ?? "";
  if (task.started_at && task.started_at > last) found.push({ at: task.started_at, state: "running", what: html`Attempt ${task.attempt} began${task.worker ? html`<div class="quiet">on worker ${task.worker}</div>` : ""}` });
  if (task.state === "retrying") found.push({ at: task.run_at, state: "retrying", what: `Attempt ${task.attempt + 1} may start` });
  if (task.finished_at) found.push({ at: task.finished_at, state: task.state, what: html`${task.state[0].toUpperCase()}${task.state.slice(1)}${task.reason && task.reason !== "ok" ? `: ${task.reason}` : ""}` });
  return found;
}

function Timeline({ task }) {
  const steps = moments(task);
  const [from, to] = [Date.parse(task.run_at), Date.parse(task.started_at ?? "")];
  const waited = to - Math.min(from, to);
  const ran = Date.parse(task.finished_at ?? "") - to;
  return html`<${Card} title="Timeline">
    ${task.state === "succeeded" && waited + ran > 0 && html`<div class="split" role="img" aria-label=${`waited ${duration(waited)}, ran ${duration(ran)}`}>
      <span class="waited" style=${{ flexGrow: waited }}></span><span class="ran" style=${{ flexGrow: ran }}></span></div>
      <p class="quiet split-note">waited ${duration(waited)}, ran ${duration(ran)}</p>`}
    <ol class="timeline">${steps.map((step, at) => html`<li key=${at} class=${step.state}><div>${step.what}</div><${Gap} at=${step.at} before=${steps[at - 1]?.at} /></li>`)}
      ${task.state === "running" && html`<li class="running now"><div>Runs for <${Since} at=${task.started_at} /></div></li>`}</ol>
  <//>`;
}

function Gap({ at, before }) {
  const ms = before ? Date.parse(at) - Date.parse(before) : null;
  return html`<span class="quiet"><${Moment} at=${at} />${ms > 0 && ` +${duration(ms)}`}</span>`;
}

function Facts({ task }) {
  const link = id => html`<a class="user id" href=${to("tasks", id)}>${id}</a>`;
  const search = (name, value) => html`<a class="user" href=${to("tasks", { q: `${name}:${/^[^\s"]+$/.test(value) ? value : JSON.stringify(value)}` })}>${value}</a>`;
  const facts = [
    ["Id", html`<span class="user id">${task.id}</span> <${Copy} text=${task.id} />`],
    ["Queue", search("queue", task.queue)],
    ["Priority", task.priority],
    ["Attempts", `${task.attempt} of ${task.max_attempts}`],
    ["Time-out", duration(task.timeout * 1000)],
    ["Key", task.key && search("key", task.key)],
    ["Tags", task.tags?.map(each => html`<span key=${each}>${search("tag", each)} </span>`)],
    ["Parent", task.parent_id && link(task.parent_id)],
    ["Depends on", task.depends_on && html`${task.depends_on.map(each => html`<div key=${each}>${link(each)}</div>`)}${task.waiting_for && html`<span class="quiet">waits for ${task.waiting_for} of them</span>`}`],
    ["Unique", task.unique && html`<span class="user">${task.unique.key}</span> while ${task.unique.while}`],
    ["Deadline", task.deadline && html`<${Moment} at=${task.deadline} />`],
    ["Start by", task.expires_at && html`<${Moment} at=${task.expires_at} />`],
    ["Crashes", task.crashes || null],
    ["Server", task.server],
  ];
  return html`<${Card} title="Facts"><dl class="facts">${facts.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl><//>`;
}

function Tree({ id, task }) {
  const { data, error } = useData(pathOf`v1/tasks/${id}/tree`, { on: event => event.task_id !== undefined });
  if (error || !data || (!data.tree.children.length && !task.parent_id)) return null;
  return html`<${Card} title="Family" note=${data.more ? "the first of many" : ""}>
    ${task.parent_id && html`<p>Child of <a class="user id" href=${to("tasks", task.parent_id)}>${task.parent_id}</a></p>`}
    <ul class="tree"><${Branch} node=${data.tree} current=${id} /></ul><//>`;
}

const Branch = ({ node, current }) => html`<li><${State} state=${node.state} reason=${node.reason} /> <span class="user">${node.type}</span>
  ${node.id === current ? html`<span class="user id quiet">${node.id}</span>` : html`<a class="user id" href=${to("tasks", node.id)}>${node.id}</a>`}
  ${node.children.length > 0 && html`<ul>${node.children.map(each => html`<${Branch} key=${each.id} node=${each} current=${current} />`)}</ul>`}</li>`;

const OPTIONS = ["queue", "priority", "timeout", "max_attempts", "key", "tags", "unique"];

/** The body of a submit of a task like *task*: its payload is the text that it is. */
export function submitText(task) {
  const said = OPTIONS.filter(each => task[each] !== undefined).map(each => `${JSON.stringify(each)}: ${JSON.stringify(task[each])}`);
  return `{${[`"type": ${JSON.stringify(task.type)}`, `"payload": ${task.raw.payload}`, ...said].join(", ")}}`;
}

function AsCurl({ task, close }) {
  const key = access.key ? " \\\n     -H \"authorization: Bearer $TQ_KEY\"" : "";
  const command = `curl ${shellWord(new URL("v1/tasks", BASE).href)} -H 'content-type: application/json'${key} \\\n     -d ${shellWord(submitText(task))}`;
  return html`<${Dialog} title="Submit this task again, as curl" close=${close} wide=${true}><div class="dialog-body"><pre class="user" tabindex="0" aria-label="Command">${command}</pre></div>
    <footer><button onClick=${close}>Close</button><${Copy} kind="primary" text=${command} /></footer><//>`;
}
