"""``tq top``: what a server does, drawn anew each second."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from tq.cli.exits import Exit, Fault
from tq.cli.options import asks, examples

if TYPE_CHECKING:
    from rich.console import Console

    from tq.cli.asking import Api
    from tq.cli.frame import Sample

EVERY_S: Final = 1.0
FAILURES_EVERY_S: Final = 5.0
"""The server counts all failed tasks to group them, so it is not asked each time."""
FAILURES_MAX: Final = 50
"""Causes that are asked for; the most frequent ones."""
WINDOW: Final = 6
"""Samples that the rates are taken over."""
KEYS_MAX: Final = 64
"""Bytes that are read of what was typed at once."""
ANSWER_S: Final = 5.0
"""Seconds after which a server that does not answer is away."""


@click.command(
    "top",
    short_help="Watch rates, queues, workers and failures.",
    epilog=examples("tq top", "tq top --once", "tq top --json | jq .rates"),
)
@click.option("--once", is_flag=True, help="Print it once, after a second for the rates, and end.")
@asks
def top_command(*, api: Api, once: bool, as_json: bool) -> None:
    """Watch a server: rates, queues, what the workers run, what failed. Press q to leave.

    Of several servers that share a store, all are shown, and what the workers of the one that is asked run.

    Goes on through a restart of the server, and shows that it is away. The rates are those of the last
    seconds. With --json, and where stdout is no terminal, it is shown once.
    """
    from tq.cli.frame import frame, picture
    from tq.cli.printing import is_terminal, print_json

    console = _open_console()
    watch = Watch(api)
    watch.look()
    # Without a name for it, nothing is known of what the terminal can do.
    is_dumb = console.is_dumb_terminal or os.environ.get("TERM") == ""
    if is_terminal() and not (once or as_json or is_dumb):
        _redraw(watch, console)
        return
    time.sleep(EVERY_S)
    watch.look()
    shown = picture(watch.samples)
    if as_json:
        print_json({"url": api.url, **shown})
    else:
        console.print(frame(shown, url=api.url, now=time.time()))


def _open_console() -> Console:
    """The terminal, or whatever stdout is."""
    from rich.console import Console

    class Whole(Console):
        def on_broken_pipe(self) -> None:
            # Its own way is to end the process with 1; `tq.cli.main` knows a reader that has enough.
            raise BrokenPipeError from None

    return Whole(highlight=False)


class Watch:
    """The last samples of a server, the newest last."""

    def __init__(self, api: Api) -> None:
        self.url = api.url
        self._api = api
        self.samples: deque[Sample] = deque(maxlen=WINDOW)
        self._failures: list[dict[str, Any]] = []
        self._failures_s = float("-inf")

    def look(self) -> None:
        """Take one more sample.

        Raises:
            Fault: The server did not give it.
        """
        from tq.cli.frame import Sample, is_before

        taken_s = time.monotonic()
        if taken_s - self._failures_s >= FAILURES_EVERY_S:
            self._failures = self._get("/v1/failures", "groups", {"limit": FAILURES_MAX})["groups"]
            self._failures_s = taken_s
        sample = Sample(
            at=time.time_ns() // 1_000_000,
            taken_s=taken_s,
            stats=self._get("/v1/stats", "totals"),
            queues=self._get("/v1/queues", "queues")["queues"],
            workers=self._get("/v1/workers", "workers"),
            servers=self._get("/v1/servers", "servers")["servers"],
            failures=self._failures,
        )
        if self.samples and not is_before(self.samples[-1], sample):
            self.samples.clear()
        self.samples.append(sample)

    def _get(self, path: str, has: str, query: dict[str, object] | None = None) -> dict[str, Any]:
        return self._api.get(path, query, has=has, timeout_s=ANSWER_S, tries=1)


def _redraw(watch: Watch, console: Console) -> None:
    """Draw until q or Ctrl+C."""
    from rich.live import Live

    from tq.cli.frame import frame, picture

    away: str | None = None
    with _keys() as keys_within, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            height = console.size.height
            shown = picture(watch.samples)
            live.update(frame(shown, url=watch.url, now=time.time(), height=height, away=away), refresh=True)
            if set(keys_within(EVERY_S)) & set(b"qQ"):
                return
            away = _look(watch)


def _look(watch: Watch) -> str | None:
    """Take one more sample; or say why the server gives none, as while it starts again."""
    try:
        watch.look()
    except Fault as fault:
        if fault.code is Exit.NOT_ALLOWED:
            raise
        return fault.line
    return None


def _nothing_within(seconds: float) -> bytes:
    time.sleep(seconds)
    return b""


@contextmanager
def _keys() -> Iterator[Callable[[float], bytes]]:
    """Gives what is typed within so many seconds, and has it not shown. Where nobody can type: nothing."""
    import select
    import termios
    import tty

    if not sys.stdin.isatty():
        yield _nothing_within
        return

    file = sys.stdin.fileno()
    before = termios.tcgetattr(file)

    def within(seconds: float) -> bytes:
        ready, _, _ = select.select([file], [], [], seconds)
        return os.read(file, KEYS_MAX) if ready else b""

    tty.setcbreak(file)
    try:
        yield within
    finally:
        termios.tcsetattr(file, termios.TCSADRAIN, before)
