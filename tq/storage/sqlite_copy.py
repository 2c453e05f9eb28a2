"""A SQLite store as one side of a copy: its rows as records, and records as its rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import apsw

from tq.core.errors import StorageError
from tq.core.task import HISTORY_MAX, LOG_LINES_MAX
from tq.storage.copying import TABLES, TALLIES, Record, Table, label
from tq.storage.sqlite_file import (
    BUSY_TIMEOUT_MS,
    lock_file,
    lock_of,
    make_file,
    migrate,
    migrations,
    open_writer,
    schema_version,
    told_as_ours,
)
from tq.storage.sqlite_sql import INLINE_MAX, PAYLOAD, RESULT

COLUMNS: Final = {table.name: table.columns for table in TABLES} | {
    "errors": ("seq", "slot", "n", "entry"),
    "logs": ("seq", "slot", "n", "line"),
    "texts": ("seq", "part", "text"),
}
"""What a copy writes: the tables of the file and their columns."""
LEFT_OUT: Final = {
    "servers": "no server lives",
    "leader": "no server leads",
    "letters": "what servers tell each other",
    "sqlite_sequence": "the numbers of letters",
}
"""The tables that a copy leaves empty, and why."""

_INSERTS: Final = {
    name: f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    for name, columns in COLUMNS.items()
}
_READ_AS: Final = {
    "payload": f"ifnull(payload, (SELECT text FROM texts WHERE texts.seq = tasks.seq AND part = {PAYLOAD}))",
    "result": f"ifnull(result, (SELECT text FROM texts WHERE texts.seq = tasks.seq AND part = {RESULT}))",
}
# A count that came back to nothing may be there as 0, and is as good as none.
_FROM: Final = {"counters": "counters WHERE count <> 0"}
_ORDERS: Final = {"tasks": "seq", "lanes": "id", "errors": "seq, n", "logs": "seq, n"}


class SqliteSide:
    """The file at *path*, locked. See Side.

    Raises:
        StorageInUse: A server has it.
        StorageError: It is not there and is to be read, or is of an older tq.
    """

    def __init__(self, path: Path, *, writes: bool) -> None:
        self._path = path.resolve()
        self.name = f"sqlite:///{path}"
        if not writes and not self._path.is_file():
            raise StorageError(f"there is no store {path}: give the file of the store to be copied")
        made_lock = not lock_of(self._path).exists()
        self._lock = lock_file(self._path)
        self._file = _File(self._path, made_lock=made_lock, writes=writes)
        try:
            self._db = self._open_target() if writes else self._open_source()
            self._has_tables = schema_version(self._db, self._path) > 0
        except BaseException:
            self._let_go()
            raise

    def _open_source(self) -> apsw.Connection:
        with told_as_ours(self._path):
            # Not one that only reads: that would leave its log and shared memory behind.
            db = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READWRITE)
            try:
                db.set_busy_timeout(BUSY_TIMEOUT_MS)
                db.pragma("query_only", True)
                self._check_version(schema_version(db, self._path))
                db.execute("BEGIN")
            except BaseException:
                db.close(True)
                raise
        return db

    def _open_target(self) -> apsw.Connection:
        make_file(self._path)
        with told_as_ours(self._path):
            db = open_writer(self._path, durable=True, vfs=None, migrates=False)
            try:
                if version := schema_version(db, self._path):
                    self._check_version(version)
                # What is compared sorts all tasks, which are not to be in memory.
                db.pragma("temp_store", "FILE")
                db.execute("BEGIN IMMEDIATE")
            except BaseException:
                db.close(True)
                raise
        return db

    def _check_version(self, version: int) -> None:
        known = len(migrations())
        if version < known:
            raise StorageError(
                f"{self._path} has schema version {version}, and {known} is needed:"
                " run tq db upgrade on it first"
            )

    def make(self) -> None:
        """See Side."""
        if not self._has_tables:
            with told_as_ours(self._path):
                migrate(self._db, migrations(), done=0)
            self._has_tables = True

    def check_unused(self) -> None:
        """See Side: the lock keeps servers out."""

    def count(self, table: Table) -> int:
        """See Side."""
        if not self._has_tables:
            return 0
        with told_as_ours(self._path):
            found: int = self._db.execute(f"SELECT count(*) FROM {_FROM.get(table.name, table.name)}").get
        return found

    def tally(self) -> Iterator[tuple[str, int]]:
        """See Side."""
        with told_as_ours(self._path):
            for kind, statement in TALLIES:
                for name, count in self._db.execute(statement.format(lives="tasks")):
                    yield f"{kind} {label(name)}", count

    def records(self, table: Table) -> Iterator[Record]:
        """See Side."""
        columns = ", ".join(_READ_AS.get(name, name) for name in table.columns)
        statement = f"SELECT {columns} FROM {_FROM.get(table.name, table.name)}"
        if table.name in _ORDERS:
            statement += f" ORDER BY {_ORDERS[table.name]}"
        with told_as_ours(self._path):
            yield from self._db.execute(statement)

    def put(self, table: Table, records: Sequence[Record]) -> None:
        """See Side."""
        rows = _ROWS.get(table.name)
        with told_as_ours(self._path):
            if table.name == "tasks":
                records = self._with_long_texts_aside(records)
            self._db.executemany(_INSERTS[table.name], map(rows, records) if rows else records)

    def _with_long_texts_aside(self, records: Sequence[Record]) -> list[Record]:
        plain, aside = [], []
        for record in records:
            *row, payload, result = record
            if len(payload) > INLINE_MAX:
                aside.append((row[0], PAYLOAD, payload))
                payload = None
            if result is not None and len(result) > INLINE_MAX:
                aside.append((row[0], RESULT, result))
                result = None
            plain.append((*row, payload, result))
        self._db.executemany(_INSERTS["texts"], aside)
        return plain

    def commit(self) -> None:
        """See Side."""
        with told_as_ours(self._path):
            self._db.execute("COMMIT")
        self._file.keep()

    def close(self) -> None:
        """See Side."""
        with suppress(apsw.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        with suppress(apsw.Error):
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        with suppress(apsw.Error):
            self._db.close(True)
        self._let_go()

    def _let_go(self) -> None:
        self._file.restore()
        os.close(self._lock)


class _File:
    """What there was of the file *path* before a copy: nothing, an empty file, or more, which is left.

    Of one that is only read, no more than its lock is looked at.
    """

    def __init__(self, path: Path, *, made_lock: bool, writes: bool) -> None:
        self._path = path
        self._is_blank = writes and (not path.exists() or path.stat().st_size == 0)
        beside = [path.with_name(path.name + end) for end in ("-wal", "-shm")]
        self._made = [each for each in (path, *beside) if self._is_blank and not each.exists()]
        if made_lock:
            # The last that goes: until then nobody else makes any of them.
            self._made.append(lock_of(path))

    def keep(self) -> None:
        """What is there now stays."""
        self._is_blank, self._made = False, []

    def restore(self) -> None:
        """Have all be as it was. Only for who has the lock, and has closed the file."""
        with suppress(OSError):
            if self._is_blank and self._path not in self._made:
                os.truncate(self._path, 0)
        for path in self._made:
            with suppress(OSError):
                path.unlink()


_ROWS: Final[dict[str, Callable[[Record], Record]]] = {
    "errors": lambda record: (record[0], record[1] % HISTORY_MAX, *record[1:]),
    "logs": lambda record: (record[0], record[1] % LOG_LINES_MAX, *record[1:]),
}
