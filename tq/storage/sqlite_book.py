"""What the one writer of the SQLite store keeps in mind of the tables, to ask them less.

Lanes and what is in them, the rules of queues, whose turn it is, what rates have let through. A batch changes
the book together with the tables; after a failed transaction it is thrown away and read anew.
"""

from __future__ import annotations

from typing import TypeAlias

import apsw
import msgspec

from tq.core.limits import DEFAULT_RULES, QUEUES_MAX, QueueRules
from tq.core.refusals import too_many
from tq.storage import sqlite_sql as sql
from tq.storage.sqlite_sql import PENDING, RUNNING, to_json

LaneName: TypeAlias = tuple[str, str, str | None]
"""Queue, type, key."""
Group: TypeAlias = tuple[str, str | None]
"""Queue and key: what takes turns, and what limits hold for."""

_rules_decoder = msgspec.json.Decoder(QueueRules)


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


def load_book(db: apsw.Connection) -> Book:
    """The book as the tables have it."""
    book = Book(arrived=db.execute(sql.LOAD_ARRIVED).get, unsettled=bool(db.execute(sql.LOAD_UNSETTLED).get))
    for lane, queue, type, key, served in db.execute(sql.LOAD_LANES):
        book.learn(lane, (queue, type, key))
        book.serve(lane, served)
    book.turn = max(book.served.values(), default=0)
    for lane, state, count in db.execute(sql.LOAD_BUSY):
        book.count(lane, state, count)
    book.rules = dict(load_rules(db))
    for queue, is_key, key, tat_us in db.execute(sql.LOAD_RATES):
        book.tats[queue, key if is_key else None] = tat_us
    return book


def load_rules(db: apsw.Connection) -> list[tuple[str, QueueRules]]:
    """The queues that have rules of their own, by name."""
    return [(queue, _rules_decoder.decode(rules)) for queue, rules in db.execute(sql.LOAD_RULES)]


def set_rules(db: apsw.Connection, book: Book, queue: str, after: QueueRules) -> QueueRules:
    """Give *queue* the rules *after*; a rate that is changed begins anew. Raises Conflict past QUEUES_MAX."""
    before = book.rules.get(queue, DEFAULT_RULES)
    if after == DEFAULT_RULES:
        book.rules.pop(queue, None)
        db.execute(sql.DELETE_RULES, (queue,))
    elif queue in book.rules or len(book.rules) < QUEUES_MAX:
        book.rules[queue] = after
        db.execute(sql.UPSERT_RULES, (queue, to_json(after)))
    else:
        raise too_many("queues with rules", QUEUES_MAX)
    if before.limits.rate != after.limits.rate:
        _forget_rates(db, book, queue, is_key=False)
    if before.per_key.rate != after.per_key.rate:
        _forget_rates(db, book, queue, is_key=True)
    return after


def _forget_rates(db: apsw.Connection, book: Book, queue: str, *, is_key: bool) -> None:
    for name in [name for name in book.tats if name[0] == queue and (name[1] is not None) == is_key]:
        del book.tats[name]
    db.execute(sql.DELETE_RATES, (queue, is_key))


def write_rates(db: apsw.Connection, book: Book, changed: set[Group]) -> None:
    """Keep what the rates of *changed* have let through."""
    rows = [(queue, key is not None, key or "", book.tats[queue, key]) for queue, key in changed]
    if rows:
        db.execute(sql.UPSERT_RATES, (to_json(rows),))


def drop_old_rates(db: apsw.Connection, book: Book, now: int) -> None:
    """Forget the rates that hold nothing back at *now*, nor will."""
    old = [name for name, tat_us in book.tats.items() if tat_us <= now * 1000]
    for name in old:
        del book.tats[name]
    if old:
        db.execute(sql.DELETE_OLD_RATES, (now * 1000,))


def drop_empty_lanes(db: apsw.Connection, book: Book, lanes: set[int]) -> list[int]:
    """Forget those of *lanes* whose last task is gone; clients choose names, and may never come back."""
    empty = [lane for (lane,) in db.execute(sql.DELETE_EMPTY_LANES, (to_json(sorted(lanes)),))]
    if empty:
        db.execute(sql.DELETE_COUNTS, (to_json(empty),))
    for lane in empty:
        book.forget(lane)
    return empty
