"""``tq submit``: one request to a server, and the wait for what becomes of it."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

import click

from tq.cli.asking import Api, part
from tq.cli.exits import Exit, Fault
from tq.cli.following import GIVE_UP_S, outcome
from tq.cli.payload import task_fields
from tq.cli.printing import CLEAR, bar, cell, cut, note, print_json
from tq.core.task import FINAL, State

HOLD_S: Final = 30.0
"""Seconds that one request waits for a task to end, before the next."""
DRAW_S: Final = 0.5
"""The same while somebody looks at how far it is."""
PAUSE_S: Final = 0.5
"""Seconds between two requests of a server that is away."""


def run(api: Api, fields: dict[str, Any], *, wait_ms: int | None, as_json: bool) -> Exit:
    """Submit what *fields* say, print what came of it, and say how it ended.

    Args:
        wait_ms: How long to wait for the end; None does not.
    """
    task = api.change("POST", "/v1/tasks", submission(**fields))
    if wait_ms is None:
        if as_json:
            print_json(task)
        else:
            click.echo(cell(task["id"]))
        return Exit.OK
    task = _wait_final(api, task, wait_ms)
    if as_json:
        print_json(task)
    elif task["state"] == State.SUCCEEDED:
        print_json(task["result"])
    return outcome(task)


def submission(*, delay: int | None, depends_on: tuple[str, ...], **fields: Any) -> dict[str, Any]:
    """The body of the request; what was not said is not in it."""
    body = task_fields(**fields)
    if delay is not None:
        body["delay"] = delay / 1000
    if depends_on:
        body["depends_on"] = depends_on
    return body


def _wait_final(api: Api, task: dict[str, Any], wait_ms: int) -> dict[str, Any]:
    """*task* once it has ended, or as it is after *wait_ms*; also across a restart of its server.

    Raises:
        Fault: The server refuses it, or is away for GIVE_UP_S.
    """
    click.echo(f"{cell(task['id'])} is {task['state']}", err=True)
    ends = time.monotonic() + wait_ms / 1000
    is_watched = sys.stderr.isatty()
    away_at: float | None = None
    try:
        while task["state"] not in FINAL and (left := ends - time.monotonic()) > 0:
            if is_watched and away_at is None:
                click.echo(
                    CLEAR + progress_line(task, shutil.get_terminal_size().columns), err=True, nl=False
                )
            asked = time.monotonic()
            try:
                task = _hold(api, task["id"], min(left, DRAW_S if is_watched else HOLD_S))
            except Fault as fault:
                _bear(
                    fault, task["id"], gone_s=time.monotonic() - (away_at or asked), is_first=away_at is None
                )
                away_at = away_at or asked
                time.sleep(min(PAUSE_S, left))
            else:
                away_at = None
    finally:
        if is_watched:
            click.echo(CLEAR, err=True, nl=False)
    return task


def _bear(fault: Fault, task_id: str, *, gone_s: float, is_first: bool) -> None:
    """Say that the server is away, if that *is_first* seen; *fault* is how it was seen, after *gone_s*.

    Raises:
        Fault: It is no such thing, or it has lasted too long.
    """
    if fault.code not in (Exit.UNREACHABLE, Exit.NOT_NOW) or gone_s > GIVE_UP_S:
        raise Fault(fault.code, f"while waiting for {task_id}, which is stored: {fault.line}") from None
    if is_first:
        if sys.stderr.isatty():
            click.echo(CLEAR, err=True, nl=False)
        note(f"{task_id} is stored, but its server cannot be asked now; waiting for it")


def _hold(api: Api, task_id: str, hold_s: float) -> dict[str, Any]:
    """The task when it has ended, or after *hold_s*."""
    asked = time.monotonic()
    path, query = f"/v1/tasks/{part(task_id)}", {"wait": f"{hold_s:.3f}"}
    task = api.get(path, query, timeout_s=hold_s + 10, tries=1)
    short = min(hold_s, 0.25) - (time.monotonic() - asked)
    if task["state"] not in FINAL and short > 0:
        # A server that is shutting down holds nobody; do not hammer it.
        time.sleep(short)
    return task


def progress_line(task: Mapping[str, Any], width: int) -> str:
    """How far *task* is, on one line of *width* columns: its state, a bar, and what its handler said."""
    progress = task.get("progress") or {}
    fraction = progress.get("fraction")
    words = [cell(task["state"])]
    if fraction is not None:
        words += [bar(fraction)]
    if progress.get("message"):
        words += [cell(progress["message"])]
    # The last column stays free: some terminals would begin a new line.
    return cut(" ".join(words), width - 1)
