// Calendars in words: what a cron expression or an interval means.

import { duration } from "./text.js";

const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
const ALIASES = {
  "@hourly": "0 * * * *",
  "@daily": "0 0 * * *",
  "@midnight": "0 0 * * *",
  "@weekly": "0 0 * * 0",
  "@monthly": "0 0 1 * *",
  "@yearly": "0 0 1 1 *",
  "@annually": "0 0 1 1 *",
};

/** When *schedule* ticks, in words; what is too odd for words is shown as it is written. */
export function inWords({ cron, tz, every }) {
  if (every !== undefined) return `every ${duration(every * 1000)}`;
  const words = cronInWords(ALIASES[cron] ?? cron);
  return (words ?? `at ${cron}`) + (tz && tz !== "UTC" ? `, ${tz.replaceAll("_", " ")} time` : " UTC");
}

function cronInWords(cron) {
  const fields = cron.trim().split(/\s+/);
  if (fields.length !== 5) return null;
  const [minute, hour, day, month, weekday] = fields;
  const when = time(minute, hour);
  const days = onDays(day, weekday);
  const months = month === "*" ? "" : named(month, MONTHS, 1, "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC");
  if (when === null || days === null || months === null) return null;
  return `${when}${days}${months && ` in ${months}`}`;
}

function time(minute, hour) {
  const step = minute.match(/^\*\/(\d+)$/);
  if (hour === "*") {
    if (minute === "*") return "every minute";
    if (step) return `every ${step[1]} minutes`;
    if (!numbers(minute)) return null;
    return minute === "0" ? "every hour" : `every hour at ${listed(numbers(minute).map(each => `:${two(each)}`))}`;
  }
  const hours = hour.match(/^\*\/(\d+)$/);
  if (hours && numbers(minute)?.length === 1) return `every ${hours[1]} hours at :${two(minute)}`;
  const span = hour.match(/^(\d+)-(\d+)$/);
  if (span && (step || minute === "*")) {
    return `every ${step ? `${step[1]} minutes` : "minute"} from ${two(span[1])}:00 to ${two(span[2])}:59`;
  }
  if (span && numbers(minute)?.length === 1) return `every hour from ${two(span[1])}:${two(minute)} to ${two(span[2])}:${two(minute)}`;
  if (!numbers(minute) || !numbers(hour)) return null;
  const times = numbers(hour).flatMap(h => numbers(minute).map(m => `${two(h)}:${two(m)}`));
  return times.length > 6 ? null : `at ${listed(times)}`;
}

function onDays(day, weekday) {
  const one = day === "*" || day === "?" ? "" : dayOfMonth(day);
  const other = weekday === "*" || weekday === "?" ? "" : dayOfWeek(weekday);
  if (one === null || other === null) return null;
  if (one && other) return ` ${one} and ${other}`;
  return one || other ? ` ${one || other}` : "";
}

function dayOfMonth(day) {
  if (day === "L") return "on the last day of the month";
  if (day === "LW") return "on the last weekday of the month";
  const days = numbers(day);
  return days && `on the ${listed(days.map(ordinal))} of the month`;
}

function dayOfWeek(weekday) {
  if (/^(1-5|MON-FRI)$/i.test(weekday)) return "Monday to Friday";
  const days = named(weekday, DAYS, 0, "SUN MON TUE WED THU FRI SAT", 7);
  return days && `on ${days}`;
}

function named(field, names, first, short, wrap = Infinity) {
  const words = short.split(" ");
  const known = field.split(",").map(each => {
    const at = words.indexOf(each.toUpperCase());
    const number = at >= 0 ? at : /^\d+$/.test(each) ? (Number(each) % wrap) - first : NaN;
    return names[number];
  });
  return known.includes(undefined) ? null : listed(known);
}

const numbers = field => (/^\d+(,\d+)*$/.test(field) ? field.split(",").map(Number) : null);
const two = n => String(n).padStart(2, "0");
const listed = words => (words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`);

function ordinal(n) {
  const last = n % 100 > 10 && n % 100 < 14 ? 0 : n % 10;
  return `${n}${["th", "st", "nd", "rd"][last] ?? "th"}`;
}
