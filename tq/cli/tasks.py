"""``tq tasks``: looking at tasks, following them, and changing them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import click

from tq.cli.exits import Exit
from tq.cli.options import asks, confirmed, examples, filters, limited

if TYPE_CHECKING:
    from tq.cli.asking import Api

PAGE_MAX: Final = 500
"""Tasks in one page of the API."""
COLUMNS: Final = ("id", "type", "queue", "state", "reason", "attempt", "created", "progress")


@click.group(
    "tasks",
    short_help="Look at tasks, follow, cancel, retry and delete them.",
    epilog=examples("tq tasks list --state failed", "tq tasks tail task-0199"),
)
def tasks_group() -> None:
    """Look at tasks, follow, cancel, retry and delete them."""


# Looking


@tasks_group.command(
    "list",
    epilog=examples(
        "tq tasks list --state failed --created-after 1h",
        "tq tasks list --where payload.user.id:42 --all --json | jq .id",
    ),
)
@filters
@limited("tasks")
@click.option("--all", "everything", is_flag=True, help="All of them, whatever --limit says.")
@asks
def list_command(
    *, api: Api, wanted: dict[str, Any], limit: int, everything: bool, as_json: bool
) -> Exit | None:
    """List tasks, newest first. All filters that are given must hold."""
    from tq.cli.printing import note

    found = each_task(api, wanted, PAGE_MAX if everything else limit, whole=as_json)
    print_tasks(found if everything else islice(found, limit), as_json=as_json)
    if not everything and next(found, None) is not None:
        note(f"there are more than {limit}: see --limit and --all")
    return None


def each_task(
    api: Api, wanted: Mapping[str, Any], limit: int, *, whole: bool = True
) -> Iterator[dict[str, Any]]:
    """The tasks that *wanted* means, newest first, page after page of *limit* or what a page may have.

    Unless *whole*, they have no more than a line of a table shows: no payload, for one.
    """
    query: dict[str, object] = {**wanted, "limit": min(limit, PAGE_MAX)}
    if not whole:
        query["view"] = "brief"
    while True:
        page = api.get("/v1/tasks", query, has="tasks")
        yield from page["tasks"]
        if page["next"] is None:
            return
        query["cursor"] = page["next"]


def print_tasks(found: Iterator[dict[str, Any]], *, as_json: bool) -> None:
    """Print *found*, a line each."""
    from tq.cli.printing import At, print_json, print_table

    if as_json:
        for task in found:
            print_json(task)
        return
    print_table(
        COLUMNS,
        (
            (
                *(task.get(name) for name in ("id", "type", "queue", "state", "reason")),
                f"{task['attempt']}/{task['max_attempts']}",
                At(task["created_at"]),
                _percent(task),
            )
            for task in found
        ),
    )


def _percent(task: Mapping[str, Any]) -> str | None:
    fraction = (task.get("progress") or {}).get("fraction")
    return None if fraction is None else f"{fraction:.0%}"


@tasks_group.command("show", epilog=examples("tq tasks show task-0199", "tq tasks show mine --json"))
@click.argument("task_id", metavar="ID")
@asks
def show_command(*, api: Api, task_id: str, as_json: bool) -> None:
    """Show one task: all its fields, its errors with their tracebacks, what it logged."""
    from tq.cli.asking import part
    from tq.cli.printing import print_fields, print_json

    task = api.get(f"/v1/tasks/{part(task_id)}")
    if as_json:
        print_json(task)
    else:
        kept = ("payload", "result")
        print_fields({name: value for name, value in task.items() if name in kept or value not in (None, [])})


@tasks_group.command("tree", epilog=examples("tq tasks tree order-7"))
@click.argument("task_id", metavar="ID")
@asks
def tree_command(*, api: Api, task_id: str, as_json: bool) -> None:
    """Show a task and all below it: its children, theirs, and so on."""
    from tq.cli.asking import part
    from tq.cli.printing import cell, note, print_json

    answer = api.get(f"/v1/tasks/{part(task_id)}/tree", has="tree")
    if as_json:
        print_json(answer)
        return
    for depth, task in _branches(answer["tree"]):
        shown = [task["id"], task["type"], task["state"], task.get("reason"), _percent(task)]
        click.echo("  " * depth + "  ".join(cell(each) for each in shown if each is not None))
    if answer["more"]:
        note("the tree is larger: it was cut off")


def _branches(root: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every task of the tree, each before its children, with its depth."""
    left = [(0, root)]
    while left:
        depth, task = left.pop()
        yield depth, task
        left += [(depth + 1, child) for child in reversed(task["children"])]


