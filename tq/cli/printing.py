"""What commands print: tables for a terminal, fields between tabs for a program, JSON for either.

A text of a task never reaches the terminal as it is: what is not printable is shown as an escape.
"""

from __future__ import annotations

import shutil
import sys
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import click
import msgspec

from tq.logs import printable

Row = Sequence[object]

GAP: Final = "  "
BAR: Final = 20
CLEAR: Final = "\r\x1b[K"
"""Takes away what is on the line of the terminal."""
COLUMN_MIN: Final = 6
"""Columns of the screen that a cell keeps, however narrow the screen is."""
_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


class At(str):
    """An instant as the API writes it. On a terminal it is shown as how long ago that is."""

    __slots__ = ()


def is_terminal() -> bool:
    """Whether stdout is read by a person."""
    return sys.stdout.isatty()


def note(line: str) -> None:
    """A message beside the data: one line on stderr."""
    click.echo("tq: " + printable(line), err=True)


def bar(fraction: float) -> str:
    """How far something is."""
    full = round(max(0.0, min(1.0, fraction)) * BAR)
    return f"[{'#' * full}{'.' * (BAR - full)}] {fraction:4.0%}"


# JSON


def json_text(value: object) -> str:
    """*value* as JSON on one line, in ASCII wherever a terminal could obey it."""
    text = msgspec.json.encode(value).decode()
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def print_json(value: object) -> None:
    """Print *value* as one line of JSON."""
    click.echo(json_text(value))


# Tables


def print_table(titles: Sequence[str], rows: Iterable[Row]) -> None:
    """Print *rows*: on a terminal below *titles*, aligned and cut to its width.

    Elsewhere each row is a line of its whole cells with tabs between them, and there are no titles.
    """
    if is_terminal():
        rows = list(rows)
        if rows:
            lines = table_lines(titles, rows, width=shutil.get_terminal_size().columns, now=time.time())
            click.echo("\n".join(lines))
        return
    for row in rows:
        click.echo("\t".join(cell(value) for value in row))


def cell(value: object) -> str:
    """*value* on one line, nothing in it that a terminal would obey; empty if there is none."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case str():
            return printable(value)
        case list() | tuple():
            return ",".join(cell(each) for each in value)
        case dict():
            return json_text(value)
        case _:
            return printable(str(value))


def table_lines(titles: Sequence[str], rows: Sequence[Row], *, width: int, now: float) -> list[str]:
    """The lines of a table that is no wider than *width*, if every column gets its least."""
    shown = [[ago(each, now) if isinstance(each, At) else cell(each) for each in row] for row in rows]
    widths = [
        max(columns_of(title), *(columns_of(row[at]) for row in shown)) for at, title in enumerate(titles)
    ]
    widths = fitted(widths, width - len(GAP) * (len(titles) - 1))
    lines = [[title.upper() for title in titles], *shown]
    return [GAP.join(_padded(*pair) for pair in zip(line, widths, strict=True)).rstrip() for line in lines]


def fitted(widths: Sequence[int], room: int, *, least: int = COLUMN_MIN) -> list[int]:
    """*widths* made narrower until they fit into *room*: the widest gives first, none its last *least*."""
    widths = list(widths)
    while sum(widths) > room and max(widths) > least:
        widths[widths.index(max(widths))] -= 1
    return widths


def columns_of(text: str) -> int:
    """How many columns of a screen *text* takes."""
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """*text*, or what of it fits into *width* columns with a … at its end."""
    if columns_of(text) <= width:
        return text
    kept, used = "", 0
    for character in text:
        used += _columns(character)
        if used > width - 1:
            break
        kept += character
    return kept + "…"


def _padded(text: str, width: int) -> str:
    text = cut(text, width)
    return text + " " * (width - columns_of(text))


def ago(at: str, now: float) -> str:
    """How long before *now* the instant *at* is: ``5m``; ``in 2h`` for one to come."""
    seconds = now - datetime.fromisoformat(at).timestamp()
    unit, letter = next((each for each in _UNITS if abs(seconds) >= each[0]), _UNITS[-1])
    text = f"{int(abs(seconds) // unit)}{letter}"
    return f"in {text}" if seconds <= -1 else text


# One thing


def print_fields(fields: Mapping[str, Any]) -> None:
    """Print *fields*, a line each: name and value. A list of records is a block of lines."""
    width = max(map(len, fields), default=0) if is_terminal() else 0
    for name, value in fields.items():
        blocks = isinstance(value, list) and any(isinstance(each, dict) for each in value)
        between = GAP if is_terminal() else "\t"
        click.echo(f"{name:{width}}{between}{len(value) if blocks else _value(value)}".rstrip(" "))
        for each in value if blocks else ():
            _print_block(each)


def _value(value: object) -> str:
    return json_text(value) if isinstance(value, dict | list | float | bool) else cell(value)


def _print_block(record: Mapping[str, Any]) -> None:
    """One of several records of a thing: its short fields on a line, a long text below."""
    short = {name: value for name, value in record.items() if "\n" not in str(value)}
    click.echo(GAP + " ".join(f"{name}={_quoted(value)}" for name, value in short.items()))
    for name in record.keys() - short.keys():
        for line in str(record[name]).splitlines():
            click.echo(GAP * 2 + printable(line))


def _quoted(value: object) -> str:
    text = _value(value)
    return '"' + text.replace('"', '\\"') + '"' if " " in text else text


def words(fields: Mapping[str, Any]) -> str:
    """*fields* on one line: ``name=value name=value``."""
    return " ".join(f"{name}={_quoted(value)}" for name, value in fields.items() if value is not None)
