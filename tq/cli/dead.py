"""``tq dead``: what failed for good, by its cause; running it again, and deleting it."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import click

from tq.cli.exits import Exit
from tq.cli.options import asks, confirmed, examples, filters, limited

if TYPE_CHECKING:
    from tq.cli.asking import Api

FAILED: Final = "failed"


@click.group(
    "dead",
    short_help="Look at what failed for good, retry and delete it.",
    epilog=examples("tq dead list", "tq dead retry --type email"),
)
def dead_group() -> None:
    """Look at what failed for good, retry and delete it."""


@dead_group.command("list", epilog=examples("tq dead list", "tq dead list --type email --error timeout"))
@filters
@limited("groups or tasks")
@click.option("--all", "as_tasks", is_flag=True, help="The tasks, not their groups. Filters imply it.")
@asks
def list_command(*, api: Api, wanted: dict[str, Any], limit: int, as_tasks: bool, as_json: bool) -> None:
    """List what failed for good: groups of one cause, the largest first; or tasks, newest first."""
    from tq.cli.tasks import PAGE_MAX, each_task, print_tasks

    if as_tasks or wanted:
        found = each_task(api, _failed(wanted), limit, whole=as_json)
        print_tasks(islice(found, limit), as_json=as_json)
        return
    answer = api.get("/v1/failures", {"limit": min(limit, PAGE_MAX)}, has="groups")
    _print_groups(answer["groups"], as_json=as_json)


def _print_groups(groups: list[dict[str, Any]], *, as_json: bool) -> None:
    from tq.cli.printing import At, print_json, print_table

    if as_json:
        for group in groups:
            print_json(group)
        return
    print_table(
        ("fingerprint", "count", "type", "last", "latest", "error"),
        (
            (
                *(group[name] for name in ("fingerprint", "count", "type")),
                At(group["error"]["at"]),
                group["latest"],
                f"{group['error']['type']}: {group['error']['message']}",
            )
            for group in groups
        ),
    )


def _failed(wanted: dict[str, Any]) -> dict[str, Any]:
    if "state" in wanted:
        raise click.UsageError("--state: what is dead has failed; for other states there is tq tasks")
    return wanted | {"state": FAILED}


_EVERYTHING: Final = click.option(
    "--all", "everything", is_flag=True, help="All that failed; so it is without a filter."
)


def _meant(wanted: dict[str, Any], *, everything: bool) -> None:
    if wanted and everything:
        raise click.UsageError("say which tasks: by filters or by --all, not both")


@dead_group.command(
    "retry",
    epilog=examples("tq dead retry --fingerprint 0f3a9c11d2e4", "tq dead retry --type email --dry-run"),
)
@filters
@_EVERYTHING
@confirmed
@asks
def retry_command(*, api: Api, wanted: dict[str, Any], everything: bool, **rest: Any) -> Exit:
    """Run failed tasks again: all, or those that the filters mean. It counts them and asks first."""
    from tq.cli.bulk import change_matching

    _meant(wanted, everything=everything)
    return change_matching(api, "retry", _failed(wanted), **rest)


@dead_group.command(
    "purge", epilog=examples("tq dead purge --dry-run", "tq dead purge --created-before 2d --yes")
)
@filters
@_EVERYTHING
@confirmed
@asks
def purge_command(*, api: Api, wanted: dict[str, Any], everything: bool, **rest: Any) -> Exit:
    """Delete failed tasks: all, or those that the filters mean. It counts them and asks first."""
    from tq.cli.bulk import change_matching

    _meant(wanted, everything=everything)
    return change_matching(api, "delete", _failed(wanted), **rest)
