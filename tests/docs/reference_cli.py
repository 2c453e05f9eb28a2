"""The reference of the command line: how each command is called, its options, its examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Final

import click
from markdown_text import code, codes, table

from tq.cli.main import cli
from tq.cli.options import FILTERS
from tq.config import SETTINGS

SHARED: Final = ("--url", "--json")
"""The options of all that asks a server; the page tells of them once."""


def commands(group: click.Group, path: str = "tq") -> Iterator[tuple[str, click.Command]]:
    """Every command below *group*, groups of commands included, with the words that call it."""
    for name, command in group.commands.items():
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


COMMANDS: Final = dict(commands(cli))
LEAVES: Final = {path: each for path, each in COMMANDS.items() if not isinstance(each, click.Group)}


def options(command: click.Command) -> dict[str, tuple[str, str]]:
    """By flag: how it is written, and its help. ``--help`` is left out."""
    ctx = click.Context(command)
    found = {
        each.opts[0]: each.get_help_record(ctx) for each in command.params if isinstance(each, click.Option)
    }
    return {flag: record for flag, record in found.items() if record is not None}


_with_filters: Final = click.Command("filters")
for _add in FILTERS:
    _add(_with_filters)
OF_FILTERS: Final = options(_with_filters)
OF_SETTINGS: Final = frozenset(setting.flag for setting in SETTINGS)


def examples(command: click.Command) -> list[str]:
    """The examples in the help of *command*."""
    _, _, shown = (command.epilog or "").partition("Examples:\n")
    shown, _, _ = shown.partition("\n\n")
    return [line.strip() for line in shown.splitlines() if line.strip()]


def described(path: str) -> str:
    """How *path* is called, its own options, which others it takes, and its examples."""
    command = LEAVES[path]
    usage = " ".join([path, *command.collect_usage_pieces(click.Context(command))])
    given = options(command)
    has_filters = given.keys() >= OF_FILTERS.keys()
    elsewhere = {*(OF_FILTERS if has_filters else ()), *(SHARED if "--url" in given else ())}
    elsewhere |= OF_SETTINGS if given.keys() >= OF_SETTINGS else set()
    own = [record for flag, record in given.items() if flag not in elsewhere]
    parts = [f"```\n{usage}\n```", option_table(own) if own else "", " ".join(_elsewhere(elsewhere))]
    parts.append("```sh\n" + "\n".join(examples(command)) + "\n```")
    return "\n\n".join(part.strip() for part in parts if part)


def option_table(records: Iterable[tuple[str, str]]) -> str:
    """The options of these help records."""
    return table(("option", "meaning"), ((code(written), text) for written, text in records))


def _elsewhere(flags: set[str]) -> Iterator[str]:
    if flags >= OF_FILTERS.keys():
        yield "It takes the [filters](#filters)."
    if flags >= OF_SETTINGS:
        yield f"It takes the [settings](configuration.md#settings): {codes(sorted(OF_SETTINGS))}."
    if flags >= {*SHARED}:
        yield "It [asks a server](#asking-a-server): `--url` `--json`."


def shared_options() -> str:
    """The options of all that asks a server."""
    given = options(LEAVES["tq tasks show"])
    return option_table(given[flag] for flag in SHARED)


PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "options of all that asks a server": shared_options,
    "filters": lambda: option_table(OF_FILTERS.values()),
    **{path: partial(described, path) for path in LEAVES},
}
