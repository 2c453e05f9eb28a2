"""Following a stream of events: coming back to it when it breaks off, and what became of a task."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from tq.cli.asking import Api, Event, Lost, part
from tq.cli.exits import Exit, Fault, say
from tq.cli.printing import note, print_json, words
from tq.core.task import FINAL, State
from tq.logs import printable

GIVE_UP_S: Final = 60.0
"""Seconds that a server which was there may be away."""
PAUSE_S: Final = 0.5
PAUSE_MAX_S: Final = 5.0


def follow(api: Api, path: str, query: Mapping[str, object], on_event: Callable[[Event], bool]) -> None:
    """Hand every event of the stream at *path* to *on_event* until that is true. None is missed or repeated.

    Comes back if the stream breaks off or the server restarts.

    Raises:
        Fault: The server refuses the stream, was not there to begin with, or is away for GIVE_UP_S.
    """
    last_id: str | None = None
    gone_at: float | None = None
    while True:
        opened, pause_s = False, PAUSE_S
        fault = Fault(Exit.UNREACHABLE, f"{api.url} ended the stream")
        try:
            with api.events(path, query, last_id=last_id) as events:
                opened = True
                if events is None:
                    return
                for event in events:
                    last_id = event.id or last_id
                    if event.event and on_event(event):
                        return
        except Lost as lost:
            fault, pause_s = lost.fault, max(PAUSE_S, lost.retry_after_s)
        except Fault as refused:
            if refused.code is not Exit.UNREACHABLE:
                raise
            fault = refused
        if opened:
            note("the stream broke off; coming back")
            gone_at = time.monotonic()
        elif gone_at is None or time.monotonic() - gone_at > GIVE_UP_S:
            raise fault
        time.sleep(min(pause_s, PAUSE_MAX_S))


def tail_all(api: Api, query: Mapping[str, object], *, as_json: bool) -> None:
    """Print what happens, until Ctrl+C."""

    def show(event: Event) -> bool:
        _print_event(event, as_json=as_json)
        return False

    follow(api, "/v1/events", query, show)


def tail_one(api: Api, task_id: str, *, as_json: bool) -> Exit:
    """Print what happens to a task, to its end, and say how it ended."""
    seen: list[Any] = []

    def show(event: Event) -> bool:
        _print_event(event, as_json=as_json)
        is_last = event.event == "end" or (event.event == "snapshot" and event.data["state"] in FINAL)
        if is_last:
            seen.append(event.data)
        return is_last

    follow(api, f"/v1/tasks/{part(task_id)}/events", {}, show)
    task = seen[0] if seen else api.get(f"/v1/tasks/{part(task_id)}")
    if task is None:
        raise Fault(Exit.NOT_FOUND, f"{task_id} was deleted")
    return outcome(task)


_OF_TASKS: Final = ("id", "type", "queue", "state", "reason", "attempt", "progress", "result")
"""What a line shows of a whole task."""


def _print_event(event: Event, *, as_json: bool) -> None:
    if as_json:
        print_json(event)
        return
    data = event.data if isinstance(event.data, dict) else {}
    if event.event in ("snapshot", "end"):
        data = {name: data[name] for name in _OF_TASKS if data.get(name) is not None}
    at = data.pop("at", None)
    line = " ".join(each for each in (event.event, words(data)) if each)
    # A follower is often read through a pipe, line by line.
    print(f"{printable(str(at))} {line}" if at else line, flush=True)


def outcome(task: Mapping[str, Any]) -> Exit:
    """How *task* ended, as an exit code; told in a line unless it succeeded."""
    match task["state"]:
        case State.SUCCEEDED:
            return Exit.OK
        case State.FAILED:
            errors = task.get("errors") or [{}]
            line = f"{task['id']} failed ({task['reason']}): {errors[-1].get('message', 'no message')}"
            return say(line, Exit.TASK_FAILED)
        case State.CANCELLED:
            return say(f"{task['id']} was cancelled ({task['reason']})", Exit.TASK_CANCELLED)
        case state:
            return say(f"{task['id']} has not ended: it is {state}", Exit.TASK_NOT_FINISHED)
