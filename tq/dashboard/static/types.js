// Types: what is handled here, and submitting a task, by a form or as JSON.

import { useEffect, useState } from "preact/hooks";
import { ask, ownQueues, pathOf } from "./api.js";
import { Fields, fieldsOf, startOf, textOf } from "./form.js";
import { go, to } from "./router.js";
import { duration, members, pretty } from "./text.js";
import { Card, Empty, Field, Json, Loading, MaySubmit, Page, Problem, html, tell, useAccess, useData, useMay } from "./ui.js";

/** What is known of the types to a key that is for some queues: nothing, as they are of all. */
const UNKNOWN = { types: [], anything: true };

export function Types({ id, query }) {
  const queues = useAccess(ownQueues);
  const maySubmit = useMay("submit");
  const { data: told, error, reload } = useData(queues ? null : "v1/types");
  const data = queues ? UNKNOWN : told;
  const from = query.get("from");
  const type = data?.types.find(each => each.type === id);
  return html`<${Page} key=${id ?? ""} title=${id ? `${maySubmit ? "Submit " : ""}${id}` : "Types"} heading=${id ? html`${maySubmit && "Submit "}<span class="user">${id}</span>` : "Types"} note=${type?.description}>
    <${Problem} error=${error} retry=${reload} />
    ${!data && !error && html`<${Loading} />`}
    ${data && id !== undefined && (maySubmit ? html`<${Submit} key=${`${id} ${from}`} type=${type ?? { type: id, payload: true }} from=${from} />` : html`<${Taken} type=${type} />`)}
    ${data && id === undefined && html`<${List} data=${data} />`}
  <//>`;
}

/** What a type takes, for a key that may not submit. */
const Taken = ({ type }) => html`<${Card} title="Payload" note="its JSON Schema">${type ? html`<${Json} text=${JSON.stringify(type.payload)} label="Schema" />` : html`<p class="quiet">Nothing is known of it here.</p>`}<//>
  <p class="quiet">This key may not submit.</p>`;

function List({ data }) {
  return html`${data.types.length > 0 && html`<div class="scroll"><table class="stacked">
    <thead><tr><th>Type</th><th>What it does</th><th>Payload</th><th>Queue</th><th class="num">Time-out</th><th class="num">Attempts</th><th>Runs in</th></tr></thead>
    <tbody>${data.types.map(each => html`<tr key=${each.type} data-row><td class="name"><a data-open class="user" href=${to("types", each.type)}>${each.type}</a></td><td class="user wide">${each.description}</td>
      <td class="rules" data-label="Payload"><code>${signature(each.payload)}</code></td><td class="user" data-label="Queue">${each.queue}</td><td class="num" data-label="Time-out">${duration(each.timeout * 1000)}</td>
      <td class="num" data-label="Attempts">${each.max_attempts}</td><td data-label="Runs in">${each.runs}</td></tr>`)}</tbody></table></div>`}
    ${data.anything && html`<${MaySubmit}><${AnyType} /><//>`}
    ${!data.anything && !data.types.length && html`<${Empty} title="No handlers">This server does nothing yet: start it as <code>tq serve module:app</code>.<//>`}`;
}

function signature(schema) {
  const fields = fieldsOf(schema);
  return fields ? fields.map(each => each.name + (each.required ? "" : "?")).join(", ") || "nothing" : "any JSON";
}

function AnyType() {
  const open = event => {
    event.preventDefault();
    const type = new FormData(event.target).get("type").trim();
    if (type) go(to("types", type));
  };
  return html`<${Card} title="Any other type"><form class="form inline" onSubmit=${open}>
    <${Field} label="Type" hint="This server takes every type."><input name="type" required maxlength="64" autocomplete="off" spellcheck=${false} /><//><button class="primary">Make a task</button></form><//>`;
}

// Submitting

