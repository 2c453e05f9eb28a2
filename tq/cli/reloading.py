"""``tq serve --reload``: a server as a child process, started again when Python files change.

For development. It only looks at files and at the child: nothing of the server runs in this process, so
that an app that does not import, or a server that dies, does not end it.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Final

from tq.cli.exits import Exit
from tq.cli.printing import note

POLL_S: Final = 0.5
FILES_MAX: Final = 10_000
"""Files that are looked at, in one folder and all below it."""
SKIPPED: Final = frozenset({"__pycache__", "node_modules", "site-packages"})
"""Folders that are not looked into, beside hidden ones and those of virtual environments."""
STOPS: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
SIGNALS_MAX: Final = 64
"""Signals that are read at once."""

Seen = Mapping[str, tuple[int, int]]
"""By path, when a file was changed and how long it is."""


def run(command: Sequence[str], folder: Path, environ: Mapping[str, str]) -> Exit:
    """Run *command*, and again after each change of a Python file in *folder*, until a signal ends it.

    Signals are passed on, a second one too; the code is then that of the server. A server that fails by
    itself is started again when a file has changed.
    """
    # Python takes a file for unchanged that is as long as before and of the same second: keep no bytecode.
    environ = {**environ, "PYTHONDONTWRITEBYTECODE": "1"}
    with _signals() as heard_within:
        while True:
            seen = look(folder)
            # In a group of its own: Ctrl+C then comes to this process only, which passes it on.
            server = subprocess.Popen(command, env=environ, process_group=0)
            was_stopped, was_changed = _supervise(server, seen, folder, heard_within)
            code = Exit(server.returncode) if server.returncode in set(Exit) else Exit.FAILED
            if was_stopped or (code is Exit.OK and not was_changed):
                return code
            if not was_changed:
                note(f"the server has ended ({server.returncode}): a change will start it again")
                while (change := changed(seen, look(folder))) is None:
                    if heard_within(POLL_S):
                        return code
                note(f"{change}: starting")


def _supervise(
    server: subprocess.Popen[bytes], seen: Seen, folder: Path, heard_within: Callable[[float], list[int]]
) -> tuple[bool, bool]:
    """Wait until *server* has ended; whether a signal ended it, and whether a change did."""
    was_stopped = was_changed = False
    while server.poll() is None:
        for number in heard_within(POLL_S):
            was_stopped = True
            server.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)
        if not (was_stopped or was_changed) and (change := changed(seen, look(folder))) is not None:
            note(f"{change}: starting again")
            was_changed = True
            server.terminate()
    return was_stopped, was_changed


# Files


def look(folder: Path) -> Seen:
    """The Python files in *folder* and below it, at most FILES_MAX."""
    return dict(islice(_files(folder), FILES_MAX))


def _files(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    for path, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_skipped(os.path.join(path, name)))
        for name in sorted(names):
            if name.endswith(".py"):
                file = os.path.join(path, name)
                # One that is gone by now is no longer seen, which is a change.
                with suppress(OSError):
                    status = os.stat(file)
                    yield os.path.relpath(file, folder), (status.st_mtime_ns, status.st_size)


def _is_skipped(path: str) -> bool:
    name = os.path.basename(path)
    return name.startswith(".") or name in SKIPPED or os.path.exists(os.path.join(path, "pyvenv.cfg"))


def changed(before: Seen, now: Seen) -> str | None:
    """What changed from *before* to *now*, in a few words; None if nothing did."""
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if not names:
        return None
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more} changed"


# Signals


@contextmanager
def _signals() -> Iterator[Callable[[float], list[int]]]:
    """Gives the signals to stop that came within so many seconds. A child that ends cuts the time short."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    wakeup = signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
    before = {number: signal.signal(number, _left_to_the_pipe) for number in (*STOPS, signal.SIGCHLD)}

    def heard_within(seconds: float) -> list[int]:
        ready, _, _ = select.select([ours], [], [], seconds)
        return [number for number in os.read(ours, SIGNALS_MAX) if number in STOPS] if ready else []

    try:
        yield heard_within
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(ours)
        os.close(theirs)


def _left_to_the_pipe(number: int, frame: object) -> None:
    pass
