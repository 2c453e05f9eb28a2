"""Markdown, written: tables, code, and docstrings as prose."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; what would end a cell or a row early is escaped."""
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]]) + "\n"


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", " ".join(text.split()))


def code(text: str) -> str:
    """*text* as code."""
    return f"`{text}`"


def codes(texts: Iterable[str]) -> str:
    """Each of *texts* as code."""
    return " ".join(map(code, texts))


def prose(doc: str) -> str:
    """A docstring, or a part of one, as Markdown: its code, and the names of arguments, are `code`."""
    return re.sub(r"(?<![\w*`])\*(\w+)\*(?![\w*])", r"`\1`", re.sub("(?<!`)``(?!`)", "`", doc))


def flat(doc: str) -> str:
    """A docstring in one paragraph."""
    return " ".join(prose(doc).split())