const OPTIONS = [
  ["id", "Id", "makes it safe to repeat; one is made"],
  ["queue", "Queue", ""],
  ["priority", "Priority", "−100 to 100, or low, normal, high, critical"],
  ["delay", "Delay", "seconds"],
  ["key", "Key", "whose task it is"],
  ["tags", "Tags", "with spaces between them"],
];

function Submit({ type, from }) {
  const fields = fieldsOf(type.payload);
  const [values, setValues] = useState(() => startOf(fields ?? []));
  const [text, setText] = useState(fields ? "" : "{}");
  const [asText, setAsText] = useState(!fields);
  const [options, setOptions] = useState(() => ({ queue: ownQueues()?.[0] ?? "" }));
  const [fault, setFault] = useState(null);
  useEffect(() => {
    if (!from) return;
    ask("GET", pathOf`v1/tasks/${from}`).then(found => {
      const task = JSON.parse(found);
      const payload = members(found).get("payload") ?? "null";
      setText(pretty(payload));
      if (fields && fits(payload, fields)) setValues(startOf(fields, members(payload)));
      else setAsText(true);
      setOptions({ queue: task.queue, priority: String(task.priority), key: task.key ?? "", tags: (task.tags ?? []).join(" ") });
    }, setFault);
  }, []);
  const turn = () => {
    try {
      if (!asText) setText(pretty(textOf(fields, values)));
      else setValues(startOf(fields, members(text)));
      setAsText(!asText);
      setFault(null);
    } catch (error) {
      setFault(error);
    }
  };
  const submit = async event => {
    event.preventDefault();
    try {
      const payload = asText ? checked(text) : textOf(fields, values);
      const made = JSON.parse(await ask("POST", "v1/tasks", { body: bodyOf(type.type, payload, options), scope: "submit" }));
      tell("Submitted.");
      go(to("tasks", made.id));
    } catch (error) {
      setFault(error);
    }
  };
  return html`<form class="submit" onSubmit=${submit}>
    <${Card} title="Payload" actions=${fields && html`<button type="button" class="plain" onClick=${turn}>${asText ? "As a form" : "As JSON"}</button>`}>
      <div class="form">${asText ? html`<${Field} label="JSON"><textarea class="code" rows="12" spellcheck=${false} value=${text} onInput=${event => setText(event.target.value)}></textarea><//>` : fields.length ? html`<${Fields} fields=${fields} values=${values} change=${setValues} />` : html`<p class="quiet">This type takes nothing.</p>`}</div><//>
    <${Card} title="Options"><div class="form grid">${OPTIONS.map(([name, label, hint]) => html`<${Field} key=${name} label=${label} hint=${hint}>
      <input type="text" value=${options[name] ?? ""} placeholder=${type[name] ?? ""} autocomplete="off" spellcheck=${false} onInput=${event => setOptions({ ...options, [name]: event.target.value })} /><//>`)}</div><//>
    <${Problem} error=${fault} />
    <button class="primary">Submit</button>
  </form>`;
}

/** Whether a form with *fields* can show the object *payload*. */
function fits(payload, fields) {
  const names = new Set(fields.map(each => each.name));
  return payload.startsWith("{") && [...members(payload).keys()].every(each => names.has(each));
}

function checked(text) {
  try {
    JSON.parse(text);
  } catch (error) {
    throw new SyntaxError(`The payload is not JSON: ${error.message}`);
  }
  return text;
}

/** The body of the request: *payload* is put in as the text that it is, so that no number changes. */
function bodyOf(type, payload, options) {
  const said = { type };
  for (const [name, value] of Object.entries(options)) {
    if (value === "") continue;
    if (name === "tags") said.tags = value.split(/\s+/).filter(Boolean);
    else if (name === "delay") said.delay = Number(value);
    else if (name === "priority" && /^-?\d+$/.test(value)) said.priority = Number(value);
    else said[name] = value;
  }
  return `${JSON.stringify(said).slice(0, -1)}, "payload": ${payload}}`;
}
