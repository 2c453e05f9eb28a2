"""The parts of the reference that are written by the code itself: run it, and the pages have them.

A page has such a part between ``<!-- generated: NAME -->`` and ``<!-- end -->``; all else of it is written by
hand. `PARTS` says what stands there, by name. A test fails while a page has something else.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import reference_cli
import reference_http
import reference_python
from markdown_text import code, codes, flat, table
from prometheus_client import CollectorRegistry, ProcessCollector

from tq.api.openapi import error_kinds
from tq.api.problems import BAD_FIELD_STATUS, status_of
from tq.cli.exits import EXIT_MEANINGS
from tq.config import SETTINGS
from tq.core.errors import InvalidInput, TqError
from tq.core.events import Event
from tq.logs import LEVELS
from tq.metrics.exposition import OF_HTTP, OF_LEDGER, OF_SERVER, OF_STORE, OF_TASKS, Described

DOCS: Final = Path(__file__).resolve().parent.parent.parent / "docs"
MARKED: Final = re.compile(r"(?<=<!-- generated: )(?P<name>[^\n]+)(?P<rest> -->\n).*?(?=<!-- end -->)", re.S)


class UnknownPart(Exception):
    """A page has a part that nothing here writes."""


# The parts


def settings() -> str:
    """Every setting of a server."""
    rows = (
        (
            code(each.flag),
            code(each.variable),
            code(each.name),
            code(each.default) if each.default else "",
            each.form,
            each.help,
        )
        for each in SETTINGS
    )
    return table(("flag", "variable", "key in `tq.toml`", "default", "takes", "meaning"), rows)


def errors() -> str:
    """Every error of the API, as the tree has them; the fault of tq itself last."""
    first, *rest = error_kinds(TqError)
    rows = ((code(kind.code), _status(kind), flat(_meaning(kind)), kind.remedy) for kind in (*rest, first))
    return table(("code", "status", "what it means", "what to do"), rows)


def _status(kind: type[TqError]) -> str:
    status = str(status_of(kind("")))
    return f"{status}, or {BAD_FIELD_STATUS} with a `field`" if kind is InvalidInput else status


def _meaning(kind: type[TqError]) -> str:
    return "A fault of tq." if kind is TqError else (kind.__doc__ or "")


def events() -> str:
    """Every event."""
    rows = (
        (
            code(str(kind.__struct_config__.tag)),
            LEVELS[kind].name.lower(),
            codes(name for name in kind.__struct_fields__ if name != "at"),
            flat(kind.__doc__ or ""),
        )
        for kind in Event.__subclasses__()
    )
    return table(("event", "level", "fields", "meaning"), rows)


def metrics(described: Sequence[Described]) -> str:
    """These metrics, by the names that Prometheus asks for."""
    rows = (
        (_full_name(each.name, each.kind), each.kind, codes(each.labels), each.text) for each in described
    )
    return table(("metric", "kind", "labels", "tells"), rows)


def process_metrics() -> str:
    """What prometheus-client tells of a process, on Linux."""
    families = ProcessCollector(registry=CollectorRegistry()).collect()
    rows = ((_full_name(each.name, each.type), each.type, "", each.documentation) for each in families)
    return table(("metric", "kind", "labels", "tells"), rows)


def _full_name(name: str, kind: str) -> str:
    return code(f"{name}_total" if kind == "counter" else name)


def exit_codes() -> str:
    """What the exit codes of ``tq`` mean."""
    return table(("code", "meaning"), ((str(int(each)), text) for each, text in EXIT_MEANINGS.items()))


PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "settings": settings,
    "errors": errors,
    "events": events,
    "metrics of tasks": lambda: metrics(OF_TASKS),
    "metrics of the store": lambda: metrics((*OF_STORE, *OF_LEDGER)),
    "metrics of the server": lambda: metrics(OF_SERVER),
    "metrics of HTTP": lambda: metrics(OF_HTTP),
    "metrics of the process": process_metrics,
    "exit codes": exit_codes,
    **reference_http.PARTS,
    **reference_cli.PARTS,
    **reference_python.PARTS,
}


# Pages


def names_in(text: str) -> list[str]:
    """The names of the generated parts of *text*, in order."""
    return [each["name"] for each in MARKED.finditer(text)]


def filled(text: str, parts: Mapping[str, Callable[[], str]] = PARTS) -> str:
    """*text* with what its generated parts should be. Raises UnknownPart."""

    def written(found: re.Match[str]) -> str:
        if found["name"] not in parts:
            raise UnknownPart(found["name"])
        return f"{found['name']}{found['rest']}\n{parts[found['name']]().strip()}\n\n"

    return MARKED.sub(written, text)


def pages() -> Iterator[Path]:
    """The pages that may have generated parts."""
    yield from sorted(DOCS.rglob("*.md"))


def write(paths: Iterable[Path]) -> list[Path]:
    """Write the generated parts of the pages; those that were changed."""
    changed = []
    for path in paths:
        text = path.read_text()
        new = filled(text)
        if new != text:
            path.write_text(new)
            changed.append(path)
    return changed


if __name__ == "__main__":
    for each in write(pages()):
        print(each.relative_to(DOCS.parent), file=sys.stderr)
