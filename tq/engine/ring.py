"""The last events, numbered, for whoever comes back and asks for what was missed.

Pure: no clock, no trio. Everything in it is also somewhere else, so it may forget.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import msgspec

from tq.core.events import Event
from tq.core.task import TaskId
from tq.core.views import event_view

RING_MAX: Final = 10_000
"""Events that are kept."""
RING_BYTES_MAX: Final = 8 * 1024 * 1024
"""Bytes that they may take together, roughly."""
EVENT_COST: Final = 512
"""Bytes that an event takes beside a text in it."""

_encode: Final = msgspec.json.Encoder().encode


class Told(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """What a handler said, with the task it is of. No Event: what handlers say is never in the log."""

    at: int
    task_id: TaskId
    type: str
    queue: str
    attempt: int


class Progressed(Told, frozen=True, tag="task.progressed"):
    """An attempt is so far."""

    fraction: float
    message: str


class Logged(Told, frozen=True, tag="task.logged"):
    """An attempt logged a line."""

    text: str


Names = tuple[str | None, str | None]
"""A type and a queue; None in a place: what happened has none."""


class Entry:
    """One event with its *number*. It is made JSON once, and only if somebody wants it.

    ``names`` are the type and the queue by which it is filtered; None: only the store knows them.
    """

    __slots__ = ("_json", "event", "names", "number", "task_id")

    def __init__(self, number: int, event: Event | Told) -> None:
        self.number = number
        self.event = event
        self.task_id: TaskId | None = getattr(event, "task_id", None)
        self.names = _names(event, self.task_id)
        self._json: bytes | None = None

    @property
    def name(self) -> str:
        """What happened, such as ``task.started``."""
        return str(self.event.__struct_config__.tag)

    @property
    def json(self) -> bytes:
        """The fields of the event."""
        if self._json is None:
            self._json = _encode(event_view(self.event))
        return self._json


def _names(event: Event | Told, task_id: TaskId | None) -> Names | None:
    type, queue = getattr(event, "type", None), getattr(event, "queue", None)
    return None if task_id is not None and (type is None or queue is None) else (type, queue)


def cost(event: Event | Told) -> int:
    """Bytes that *event* takes, roughly; a character may have four."""
    match event:
        case Logged():
            return EVENT_COST + 4 * len(event.text)
        case Progressed():
            return EVENT_COST + 4 * len(event.message)
        case _:
            return EVENT_COST


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events somebody watches: those of one task, or all with this queue and this type."""

    task_id: TaskId | None = None
    queue: str | None = None
    type: str | None = None

    def takes(self, entry: Entry) -> bool | None:
        """Whether *entry* is wanted; None: not before its names are known.

        What a handler says is for those who watch its task, and what the server says for the others.
        """
        if self.task_id is not None:
            return entry.task_id == self.task_id
        if isinstance(entry.event, Told):
            return False
        if self.queue is None and self.type is None:
            return True
        if entry.names is None:
            return None
        type, queue = entry.names
        return self.type in (None, type) and self.queue in (None, queue)


class Ring:
    """The last events, by number. Numbers only grow; some belong to no event.

    ``last`` is the last number there is; all that happened after number ``since`` is here.
    """

    def __init__(self, *, count_max: int = RING_MAX, bytes_max: int = RING_BYTES_MAX) -> None:
        self.last = 0
        self.since = 0
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._entries: deque[Entry] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, event: Event | Told) -> Entry:
        """Keep *event* under the next number; the oldest make room for it."""
        entry = Entry(self.next_number(), event)
        self._entries.append(entry)
        self._bytes += cost(event)
        while len(self._entries) > self._count_max or self._bytes > self._bytes_max:
            oldest = self._entries.popleft()
            self._bytes -= cost(oldest.event)
            self.since = oldest.number
        return entry

    def next_number(self) -> int:
        """A number that no event has or will have."""
        self.last += 1
        return self.last

    def reaches(self, number: int) -> bool:
        """Whether all that happened after *number* is here."""
        return self.since <= number <= self.last

    def after(self, number: int, wanted: Wanted) -> list[Entry]:
        """What happened after *number*, oldest first, but what is surely not *wanted*."""
        found = []
        for entry in reversed(self._entries):
            if entry.number <= number:
                break
            if wanted.takes(entry) is not False:
                found.append(entry)
        return found[::-1]

    def get(self, number: int) -> Entry | None:
        """The event with *number*, if there is one."""
        for entry in reversed(self._entries):
            if entry.number <= number:
                return entry if entry.number == number else None
        return None

    def forget(self) -> None:
        """Drop everything. What happens until the next event is added may go uncounted."""
        self._entries.clear()
        self._bytes = 0
        self.since = self.next_number()
