"""Copying a whole queue from one store into another, which is empty before and has all of it afterwards.

Between the two go records: rows of TABLES, whose columns mean the same in every store. Each side, one for
each kind of SQL store, gives its rows as records, and takes records for its rows. What TABLES leaves out is
of servers (who lives, who leads, what they told each other) and of connections: on copying no server lives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import msgspec

from tq.core.errors import InvalidInput, StorageError
from tq.storage.records import STATE_OF, STORE_LANE, SUBMITTED
from tq.storage.store import needs_psycopg, place_of

Record: TypeAlias = tuple[Any, ...]
"""Numbers, texts and None; what is true or false is 1 or 0."""

CHUNK_ROWS: Final = 1_000
CHUNK_CHARACTERS: Final = 4 * 1024 * 1024
"""Records are handed over so many at a time, or fewer if they are long: what a copy has in memory."""
MISSING_SHOWN: Final = 3


class Table(NamedTuple):
    """A kind of record: first numbers, then texts, of which the last *long* may be long."""

    name: str
    numbers: tuple[str, ...]
    texts: tuple[str, ...]
    long: int

    @property
    def columns(self) -> tuple[str, ...]:
        """What is in a record."""
        return self.numbers + self.texts


def _table(name: str, numbers: str, texts: str, *, long: int = 0) -> Table:
    return Table(name, tuple(numbers.split()), tuple(texts.split()), long)


TABLES: Final = (
    _table("lanes", "id served", "queue type key"),
    _table(
        "tasks",
        "seq lane state priority run_at generation attempt crashes failures max_attempts timeout_ms"
        " result_ttl_ms created_at reason started_at finished_at keep_until stop_at worker cancel_reason"
        " watched blockers logged",
        "id server retry parent_id fingerprint progress options payload result",
        long=2,
    ),
    _table("holders", "", "name task_id"),
    _table("errors", "seq n", "entry", long=1),
    _table("logs", "seq n", "line", long=1),
    _table("tags", "seq", "tag"),
    _table("dependencies", "dependency dependent", ""),
    _table("unsettled", "seq cascade", ""),
    _table("requests", "until", "key digest task_id"),
    _table("counters", "lane state count", ""),
    _table("queues", "", "queue rules"),
    _table("rates", "is_key tat_us", "queue key"),
    _table(
        "schedules", "version paused created_at seen_until next_at", "name last_task_id spec ticks", long=2
    ),
    _table("keys", "created_at expires_at revoked_at", "id name digest scopes queues rate"),
)
"""In the order in which they are written: a record may name those of the tables before its own."""


TALLIES: Final = (
    ("tasks", "SELECT state, count(*) FROM {lives} GROUP BY state ORDER BY state"),
    (
        "queue",
        "SELECT queue, CAST(sum(n) AS bigint)"
        " FROM (SELECT lane, count(*) AS n FROM {lives} GROUP BY lane) AS found"
        " JOIN lanes ON lanes.id = lane GROUP BY queue ORDER BY queue",
    ),
    (
        "counted",
        "SELECT state, CAST(sum(count) AS bigint) FROM counters"
        f" WHERE lane <> {STORE_LANE} GROUP BY state HAVING sum(count) <> 0 ORDER BY state",
    ),
    (
        "ever",
        "SELECT state, CAST(sum(count) AS bigint) FROM counters"
        f" WHERE lane = {STORE_LANE} GROUP BY state ORDER BY state",
    ),
)
"""What `Side.tally` asks, with the table in which the state of a task is."""


def label(name: int | str) -> str:
    """The name of a queue, or of a state, as people know it."""
    if isinstance(name, str):
        return name
    return "submitted" if name == SUBMITTED else STATE_OF[name].value


class Line(msgspec.Struct, frozen=True):
    """How many there are of something in the source, and how many in the target."""

    what: str
    source: int
    target: int


class Report(msgspec.Struct, frozen=True):
    """What was copied. Each pair of counts is equal, or it would not have been."""

    source: str
    target: str
    counts: tuple[Line, ...]


class Side(Protocol):
    """One of the two stores, which nothing else writes to until it is closed.

    All that is read is of one moment. What is written is there after `commit`, all of it, or not at all:
    if there was no store, there is none again. A target is looked at first, and changed from `make` on.
    Every method raises StorageError where its store fails.
    """

    name: str

    def check_unused(self) -> None:
        """Raises StorageInUse, naming them, if servers live that have this store open."""
        ...

    def count(self, table: Table) -> int:
        """How many records of *table* there are: none where there are no tables yet."""
        ...

    def tally(self) -> Iterator[tuple[str, int]]:
        """What else is compared: tasks by state and by queue, and what the counters say."""
        ...

    def records(self, table: Table) -> Iterator[Record]:
        """All records of *table*, read as they are taken."""
        ...

    def make(self) -> None:
        """Have tables be there to write to, if there were none."""
        ...

    def put(self, table: Table, records: Sequence[Record]) -> None:
        """Write *records* of *table*."""
        ...

    def commit(self) -> None:
        """Have all that was put be there, durably."""
        ...

    def close(self) -> None:
        """Let go of it. What was not committed is gone."""
        ...


Watch: TypeAlias = Callable[[int, int], None]
"""Is told how many records have been copied, and of how many."""


def copy_store(source_url: str, target_url: str, *, watch: Watch) -> Report:
    """Copy all that the store *source_url* knows into the store *target_url*; the source is not changed.

    Tasks that run, according to the source, run on a server that is gone, and the next server that starts on
    the target takes them back, as after a crash.

    Raises:
        InvalidInput: Not the URLs of two stores that can be copied.
        StorageInUse: A server has one of them open, or came while they were copied.
        StorageError: There is no source, the target is not empty, one of them failed, or the counts differ.
            The target is then as it was: what was not there is not there again.
    """
    if source_url == target_url:
        raise InvalidInput("source and target are the same store", field="target")
    with (
        closing(_open_side(source_url, "source", writes=False)) as source,
        closing(_open_side(target_url, "target", writes=True)) as target,
    ):
        source.check_unused()
        target.check_unused()
        _check_empty(target)
        target.make()
        _copy(source, target, watch)
        report = Report(source.name, target.name, tuple(_compare(source, target)))
        _check_equal(report)
        source.check_unused()
        target.check_unused()
        target.commit()
    return report


def _open_side(url: str, field: str, *, writes: bool) -> Side:
    match place_of(url, field=field):
        case Path() as path:
            from tq.storage.sqlite_copy import SqliteSide

            return SqliteSide(path, writes=writes)
        case str():
            with needs_psycopg(field):
                from tq.storage.postgres_copy import PostgresSide
            return PostgresSide(url, writes=writes)
        case None:
            raise InvalidInput(
                f"the {field} is memory:, which no other process can see: name a file or a database",
                field=field,
            )


def _check_empty(target: Side) -> None:
    found = {table.name: target.count(table) for table in TABLES}
    if any(found.values()):
        told = ", ".join(f"{found[name]} {name}" for name in ("tasks", "schedules", "keys", "queues"))
        raise StorageError(
            f"{target.name} is not empty ({told}): copy into a new store, or into another schema"
        )


def _copy(source: Side, target: Side, watch: Watch) -> None:
    total = sum(source.count(table) for table in TABLES)
    done = 0
    watch(done, total)
    for table in TABLES:
        for chunk in chunks(source.records(table), long=table.long):
            target.put(table, chunk)
            done += len(chunk)
            watch(done, total)


def chunks(records: Iterable[Record], *, long: int) -> Iterator[list[Record]]:
    """*records* in lists of CHUNK_ROWS, or of fewer if their last *long* columns come to CHUNK_CHARACTERS."""
    chunk: list[Record] = []
    characters = 0
    for record in records:
        chunk.append(record)
        if long:
            characters += sum(len(text) for text in record[-long:] if text is not None)
        if len(chunk) == CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _compare(source: Side, target: Side) -> Iterator[Line]:
    for table in TABLES:
        yield Line(table.name, source.count(table), target.count(table))
    there, here = dict(source.tally()), dict(target.tally())
    for what in dict.fromkeys(chain(there, here)):
        yield Line(what, there.get(what, 0), here.get(what, 0))


def _check_equal(report: Report) -> None:
    wrong = [
        f"{line.what} {line.source} and {line.target}" for line in report.counts if line.source != line.target
    ]
    if wrong:
        raise StorageError(
            f"the copy is not what was copied ({'; '.join(wrong[:MISSING_SHOWN])}), and was thrown away:"
            " run tq db check on the source"
        )
