"""``tq schedules``: tasks that come again and again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from tq.cli.exits import Exit
from tq.cli.options import Duration, asks, completes, examples, task_options

if TYPE_CHECKING:
    from tq.cli.asking import Api

COLUMNS: Final = ("name", "when", "type", "paused", "next", "last task")


@click.group(
    "schedules",
    short_help="Look at schedules, make, pause, run and delete them.",
    epilog=examples("tq schedules list", "tq schedules run nightly"),
)
def schedules_group() -> None:
    """Look at schedules, make, pause, run and delete them."""


def _path(name: str, action: str = "") -> str:
    from tq.cli.asking import part

    return f"/v1/schedules/{part(name, 'NAME')}{action}"


# Looking


@schedules_group.command("list", epilog=examples("tq schedules list"))
@asks
def list_command(*, api: Api, as_json: bool) -> None:
    """List all schedules, by name."""
    from tq.cli.printing import At, print_json, print_table

    if as_json:
        for schedule in _each_schedule(api):
            print_json(schedule)
        return
    print_table(
        COLUMNS,
        (
            (
                each["name"],
                _when(each),
                each["task"]["type"],
                each["paused"],
                At(each["next"][0]) if each["next"] else None,
                each["last_task_id"],
            )
            for each in _each_schedule(api)
        ),
    )


def _each_schedule(api: Api) -> Iterator[dict[str, Any]]:
    cursor = None
    while True:
        page = api.get("/v1/schedules", {"cursor": cursor}, has="schedules")
        yield from page["schedules"]
        cursor = page["next"]
        if cursor is None:
            return


def _when(schedule: Mapping[str, Any]) -> str:
    if "every" in schedule:
        return f"every {schedule['every']:g} s"
    return f"{schedule['cron']} ({schedule['tz']})"


def _show(schedule: Mapping[str, Any], *, as_json: bool) -> None:
    from tq.cli.printing import print_fields, print_json

    if as_json:
        print_json(schedule)
    else:
        print_fields({name: value for name, value in schedule.items() if value not in (None, [])})


@schedules_group.command("show", epilog=examples("tq schedules show nightly"))
@click.argument("name")
@asks
def show_command(*, api: Api, name: str, as_json: bool) -> None:
    """Show a schedule, its last and its next ticks."""
    _show(api.get(_path(name), has="name"), as_json=as_json)


# Changing


@schedules_group.command(
    "put",
    epilog=examples(
        'tq schedules put nightly backup of=shop --cron "0 3 * * *" --tz Europe/Madrid',
        "tq schedules put often backup of=till --every 10m --overlap allow",
    ),
)
@click.argument("name")
@click.argument("type")
@click.argument("values", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--cron", metavar="TEXT", help="Minute, hour, day of month, month, day of week; or @daily, …")
@click.option("--tz", metavar="ZONE", help="The time zone of --cron. [default: UTC]")
@click.option("--every", type=Duration(), help="Instead of --cron: how long from tick to tick.")
@click.option(
    "--overlap",
    metavar="WHAT",
    shell_complete=completes("skip", "allow"),
    help="While the last task has not ended: skip or allow.",
)
@click.option("--misfire-grace", type=Duration(), help="How late a tick may be.")
@task_options
@asks
def put_command(
    *,
    api: Api,
    name: str,
    cron: str | None,
    tz: str | None,
    every: int | None,
    overlap: str | None,
    misfire_grace: int | None,
    as_json: bool,
    **fields: Any,
) -> None:
    """Make the schedule NAME, or give it a new definition: a task of TYPE at each tick."""
    from tq.cli.payload import task_fields

    timing = {
        "cron": cron,
        "tz": tz,
        "every": None if every is None else every / 1000,
        "overlap": overlap,
        "misfire_grace": None if misfire_grace is None else misfire_grace / 1000,
    }
    body = task_fields(**fields) | {key: value for key, value in timing.items() if value is not None}
    _show(api.change("PUT", _path(name), body, has="name"), as_json=as_json)


@schedules_group.command("delete", epilog=examples("tq schedules delete nightly --yes"))
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@asks
def delete_command(*, api: Api, names: tuple[str, ...], yes: bool, as_json: bool) -> Exit:
    """Remove schedules; the tasks they made stay. It asks first."""
    from tq.cli.bulk import change_each, confirm
    from tq.cli.printing import cell, print_json

    confirm(f"Remove {len(names)} schedule{'s' * (len(names) > 1)}?", yes=yes)

    def change(name: str) -> None:
        api.change("DELETE", _path(name))
        if as_json:
            print_json({"name": name, "deleted": True})
        else:
            click.echo(f"{cell(name)}\tdeleted")

    return change_each(names, change)


@schedules_group.command("pause", epilog=examples("tq schedules pause nightly"))
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@asks
def pause_command(*, api: Api, names: tuple[str, ...], as_json: bool) -> Exit:
    """Fire no tick until it is resumed; none between is made up for."""
    return _switch(api, names, "/pause", as_json=as_json)


@schedules_group.command("resume", epilog=examples("tq schedules resume nightly"))
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@asks
def resume_command(*, api: Api, names: tuple[str, ...], as_json: bool) -> Exit:
    """Fire ticks again, from the next one on."""
    return _switch(api, names, "/resume", as_json=as_json)


def _switch(api: Api, names: tuple[str, ...], action: str, *, as_json: bool) -> Exit:
    from tq.cli.bulk import change_each
    from tq.cli.printing import cell, print_json

    def change(name: str) -> None:
        schedule = api.change("POST", _path(name, action), has="name")
        if as_json:
            print_json(schedule)
        else:
            click.echo(f"{cell(schedule['name'])}\t{'paused' if schedule['paused'] else 'goes on'}")

    return change_each(names, change)


@schedules_group.command("run", epilog=examples("tq schedules run nightly"))
@click.argument("name")
@asks
def run_command(*, api: Api, name: str, as_json: bool) -> None:
    """Make the task of a schedule now, beside its ticks, and print its id."""
    from tq.cli.printing import cell, print_json

    task = api.change("POST", _path(name, "/run"))
    if as_json:
        print_json(task)
    else:
        click.echo(cell(task["id"]))
