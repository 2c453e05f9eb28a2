"""Whoever watches what happens: hands each of them the events it wants, and never waits for any.

Events are recorded only while somebody watches, and RECORD_S longer so that a client can come back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from functools import partial
from math import inf
from typing import Final

import trio

from tq.clock import Clock
from tq.core.errors import Overloaded, ShuttingDown
from tq.core.events import Event, ServerDraining
from tq.core.task import Lease, LogLine, Progress, ServerId, TaskId
from tq.engine.bell import Bell
from tq.engine.letters import Outbox
from tq.engine.ring import RING_MAX, Entry, Logged, Progressed, Ring, Told, Wanted

WATCHERS_MAX: Final = 20_000
"""Watchers at a time."""
FULL_RETRY_MS: Final = 5_000
"""When to try again if there are so many."""
BUFFER_MAX: Final = 100
"""Events that may wait for one watcher while its client takes nothing."""
SLOW_S: Final = 1.0
"""Seconds in which a client must take something when BUFFER_MAX events wait: a burst is no fault of its."""
BURST_MAX: Final = RING_MAX
"""Events that may wait for one watcher in any case."""
RECORD_S: Final = 60.0
"""Seconds for which events are recorded after the last watcher has left."""
TAKE_MAX: Final = 100
"""Events that a watcher takes at once."""
WAKE_MAX: Final = 20
"""Watchers that are woken in one turn of the loop, so that what watches nothing is not held up."""


class End(Enum):
    """Why a watcher gets nothing more."""

    DROPPED = "dropped"
    DRAINING = "draining"


class Watcher:
    """What waits for one who watches. ``end``: nothing more will come once that was taken.

    ``has_missed``: something may have happened that was not handed over, so that it has to look anew.
    """

    __slots__ = ("_bell", "_taken_at", "buffer", "end", "has_missed", "is_woken", "wanted")

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.buffer: deque[Entry] = deque()
        self.end: End | None = None
        self.has_missed = False
        self.is_woken = False
        self._bell = Bell()
        self._taken_at = inf

    async def take(self, *, until: float) -> list[Entry]:
        """What waits, at most TAKE_MAX; nothing at *until*, if it ``has_missed`` something, or at an ``end``.

        Who takes is thought to be busy with it until it takes again.
        """
        self._taken_at = inf
        if not self.buffer and self.end is None and not self.has_missed:
            with trio.move_on_at(until):
                await self._bell.wait_rung()
        self._bell.silence()
        self._taken_at = trio.current_time()
        return [self.buffer.popleft() for _ in range(min(TAKE_MAX, len(self.buffer)))]

    def hand(self, entry: Entry) -> None:
        """Keep *entry* to be taken. Who is too slow for it gets nothing more: coming back, it gets all."""
        waiting = len(self.buffer)
        if waiting >= BUFFER_MAX and (waiting >= BURST_MAX or trio.current_time() - self._taken_at >= SLOW_S):
            self.buffer.clear()
            self.end = End.DROPPED
        else:
            self.buffer.append(entry)

    def wake(self) -> None:
        """Let it see what waits."""
        self.is_woken = False
        self._bell.ring()

    def has_change(self) -> bool:
        """Whether anything waits that a store knows of."""
        return any(not isinstance(entry.event, Told) for entry in self.buffer)

    def forget(self, number: int) -> None:
        """Drop what waits up to *number*."""
        while self.buffer and self.buffer[0].number <= number:
            self.buffer.popleft()


class Watchers:
    """All who watch one server, and the events that they may come back for.

    Not safe for threads but for `tell` and ``is_recording``.

    Args:
        emit: The first of the listeners.
    """

    def __init__(
        self, clock: Clock, server: ServerId, emit: Callable[[Event], None], *, ring: Ring | None = None
    ) -> None:
        self.ring = ring or Ring()
        self.is_recording = False
        self.count = 0
        self.last_word = b"{}"
        """What the event says that the server drains."""
        self.outbox = Outbox(server)
        """What handlers say goes to those who watch other servers too."""
        self.looking_up = trio.Lock()
        """Held by who asks the store for the names of an entry, so that they are asked for once."""
        self._clock = clock
        self._server = server
        self.listeners = [emit]
        """Told of every event, watched or not, before any watcher is; none of them may block."""
        self._of_task: dict[TaskId, dict[Watcher, None]] = {}
        self._of_all: dict[Watcher, None] = {}
        self._to_wake: deque[Watcher] = deque()
        self._bell = Bell()
        self._left_at = 0.0
        self._closed = False
        self._token: trio.lowlevel.TrioToken | None = None

    def emit(self, event: Event) -> None:
        """Tell everybody whom it concerns of *event*."""
        for listen in self.listeners:
            listen(event)
        self.publish(event)

    def publish(self, event: Event | Told) -> None:
        """Tell those who watch of *event*: of another server's, that is everybody."""
        if self.is_recording:
            self._publish(event)

    def miss(self) -> None:
        """Something may have happened that nobody here was told of: all are to look anew."""
        if not self.is_recording:
            return
        self.ring.forget()
        for watcher in self._all():
            watcher.has_missed = True
            self._wake(watcher)

    def _all(self) -> list[Watcher]:
        return [*self._of_all, *(one for group in self._of_task.values() for one in group)]

    def tell(self, keep: Callable[[], None], lease: Lease, told: Progress | LogLine) -> None:
        """*keep* what a handler said, and tell who watches its task in the same moment. From any thread.

        From another thread both are done soon: before anything that the thread hands over later.
        """
        if not (self.is_recording or self.outbox.is_open):
            keep()
        elif trio.lowlevel.in_trio_run():
            self._tell(keep, lease, told)
        elif self._token is not None:
            # A thread may outlive the server: nobody is there to hear it then.
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(partial(self._tell, keep, lease, told))

    def _tell(self, keep: Callable[[], None], lease: Lease, told: Progress | LogLine) -> None:
        keep()
        said = _told(lease, told, self._clock.now_ms())
        self.outbox.put(said)
        self.publish(said)

    def _publish(self, event: Event | Told) -> None:
        if not self.count and trio.current_time() - self._left_at >= RECORD_S:
            self.is_recording = False
            self.ring.forget()
            return
        if isinstance(event, ServerDraining):
            # Everybody is told this in the end, whatever they watch.
            self.last_word = Entry(0, event).json
            return
        entry = self.ring.add(event)
        if entry.task_id is not None:
            for watcher in self._of_task.get(entry.task_id, ()):
                self._hand(watcher, entry)
        for watcher in self._of_all:
            if watcher.wanted.takes(entry) is not False:
                self._hand(watcher, entry)

    def _hand(self, watcher: Watcher, entry: Entry) -> None:
        if watcher.end is None:
            watcher.hand(entry)
            self._wake(watcher)

    def _wake(self, watcher: Watcher) -> None:
        if not watcher.is_woken:
            watcher.is_woken = True
            self._to_wake.append(watcher)
            self._bell.ring()

    async def run(self) -> None:
        """Wake those who have something to take, for ever. Ends only by cancellation."""
        self._token = trio.lowlevel.current_trio_token()
        while True:
            await self._bell.wait_rung()
            while self._to_wake:
                for _ in range(min(WAKE_MAX, len(self._to_wake))):
                    self._to_wake.popleft().wake()
                await trio.lowlevel.checkpoint()

    @contextmanager
    def subscribe(self, wanted: Wanted) -> Iterator[Watcher]:
        """A watcher that is handed all that is *wanted* and happens inside the block.

        Raises:
            Overloaded: There are WATCHERS_MAX.
            ShuttingDown: The server drains.
        """
        if self._closed:
            raise ShuttingDown("this server is shutting down: watch another, or again later")
        if self.count >= WATCHERS_MAX:
            raise Overloaded(f"{WATCHERS_MAX} watch already: try again later", retry_after_ms=FULL_RETRY_MS)
        watcher = Watcher(wanted)
        group = self._of_all if wanted.task_id is None else self._of_task.setdefault(wanted.task_id, {})
        group[watcher] = None
        self.count += 1
        self.is_recording = True
        self._token = self._token or trio.lowlevel.current_trio_token()
        try:
            yield watcher
        finally:
            del group[watcher]
            if not group and wanted.task_id is not None:
                self._of_task.pop(wanted.task_id, None)
            self.count -= 1
            self._left_at = trio.current_time()

    def id_of(self, number: int) -> str:
        """The id of the event with *number*."""
        return f"{self._server}-{number}"

    def number_of(self, event_id: str) -> int | None:
        """The number of the event with *event_id*, if all that happened after it is still here."""
        server, _, digits = event_id.rpartition("-")
        if server != self._server or not (digits.isascii() and digits.isdecimal() and len(digits) < 20):
            return None
        number = int(digits)
        # Nothing is recorded while nobody has watched for long: what is here then is not all.
        return number if self.is_recording and self.ring.reaches(number) else None

    def close(self) -> None:
        """Let everybody who watches go: the server drains."""
        self._closed = True
        for watcher in self._all():
            watcher.end = watcher.end or End.DRAINING
            self._wake(watcher)


def _told(lease: Lease, told: Progress | LogLine, now: int) -> Told:
    if isinstance(told, Progress):
        return Progressed(
            at=now,
            task_id=lease.task_id,
            type=lease.type,
            queue=lease.queue,
            attempt=lease.attempt,
            fraction=told.fraction,
            message=told.message,
        )
    return Logged(
        at=told.at,
        task_id=lease.task_id,
        type=lease.type,
        queue=lease.queue,
        attempt=told.attempt,
        text=told.text,
    )
