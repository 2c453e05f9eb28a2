"""``tq servers``: the servers that share a store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from tq.cli.options import asks, examples

if TYPE_CHECKING:
    from tq.cli.asking import Api

COLUMNS: Final = ("server", "host", "pid", "state", "seen", "busy", "workers", "version", "types")


@click.command(
    "servers",
    short_help="See the servers that share the store.",
    epilog=examples("tq servers", "tq servers --json"),
)
@asks
def servers_command(*, api: Api, as_json: bool) -> None:
    """See the servers that share the store with the one that is asked, and which of them leads."""
    from tq.cli.printing import At, note, print_json, print_table

    answer = api.get("/v1/servers", has="servers")
    if as_json:
        print_json(answer)
        return
    print_table(
        COLUMNS,
        [
            (
                *(each["id"], each["host"], each["pid"], state_of(each), At(each["seen_at"])),
                *(each["busy"], each["workers"], each["version"]),
                "any" if each["types"] is None else " ".join(each["types"]),
            )
            for each in answer["servers"]
        ],
    )
    note(f"{len(answer['servers'])} servers")


def state_of(server: Mapping[str, Any]) -> str:
    """What a server, as the API shows it, is about."""
    if server["draining"]:
        return "draining"
    return "leads" if server["leads"] else "ready"
