"""``tq db``: a store copied into another, brought up to date, looked at. No server is asked."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from tq.cli.exits import Exit, Fault
from tq.cli.options import examples, json_option
from tq.config import Config, load_config, without_password
from tq.core.errors import StorageError

if TYPE_CHECKING:
    from tq.storage.copying import Watch

DRAW_S: Final = 0.1
COLUMNS: Final = ("what", "source", "target")

_store_option: Final = click.option(
    "--store", metavar="URL", help="The store. [default: as for tq serve; variable: TQ_STORE]"
)


@click.group(
    "db",
    short_help="Copy a store, upgrade it, check it.",
    epilog=examples("tq db check", "tq db copy sqlite:///./tq.db postgresql://localhost/tq"),
)
def db_group() -> None:
    """Copy a store into another, bring its tables up to date, look for what is wrong with it."""


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        raise Fault(Exit.CANNOT_OPEN_STORE, error.message) from None


def _config(store: str | None) -> Config:
    return load_config({"store": store}, environ=os.environ, folder=Path.cwd())


@db_group.command(
    "copy",
    short_help="Copy a whole queue into an empty store.",
    epilog=examples("tq db copy sqlite:///./tq.db postgresql://tq@db.example.com/tasks"),
)
@click.argument("source")
@click.argument("target")
@json_option
def copy_command(*, source: str, target: str, as_json: bool) -> None:
    """Copy all of the store SOURCE into the store TARGET: from SQLite to PostgreSQL, back, or to a like one.

    No server may have one of them open, and TARGET must be empty. All is copied, or TARGET stays as it
    was; SOURCE stays as it is. What SOURCE says is running is taken back by the next server on TARGET, as
    after a crash.
    """
    from tq.cli.printing import note, print_json, print_table
    from tq.storage.copying import copy_store

    begun = time.monotonic()
    with _faults(), _undone_by_signals(), _watched() as watch:
        report = copy_store(source, target, watch=watch)
    seconds = time.monotonic() - begun
    if as_json:
        counts = [{"what": each.what, "source": each.source, "target": each.target} for each in report.counts]
        print_json(
            {
                "source": report.source,
                "target": report.target,
                "seconds": round(seconds, 3),
                "counts": counts,
            }
        )
        return
    print_table(COLUMNS, [(each.what, each.source, each.target) for each in report.counts])
    note(f"copied in {seconds:.1f} s, and all counts are equal; start: tq serve --store {_shown(target)}")


@contextmanager
def _undone_by_signals() -> Iterator[None]:
    """Within, whatever asks this process to end does it as Ctrl+C does: what has been made is undone."""
    # What is ignored stays ignored, as SIGHUP is under nohup.
    ends = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) == signal.SIG_DFL]
    for each in ends:
        signal.signal(each, signal.default_int_handler)
    try:
        yield
    finally:
        for each in ends:
            signal.signal(each, signal.SIG_DFL)


def _shown(url: str) -> str:
    return without_password(url)


@contextmanager
def _watched() -> Iterator[Watch]:
    """Shows how far a copy is, on a terminal; elsewhere nothing."""
    from tq.cli.printing import CLEAR, bar

    drawn = -DRAW_S

    def draw(done: int, total: int) -> None:
        nonlocal drawn
        now = time.monotonic()
        if now - drawn >= DRAW_S or done == total:
            drawn = now
            line = f"{bar(done / total if total else 1.0)} {done:,} of {total:,} rows"
            click.echo(CLEAR + line, err=True, nl=False)

    def ignore(done: int, total: int) -> None:
        pass

    is_seen = sys.stderr.isatty()
    watch: Callable[[int, int], None] = draw if is_seen else ignore
    try:
        yield watch
    finally:
        if is_seen:
            click.echo(CLEAR, err=True, nl=False)


@db_group.command(
    "upgrade",
    short_help="Bring the tables of a store up to date.",
    epilog=examples("tq db upgrade", "tq db upgrade --store postgresql://tq@db.example.com/tasks"),
)
@_store_option
@json_option
def upgrade_command(*, store: str | None, as_json: bool) -> None:
    """Bring the tables of a store up to date, and make them if there are none. The same again does nothing.

    A server does this when it starts; here it is done before, or by a role that may make tables.
    """
    from tq.cli.printing import print_json
    from tq.storage.checking import upgrade_store

    url = _config(store).store
    with _faults():
        before, after = upgrade_store(url)
    if as_json:
        print_json({"store": _shown(url), "from": before, "to": after})
    elif before == after:
        click.echo(f"{_shown(url)} has schema version {after}: nothing to do")
    else:
        click.echo(f"{_shown(url)} was brought from schema version {before} to {after}")


@db_group.command(
    "check",
    short_help="Look for what is wrong with a store.",
    epilog=examples("tq db check", "tq db check --store sqlite:////var/lib/tq.db"),
)
@_store_option
@json_option
def check_command(*, store: str | None, as_json: bool) -> Exit:
    """Look for what is wrong with a store, which is only read; servers may go on meanwhile.

    Its pages and indexes, its settings and rights, and whether all it has fits together: states, counters,
    dependencies, histories.
    """
    config = _config(store)
    from tq.doctor import Status, examine_store, report_json, report_text

    checks = examine_store(config)
    click.echo(report_json(checks) if as_json else report_text(checks))
    return Exit.FAILED if any(check.status is Status.FAIL for check in checks) else Exit.OK
