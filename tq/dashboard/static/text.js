// Values as text: numbers, durations, instants; and JSON that keeps every digit.

const NUMBER = new Intl.NumberFormat("en");
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const count = n => NUMBER.format(n);
export const shortCount = n => (n < 10_000 ? NUMBER.format(n) : SHORT.format(n));
export const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;
export const rate = n => (n >= 100 ? NUMBER.format(Math.round(n)) : n >= 10 ? n.toFixed(1) : n.toFixed(2).replace(/\.?0+$/, ""));

/** A duration, short: 850 µs is told as 0.9 ms, a day and a half as 1 d 12 h. */
export function duration(ms) {
  if (ms < 1) return ms <= 0 ? "0 ms" : `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1).replace(/\.?0+$/, "")} s`;
  const units = [["d", 86_400_000], ["h", 3_600_000], ["min", 60_000], ["s", 1000]];
  const first = units.findIndex(([, size]) => ms >= size);
  const [name, size] = units[first];
  const [lower, lowerSize] = units[Math.min(first + 1, 3)];
  const whole = Math.floor(ms / size);
  const rest = first < 3 ? Math.floor((ms - whole * size) / lowerSize) : 0;
  return rest ? `${whole} ${name} ${rest} ${lower}` : `${whole} ${name}`;
}

/** How far *at* is from *now*, in one unit: 5 s ago, in 3 h. */
export function ago(at, now) {
  const ms = now - at;
  const far = Math.abs(ms);
  if (far < 1000) return "now";
  const [size, name] = far < 60_000 ? [1000, "s"] : far < 3_600_000 ? [60_000, "min"] : far < 86_400_000 ? [3_600_000, "h"] : [86_400_000, "d"];
  const text = `${Math.floor(far / size)} ${name}`;
  return ms > 0 ? `${text} ago` : `in ${text}`;
}

const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });
const TICK = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
export const moment = at => MOMENT.format(at);
export const tick = at => TICK.format(at);

// JSON

const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g;

/** The members of the object *text*, by name, each as the text that it is: no number loses a digit. */
export function members(text) {
  const found = new Map();
  let depth = 0;
  let name = null;
  let from = 0;
  TOKEN.lastIndex = 0;
  for (let match; (match = TOKEN.exec(text)); ) {
    const token = match[0];
    if (depth === 1 && name === null && token[0] === '"') {
      name = JSON.parse(token);
      TOKEN.exec(text); // the colon
      from = TOKEN.lastIndex;
      continue;
    }
    const closes = token === "}" || token === "]";
    if (depth === 1 && (token === "," || closes) && name !== null) {
      found.set(name, text.slice(from, match.index).trim());
      name = null;
    }
    if (token === "{" || token === "[") depth += 1;
    else if (closes) depth -= 1;
  }
  return found;
}

/** The JSON *text* on several lines, every token as it is. */
export function pretty(text) {
  const tokens = text.match(TOKEN) ?? [];
  const parts = [];
  let depth = 0;
  const line = () => parts.push("\n" + "  ".repeat(depth));
  for (let at = 0; at < tokens.length; at += 1) {
    const token = tokens[at];
    if (token === "{" || token === "[") {
      const next = tokens[at + 1];
      parts.push(token);
      if (next === "}" || next === "]") {
        parts.push(next);
        at += 1;
      } else {
        depth += 1;
        line();
      }
    } else if (token === "}" || token === "]") {
      depth -= 1;
      line();
      parts.push(token);
    } else if (token === ",") {
      parts.push(token);
      line();
    } else parts.push(token === ":" ? ": " : token);
  }
  return parts.join("");
}

/** *text* as one word of a POSIX shell. */
export const shellWord = text => `'${text.replaceAll("'", "'\\''")}'`;
