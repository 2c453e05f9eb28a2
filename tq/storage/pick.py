"""Which pending tasks of an SQL store are the next, where rules or turns have a say.

What takes turns, and what limits hold for, is a group: the tasks of one key in one queue. The tasks of a
group have one order among themselves, whatever happens to others, so that a group is a stream: the merge of
the streams that an index gives, which are the lanes, or where the queue is aging each priority of a lane.

A pick changes only the group it is from, or shuts its whole queue. So a group that comes after as many others
of its queue as are to be picked is not picked from, and needs not be read; nor a queue after so many others;
nor a stream after so many others of its group. Of those that are left a few tasks each are read at once, and
more of a group only when it is picked from that often.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from typing import Protocol, TypeAlias

from tq.core.limits import DEFAULT_RULES, Order, rank
from tq.storage.book import Book
from tq.storage.room import Room

Stream: TypeAlias = tuple[int, int | None]
"""A lane and, where its queue is aging, a priority."""
Entry: TypeAlias = tuple[tuple[int, int], int, int, int, int]
"""Rank, seq; and, said beside that: lane, priority, run_at."""
Found: TypeAlias = tuple[int, int, int, int]
"""Lane, priority, run_at, seq."""
QueueOrder: TypeAlias = tuple[int, int, int, int]
"""What the groups of a queue are compared by."""


class PendingTasks(Protocol):
    """The pending tasks in the tables of a store."""

    def heads(self, order: Order, lanes: list[int]) -> Iterable[Found]:
        """The first task of each stream of *lanes*, whose queues all have that order."""
        ...

    def streams(self, streams: list[Stream], limit: int) -> Iterable[list[Found]]:
        """Of each of *streams*, in their order, the first *limit* tasks."""
        ...


class _Waiting:
    """The tasks of a group that wait, as far as they have been read.

    ``entries`` up to ``horizon`` are the next there are; beyond it may be others that have not been read.
    ``taken`` of them have been picked. The group may still be picked from ``room`` times.
    """

    def __init__(self, order: Order, streams: list[Stream], *, turn: int, room: float) -> None:
        self.order = order
        self.streams = streams
        self.turn = turn
        self.room = room
        self.taken = 0
        self.entries: list[Entry] = []
        self.horizon: Entry | None = None

    def fill(self, streams: Iterable[list[Found]], limit: int) -> None:
        """The first *limit* tasks of each of the *streams* have been read."""
        self.entries = []
        ends = []
        for found in streams:
            entries = [_entry(self.order, row) for row in found]
            self.entries += entries
            if len(entries) == limit:
                ends.append(entries[-1])
        self.entries.sort()
        self.horizon = min(ends, default=None)

    def is_known(self) -> bool:
        """Whether `head` is known to be right."""
        if self.horizon is None:
            return True
        return self.taken < len(self.entries) and self.entries[self.taken] <= self.horizon

    def head(self) -> Entry | None:
        """The next task of the group, if there is one."""
        return self.entries[self.taken] if self.taken < len(self.entries) else None


def _entry(order: Order, row: Found) -> Entry:
    lane, priority, run_at, seq = row
    return (rank(order, priority, run_at), seq, lane, priority, run_at)


def _place(order: Order, row: Found, turn: int) -> QueueOrder:
    """Where the group whose turn was *turn*, and whose next task is *row*, is in its queue."""
    _, priority, run_at, seq = row
    first, second = rank(order, priority, run_at)
    return (first, second, seq, 0) if order is Order.AGING else (first, turn, second, seq)


def _order_among_queues(entry: Entry) -> tuple[int, int, int]:
    _, seq, _, priority, run_at = entry
    return (-priority, run_at, seq)


class Picker:
    """Picks the next *limit* tasks of *lanes*, by what is in *book* at *now*. It changes nothing."""

    def __init__(self, pending: PendingTasks, book: Book, now: int, lanes: list[int], limit: int) -> None:
        self._pending = pending
        self._book = book
        self._limit = limit
        self._turn = book.turn
        self._room = Room(book, now)
        self._rooms: dict[str, float] = {}
        self._groups: dict[str, list[tuple[QueueOrder, _Waiting]]] = {}
        """The groups of each queue that can be picked from, as heaps."""
        for queue, found in self._heads(self._open_lanes(lanes)).items():
            self._groups[queue] = self._first_groups(queue, found)

    def pick(self) -> list[int]:
        """The seqs of the tasks, in their order."""
        queues = heapq.nsmallest(self._limit, [self._next_of_queue(queue) for queue in self._groups])
        if self._limit > 1 and queues:
            self._read_ahead([queue for _, queue in queues])
        seqs: list[int] = []
        while queues and len(seqs) < self._limit:
            _, queue = heapq.heappop(queues)
            seqs.append(self._take(queue, self._limit - len(seqs)))
            if self._rooms[queue] > 0 and self._groups[queue]:
                heapq.heappush(queues, self._next_of_queue(queue))
        return seqs

    def _open_lanes(self, lanes: list[int]) -> list[int]:
        """Those of *lanes* that no limit holds back."""
        names, under_key = self._book.names, self._room.under_key
        queues = {names[lane][0] for lane in lanes}
        self._rooms = rooms = {queue: self._room.in_queue(queue) for queue in queues}
        return [
            lane
            for lane, (queue, _, key) in zip(lanes, map(names.__getitem__, lanes), strict=True)
            if rooms[queue] > 0 and under_key(queue, key) > 0
        ]

    def _heads(self, lanes: list[int]) -> dict[str, list[Found]]:
        """The first task of each stream of *lanes*, by queue."""
        names = self._book.names
        by_order: dict[Order, list[int]] = {order: [] for order in Order}
        for queue, group in groupby(lanes, key=lambda lane: names[lane][0]):
            by_order[self._order(queue)] += group
        heads: dict[str, list[Found]] = {}
        for order, wanted in by_order.items():
            for row in self._pending.heads(order, wanted) if wanted else ():
                heads.setdefault(names[row[0]][0], []).append(row)
        return heads

    def _first_groups(self, queue: str, heads: list[Found]) -> list[tuple[QueueOrder, _Waiting]]:
        """The groups of *queue* that can be picked from, first to last."""
        order, keys = self._order(queue), [self._book.names[row[0]][2] for row in heads]
        turns = self._book.turns
        places: dict[str | None, QueueOrder] = {}
        for key, row in zip(keys, heads, strict=True):
            place = _place(order, row, turns.get((queue, key), 0))
            if key not in places or place < places[key]:
                places[key] = place
        first = heapq.nsmallest(self._limit, places.items(), key=itemgetter(1))
        entries: dict[str | None, list[Entry]] = {key: [] for key, _ in first}
        for key, row in zip(keys, heads, strict=True):
            if key in entries:
                entries[key].append(_entry(order, row))
        return [(place, self._waiting(queue, key, entries[key])) for key, place in first]

    def _waiting(self, queue: str, key: str | None, heads: list[Entry]) -> _Waiting:
        heads = heapq.nsmallest(self._limit, heads)
        order = self._order(queue)
        streams: list[Stream] = [
            (lane, priority if order is Order.AGING else None) for _, _, lane, priority, _ in heads
        ]
        turn, room = self._book.turns.get((queue, key), 0), self._room.under_key(queue, key)
        waiting = _Waiting(order, streams, turn=turn, room=room)
        waiting.entries, waiting.horizon = heads, heads[0]
        return waiting

    def _order(self, queue: str) -> Order:
        return self._book.rules.get(queue, DEFAULT_RULES).order

    def _read_ahead(self, queues: list[str]) -> None:
        """Read at once what is likely to be picked, of the groups that are likely to be picked from."""
        ranked = [ranked for queue in queues for ranked in enumerate(self._groups[queue])]
        ranked.sort(key=itemgetter(0))
        likely = [waiting for _, (_, waiting) in ranked[: self._limit]]
        streams = sum(len(waiting.streams) for waiting in likely)
        self._read(likely, 2 * self._limit // streams + 1)

    def _read(self, groups: list[_Waiting], limit: int) -> None:
        """Read the first *limit* tasks of each stream of *groups*."""
        streams = [stream for waiting in groups for stream in waiting.streams]
        found = iter(self._pending.streams(streams, limit))
        for waiting in groups:
            waiting.fill([next(found) for _ in waiting.streams], limit)

    def _next_of_queue(self, queue: str) -> tuple[tuple[int, int, int], str]:
        entry = self._groups[queue][0][1].head()
        assert entry is not None
        return (_order_among_queues(entry), queue)

    def _take(self, queue: str, wanted: int) -> int:
        """Pick the next task of *queue*, when *wanted* are still to be picked; its seq."""
        groups = self._groups[queue]
        _, waiting = heapq.heappop(groups)
        entry = waiting.head()
        assert entry is not None
        self._turn += 1
        self._rooms[queue] -= 1
        waiting.turn = self._turn
        waiting.room -= 1
        waiting.taken += 1
        if waiting.room > 0 and wanted > 1:
            if not waiting.is_known():
                # What has been picked is still in the tables as it was.
                self._read([waiting], waiting.taken + wanted)
            head = waiting.head()
            if head is not None:
                _, seq, lane, priority, run_at = head
                place = _place(waiting.order, (lane, priority, run_at, seq), waiting.turn)
                heapq.heappush(groups, (place, waiting))
        return entry[1]
