"""The options that several commands share: the server, which tasks are meant, what a task is given.

Imports nothing heavy: every command is made of these, also where only ``--help`` is asked for.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import click

from tq.cli.exits import Exit
from tq.config import parse_duration, parse_rate
from tq.core.errors import InvalidInput
from tq.core.sendable import utf8_text
from tq.core.task import PRIORITIES, State

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_URL: Final = "http://127.0.0.1:8080"
FOREVER: Final = "36500d"


def examples(*lines: str) -> str:
    """The end of the help of a command."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


# Values


def is_duration(text: str) -> bool:
    """Whether *text* is a duration."""
    try:
        parse_duration(text)
    except ValueError:
        return False
    return True


class Duration(click.ParamType[int]):
    """A duration as text, as milliseconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """*value* as milliseconds."""
        try:
            return parse_duration(value)
        except ValueError:
            self.fail(f"{value!r} is not a duration such as 5, 500ms, 5m or 1h", param, ctx)


class Instant(click.ParamType[str]):
    """An instant: RFC 3339 as it is, for the server to judge; or a duration, before or after now."""

    name = "instant"

    def __init__(self, sign: int) -> None:
        self._sign = sign

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """*value* as the API takes it."""
        if not is_duration(value):
            return str(value)
        try:
            at = datetime.fromtimestamp(time.time() + self._sign * parse_duration(value) / 1000, UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is too long", param, ctx)
        return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


AGO: Final = Instant(-1)
AHEAD: Final = Instant(1)


class Rate(click.ParamType[dict[str, Any] | None]):
    """``LIMIT/PERIOD`` as the API takes it: ``100/60s``, ``5/m``, ``10`` (a second); ``none``."""

    name = "rate"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, Any] | None:
        """*value* as the API takes it."""
        if isinstance(value, dict):
            return value
        try:
            limit, period_ms = parse_rate(value)
        except ValueError:
            self.fail(f"{value!r} is not a rate such as 100/60s, 5/m or none", param, ctx)
        return {"limit": limit, "period": period_ms / 1000}


def rate_text(rate: Mapping[str, Any] | None) -> str | None:
    """A rate of the API in one word, as `Rate` reads it."""
    if rate is None:
        return None
    burst = "" if rate["burst"] == rate["limit"] else f" burst {rate['burst']}"
    return f"{rate['limit']}/{rate['period']:g}s{burst}"


# What a shell completes


def completes(*words: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """For ``shell_complete``: *words*, also as the next of several with commas between them."""

    def complete(ctx: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
        before, comma, last = typed.rpartition(",")
        return [before + comma + word for word in words if word.startswith(last)]

    return complete


# The server

json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
url_option: Final = click.option(
    "--url",
    metavar="URL",
    envvar="TQ_URL",
    default=DEFAULT_URL,
    help=f"The server. [default: {DEFAULT_URL}; variable: TQ_URL; its key: TQ_KEY]",
)


def asks(command: F) -> F:
    """Give *command* the server to ask, as ``api``, and ``as_json``; with the options that say so."""

    @json_option
    @url_option
    @functools.wraps(command)
    def run(*, url: str, **rest: Any) -> Exit:
        refuse_unsendable(url=url, **rest)
        # Imports the HTTP client.
        from tq.cli.asking import Api

        with closing(Api(url)) as api:
            return Exit(command(api=api, **rest) or Exit.OK)

    return run  # type: ignore[return-value]


def refuse_unsendable(**given: Any) -> None:
    """Raises click.UsageError if a text in what a command was *given*, by name, is not UTF-8."""
    for name, value in {**given, **given.get("wanted", {})}.items():
        for text in value if isinstance(value, tuple) else (value,):
            # A file may have any name; what is in it is read as JSON, which is UTF-8.
            if isinstance(text, str) and not (name == "payload" and text.startswith("@")):
                try:
                    utf8_text(text, name.replace("_", " "))
                except InvalidInput as fault:
                    raise click.UsageError(fault.message) from None


# Which tasks

FILTERS: Final = (
    click.option(
        "--state",
        metavar="STATE[,STATE…]",
        shell_complete=completes(*State, "waiting", "ended"),
        help="In these; also: waiting, ended.",
    ),
    click.option("--queue", metavar="NAME", help="In this queue."),
    click.option("--type", "type", metavar="NAME", help="Of this type."),
    click.option("--key", metavar="KEY", help="With this key."),
    click.option("--tag", metavar="TAG", help="With this tag."),
    click.option("--parent", "parent_id", metavar="ID", help="Children of this task."),
    click.option("--schedule", metavar="NAME", help="Made by this schedule."),
    click.option("--fingerprint", metavar="HEX", help="Failed in this way: see tq dead list."),
    click.option("--created-after", type=AGO, help="From this instant on, or not longer ago than 1h."),
    click.option("--created-before", type=AGO, help="Before this instant, or longer ago than 1h."),
    click.option("--error", metavar="TEXT", help="With this in their last error."),
    click.option("--where", metavar="PATH:VALUE", help="By the payload: payload.user.id:42."),
)
FILTER_NAMES: Final = [
    "state",
    "queue",
    "type",
    "key",
    "tag",
    "parent_id",
    "schedule",
    "fingerprint",
    "created_after",
    "created_before",
    "error",
    "where",
]


def filters(command: F) -> F:
    """Give *command* ``wanted``: the filters that were given, by their names in the API."""

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        wanted = {name: given.pop(name, None) for name in FILTER_NAMES}
        return command(wanted={name: value for name, value in wanted.items() if value is not None}, **given)

    decorated: Any = run
    for option in reversed(FILTERS):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def limited(what: str) -> Callable[[F], F]:
    """Give a command ``limit``: how many of *what* it prints at most."""
    return click.option(
        "--limit", type=click.IntRange(min=1), default=50, show_default=True, help=f"At most so many {what}."
    )


def confirmed(command: F) -> F:
    """Give *command* ``yes`` and ``dry_run``."""
    command = click.option("--yes", is_flag=True, help="Do not ask.")(command)
    return click.option("--dry-run", is_flag=True, help="Change nothing, count.")(command)


# What a task is given

TASK_OPTIONS: Final = (
    click.option("--payload", metavar="TEXT|@FILE|-", help="The payload as JSON: here, in a file, on stdin."),
    click.option("--queue", metavar="NAME", help="The queue. [default: the handler's]"),
    click.option(
        "--priority",
        metavar="N",
        shell_complete=completes(*PRIORITIES),
        help="-100 to 100, or low, normal, high, critical; higher first.",
    ),
    click.option("--timeout", type=Duration(), help="How long an attempt may take."),
    click.option("--max-attempts", metavar="N", type=int, help="How often it is tried before it has failed."),
    click.option(
        "--retry", metavar="JSON", help="""How it waits between attempts: {"kind":"fixed","base":5}."""
    ),
    click.option("--result-ttl", type=Duration(), help="How long it is kept once it has ended."),
    click.option("--key", metavar="KEY", help="Whose task it is: keys have turns."),
    click.option(
        "--tag", "tags", metavar="TAG", multiple=True, help="A word to find it by; may be repeated."
    ),
    click.option("--unique-key", metavar="KEY", help="One task of its type at a time has this key."),
    click.option(
        "--unique-while",
        metavar="STATE",
        shell_complete=completes("queued", "active"),
        help="queued: until it starts; active: until it has ended.",
    ),
    click.option(
        "--on-conflict",
        metavar="WHAT",
        shell_complete=completes("existing", "reject", "replace"),
        help="If the key is taken: existing, reject or replace.",
    ),
)


def task_options(command: F) -> F:
    """Give *command* what a submit and a schedule say of a task, for `tq.cli.payload.task_fields`."""
    for option in reversed(TASK_OPTIONS):
        command = option(command)
    return command
