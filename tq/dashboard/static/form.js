// A form made from a JSON Schema, and the JSON that it makes. What a form cannot show is a field of JSON text.

import { Field, html } from "./ui.js";

const SIMPLE = { string: "text", integer: "number", number: "number", boolean: "checkbox" };

/** The fields of an object schema, `[{name, schema, required, kind}]`; null if a form cannot show it. */
export function fieldsOf(schema) {
  const whole = schema === true ? {} : deref(schema, schema);
  if (whole.type !== "object" || !whole.properties) return null;
  const required = new Set(whole.required ?? []);
  return Object.entries(whole.properties).map(([name, each]) => {
    const found = deref(each, schema);
    return { name, schema: found, required: required.has(name), kind: kindOf(found) };
  });
}

function deref(part, whole) {
  const name = part.$ref?.match(/^#\/\$defs\/(.+)$/)?.[1];
  return name === undefined ? part : deref(whole.$defs?.[decodeURIComponent(name)] ?? {}, whole);
}

function kindOf(schema) {
  if (schema.enum) return "choice";
  return SIMPLE[schema.type] ?? "json";
}

/** What is in each field at first, as text, from the texts of *given*, or from the defaults. */
export function startOf(fields, given = new Map()) {
  return Object.fromEntries(fields.map(({ name, schema, kind }) => [name, given.has(name) ? shown(given.get(name), kind) : shownDefault(schema, kind)]));
}

function shown(text, kind) {
  if (kind === "text" && text.startsWith('"')) return JSON.parse(text);
  if (kind === "checkbox") return text === "true";
  return text;
}

function shownDefault(schema, kind) {
  if (schema.default === undefined || schema.default === null) return kind === "checkbox" ? false : "";
  return kind === "text" ? String(schema.default) : kind === "checkbox" ? schema.default : JSON.stringify(schema.default);
}

/** The JSON text of an object with *values*. Numbers are the texts that were typed. Raises SyntaxError naming the field. */
export function textOf(fields, values) {
  const parts = [];
  for (const { name, schema, required, kind } of fields) {
    const value = values[name];
    if (value === "" && !(required && kind === "text")) {
      if (required) throw new SyntaxError(`${name} is missing.`);
      continue;
    }
    if (kind === "checkbox" && !required && schema.default === undefined && !value) continue;
    parts.push(`${JSON.stringify(name)}: ${asJson(name, value, kind)}`);
  }
  return `{${parts.join(", ")}}`;
}

function asJson(name, value, kind) {
  if (kind === "text") return JSON.stringify(value);
  if (kind === "checkbox") return String(value);
  try {
    JSON.parse(value);
  } catch {
    throw new SyntaxError(`${name}: ${JSON.stringify(value.slice(0, 60))} is not JSON.`);
  }
  return value;
}

export function Fields({ fields, values, change }) {
  return fields.map(({ name, schema, required, kind }) => {
    const set = value => change({ ...values, [name]: value });
    const hint = [required ? null : "optional", schema.description, kind === "json" ? "as JSON" : null].filter(Boolean).join(" · ");
    return html`<${Field} key=${name} label=${name} hint=${hint}>${control(kind, schema, required, values[name], set)}<//>`;
  });
}

function control(kind, schema, required, value, set) {
  const typed = event => set(event.target.value);
  if (kind === "checkbox") return html`<input type="checkbox" checked=${value} onChange=${event => set(event.target.checked)} />`;
  if (kind === "choice") {
    return html`<select value=${value} onChange=${typed}>${!required && html`<option value="">–</option>`}${schema.enum.map(each => html`<option key=${String(each)} value=${JSON.stringify(each)}>${String(each)}</option>`)}</select>`;
  }
  if (kind === "json") return html`<textarea rows="3" class="code" spellcheck=${false} value=${value} onInput=${typed} placeholder=${exampleOf(schema)}></textarea>`;
  // A number is typed as text: a number of the browser's own would lose digits.
  return html`<input type="text" inputmode=${kind === "number" ? "decimal" : undefined} value=${value} onInput=${typed} spellcheck=${false} />`;
}

const exampleOf = schema => ({ array: "[ ]", object: "{ }" })[schema.type] ?? "";
