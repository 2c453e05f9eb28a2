"""What ``tq top`` shows, and how it looks: samples of a server in, a picture and its drawing out.

Asks nobody and knows no terminal: a width, a height and the time are given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from tq.cli.printing import ago, cell, fitted
from tq.cli.servers import state_of
from tq.core.task import WAITING, State
from tq.core.views import format_instant

RATES: Final = ("submitted", "succeeded", "failed", "cancelled")
"""The totals that are shown as rates."""
FRAME_LINES: Final = 12
"""Lines of a frame besides the rows of its tables, where one server has the store to itself."""
FLEET_LINES: Final = 3
"""And those of the table of servers besides its rows, where there are several."""
_STATES: Final = (*(state for state in State if state in WAITING), State.RUNNING)
_BUSY: Final = "bold"
_WARNS: Final = "yellow"
_ALARMS: Final = "red"
_QUIET: Final = "dim"


@dataclass(frozen=True, slots=True)
class Sample:
    """What a server said of itself, each part as the API shows it.

    ``at`` is Unix milliseconds; ``taken_s`` is of a clock that nobody sets, for the rates.
    """

    at: int
    taken_s: float
    stats: Mapping[str, Any]
    queues: Sequence[Mapping[str, Any]]
    workers: Mapping[str, Any]
    servers: Sequence[Mapping[str, Any]]
    failures: Sequence[Mapping[str, Any]]


def is_before(earlier: Sample, later: Sample) -> bool:
    """Whether the totals of *later* went on from those of *earlier*: a store that is lost begins again."""
    return all(earlier.stats["totals"][name] <= later.stats["totals"][name] for name in RATES)


def picture(samples: Sequence[Sample]) -> dict[str, Any]:
    """What is known by *samples*, the newest last: the rates over all of them, the rest from the newest."""
    first, last = samples[0], samples[-1]
    over_s = last.taken_s - first.taken_s
    grown = {name: last.stats["totals"][name] - first.stats["totals"][name] for name in RATES}
    return {
        "at": format_instant(last.at),
        "rates": {name: round(count / over_s, 3) for name, count in grown.items()} if over_s > 0 else {},
        "states": last.stats["states"],
        "queues": last.queues,
        "workers": last.workers,
        "servers": last.servers,
        "failures": sorted(last.failures, key=lambda group: str(group["error"]["at"]), reverse=True),
    }


def frame(
    shown: Mapping[str, Any], *, url: str, now: float, height: int | None = None, away: str | None = None
) -> RenderableType:
    """The drawing of *shown*, a picture.

    Args:
        now: Unix seconds.
        height: Lines that there are; what matters least is left out. None: all is drawn.
        away: Why the server does not answer, if it does not; then all below is how it was.
    """
    queues = sorted(shown["queues"], key=lambda queue: (-_waiting(queue), queue["queue"]))
    busy = [each for each in shown["workers"]["workers"] if each["state"] == "busy"]
    busy.sort(key=lambda each: str(each["since"]))
    servers = shown["servers"] if len(shown["servers"]) > 1 else []
    parts = (queues, busy, shown["failures"], *([servers] if servers else []))
    rooms = [max(1, len(part)) for part in parts]
    if height is not None:
        lines = FRAME_LINES + (FLEET_LINES if servers else 0)
        rooms = fitted(rooms, height - lines, least=1)
    seen_s = datetime.fromisoformat(shown["at"]).timestamp()
    return Group(
        _head(shown, url, now - seen_s, away),
        _rates(shown["rates"]),
        _counts(shown["states"]),
        Text(),
        _title("QUEUES", len(queues), rooms[0]),
        _queues(queues[: rooms[0]], now),
        Text(),
        *_fleet(servers, rooms[-1], now),
        _title(_workers_title(shown["workers"], is_one_of_many=bool(servers)), len(busy), rooms[1]),
        _workers(busy[: rooms[1]], now),
        Text(),
        _title("FAILURES by cause", len(shown["failures"]), rooms[2]),
        _failures(shown["failures"][: rooms[2]], now),
    )


def _head(shown: Mapping[str, Any], url: str, since_s: float, away: str | None) -> Text:
    line = _line(("tq top", _BUSY), (url, ""), (f"{shown['at'][11:19]} UTC", _QUIET))
    if away is not None:
        line = _line(("tq top", _BUSY), (f"AWAY for {since_s:.0f} s:", f"{_BUSY} {_ALARMS}"), (away, _ALARMS))
    return line


def _rates(rates: Mapping[str, float]) -> Text:
    shown = ((name, rates.get(name)) for name in RATES)
    words = ((f"{name} {_rate(rate)}", _ALARMS if name == "failed" and rate else "") for name, rate in shown)
    return _line(("per s:", ""), *words)


def _rate(rate: float | None) -> str:
    if rate is None:
        return "–"
    return f"{rate:.1f}" if 0 < rate < 10 else f"{rate:.0f}"


def _counts(states: Mapping[str, int]) -> Text:
    return _line(*((f"{state} {states[state]}", "" if states[state] else _QUIET) for state in _STATES))


def _line(*words: tuple[str, str]) -> Text:
    """*words*, each with its style, on one line that is cut where the screen ends."""
    pieces = [piece for word, style in words for piece in ((cell(word), style), "  ")]
    return Text.assemble(*pieces[:-1], no_wrap=True, overflow="ellipsis")


def _title(text: str, count: int, room: int) -> Text:
    return _line((text, _BUSY), *([(f"{room} of {count}", _QUIET)] if count > room else []))


def _workers_title(workers: Mapping[str, Any], *, is_one_of_many: bool) -> str:
    wanted = (
        str(workers["min"]) if workers["min"] == workers["max"] else f"{workers['min']} to {workers['max']}"
    )
    whose = " of the server that is asked" if is_one_of_many else ""
    return f"WORKERS{whose}: {workers['busy']} of {workers['count']} busy, {wanted} wanted"


def _waiting(queue: Mapping[str, Any]) -> int:
    return sum(queue["tasks"].get(state, 0) for state in WAITING)


def _queues(queues: Iterable[Mapping[str, Any]], now: float) -> Table:
    table = _table("queue", "waiting>", "running>", "oldest>", "failed>", "paused")
    for queue in queues:
        tasks = queue["tasks"]
        since = queue.get("pending_since")
        table.add_row(
            _cell(queue["queue"]),
            _cell(_waiting(queue)),
            _cell(tasks.get("running", 0)),
            _cell(None if since is None else ago(since, now)),
            _cell(tasks.get("failed", 0), _ALARMS if tasks.get("failed") else ""),
            _cell("paused" if queue["paused"] else None, _WARNS),
        )
    return table


def _fleet(servers: Sequence[Mapping[str, Any]], room: int, now: float) -> list[RenderableType]:
    """The first *room* of the servers, the busiest first; nothing where there are not several."""
    if not servers:
        return []
    busiest = sorted(servers, key=lambda each: (-each["busy"], each["id"]))[:room]
    busy, workers = (sum(each[name] for each in servers) for name in ("busy", "workers"))
    title = f"SERVERS {len(servers)}, {busy} of {workers} workers busy"
    table = _table("server", "state", "busy>", "workers>", "seen>", "where")
    for each in busiest:
        table.add_row(
            _cell(each["id"]),
            _cell(state_of(each), _WARNS if each["draining"] else ""),
            *(_cell(each[name]) for name in ("busy", "workers")),
            _cell(ago(each["seen_at"], now)),
            _cell(each["url"] or f"{each['host']} {each['pid']}"),
        )
    return [_title(title, len(servers), room), table, Text()]


def _workers(busy: Iterable[Mapping[str, Any]], now: float) -> Table:
    table = _table("worker", "for>", "type", "queue", "task", "attempt>")
    for each in busy:
        style = _ALARMS if each.get("overran") else ""
        table.add_row(
            _cell(each["worker"]),
            _cell(ago(each["since"], now) + (" overran" if each.get("overran") else ""), style),
            *(_cell(each[name]) for name in ("type", "queue", "task_id", "attempt")),
        )
    return table


def _failures(groups: Iterable[Mapping[str, Any]], now: float) -> Table:
    table = _table("type", "count>", "last>", "error")
    for group in groups:
        error = group["error"]
        said = f"{error['type'] or error['reason']}: {error['message']}"
        table.add_row(
            _cell(group["type"]), _cell(group["count"]), _cell(ago(error["at"], now)), _cell(said, _ALARMS)
        )
    return table


def _table(*titles: str) -> Table:
    """A table without lines. A title that ends in ``>`` is of numbers, which are cut last."""
    columns = [
        Column(
            Text(title.rstrip(">").upper(), no_wrap=True, overflow="ellipsis"),
            justify="right" if title.endswith(">") else "left",
            no_wrap=title.endswith(">"),
        )
        for title in titles
    ]
    return Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=_QUIET)


def _cell(value: object, style: str = "") -> Text:
    return Text(cell(value), style, no_wrap=True, overflow="ellipsis")
