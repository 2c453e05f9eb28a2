"""Rows of tasks out of the tables of SQLite, and back into them. How they change is in `tq.storage.rows`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import apsw

from tq.core.task import (
    HISTORY_MAX,
    LOG_LINES_MAX,
    AttemptError,
    LogLine,
    TaskId,
)
from tq.storage import sqlite_sql as sql
from tq.storage.book import Book
from tq.storage.records import (
    Row,
    options_text,
    rows_decoder,
    to_json,
)
from tq.storage.rows import VALUES, Rows
from tq.storage.sqlite_unique import load_holders, write_holders

TEXTS_AT_ONCE: Final = 100
"""Entries of histories, or lines of logs, that one statement takes: they are long, and memory is bounded."""

INSERT_ERRORS: Final = f"""
INSERT OR REPLACE INTO errors (seq, slot, n, entry)
SELECT value ->> 0, (value ->> 1) % {HISTORY_MAX}, value ->> 1, value ->> 2
FROM jsonb_each(?1)
"""
INSERT_LOGS: Final = f"""
INSERT OR REPLACE INTO logs (seq, slot, n, line)
SELECT value ->> 0, (value ->> 1) % {LOG_LINES_MAX}, value ->> 1, value ->> 2
FROM jsonb_each(?1)
"""
UPDATE_FINGERPRINTS: Final = """
UPDATE tasks SET fingerprint = value ->> 1
FROM jsonb_each(?1) AS changed
WHERE tasks.seq = changed.value ->> 0
"""
UPDATE_BLOCKERS: Final = """
UPDATE tasks SET blockers = value ->> 1
FROM jsonb_each(?1) AS changed
WHERE tasks.seq = changed.value ->> 0
"""
UPDATE_OPTIONS: Final = """
UPDATE tasks SET options = value ->> 1, stop_at = value ->> 2
FROM jsonb_each(?1) AS changed
WHERE tasks.seq = changed.value ->> 0
"""
# What is null stays as it is.
UPDATE_VALUES: Final = """
UPDATE tasks SET
    priority = ifnull(value ->> 1, priority), timeout_ms = ifnull(value ->> 2, timeout_ms),
    max_attempts = ifnull(value ->> 3, max_attempts), result_ttl_ms = ifnull(value ->> 4, result_ttl_ms)
FROM jsonb_each(?1) AS changed
WHERE tasks.seq = changed.value ->> 0
"""
UPDATE_NOTED: Final = """
UPDATE tasks SET logged = value ->> 1, progress = ifnull(value ->> 2, progress)
FROM jsonb_each(?1) AS changed
WHERE tasks.seq = changed.value ->> 0
"""
IS_UNSETTLED: Final = "SELECT EXISTS (SELECT 1 FROM unsettled WHERE seq = ?1)"
UPSERT_UNSETTLED: Final = """
INSERT INTO unsettled (seq, cascade)
SELECT value ->> 0, value ->> 1 FROM jsonb_each(?1) WHERE true
ON CONFLICT DO UPDATE SET cascade = max(cascade, excluded.cascade)
"""


class _Source:
    """What rows ask of the transaction that is under way on *db*."""

    def __init__(self, db: apsw.Connection, book: Book) -> None:
        self._db = db
        self._book = book

    def type_of(self, lane: int) -> str:
        return self._book.names[lane][1]

    def holders_of(self, names: Sequence[str]) -> dict[str, TaskId]:
        return load_holders(self._db, names)

    def is_unsettled(self, seq: int) -> bool:
        found: int = self._db.execute(IS_UNSETTLED, (seq,)).get
        return bool(found)


def load_rows(db: apsw.Connection, book: Book, task_ids: Iterable[TaskId], now: int) -> Rows:
    """The rows of *task_ids* that there are, at the instant *now*."""
    found = db.execute(sql.SELECT_ROWS, (to_json(list(task_ids)),)).get
    return Rows(rows_decoder.decode(found), now, _Source(db, book))


def write_rows(
    db: apsw.Connection, book: Book, rows: Rows, count: Callable[[int, int, int], None]
) -> set[int]:
    """Write what has changed, and *count* it; the lanes that tasks were deleted from."""
    if rows.changed:
        _put_long_results_aside(db, rows)
        db.execute(sql.UPDATE_ROWS, (to_json(list(rows.changed.values())),))
    _write_texts(db, INSERT_ERRORS, rows.errors)
    if rows.fingerprints:
        changed = [(row.seq, fingerprint) for row, fingerprint in rows.fingerprints.values()]
        db.execute(UPDATE_FINGERPRINTS, (to_json(changed),))
    _write_rare(db, book, rows)
    for (lane, state), change in rows.counts.items():
        count(lane, state, change)
    if rows.deleted:
        gone = [row.seq for row in rows.deleted]
        delete_tasks(db, gone, gone)
    return {row.lane for row in rows.deleted}


def _put_long_results_aside(db: apsw.Connection, rows: Rows) -> None:
    if rows.begun_anew:
        db.execute(sql.DELETE_RESULTS, (to_json([row.seq for row in rows.begun_anew]),))
    for row in rows.changed.values():
        if row.result is not None and len(row.result) > sql.INLINE_MAX:
            db.execute(sql.INSERT_TEXT, (row.seq, sql.RESULT, row.result))
            row.result = None


def _write_rare(db: apsw.Connection, book: Book, rows: Rows) -> None:
    """Write what plain tasks do not have."""
    if rows.noted:
        noted = [
            (row.seq, row.logged, None if progress is None else to_json(progress))
            for row, progress in rows.noted.values()
        ]
        db.execute(UPDATE_NOTED, (to_json(noted),))
        _write_texts(db, INSERT_LOGS, rows.logs)
    if rows.blockers:
        blockers = [(row.seq, row.blockers) for row in rows.blockers.values()]
        db.execute(UPDATE_BLOCKERS, (to_json(blockers),))
    if rows.new_options:
        changed = [(row.seq, options_text(each), each.stop_at) for row, each in rows.new_options.values()]
        db.execute(UPDATE_OPTIONS, (to_json(changed),))
    if rows.values:
        values = [(row.seq, *map(given.get, VALUES)) for row, given in rows.values.values()]
        db.execute(UPDATE_VALUES, (to_json(values),))
    if rows.unsettled:
        told = [(row.seq, int(cascade)) for row, cascade in rows.unsettled.values()]
        db.execute(UPSERT_UNSETTLED, (to_json(told),))
        book.unsettled = True
    if rows.holders is not None:
        write_holders(db, rows.holders)


def _write_texts(
    db: apsw.Connection, statement: str, entries: Sequence[tuple[Row, int, AttemptError | LogLine]]
) -> None:
    for start in range(0, len(entries), TEXTS_AT_ONCE):
        some = [(row.seq, n, to_json(entry)) for row, n, entry in entries[start : start + TEXTS_AT_ONCE]]
        db.execute(statement, (to_json(some),))


def delete_tasks(db: apsw.Connection, seqs: list[int], not_plain: list[int]) -> None:
    """Delete the tasks *seqs* and all that is known of them; those that are *not_plain* may have more."""
    if not_plain:
        for statement in sql.DELETE_RARE:
            db.execute(statement, (to_json(not_plain),))
    gone = to_json(seqs)
    for statement in sql.DELETE_TASKS:
        db.execute(statement, (gone,))
