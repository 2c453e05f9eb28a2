// What has happened lately, gathered from events for as long as the page is open: bounded, and cheap to add to.

const SECONDS_MAX = 600;
const ATTEMPTS_MAX = 3_000;
const FAILURES_MAX = 12;

export class History {
  constructor() {
    this.since = Infinity; // what ended before that is not known
    this.told = new Set(); // tasks of which the stream told before it was seeded
    this.bySecond = new Map(); // second -> [good, bad]
    this.attempts = []; // {at, wait, run, type}, the oldest first
    this.failures = [];
  }

  /** All that ends from *now* on is going to be told. */
  begin(now) {
    this.since = now;
  }

  /** Take the events that are ends of attempts. */
  add(events) {
    for (const event of events) {
      if (event.event !== "attempt.finished") continue;
      this.told?.add(event.task_id);
      const good = event.state === "succeeded";
      this.put(Date.parse(event.at), good, event.wait_ms, event.duration_ms);
      if (event.state === "failed" || event.state === "retrying") this.failures.unshift(event);
    }
    this.trim();
  }

  /** Take the last *tasks* that had ended before the page was opened; `isWhole`: there are no others. */
  seed(tasks, { isWhole }) {
    const known = new Set(this.failures.map(each => each.task_id));
    const ended = tasks.filter(each => each.started_at && each.finished_at && !this.told.has(each.id));
    this.told = null;
    for (const task of ended.sort((a, b) => a.finished_at.localeCompare(b.finished_at))) {
      const [run, started, finished] = [task.run_at, task.started_at, task.finished_at].map(Date.parse);
      this.put(finished, task.state === "succeeded", Math.max(0, started - run), finished - started);
      if (task.state === "failed" && !known.has(task.id)) {
        const { id: task_id, type, queue, state, reason, attempt, finished_at: at } = task;
        this.failures.push({ task_id, type, queue, state, reason, attempt, at });
      }
    }
    const first = Math.min(...ended.map(each => Date.parse(each.finished_at)));
    this.since = isWhole ? 0 : Math.min(this.since, first);
    this.attempts.sort((a, b) => a.at - b.at);
    this.failures.sort((a, b) => b.at.localeCompare(a.at));
    this.trim();
  }

  put(at, good, wait, run) {
    const second = Math.floor(at / 1000);
    const counts = this.bySecond.get(second) ?? [0, 0];
    counts[good ? 0 : 1] += 1;
    this.bySecond.set(second, counts);
    this.attempts.push({ at, wait, run });
  }

  trim() {
    if (this.attempts.length > ATTEMPTS_MAX) this.attempts = this.attempts.slice(-ATTEMPTS_MAX);
    if (this.failures.length > FAILURES_MAX) this.failures.length = FAILURES_MAX;
    if (this.bySecond.size > SECONDS_MAX) {
      const oldest = Math.max(...this.bySecond.keys()) - SECONDS_MAX;
      for (const second of this.bySecond.keys()) if (second < oldest) this.bySecond.delete(second);
    }
  }

  /** Ends of attempts, `{good, bad}`, in the last *seconds* before *now*. */
  within(seconds, now) {
    const last = Math.floor(now / 1000);
    const sum = { good: 0, bad: 0 };
    for (let second = last - seconds + 1; second <= last; second += 1) {
      const [good, bad] = this.bySecond.get(second) ?? [0, 0];
      sum.good += good;
      sum.bad += bad;
    }
    return sum;
  }

  /** For a chart: seconds, attempts a second, failed ones a second, in steps of *step* over *span*; null: not known. */
  rates(span, step, now) {
    const end = Math.floor(now / 1000 / step) * step;
    const columns = [[], [], []];
    for (let from = end - span; from < end; from += step) {
      let [all, bad] = [0, 0];
      for (let second = from; second < from + step; second += 1) {
        const [good, failed] = this.bySecond.get(second) ?? [0, 0];
        all += good + failed;
        bad += failed;
      }
      const isKnown = from * 1000 >= this.since;
      columns[0].push(from);
      columns[1].push(isKnown ? all / step : null);
      columns[2].push(isKnown ? bad / step : null);
    }
    return columns;
  }

  /** For a chart: seconds, and the 95th percentiles of waits and runs in each step; null where there was none. */
  times(span, step, now) {
    const end = Math.floor(now / 1000 / step) * step;
    const steps = new Map();
    for (const each of this.attempts) {
      const from = Math.floor(each.at / 1000 / step) * step;
      if (from < end - span || from >= end) continue;
      if (!steps.has(from)) steps.set(from, []);
      steps.get(from).push(each);
    }
    const columns = [[], [], []];
    for (let from = end - span; from < end; from += step) {
      const here = steps.get(from);
      columns[0].push(from);
      columns[1].push(here ? percentile(here.map(each => each.wait), 95) : null);
      columns[2].push(here ? percentile(here.map(each => each.run), 95) : null);
    }
    return columns;
  }
}

/** The *n*th percentile of *values*, by the nearest rank; null of none. */
export function percentile(values, n) {
  if (!values.length) return null;
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil((n / 100) * sorted.length) - 1)];
}
