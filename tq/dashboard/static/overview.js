// How it goes: what is done and what fails, how long tasks wait and run, what waits, who works.

import { useEffect, useMemo, useState } from "preact/hooks";
import { get, ownQueues } from "./api.js";
import { Chart } from "./chart.js";
import { History, percentile } from "./history.js";
import { listen } from "./live.js";
import { to } from "./router.js";
import { STATES } from "./search.js";
import { count, duration, plural, rate, shortCount } from "./text.js";
import { Ago, Card, Empty, Loading, MaySubmit, Page, Problem, Since, State, html, useAccess, useData, useNow } from "./ui.js";

const POLL_MS = 2000;
const SPAN_S = 300;
const MINUTE_S = 60;
const SEED = 100; // tasks that are looked at for what was before the page was opened

const history = new History();
const changed = new Set();

/** Gather what happens, from now on. */
export function keepHistory() {
  history.begin(Date.now());
  if (!(ownQueues()?.length > 1)) {
    get(`v1/tasks?state=ended&view=brief&limit=${SEED}`).then(({ tasks, next }) => {
      history.seed(tasks, { isWhole: next === null });
      changed.forEach(each => each());
    }, () => {});
  }
  listen(events => {
    history.add(events);
    changed.forEach(each => each());
  });
}

export function Overview() {
  const isOfAll = useAccess(ownQueues) === null;
  const ofAll = path => (isOfAll ? path : null);
  const stats = useData(ofAll("v1/stats"), { every: POLL_MS });
  const queues = useData("v1/queues", { every: POLL_MS });
  const workers = useData(ofAll("v1/workers"), { every: POLL_MS });
  const servers = useData(ofAll("v1/servers"), { every: POLL_MS });
  const now = useNow();
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const told = () => setTurn(each => each + 1);
    changed.add(told);
    return () => changed.delete(told);
  }, []);
  const error = stats.error ?? queues.error ?? workers.error ?? servers.error;
  const loaded = queues.data && (!isOfAll || (stats.data && workers.data && servers.data));
  return html`<${Page} title="Overview">
    <${Problem} error=${error} />
    ${loaded ? html`<${Tiles} stats=${stats.data} queues=${queues.data.queues} servers=${servers.data?.servers} now=${now} />` : !error && html`<${Loading} />`}
    <${Charts} second=${Math.floor(now / POLL_MS)} now=${now} />
    <div class="columns">
      <${Lanes} queues=${queues.data?.queues} />
      <${Failures} turn=${turn} />
    </div>
    ${workers.data && html`<${Crew} workers=${workers.data} alone=${servers.data?.servers.length === 1} />`}
  <//>`;
}

function Tile({ title, value, unit, href, bad, children }) {
  const body = html`<dt>${title}</dt><dd class="big">${value}${unit && html`<small> ${unit}</small>`}</dd><dd class="quiet">${children}</dd>`;
  return html`<div class=${bad ? "tile bad" : "tile"}>${href ? html`<a href=${href}>${body}</a>` : body}</div>`;
}

function Tiles({ stats, queues, servers, now }) {
  const states = stats?.states ?? statesOf(queues);
  const minute = history.within(MINUTE_S, now);
  const known = Math.min(MINUTE_S, Math.max(1, (now - history.since) / 1000));
  const five = history.within(300, now);
  const all = five.good + five.bad;
  const lately = history.attempts.filter(each => each.at > now - SPAN_S * 1000);
  const since = queues.map(each => each.pending_since).filter(Boolean).sort()[0];
  const waiting = states.blocked + states.scheduled + states.pending + states.retrying;
  return html`<dl class="tiles">
    <${Tile} title="Throughput" value=${rate((minute.good + minute.bad) / known)} unit="/s">${stats ? `${shortCount(stats.totals.succeeded)} done in all` : "of attempts that ended"}<//>
    <${Tile} title="Failing" value=${all ? `${((100 * five.bad) / all).toFixed(five.bad && five.bad / all < 0.1 ? 1 : 0)}` : "–"} unit=${all ? "%" : ""} bad=${five.bad > 0}>of ${plural(all, "attempt")} in 5 min<//>
    <${Tile} title="Dead letters" value=${shortCount(states.failed)} href=${stats ? to("dead") : to("tasks", { q: "state:failed" })} bad=${states.failed > 0}>failed for good<//>
    <${Tile} title="Pending" value=${shortCount(states.pending)} href=${to("tasks", { q: "state:pending" })}>${since ? html`oldest for <${Since} at=${since} />` : "nothing waits for a worker"}<//>
    <${Tile} title="Later" value=${shortCount(waiting - states.pending)} href=${to("tasks", { q: "state:scheduled,retrying,blocked" })}>${count(states.scheduled)} scheduled, ${count(states.retrying)} retrying, ${count(states.blocked)} blocked<//>
    ${servers && html`<${Tile} title="Busy" value=${total(servers, "busy")} unit=${`of ${total(servers, "workers")}`} href=${to("workers")}>workers${servers.length > 1 && ` of ${servers.length} servers`}<//>`}
    <${Times} title="Wait" values=${lately.map(each => each.wait)} />
    <${Times} title="Run" values=${lately.map(each => each.run)} />
  </dl>`;
}

/** How many are in each state, by what each of *queues* has: for a key that may not see them all. */
function statesOf(queues) {
  const sum = Object.fromEntries(STATES.map(state => [state, 0]));
  for (const { tasks } of queues) for (const [state, n] of Object.entries(tasks)) sum[state] += n;
  return sum;
}

const total = (servers, field) => servers.reduce((all, each) => all + each[field], 0);

function Times({ title, values }) {
  const [p50, p95, p99] = [50, 95, 99].map(n => percentile(values, n));
  const shown = ms => (ms === null ? "–" : duration(ms));
  return html`<${Tile} title=${`${title}, median`} value=${shown(p50)}>p95 ${shown(p95)}, p99 ${shown(p99)}<//>`;
}

