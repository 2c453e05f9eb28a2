"""What attempts tell while they run: progress and lines of log, stored a few times a second.

A handler may say much and fast, and from any thread; the store hears the last progress and the last lines.
What was not stored yet when the attempt ends goes with its end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

import trio
from msgspec.structs import replace

from tq.core.errors import StorageUnavailable
from tq.core.ops import BATCH_MAX, AnyOp, Note
from tq.core.task import LOG_LINES_MAX, Lease, LogLine, Progress, Task
from tq.engine.backoff import Backoff
from tq.engine.bell import Bell
from tq.engine.ledger import Ledger

NOTE_EVERY_S: Final = 0.25

Tell = Callable[[Callable[[], None], Lease, Progress | LogLine], None]
"""Calls a function that keeps what was said, and tells whoever watches the task of the lease."""


def keep_only(keep: Callable[[], None], lease: Lease, told: Progress | LogLine) -> None:
    """Tell nobody."""
    keep()


class Notes:
    """What one attempt has told. Safe to be added to from any thread.

    Args:
        now_ms: The instant now.
        tell: Told of everything, from any thread.
    """

    def __init__(self, lease: Lease, now_ms: Callable[[], int], *, tell: Tell = keep_only) -> None:
        self._lease = lease
        self._now_ms = now_ms
        self._tell = tell
        self._progress: Progress | None = None
        self._told: Progress | None = None
        self._lines: deque[LogLine] = deque(maxlen=LOG_LINES_MAX)
        self._taken: tuple[LogLine, ...] = ()

    def progress(self, progress: Progress) -> None:
        """The attempt is so far."""
        self._tell(partial(self._keep, progress), self._lease, progress)

    def _keep(self, progress: Progress) -> None:
        self._progress = progress

    def log(self, text: str) -> None:
        """Keep *text* as a line."""
        line = LogLine(self._now_ms(), self._lease.attempt, text)
        self._tell(partial(self._lines.append, line), self._lease, line)

    def take(self) -> Note | None:
        """The op that stores what was told since the last time; None: nothing was."""
        lines: list[LogLine] = []
        while self._lines:
            # A thread may add to them meanwhile.
            lines.append(self._lines.popleft())
        latest = self._progress
        progress = latest if latest is not self._told else None
        self._told = latest
        if progress is None and not lines:
            return None
        self._taken = tuple(lines[-LOG_LINES_MAX:])
        return Note(self._lease.task_id, self._lease.generation, progress, self._taken)

    def put_back(self, note: Note, *, is_last: bool = False) -> None:
        """*note* could not be stored: it goes before what was told since, as far as there is room.

        Args:
            is_last: The attempt has ended and told nothing since: it goes after what was put back before.
        """
        self._taken = ()
        if note.progress is not None and self._told is note.progress:
            self._told = None
        if is_last:
            self._lines.extend(note.lines)
            return
        room = LOG_LINES_MAX - len(self._lines)
        self._lines.extendleft(reversed(note.lines[-room:] if room else ()))

    def added_to(self, task: Task) -> Task:
        """*task*, as it was read just now, with what was not stored then."""
        taken = self._taken
        # They may be on their way into the store still.
        is_stored = task.logs[-len(taken) :] == taken if taken else True
        logs = (*task.logs, *(() if is_stored else taken), *self._lines)[-LOG_LINES_MAX:]
        return replace(task, progress=self._progress or task.progress, logs=logs)


def take_all(every: Iterable[Notes]) -> list[tuple[Notes, Note]]:
    """The ops that store what was told, each with whose it is."""
    return [(notes, note) for notes in every if (note := notes.take()) is not None]


async def run_notes(
    ledger: Ledger, running: Callable[[], Sequence[Notes]], *, noted: Bell, backoff: Backoff
) -> None:
    """Store what the *running* attempts tell, for ever. Ends only by cancellation.

    Args:
        noted: Rings when one begins that can tell something.
    """
    while True:
        if not running():
            await noted.wait_rung()
        await trio.sleep(NOTE_EVERY_S)
        try:
            await note_once(ledger, running())
            backoff.reset()
        except StorageUnavailable:
            await backoff.wait()


async def note_once(ledger: Ledger, running: Iterable[Notes]) -> int:
    """Store what was told since the last time; of how many attempts.

    Raises:
        StorageUnavailable: It is stored the next time.
    """
    taken = take_all(running)
    for start in range(0, len(taken), BATCH_MAX):
        batch = taken[start : start + BATCH_MAX]
        ops: list[AnyOp] = [note for _, note in batch]
        try:
            await ledger.ask_each(ops)
        except StorageUnavailable:
            for notes, note in taken[start:]:
                notes.put_back(note)
            raise
    return len(taken)
