"""The store on one machine: a SQLite file, one writer, a few readers.

Here are the connections, the transactions and the reading; what an op does to the tables is in
`sqlite_batch`, the statements in `sqlite_sql`, the file itself in `sqlite_file`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Final, TypeVar, cast

import apsw

from tq.core import queries
from tq.core.errors import StorageUnavailable, TqError
from tq.core.ops import SCHEDULES_MAX, AnyOp, Reply
from tq.core.queries import LaneCount, Query, Stats
from tq.core.task import ServerId, State
from tq.storage import sqlite_sql as sql
from tq.storage.book import Book
from tq.storage.records import STATE_CODE, STATE_OF, SUBMITTED, counts_decoder, task_of
from tq.storage.sqlite_batch import Batch
from tq.storage.sqlite_book import load_book, load_rules
from tq.storage.sqlite_file import claim_file, open_reader, open_writer, told_as_ours
from tq.storage.sqlite_fleet import keep_letter, leader, letter_numbers, list_servers, news
from tq.storage.sqlite_keys import list_keys
from tq.storage.sqlite_lists import failure_groups, page
from tq.storage.sqlite_schedules import due_schedules, get_schedule, list_schedules
from tq.storage.store import Snapshot, Wake, WriteLetter

READERS_MAX: Final = 4
"""Connections that read at the same time; further readers wait for one."""

R = TypeVar("R")


class SqliteStore:
    """Tasks in the SQLite file at *path*, which no other process can open meanwhile.

    Args:
        path: The file; made, with mode 0600, if it is not there. Its folder must be.
        durable: False lets the last changes be lost at a power cut (never at a crash), for speed.
        vfs: The SQLite VFS to use; tests make the disk fail by it.
    Raises:
        StorageInUse: Another process, or this one, has the file open.
        SchemaMismatch: Not a tq store, or one of a newer tq.
        StorageUnavailable: It cannot be opened or made.
    """

    exclusive = True
    judged_at: int | None = None

    def __init__(self, path: Path, *, durable: bool = True, vfs: str | None = None) -> None:
        self._path = path.resolve()
        self._lock: int | None = claim_file(self._path)
        try:
            self._writer = open_writer(self._path, durable=durable, vfs=vfs)
        except BaseException:
            self._unlock()
            raise
        self._readers = _Readers(self._path, vfs)
        self._book: Book | None = None
        self.unsettled = True

    def apply(
        self, ops: Sequence[AnyOp], now: int, *, news: WriteLetter | None = None
    ) -> list[Reply | TqError]:
        if not ops and news is None:
            return []
        with told_as_ours(self._path), self._transaction() as book:
            replies = Batch(self._writer, book, now).run(ops)
            letter = None if news is None else news(replies)
            if letter is not None:
                keep_letter(self._writer, letter, now)
            return replies

    @contextmanager
    def _transaction(self) -> Iterator[Book]:
        """Commit what is done inside, or, at any exception, none of it.

        The book is set aside meanwhile and put back only after the commit: after a failure the next
        transaction reads it anew, so it can never say what the tables do not.
        """
        db = self._writer
        book, self._book = self._book, None
        try:
            db.execute("BEGIN IMMEDIATE")
            book = book or load_book(db)
            yield book
            db.execute("COMMIT")
        except BaseException:
            # SQLite may have rolled back by itself, and at a broken disk may not be able to tell us so.
            with suppress(apsw.Error):
                if db.in_transaction:
                    db.execute("ROLLBACK")
            raise
        self._book = book
        self.unsettled = book.unsettled

    def read(self, query: Query[R]) -> R:
        with told_as_ours(self._path), self._readers.lend() as db:
            match query:
                case queries.GetTask(task_id=task_id):
                    row = db.execute(sql.SELECT_TASK, (task_id,)).get
                    answer: object = None if row is None else task_of(row)
                case queries.GetStats():
                    answer = _stats(db)
                case queries.OldestPending():
                    answer = tuple(db.execute(sql.SELECT_OLDEST_PENDING))
                case queries.ListTasks():
                    answer = page(db, query)
                case queries.GetFailureGroups(limit=limit):
                    answer = failure_groups(db, limit)
                case queries.GetQueues():
                    answer = tuple(load_rules(db))
                case queries.GetSchedules(after=after, limit=limit):
                    answer = list_schedules(db, after, limit)
                case queries.GetSchedule(name=name):
                    answer = get_schedule(db, name)
                case queries.DueSchedules(now=now, limit=limit):
                    answer = due_schedules(db, now, limit)
                case queries.GetKeys():
                    answer = list_keys(db)
                case queries.NextDue():
                    answer = db.execute(sql.SELECT_NEXT_DUE).get
                case queries.GetServers():
                    answer = list_servers(db)
                case queries.GetNews():
                    db.execute("BEGIN")
                    answer = news(db, query)
                    db.execute("COMMIT")
                case _:
                    raise TypeError(f"not a query: {query!r}")
        return cast(R, answer)

    def beat(self, server: ServerId, now: int) -> bool:
        """See Store. There are no others to judge by it."""
        return True

    def open_wake(self, server: ServerId) -> Wake | None:
        return None

    def snapshot(self) -> Snapshot:
        with told_as_ours(self._path), self._readers.lend() as db:
            # A transaction, so that what three statements read is of one moment.
            db.execute("BEGIN")
            everything = Snapshot(
                tasks=tuple(task_of(row) for row in db.execute(sql.SELECT_ALL_TASKS)),
                stats=_stats(db),
                servers=tuple(db.execute(sql.SELECT_SERVERS)),
                queues=tuple(load_rules(db)),
                schedules=list_schedules(db, "", SCHEDULES_MAX),
                holders=tuple(db.execute(sql.SELECT_ALL_HOLDERS)),
                unsettled=tuple(task_id for (task_id,) in db.execute(sql.SELECT_ALL_UNSETTLED)),
                keys=list_keys(db),
                leader=leader(db),
                letters=letter_numbers(db),
            )
            db.execute("COMMIT")
        return everything

    def close(self) -> None:
        if self._lock is None:
            return
        self._readers.close()
        # What cannot be moved from the log into the file now is moved when the file is next opened.
        with suppress(apsw.Error):
            self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        with suppress(apsw.Error):
            self._writer.close(True)
        self._unlock()

    def _unlock(self) -> None:
        # The lock file stays: removing it would let two openers lock two files of one name.
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class _Readers:
    """Connections for reading, made when first needed, each lent to one thread at a time."""

    def __init__(self, path: Path, vfs: str | None) -> None:
        self._path = path
        self._vfs = vfs
        self._free = BoundedSemaphore(READERS_MAX)
        self._guard = Lock()
        self._idle: list[apsw.Connection] = []
        self._closed = False

    @contextmanager
    def lend(self) -> Iterator[apsw.Connection]:
        with self._free:
            db = self._take()
            try:
                yield db
            except BaseException:
                # What failed once may stay broken, such as a lost mapping; the next reader opens anew.
                db.close(True)
                raise
            self._give_back(db)

    def _take(self) -> apsw.Connection:
        with self._guard:
            if self._closed:
                raise StorageUnavailable(f"the store {self._path} is closed: open it again")
            if self._idle:
                return self._idle.pop()
        return open_reader(self._path, vfs=self._vfs)

    def _give_back(self, db: apsw.Connection) -> None:
        with self._guard:
            if self._closed:
                db.close(True)
            else:
                self._idle.append(db)

    def close(self) -> None:
        with self._guard:
            self._closed = True
            while self._idle:
                self._idle.pop().close(True)


def _stats(db: apsw.Connection) -> Stats:
    lanes: list[LaneCount] = []
    totals: dict[int, int] = {}
    for queue, type, state, count in counts_decoder.decode(db.execute(sql.SELECT_COUNTS).get):
        if queue is None or type is None:
            totals[state] = count
        else:
            lanes.append(LaneCount(queue, type, STATE_OF[state], count))
    return Stats(
        lanes=tuple(sorted(lanes)),
        submitted=totals.get(SUBMITTED, 0),
        succeeded=totals.get(STATE_CODE[State.SUCCEEDED], 0),
        failed=totals.get(STATE_CODE[State.FAILED], 0),
        cancelled=totals.get(STATE_CODE[State.CANCELLED], 0),
    )
