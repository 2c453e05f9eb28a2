"""What a claim knows of lanes, the rules of queues, whose turn it is and what rates have let through.

A lane is a queue, a type and a key. The SQLite store, whose file is its own, keeps one book in mind; where
others write too, a book is made for each claim of what that needs.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from tq.core.limits import QueueRules
from tq.storage.records import PENDING, RUNNING

LaneName: TypeAlias = tuple[str, str, str | None]
"""Queue, type, key."""
Group: TypeAlias = tuple[str, str | None]
"""Queue and key: what takes turns, and what limits hold for."""


class Book(msgspec.Struct):
    """See the module. ``waiting`` and ``running`` have only lanes with any; ``served`` likewise."""

    lanes: dict[LaneName, int] = {}
    names: dict[int, LaneName] = {}
    keys: dict[str, dict[str | None, set[int]]] = {}
    """The lanes of each key of each queue."""
    waiting: dict[int, int] = {}
    """How many pending tasks a lane has."""
    running: dict[int, int] = {}
    arrived: int = 0
    """The seq of the last arrival."""
    next_lane: int = 1
    served: dict[int, int] = {}
    """The turn at which a lane was last served."""
    turns: dict[Group, int] = {}
    """That at which any lane of a group was."""
    turn: int = 0
    """The last turn there was."""
    rules: dict[str, QueueRules] = {}
    tats: dict[Group, int] = {}
    """Theoretical arrival times, in microseconds; those of a whole queue under no key."""
    unsettled: bool = False
    """Whether there may be something for Settle."""

    def learn(self, lane: int, name: LaneName) -> None:
        """There is a lane of that name."""
        queue, _, key = name
        self.lanes[name] = lane
        self.names[lane] = name
        self.keys.setdefault(queue, {}).setdefault(key, set()).add(lane)
        self.next_lane = max(self.next_lane, lane + 1)

    def forget(self, lane: int) -> None:
        """The lane has no task any more, and has never been."""
        name = self.names.pop(lane)
        queue, _, key = name
        del self.lanes[name]
        self.served.pop(lane, None)
        self.turns.pop((queue, key), None)
        others = self.keys[queue][key]
        others.remove(lane)
        for other in others:
            self.serve(other, self.served.get(other, 0))
        if not others:
            del self.keys[queue][key]
        if not self.keys[queue]:
            del self.keys[queue]

    def count(self, lane: int, state: int, change: int) -> None:
        """There are so many more tasks of *lane* in *state*."""
        if state == PENDING:
            _add(self.waiting, lane, change)
        elif state == RUNNING:
            _add(self.running, lane, change)

    def serve(self, lane: int, turn: int) -> None:
        """*lane* was last served at *turn*; 0 is never."""
        if turn:
            queue, _, key = self.names[lane]
            self.served[lane] = turn
            self.turns[queue, key] = max(turn, self.turns.get((queue, key), 0))


def _add(counts: dict[int, int], lane: int, change: int) -> None:
    counts[lane] = counts.get(lane, 0) + change
    if not counts[lane]:
        del counts[lane]
