"""Records to JSON: how tasks, counters, queues and schedules look outside.

Inside, an instant is Unix milliseconds and a duration is milliseconds; outside, an instant is RFC 3339
in UTC and a duration is seconds. What does not apply to a record is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from tq.core.keys import Key
from tq.core.limits import DEFAULT_RULES, Limits, QueueRules, Rate
from tq.core.ops import Schedule, Tick
from tq.core.queries import FailureGroup, Stats
from tq.core.requests import read_spec
from tq.core.schedule import Cron, Every, next_ticks
from tq.core.task import FINAL, AttemptError, LogLine, Options, State, Task, brief

NEXT_TICKS: int = 5
"""The coming ticks that a schedule shows."""


def format_instant(at: int) -> str:
    """*at* in RFC 3339, UTC, to the millisecond."""
    return f"{_to_the_second(at // 1000)}.{at % 1000:03d}Z"


# Most instants that are shown are of now, and many tasks share a second.
@lru_cache(maxsize=256)
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _instant(at: int | None) -> str | None:
    return None if at is None else format_instant(at)


def _seconds(ms: int) -> float:
    return ms / 1000


def _present(fields: Mapping[str, object]) -> dict[str, object]:
    """Those of *fields* that say something."""
    return {name: value for name, value in fields.items() if value is not None and value != []}


def task_view(task: Task, *, cancellable: str | None = None) -> dict[str, object]:
    """*task* as the API shows it, ready for JSON.

    Args:
        cancellable: How the attempt that runs can be stopped, if one runs.
    """
    view: dict[str, object] = {
        "id": task.id,
        "type": task.type,
        "queue": task.queue,
        "state": task.state,
        "reason": task.reason,
        "payload": msgspec.Raw(task.payload.encode()),
        "priority": task.priority,
        "attempt": task.attempt,
        "max_attempts": task.max_attempts,
        "crashes": task.crashes,
        "timeout": _seconds(task.timeout_ms),
        "created_at": format_instant(task.created_at),
        "run_at": format_instant(task.run_at),
        "started_at": _instant(task.started_at),
        "finished_at": _instant(task.finished_at),
        "result": None if task.result is None else msgspec.Raw(task.result.encode()),
        "errors": [_error_view(error) for error in task.errors],
    }
    view |= _present(
        {
            "worker": task.worker,
            "server": task.server,
            "key": task.key,
            "fingerprint": task.fingerprint,
            "progress": task.progress,
            "logs": [_line_view(line) for line in task.logs],
            "cancel_requested": None if task.cancel_reason is None else True,
            "cancellable": cancellable,
            "waiting_for": task.blockers or None,
        }
    )
    return view | options_view(task.options)


def options_view(options: Options) -> dict[str, object]:
    """What of *options* was asked for."""
    unique = options.unique
    return _present(
        {
            "tags": list(options.tags),
            "parent_id": options.parent_id,
            "depends_on": list(options.depends_on),
            "on_dependency_failure": options.on_dependency_failure if options.depends_on else None,
            "unique": unique
            and {"key": unique.key, "while": unique.during, "on_conflict": unique.on_conflict},
            "deadline": _instant(options.deadline_at),
            "expires_at": _instant(options.expires_at),
            "schedule": options.schedule,
            "traceparent": options.traceparent,
        }
    )


def _error_view(error: AttemptError) -> dict[str, object]:
    duration_ms = error.duration_ms
    return {
        "attempt": error.attempt,
        "at": format_instant(error.at),
        "reason": error.reason,
        "type": error.type,
        "message": error.message,
    } | _present(
        {
            "traceback": error.traceback,
            "frame": error.frame,
            "duration": None if duration_ms is None else _seconds(duration_ms),
        }
    )


def _line_view(line: LogLine) -> dict[str, object]:
    return {"at": format_instant(line.at), "attempt": line.attempt, "text": line.text}


def brief_view(task: Task, *, cancellable: str | None = None) -> dict[str, object]:
    """*task* as a list shows it that is to be brief: what `tq.core.task.brief` leaves out is absent."""
    view = task_view(brief(task), cancellable=cancellable)
    del view["payload"], view["result"]
    return view


def task_json(task: Task, *, cancellable: str | None = None) -> bytes:
    """*task* as the JSON that the API answers with."""
    return msgspec.json.encode(task_view(task, cancellable=cancellable))


def line_view(task: Task) -> dict[str, object]:
    """*task* as one line of a tree."""
    view: dict[str, object] = {"id": task.id, "type": task.type, "queue": task.queue, "state": task.state}
    return view | _present({"reason": task.reason, "progress": task.progress})


def failure_group_view(group: FailureGroup) -> dict[str, object]:
    """*group* as the API shows it."""
    return {
        "fingerprint": group.fingerprint,
        "type": group.type,
        "count": group.count,
        "latest": group.latest,
        "error": _error_view(group.error),
    }


def stats_view(stats: Stats) -> dict[str, object]:
    """The counters as the API shows them, by state, by queue and in total."""
    return {
        "states": {state.value: stats.count(state) for state in State},
        "queues": counts_by_queue(stats),
        "totals": {"submitted": stats.submitted}
        | {state.value: getattr(stats, state) for state in sorted(FINAL)},
    }


def counts_by_queue(stats: Stats) -> dict[str, dict[str, int]]:
    """How many tasks of each queue are in which state; zero counts are left out."""
    queues: dict[str, dict[str, int]] = {}
    for lane in stats.lanes:
        states = queues.setdefault(lane.queue, {})
        states[lane.state] = states.get(lane.state, 0) + lane.count
    return queues


def queue_view(
    name: str, rules: QueueRules | None, counts: Mapping[str, int], *, pending_since: int | None
) -> dict[str, object]:
    """One queue: its rules, None being the defaults, and how many of its tasks are in which state.

    Args:
        pending_since: The earliest ``run_at`` of its pending tasks; None if it has none.
    """
    rules = rules or DEFAULT_RULES
    return {
        "queue": name,
        "paused": rules.paused,
        "order": rules.order,
        **_limits_view(rules.limits),
        "per_key": _limits_view(rules.per_key),
        "tasks": dict(counts),
    } | _present({"pending_since": _instant(pending_since)})


def _limits_view(limits: Limits) -> dict[str, object]:
    return {"concurrency": limits.concurrency, "rate": _rate_view(limits.rate)}


def _rate_view(rate: Rate | None) -> dict[str, object] | None:
    if rate is None:
        return None
    return {"limit": rate.limit, "period": _seconds(rate.period_ms), "burst": rate.burst}


def key_view(key: Key) -> dict[str, object]:
    """One key, without its digest; ``queues`` is absent where it is for all of them."""
    view: dict[str, object] = {
        "id": key.id,
        "name": key.name,
        "scopes": list(key.scopes),
        "queues": list(key.queues),
        "rate": _rate_view(key.rate),
        "created_at": format_instant(key.created_at),
        "expires_at": _instant(key.expires_at),
        "revoked_at": _instant(key.revoked_at),
    }
    return _present(view)


def schedule_view(schedule: Schedule, *, now: int) -> dict[str, object]:
    """One schedule: its definition, its last ticks, the newest last, and its next ones."""
    spec = read_spec(schedule.spec)
    coming = [] if schedule.paused else next_ticks(spec.timing, max(now, schedule.seen_until), NEXT_TICKS)
    match spec.timing:
        case Cron(expression=expression, tz=tz):
            timing: dict[str, object] = {"cron": expression, "tz": tz}
        case Every(every_ms=every_ms):
            timing = {"every": _seconds(every_ms)}
    return {
        "name": schedule.name,
        **timing,
        "overlap": "allow" if spec.overlap else "skip",
        "misfire_grace": _seconds(spec.misfire_grace_ms),
        "paused": schedule.paused,
        "task": msgspec.Raw(spec.task.encode()),
        "created_at": format_instant(schedule.created_at),
        "last_task_id": schedule.last_task_id,
        "next": [format_instant(at) for at in coming],
        "ticks": [_tick_view(tick) for tick in schedule.ticks],
    }


_INSTANTS = frozenset({"at", "retry_at", "tick_at"})
"""The fields of events that are instants; a test compares this with the events."""


def event_view(event: msgspec.Struct) -> dict[str, object]:
    """The fields of *event*, those that say nothing left out."""
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    return {
        name: format_instant(value) if name in _INSTANTS else value
        for name, value in fields.items()
        if value is not None
    }


def _tick_view(tick: Tick) -> dict[str, object]:
    why = "overlap" if tick.overlapped else "misfire" if tick.task_id is None else None
    return {"at": format_instant(tick.at)} | _present(
        {"task_id": tick.task_id, "skipped": why, "missed_before": tick.skipped or None}
    )
