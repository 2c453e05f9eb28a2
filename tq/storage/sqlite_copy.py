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
    claim_file,
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

    Args:
        vfs: The SQLite VFS to use; tests make the disk fail by it.
    Raises:
        StorageInUse: A server has it.
        StorageError: It is not there and is to be read, or is of an older tq.
    """

    def __init__(self, path: Path, *, writes: bool, vfs: str | None = None) -> None:
        self._path = path.resolve()
        self.name = f"sqlite:///{path}"
        if not writes and not self._path.is_file():
            raise StorageError(f"there is no store {path}: give the file of the store to be copied")
        self._lock = claim_file(self._path)
        try:
            if writes:
                self._db = open_writer(self._path, durable=True, vfs=vfs)
            else:
                self._db = self._open_source(vfs)
            with told_as_ours(self._path):
                self._db.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        except BaseException:
            os.close(self._lock)
            raise

    def _open_source(self, vfs: str | None) -> apsw.Connection:
        with told_as_ours(self._path):
            # Not one that only reads: that would leave its log and shared memory behind.
            db = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
            try:
                db.set_busy_timeout(BUSY_TIMEOUT_MS)
                db.pragma("query_only", True)
                self._check_version(db)
            except BaseException:
                db.close(True)
                raise
        return db

    def _check_version(self, db: apsw.Connection) -> None:
        version, known = schema_version(db, self._path), len(migrations())
        if version < known:
            raise StorageError(
                f"{self._path} has schema version {version}, and {known} is needed:"
                " run tq db upgrade on it first"
            )

    def check_unused(self) -> None:
        """See Side: the lock keeps servers out."""

    def count(self, table: Table) -> int:
        """See Side."""
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

    def close(self) -> None:
        """See Side."""
        with suppress(apsw.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        with suppress(apsw.Error):
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        with suppress(apsw.Error):
            self._db.close(True)
        os.close(self._lock)


_ROWS: Final[dict[str, Callable[[Record], Record]]] = {
    "errors": lambda record: (record[0], record[1] % HISTORY_MAX, *record[1:]),
    "logs": lambda record: (record[0], record[1] % LOG_LINES_MAX, *record[1:]),
}
