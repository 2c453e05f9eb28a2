"""``tq queues``: what waits where, the rules of each queue, pausing and emptying it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from tq.cli.exits import Exit
from tq.cli.options import Rate, asks, completes, confirmed, examples, rate_text

if TYPE_CHECKING:
    from tq.cli.asking import Api

NONE: Final = "none"
"""Takes a limit away."""
WAITING: Final = ("blocked", "scheduled", "pending", "retrying")
COLUMNS: Final = ("queue", "paused", "waiting", "running", "failed", "order", "concurrency", "rate")


@click.group(
    "queues",
    short_help="Look at queues, give them rules, pause and purge them.",
    epilog=examples("tq queues list", "tq queues pause mail"),
)
def queues_group() -> None:
    """Look at queues, give them rules, pause and purge them."""


@queues_group.command("list", epilog=examples("tq queues list", "tq queues list --json | jq .queue"))
@asks
def list_command(*, api: Api, as_json: bool) -> None:
    """List every queue that has tasks or rules, by name."""
    from tq.cli.printing import print_json, print_table

    queues = api.get("/v1/queues", has="queues")["queues"]
    if as_json:
        for queue in queues:
            print_json(queue)
        return
    print_table(COLUMNS, [_row(queue) for queue in queues])


def _row(queue: Mapping[str, Any]) -> tuple[object, ...]:
    tasks = queue["tasks"]
    waiting = sum(tasks.get(state, 0) for state in WAITING)
    return (
        queue["queue"],
        queue["paused"],
        waiting,
        tasks.get("running", 0),
        tasks.get("failed", 0),
        queue["order"],
        queue["concurrency"],
        rate_text(queue["rate"]),
    )


def _show(queue: Mapping[str, Any], *, as_json: bool) -> None:
    from tq.cli.printing import print_fields, print_json

    if as_json:
        print_json(queue)
        return
    per_key = queue["per_key"]
    tasks = queue["tasks"]
    print_fields(
        {name: queue[name] for name in ("queue", "paused", "order", "concurrency")}
        | {"rate": rate_text(queue["rate"]), "key-concurrency": per_key["concurrency"]}
        | {"key-rate": rate_text(per_key["rate"])}
        | {state: tasks[state] for state in (*WAITING, "running") if state in tasks}
        | {state: count for state, count in tasks.items() if state not in (*WAITING, "running")}
    )


@queues_group.command("show", epilog=examples("tq queues show mail"))
@click.argument("name")
@asks
def show_command(*, api: Api, name: str, as_json: bool) -> None:
    """Show one queue: its rules, and how many of its tasks are in which state."""
    from tq.cli.asking import part

    _show(api.get(f"/v1/queues/{part(name, 'NAME')}", has="queue"), as_json=as_json)


# Rules


class OrNone(click.ParamType[Any]):
    """What *kind* takes, or ``none``, which stays as it is."""

    def __init__(self, kind: click.ParamType[Any]) -> None:
        self.kind = kind
        self.name = kind.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """*value* as *kind* has it."""
        return NONE if value == NONE else self.kind.convert(value, param, ctx)


@queues_group.command(
    "set",
    epilog=examples("tq queues set mail --concurrency 2 --rate 100/60s", "tq queues set mail --rate none"),
)
@click.argument("name")
@click.option(
    "--order", metavar="ORDER", shell_complete=completes("strict", "aging"), help="strict or aging."
)
@click.option("--concurrency", type=OrNone(click.INT), metavar="N", help="How many run at a time.")
@click.option("--rate", type=OrNone(Rate()), metavar="N/TIME", help="How often one may start: 100/60s, 5/m.")
@click.option("--burst", type=click.INT, metavar="N", help="How many may start at once after a quiet time.")
@click.option("--key-concurrency", type=OrNone(click.INT), metavar="N", help="The same for each key.")
@click.option("--key-rate", type=OrNone(Rate()), metavar="N/TIME", help="The same for each key.")
@click.option("--key-burst", type=click.INT, metavar="N", help="The same for each key.")
@click.option("--reset", is_flag=True, help="What is not said is as in a queue without rules.")
@asks
def set_command(*, api: Api, name: str, reset: bool, as_json: bool, **given: Any) -> None:
    """Give a queue rules. What is not said stays as it is; none takes a limit away."""
    from tq.cli.asking import part

    path = f"/v1/queues/{part(name, 'NAME')}"
    said = {option: value for option, value in given.items() if value is not None}
    if not said and not reset:
        raise click.UsageError("say which rules: see tq queues set --help")
    known: dict[str, Any] = {} if reset else api.get(path, has="queue")
    _show(api.change("PUT", path, new_rules(known, said), has="queue"), as_json=as_json)


def new_rules(known: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """The body that gives a queue with the rules *known* those that were *said*."""
    per_key = {name.removeprefix("key_"): value for name, value in said.items() if name.startswith("key_")}
    order = said.get("order") or known.get("order")
    rules = _new_limits(known, said, "--burst") | {
        "per_key": _new_limits(known.get("per_key", {}), per_key, "--key-burst")
    }
    return rules | ({} if order is None else {"order": order})


def _new_limits(known: Mapping[str, Any], said: Mapping[str, Any], burst_option: str) -> dict[str, Any]:
    limits = {name: said.get(name, known.get(name)) for name in ("concurrency", "rate")}
    limits = {name: None if value == NONE else value for name, value in limits.items()}
    if "burst" in said:
        if limits["rate"] is None:
            raise click.UsageError(f"{burst_option} is of a rate, and there is none")
        limits["rate"] = {**limits["rate"], "burst": said["burst"]}
    return limits


# Pausing, emptying


@queues_group.command("pause", epilog=examples("tq queues pause mail"))
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@asks
def pause_command(*, api: Api, names: tuple[str, ...], as_json: bool) -> Exit:
    """Start nothing more of these queues; what runs goes on."""
    return _switch(api, names, "pause", as_json=as_json)


@queues_group.command("resume", epilog=examples("tq queues resume mail"))
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@asks
def resume_command(*, api: Api, names: tuple[str, ...], as_json: bool) -> Exit:
    """Let these queues go on."""
    return _switch(api, names, "resume", as_json=as_json)


def _switch(api: Api, names: tuple[str, ...], action: str, *, as_json: bool) -> Exit:
    from tq.cli.asking import part
    from tq.cli.bulk import change_each
    from tq.cli.printing import print_json

    def change(name: str) -> None:
        queue = api.change("POST", f"/v1/queues/{part(name, 'NAME')}/{action}", has="queue")
        if as_json:
            print_json(queue)
        else:
            click.echo(f"{queue['queue']}\t{'paused' if queue['paused'] else 'goes on'}")

    return change_each(names, change)


@queues_group.command(
    "purge", epilog=examples("tq queues purge mail --dry-run", "tq queues purge mail --yes")
)
@click.argument("name")
@confirmed
@asks
def purge_command(*, api: Api, name: str, **rest: Any) -> Exit:
    """Cancel all that waits in a queue. It counts it and asks first."""
    from tq.cli.asking import part
    from tq.cli.bulk import change_counted

    return change_counted(api, f"/v1/queues/{part(name, 'NAME')}/purge", {}, "cancelled", **rest)
