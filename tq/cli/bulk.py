"""Changing tasks, one by its id or all that a filter means: asked about first, then counted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import click

from tq.cli.asking import Api
from tq.cli.exits import Exit, Fault, say
from tq.cli.printing import note, print_json

DONE: Final = {"cancel": "cancelled", "retry": "retried", "delete": "deleted"}


def can_ask() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str, *, yes: bool) -> None:
    """Return if *yes*, or if whoever is there says so.

    Raises:
        click.UsageError: Nobody is there to ask.
        Fault: The answer is no.
    """
    if yes:
        return
    if not can_ask():
        raise click.UsageError("nobody is here to ask whether this is meant: say --yes")
    if not click.confirm(question, err=True):
        raise Fault(Exit.INTERRUPTED, "nothing was changed")


def change_matching(
    api: Api, action: str, wanted: Mapping[str, Any], *, yes: bool, dry_run: bool, as_json: bool, **more: Any
) -> Exit:
    """Have *action* done to all tasks that *wanted* means, once it is confirmed; print how many.

    Args:
        more: What else the request says: ``all``, ``limit``, ``cascade``.
    """
    path = f"/v1/tasks/{action}"
    body = {"filter": wanted, **{name: value for name, value in more.items() if value is not None}}
    return change_counted(api, path, body, DONE[action], yes=yes, dry_run=dry_run, as_json=as_json)


def change_counted(
    api: Api, path: str, body: dict[str, Any], done: str, *, yes: bool, dry_run: bool, as_json: bool
) -> Exit:
    """Ask *path*, which counts with ``dry_run``, for the count; then, if that is meant, for the change."""
    if dry_run or (can_ask() and not yes):
        counted = api.change("POST", path, body | {"dry_run": True}, has="matched")
        if dry_run or not counted["matched"]:
            return _report(counted, done, as_json=as_json)
        question = f"{_tasks(counted['matched'])}{' or more' * counted['more']} would be {done}. Go on?"
        confirm(question, yes=False)
    else:
        confirm("", yes=yes)
    return _report(api.change("POST", path, body, has="matched", timeout_s=600), done, as_json=as_json)


def _report(counts: Mapping[str, Any], done: str, *, as_json: bool) -> Exit:
    if as_json:
        print_json(counts)
    elif counts["dry_run"]:
        click.echo(f"{_tasks(counts['matched'])} would be {done}")
    else:
        click.echo(f"{counts['changed']} of {_tasks(counts['matched'])} {done}")
    if counts["more"]:
        note("there are more than one request may change: the same again goes on")
    return Exit.OK


def _tasks(count: int) -> str:
    return "1 task" if count == 1 else f"{count} tasks"


def change_each(ids: Sequence[str], change: Callable[[str], None]) -> Exit:
    """Do *change* to each of *ids*; what is refused for one is told, and the others go on.

    The exit code is that of the first refusal.
    """
    code = Exit.OK
    for each in ids:
        try:
            change(each)
        except Fault as fault:
            if fault.code is Exit.UNREACHABLE:
                raise
            said = say(f"{each}: {fault.line}", fault.code)
            code = code or said
    return code
