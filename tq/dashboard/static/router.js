// Where the reader is: behind the # of the address, so that it works below any path and behind any proxy.

/** `{parts, query}` of an address such as `#/tasks/abc?q=state:failed`. */
export function here() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  return { parts: path.split("/").filter(Boolean).map(decoded), query: new URLSearchParams(query) };
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The address of a place: `to("tasks", id)`, `to("tasks", {q: "state:failed"})`. */
export function to(...parts) {
  const query = typeof parts.at(-1) === "object" ? parts.pop() : {};
  const said = Object.entries(query).filter(([, value]) => value !== "" && value != null);
  const text = new URLSearchParams(said).toString();
  return `#/${parts.map(encodeURIComponent).join("/")}${text && `?${text}`}`;
}

/** Go there. With *replace*, the way back does not lead to where we are. */
export function go(address, { replace = false } = {}) {
  if (replace) {
    history.replaceState(null, "", address);
    window.dispatchEvent(new HashChangeEvent("hashchange"));
  } else location.hash = address;
}
