"use strict";
// Shows the contract of the server that the page came from. Text only ever becomes text: no HTML is made of it.

const METHODS = ["get", "put", "post", "patch", "delete"];

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// Text in which `this` is code.
function marked(text) {
  const parts = (text || "").split("`");
  return parts.map((part, index) => (index % 2 ? make("code", {}, part) : part));
}

function paragraph(text) {
  return make("p", { class: "text" }, ...marked(text));
}

function nameOf(reference) {
  return reference.split("/").pop();
}

function resolve(contract, value) {
  if (!value || !value.$ref) return value;
  return value.$ref.slice(2).split("/").reduce((at, key) => at[key], contract);
}

// A schema in one line, the names of others as links to them.
function brief(schema) {
  if (!schema || Object.keys(schema).length === 0) return ["any JSON"];
  if (schema.$ref) return [make("a", { href: "#schema-" + nameOf(schema.$ref) }, nameOf(schema.$ref))];
  for (const key of ["anyOf", "oneOf", "allOf"]) {
    if (schema[key] && !schema.type) return schema[key].flatMap((each, index) => (index ? [" or ", ...brief(each)] : brief(each)));
  }
  if (schema.type === "array") return ["array of ", ...brief(schema.items), ...bounds(schema)];
  if ("const" in schema) return [JSON.stringify(schema.const)];
  if (schema.enum) return [schema.enum.map((each) => JSON.stringify(each)).join(" | ")];
  return [[].concat(schema.type || "any JSON").join(" or "), ...bounds(schema)];
}

function bounds(schema) {
  const names = ["format", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"];
  const told = names.filter((name) => name in schema).map((name) => name + " " + schema[name]);
  return told.length ? [" (" + told.join(", ") + ")"] : [];
}

function row(name, required, schema, text) {
  const first = make("td", {}, make("code", {}, name), required ? " *" : "");
  const byDefault = schema && schema.default !== undefined && schema.default !== null;
  const extra = byDefault ? [", default " + JSON.stringify(schema.default)] : [];
  return make("tr", {}, first, make("td", {}, ...brief(schema), ...extra), make("td", {}, ...marked(text)));
}

function fields(schema) {
  const required = new Set(schema.required || []);
  const rows = Object.entries(schema.properties || {}).map(([name, inner]) =>
    row(name, required.has(name), inner, inner.description)
  );
  return rows.length ? make("table", {}, ...rows) : make("p", {}, ...brief(schema));
}

function quoted(text) {
  return "'" + text.replaceAll("'", "'\\''") + "'";
}

function curl(path, method, operation) {
  const examples = Object.fromEntries((operation.parameters || []).map((each) => [each.name, each.example]));
  const filled = path.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(examples[name]));
  const base = new URL(".", document.baseURI).href.replace(/\/$/, "");
  const lines = ["curl " + (method === "get" || method === "post" ? "" : "-X " + method.toUpperCase() + " ") + quoted(base + filled)];
  const body = operation.requestBody;
  if (body) {
    const [media, content] = Object.entries(body.content)[0];
    lines.push("-H " + quoted("content-type: " + media), "-d " + quoted(JSON.stringify(content.example)));
  } else if (method === "post") {
    lines[0] = lines[0].replace("curl ", "curl -X POST ");
  }
  return make("pre", {}, lines.join(" \\\n     "));
}

function contents(content) {
  return Object.entries(content || {}).flatMap(([media, each]) => {
    const shown = typeof each.example === "string" ? each.example : JSON.stringify(each.example, null, 1);
    const example = each.example === undefined ? [] : [make("details", {}, make("summary", {}, "example"), make("pre", {}, shown))];
    return [make("p", {}, make("code", {}, media), ": ", ...brief(each.schema)), ...example];
  });
}

function answers(contract, responses) {
  return Object.entries(responses).map(([status, given]) => {
    const answer = resolve(contract, given);
    const headers = Object.keys(answer.headers || {});
    const told = headers.length ? [make("p", {}, "headers: ", ...marked(headers.map((each) => "`" + each + "`").join(" ")))] : [];
    const body = status < "400" ? contents(answer.content) : [];
    return make("tr", {}, make("td", {}, make("code", {}, status)), make("td", {}, paragraph(answer.description), ...told, ...body));
  });
}

function operationNode(contract, path, method, operation) {
  const summary = make(
    "summary",
    {},
    make("code", { class: "method" }, method.toUpperCase()),
    make("code", {}, path),
    make("span", { class: "what" }, operation.summary)
  );
  const node = make("details", { id: operation.operationId, "data-find": (method + " " + path + " " + operation.summary).toLowerCase() }, summary);
  node.append(paragraph(operation.description), curl(path, method, operation));
  const parameters = operation.parameters || [];
  if (parameters.length) {
    const rows = parameters.map((each) => row(each.name, each.required, each.schema, each.in + ": " + (each.description || "")));
    node.append(make("h3", {}, "Parameters"), make("table", {}, ...rows));
  }
  if (operation.requestBody) {
    node.append(make("h3", {}, operation.requestBody.required ? "Body" : "Body, may be left out"));
    node.append(...contents(operation.requestBody.content));
  }
  node.append(make("h3", {}, "Answers"), make("table", {}, ...answers(contract, operation.responses)));
  return node;
}

function show(contract) {
  document.getElementById("version").textContent = contract.info.version;
  document.getElementById("about").append(paragraph(contract.info.description));
  const routes = document.getElementById("routes");
  routes.replaceChildren();
  for (const tag of contract.tags) {
    const nodes = Object.entries(contract.paths).flatMap(([path, item]) =>
      METHODS.filter((method) => item[method] && item[method].tags[0] === tag.name).map((method) =>
        operationNode(contract, path, method, item[method])
      )
    );
    routes.append(make("section", {}, make("h2", {}, tag.name), paragraph(tag.description), ...nodes));
  }
  const schemas = document.getElementById("schemas");
  schemas.append(make("h2", {}, "Schemas"));
  for (const [name, schema] of Object.entries(contract.components.schemas)) {
    schemas.append(
      make("details", { id: "schema-" + name }, make("summary", {}, make("code", {}, name)), paragraph(schema.description), fields(schema))
    );
  }
}

// Open what the address, or a link, leads to.
function open_target() {
  const node = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (node instanceof HTMLDetailsElement) {
    node.open = true;
    node.scrollIntoView();
  }
}

function find(text) {
  for (const node of document.querySelectorAll("[data-find]")) node.hidden = !node.dataset.find.includes(text.trim().toLowerCase());
  for (const section of document.querySelectorAll("#routes section")) section.hidden = !section.querySelector("[data-find]:not([hidden])");
}

async function main() {
  const response = await fetch("openapi.json");
  if (!response.ok) throw new Error("openapi.json: " + response.status);
  show(await response.json());
  document.getElementById("search").addEventListener("input", (event) => find(event.target.value));
  addEventListener("hashchange", open_target);
  open_target();
}

main().catch((error) => {
  document.getElementById("state").textContent = String(error);
});
