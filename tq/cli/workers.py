"""``tq workers``: what each worker of a server does, and how many there are to be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from tq.cli.options import asks, examples

if TYPE_CHECKING:
    from tq.cli.asking import Api

COLUMNS: Final = ("worker", "state", "since", "task", "type", "queue", "attempt")


@click.command(
    "workers",
    short_help="See what the workers do, or how many there are to be.",
    epilog=examples("tq workers", "tq workers 8", "tq workers 2:20"),
)
@click.argument("count", metavar="[N|MIN:MAX]", required=False)
@asks
def workers_command(*, api: Api, count: str | None, as_json: bool) -> None:
    """See what the workers of the server do; with N or MIN:MAX, have so many from now on.

    The number is for that server until it ends: the next start takes --workers of tq serve again.
    """
    from tq.cli.printing import At, note, print_json, print_table

    if count is None:
        answer = api.get("/v1/workers", has="workers")
    else:
        answer = api.change("PUT", "/v1/workers", _asked(count), has="workers")
    if as_json:
        print_json(answer)
        return
    print_table(
        COLUMNS,
        [
            (
                *(each["worker"], _state(each), At(each["since"])),
                *(each.get(name) for name in ("task_id", "type", "queue", "attempt")),
            )
            for each in answer["workers"]
        ],
    )
    note(f"{answer['count']} workers, {answer['busy']} busy; {answer['min']} to {answer['max']} are wanted")


def _state(worker: dict[str, Any]) -> str:
    return "overran" if worker.get("overran") else str(worker["state"])


def _asked(text: str) -> dict[str, int]:
    try:
        numbers = [int(each) for each in text.split(":")]
    except ValueError:
        numbers = []
    match numbers:
        case [count]:
            return {"count": count}
        case [low, high]:
            return {"min": low, "max": high}
        case _:
            raise click.UsageError(f"{text!r} is no number of workers such as 8 or 2:20")