@click.command(
    "tail",
    short_help="Print what happens, to one task or to all.",
    epilog=examples("tq tail task-0199 && echo done", "tq tail --queue mail --json"),
)
@click.argument("task_id", metavar="[ID]", required=False)
@click.option("--queue", metavar="NAME", help="What happens to tasks of this queue.")
@click.option("--type", "type", metavar="NAME", help="What happens to tasks of this type.")
@asks
def tail_command(*, api: Api, task_id: str | None, as_json: bool, **query: str | None) -> Exit:
    """Print what happens, as it happens: to one task until it has ended, or to all until Ctrl+C.

    Comes back if the server restarts. With ID the exit code is the outcome, as with tq submit --wait.
    """
    from tq.cli.following import tail_all, tail_one

    if task_id is None:
        tail_all(api, query, as_json=as_json)
        return Exit.OK
    if any(query.values()):
        raise click.UsageError("--queue and --type are of all tasks: leave them out, or ID")
    return tail_one(api, task_id, as_json=as_json)


_tail_of_tasks = copy(tail_command)
_tail_of_tasks.epilog = examples("tq tasks tail task-0199 && echo done", "tq tasks tail --queue mail --json")
tasks_group.add_command(_tail_of_tasks)


# Changing


def _meant(ids: tuple[str, ...], wanted: Mapping[str, Any], *, everything: bool) -> None:
    """Return if the command says which tasks it means, in one way."""
    if ids and (wanted or everything):
        raise click.UsageError("give either IDs or filters, not both")
    if not (ids or wanted or everything):
        raise click.UsageError("say which tasks are meant: IDs, filters, or --all for all of them")


_IDS = click.argument("ids", metavar="[ID]...", nargs=-1)
_EVERYTHING = click.option("--all", "everything", is_flag=True, help="All tasks, without a filter.")
_MOST = click.option("--limit", type=click.IntRange(min=1), help="At most so many, newest first.")


@tasks_group.command(
    "cancel", epilog=examples("tq tasks cancel task-0199", "tq tasks cancel --tag news --state waiting")
)
@_IDS
@filters
@_EVERYTHING
@_MOST
@click.option("--no-cascade", is_flag=True, help="Leave the children alone.")
@confirmed
@asks
def cancel_command(
    *, api: Api, ids: tuple[str, ...], wanted: dict[str, Any], everything: bool, no_cascade: bool, **rest: Any
) -> Exit:
    """Cancel tasks by their IDs, or all that the filters mean; what runs is asked to stop.

    With filters it counts them and asks first.
    """
    _meant(ids, wanted, everything=everything)
    if ids:
        return _each(api, "cancel", ids, {"cascade": not no_cascade}, **rest)
    return _matching(api, "cancel", wanted, everything=everything, cascade=not no_cascade, **rest)


@tasks_group.command(
    "retry", epilog=examples("tq tasks retry task-0199", "tq tasks retry --type email --error timeout --yes")
)
@_IDS
@filters
@_EVERYTHING
@_MOST
@confirmed
@asks
def retry_command(
    *, api: Api, ids: tuple[str, ...], wanted: dict[str, Any], everything: bool, **rest: Any
) -> Exit:
    """Run ended tasks again, by their IDs, or all that the filters mean: failed ones without --state.

    With filters it counts them and asks first.
    """
    _meant(ids, wanted, everything=everything)
    if ids:
        return _each(api, "retry", ids, None, **rest)
    return _matching(api, "retry", wanted, everything=everything, **rest)


@tasks_group.command(
    "delete",
    epilog=examples("tq tasks delete task-0199 --yes", "tq tasks delete --state cancelled --dry-run"),
)
@_IDS
@filters
@_EVERYTHING
@_MOST
@confirmed
@asks
def delete_command(
    *, api: Api, ids: tuple[str, ...], wanted: dict[str, Any], everything: bool, **rest: Any
) -> Exit:
    """Delete ended tasks by their IDs, or all that the filters mean. It asks first."""
    _meant(ids, wanted, everything=everything)
    if ids:
        return _each(api, "delete", ids, None, **rest)
    return _matching(api, "delete", wanted, everything=everything, **rest)


def _matching(api: Api, action: str, wanted: dict[str, Any], *, everything: bool, **rest: Any) -> Exit:
    from tq.cli.bulk import change_matching

    return change_matching(api, action, wanted, all=everything, **rest)


def _each(
    api: Api,
    action: str,
    ids: tuple[str, ...],
    body: object,
    *,
    yes: bool,
    dry_run: bool,
    limit: int | None,
    as_json: bool,
) -> Exit:
    from tq.cli.asking import part
    from tq.cli.bulk import change_each, confirm
    from tq.cli.printing import cell, print_json

    if dry_run or limit is not None:
        raise click.UsageError("--dry-run and --limit are of filters: leave them out, or the IDs")
    if action == "delete":
        confirm(f"Delete {len(ids)} task{'s' * (len(ids) > 1)} with what became of them?", yes=yes)

    def change(task_id: str) -> None:
        path = f"/v1/tasks/{part(task_id)}"
        if action == "delete":
            api.change("DELETE", path)
            task = {"id": task_id, "state": "deleted"}
        else:
            task = api.change("POST", f"{path}/{action}", body)
        if as_json:
            print_json(task)
        else:
            stopping = "stopping" if task.get("cancel_requested") else task["state"]
            click.echo(f"{cell(task['id'])}\t{cell(stopping)}")

    return change_each(ids, change)
