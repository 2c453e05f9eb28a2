"""What the one writer of the SQLite store keeps in mind of the tables, to ask them less.

Lanes and what is in them, the rules of queues, whose turn it is, what rates have let through. A batch changes
the book together with the tables; after a failed transaction it is thrown away and read anew.
"""

from __future__ import annotations

import apsw
import msgspec

from tq.core.limits import DEFAULT_RULES, QUEUES_MAX, QueueRules
from tq.core.refusals import too_many
from tq.storage import sqlite_sql as sql
from tq.storage.book import Book, Group
from tq.storage.records import to_json

_rules_decoder = msgspec.json.Decoder(QueueRules)


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