function Charts({ second, now }) {
  const data = useMemo(() => ({ rates: history.rates(SPAN_S, 5, now), times: history.times(SPAN_S, 10, now) }), [second]);
  const sum = history.within(SPAN_S, now);
  return html`<div class="columns">
    <${Card} title="Attempts a second" note="5 minutes">
      <${Chart} data=${data.rates} show=${rate} series=${[{ label: "ended", colour: "accent", fill: true }, { label: "failed", colour: "bad", fill: true }]}
        says=${`In five minutes ${plural(sum.good + sum.bad, "attempt")} ended, ${sum.bad} of them badly.`} /><//>
    <${Card} title="Wait and run, 95th percentile" note="5 minutes">
      <${Chart} data=${data.times} show=${duration} series=${[{ label: "wait", colour: "warn" }, { label: "run", colour: "accent" }]}
        says="How long attempts waited and ran in the last five minutes; the figures above say the same in numbers." /><//>
  </div>`;
}

function Lanes({ queues }) {
  return html`<${Card} title="Queues" actions=${html`<a href=${to("queues")}>All about queues</a>`}>
    ${queues?.length === 0 && html`<${Empty} title="No queue yet">A task makes its queue. <${MaySubmit}><a href=${to("types")}>Submit one</a>.<//><//>`}
    ${queues?.length > 0 && html`<div class="scroll"><table><thead><tr><th>Queue</th><th class="num">Pending</th><th class="num">Running</th><th class="num">Failed</th><th>Oldest</th></tr></thead>
      <tbody>${queues.slice(0, 12).map(({ queue, paused, tasks, pending_since }) => html`<tr key=${queue} data-row>
        <td><a data-open href=${to("tasks", { q: `queue:${queue}` })}>${queue}</a> ${paused && html`<${State} state="paused" />`}</td>
        <td class="num">${count(tasks.pending ?? 0)}</td><td class="num">${count(tasks.running ?? 0)}</td>
        <td class=${tasks.failed ? "num bad" : "num"}>${count(tasks.failed ?? 0)}</td><td>${pending_since ? html`<${Since} at=${pending_since} />` : html`<span class="quiet">–</span>`}</td></tr>`)}</tbody></table></div>`}
  <//>`;
}

function Failures({ turn }) {
  const failures = useMemo(() => [...history.failures], [turn]);
  return html`<${Card} title="Latest failures" actions=${ownQueues() === null && html`<a href=${to("dead")}>By cause</a>`}>
    ${failures.length === 0 ? html`<${Empty} title="Nothing failed lately">Failed attempts are shown here as they happen.<//>` : html`<div class="scroll"><table>
      <thead><tr><th>Task</th><th>State</th><th>When</th></tr></thead>
      <tbody>${failures.map(each => html`<tr key=${each.task_id + each.at} data-row><td><a data-open href=${to("tasks", each.task_id)}>${each.type}</a> <span class="quiet">attempt ${each.attempt}</span></td>
        <td><${State} state=${each.state} reason=${each.reason} /></td><td><${Ago} at=${each.at} /></td></tr>`)}</tbody></table></div>`}
  <//>`;
}

function Crew({ workers, alone }) {
  return html`<${Card} title="Workers" note=${`${workers.busy} of ${workers.count} busy${alone ? "" : ", of this server"}`} actions=${html`<a href=${to("workers")}>All about workers</a>`}>
    <ul class="crew">${workers.workers.slice(0, 120).map(({ worker, state, type, task_id, since, overran }) => html`<li key=${worker} class=${overran ? "overran" : state}>
      ${task_id ? html`<a href=${to("tasks", task_id)}><span class="quiet">${worker}</span> ${type}<small><${Since} at=${since} /></small></a>` : html`<span class="quiet">${worker}</span> idle`}</li>`)}</ul>
  <//>`;
}
