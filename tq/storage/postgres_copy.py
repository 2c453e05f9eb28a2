"""A PostgreSQL store as one side of a copy: its rows as records, and records as its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import msgspec
from psycopg import errors

from tq.core.errors import StorageError, StorageInUse
from tq.core.servers import DEAD_AFTER_MS, read_server
from tq.core.task import HISTORY_MAX, LOG_LINES_MAX, AttemptError, Json
from tq.storage.copying import TABLES, TALLIES, Record, Table, label
from tq.storage.holders import name_of
from tq.storage.postgres_link import SILENT_LONG_S, close_quietly, connect, parse_url, told_as_ours
from tq.storage.postgres_schema import claim_making, migrate, migrations, schema_version
from tq.storage.postgres_sql import CLOCK, TAKE, texts
from tq.storage.postgres_work import told_of
from tq.storage.records import STORE_LANE, SUBMITTED, options_of

COPIED: Final = 0
"""The writer that the counters of a copy are of. Writers begin at 1, and who prunes takes over its rows."""
LOCK_TIMEOUT_MS: Final = 5_000
"""What writes to the store is waited for so long: a key that is being made, the vacuum."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_PLAIN: Final = ("lanes", "tags", "dependencies", "requests", "queues", "rates", "schedules", "keys")
COLUMNS: Final = {table.name: table.columns for table in TABLES if table.name in _PLAIN} | {
    "tasks": ("seq", "lane", "created_at", "id", "retry", "parent_id", "schedule", "payload"),
    "lives": _words(
        "seq lane run_at started_at finished_at keep_until stop_at result_ttl_ms timeout_ms max_attempts"
        " generation attempt crashes failures blockers logged worker state urgency reason cancel_reason"
        " watched server unique_name fingerprint progress options result"
    ),
    "errors": ("seq", "slot", "n", "entry", "told"),
    "logs": ("seq", "slot", "n", "line"),
    "unsettled": ("seq", "cascade"),
    "counters": ("writer", "lane", "state", "count"),
}
"""What a copy writes: the tables of the schema and their columns."""
SET_AFTERWARDS: Final = {"lives": ("holds",)}
"""The columns that `holders` set."""
BY_DEFAULT: Final = {"lanes": ("origin",)}
"""The columns that are in no record: there is one lane of each name in a copy."""
LEFT_OUT: Final = {
    "schema_versions": "made with the tables",
    "servers": "no server lives",
    "leader": "no server leads",
    "letters": "what servers tell each other",
    "writers": "no connection writes",
    "types": "the servers that start say what they handle",
    "unannounced": "nobody listens for what is new",
}
"""The tables that a copy leaves empty, and why."""

_INSERTS: Final = {
    name: f"COPY {name} ({', '.join(columns)}) FROM STDIN" for name, columns in COLUMNS.items()
}
# Tasks submitted in SQL may be in lanes of a name that another has too; they are copied into the first of it.
_FIRST: Final = "(SELECT id AS own, min(id) OVER (PARTITION BY queue, type, key) AS one FROM lanes) AS first"
_READ_AS: Final = {
    ("lanes", "id"): "lanes.id",
    ("tasks", "priority"): "-urgency",
    ("tasks", "watched"): "watched::integer",
    ("tasks", "seq"): "tasks.seq",
    ("tasks", "lane"): "first.one",
    ("holders", "name"): "unique_name",
    ("holders", "task_id"): "id",
    ("unsettled", "cascade"): "cascade::integer",
    ("counters", "lane"): "coalesce(first.one, lane)",
    ("counters", "count"): "sum(count)::bigint",
    ("rates", "is_key"): "is_key::integer",
    ("schedules", "paused"): "paused::integer",
}
_FROM: Final = {
    "lanes": f"lanes JOIN {_FIRST} ON first.one = lanes.id AND first.own = lanes.id",
    "tasks": f"tasks JOIN lives ON lives.seq = tasks.seq JOIN {_FIRST} ON first.own = tasks.lane",
    "holders": "lives JOIN tasks ON tasks.seq = lives.seq WHERE holds",
    "counters": f"counters LEFT JOIN {_FIRST} ON first.own = lane"
    " GROUP BY coalesce(first.one, lane), state HAVING sum(count) <> 0",
}
_ORDERS: Final = {"tasks": "tasks.seq", "lanes": "lanes.id", "errors": "seq, n", "logs": "seq, n"}
# Every batch of a server, and its start, writes there: so nobody does while this is held. A source may be
# copied twice at a time, a target is only one's.
_LOCK_SOURCE: Final = "LOCK TABLE writers IN SHARE MODE"
_LOCK_TARGET: Final = "LOCK TABLE writers IN SHARE ROW EXCLUSIVE MODE"
# No seq comes twice, not that of a task that is gone either.
_SET_ARRIVALS: Final = f"""
SELECT setval('arrivals', 1 + greatest(
    coalesce((SELECT max(seq) FROM tasks), 0),
    coalesce((SELECT sum(count) FROM counters WHERE lane = {STORE_LANE} AND state = {SUBMITTED}), 0)
)::bigint, false)
"""
_SET_LANES: Final = """
SELECT setval(pg_get_serial_sequence('lanes', 'id'), 1 + coalesce(max(id), 0), false) FROM lanes
"""
_SELECT_LIVING: Final = "SELECT server, said FROM servers WHERE seen_at >= $1 ORDER BY server LIMIT 20"
# What takes long is not cut off, and what is committed is durable wherever that is possible. All is read in
# the order of an index, or whole.
_SETTINGS: Final = """
SET statement_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET synchronous_commit = on;
SET enable_seqscan = on;
SET enable_hashjoin = on;
SET enable_mergejoin = on;
"""

_entry_decoder: Final = msgspec.json.Decoder(AttemptError)


class PostgresSide:
    """The schema that *url* names, in one transaction that keeps all others from writing. See Side.

    Raises:
        StorageInUse: Somebody writes to it, copies into it, or makes its tables.
        StorageError: There are no tables and it is to be read, or they are of an older tq; or it is out of
            reach.
    """

    def __init__(self, url: str, *, writes: bool) -> None:
        self._target = parse_url(url)
        self.name = f"{self._target.name}, schema {self._target.schema}"
        self._types: dict[int, str] = {}
        # Whether it keeps what it acknowledges is judged by the server that starts on it.
        self._db = connect(self._target, application="tq db copy", durable=False, silent_s=SILENT_LONG_S)
        try:
            with told_as_ours(self._target):
                self._db.execute(_SETTINGS, prepare=False)
                self._db.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
                self._db.execute("BEGIN")
                if writes and not claim_making(self._db, self._target):
                    raise self._written_to()
                self._has_tables = self._check_version(writes=writes)
                self.check_unused()
                if self._has_tables:
                    self._lock(_LOCK_TARGET if writes else _LOCK_SOURCE)
        except BaseException:
            close_quietly(self._db)
            raise

    def _check_version(self, *, writes: bool) -> bool:
        """Whether there are tables, as there must be if they are read."""
        version, known = schema_version(self._db, self._target), len(migrations())
        if version == 0 and not writes:
            raise StorageError(f"there is no store in {self.name}: give the URL of the store to be copied")
        if 0 < version < known:
            raise StorageError(
                f"{self.name} has version {version}, and {known} is needed: run tq db upgrade on it first"
            )
        return version > 0

    def _lock(self, statement: str) -> None:
        try:
            self._db.execute(statement)
        except errors.LockNotAvailable:
            raise self._written_to() from None

    def _written_to(self) -> StorageInUse:
        return StorageInUse(f"{self.name} is being written to: stop what has it open first")

    def make(self) -> None:
        """See Side. They are seen by nobody else before `commit`."""
        if not self._has_tables:
            with told_as_ours(self._target):
                migrate(self._db, self._target, migrations())
            self._has_tables = True

    def check_unused(self) -> None:
        """See Side."""
        if not self._has_tables:
            return
        with told_as_ours(self._target):
            [(now,)] = self._db.execute(CLOCK).fetchall()
            found = self._db.execute(_SELECT_LIVING, (now - DEAD_AFTER_MS,)).fetchall()
        if found:
            living = [_called(server, said) for server, said in found]
            raise StorageInUse(
                f"{self.name} is in use by {', '.join(living)}: stop them first; one that was killed counts"
                f" for {DEAD_AFTER_MS // 1000} s"
            )

    def count(self, table: Table) -> int:
        """See Side."""
        if not self._has_tables:
            return 0
        with told_as_ours(self._target):
            if table.name == "counters":
                statement = f"SELECT count(*) FROM (SELECT FROM {_FROM['counters']}) AS found"
            else:
                statement = f"SELECT count(*) FROM {_FROM.get(table.name, table.name)}"
            [(found,)] = self._db.execute(statement).fetchall()
        return int(found)

    def tally(self) -> Iterator[tuple[str, int]]:
        """See Side."""
        with told_as_ours(self._target):
            for kind, statement in TALLIES:
                for name, count in self._db.execute(statement.format(lives="lives")).fetchall():
                    yield f"{kind} {label(name)}", count

    def records(self, table: Table) -> Iterator[Record]:
        """See Side."""
        columns = ", ".join(_READ_AS.get((table.name, name), name) for name in table.columns)
        statement = f"SELECT {columns} FROM {_FROM.get(table.name, table.name)}"
        if table.name in _ORDERS:
            statement += f" ORDER BY {_ORDERS[table.name]}"
        types = ["int8"] * len(table.numbers) + ["text"] * len(table.texts)
        with told_as_ours(self._target), self._db.cursor().copy(f"COPY ({statement}) TO STDOUT") as copy:
            copy.set_types(types)
            yield from copy.rows()

    def put(self, table: Table, records: Sequence[Record]) -> None:
        """See Side."""
        with told_as_ours(self._target):
            match table.name:
                case "tasks":
                    self._put_tasks(table, records)
                case "holders":
                    self._db.execute(TAKE, (texts(task_id for _, task_id in records),))
                case name:
                    if name == "lanes":
                        self._types |= {lane: type for lane, _, _, type, _ in records}
                    rows = _ROWS.get(name)
                    self._write(name, map(rows, records) if rows else records)

    def _put_tasks(self, table: Table, records: Sequence[Record]) -> None:
        of_task, of_life = [], []
        for record in records:
            values = dict(zip(table.columns, record, strict=True))
            options = options_of(values["options"])
            values["schedule"] = options.schedule
            values["unique_name"] = name_of(self._types[values["lane"]], options)
            values["urgency"] = -values["priority"]
            values["watched"] = bool(values["watched"])
            of_task.append([values[name] for name in COLUMNS["tasks"]])
            of_life.append([values[name] for name in COLUMNS["lives"]])
        self._write("tasks", of_task)
        self._write("lives", of_life)

    def _write(self, table: str, rows: Iterable[Sequence[object]]) -> None:
        with self._db.cursor().copy(_INSERTS[table]) as copy:
            for row in rows:
                copy.write_row(row)

    def commit(self) -> None:
        """See Side."""
        with told_as_ours(self._target):
            self._db.execute(_SET_ARRIVALS)
            self._db.execute(_SET_LANES)
            self._db.execute("COMMIT")

    def close(self) -> None:
        """See Side."""
        close_quietly(self._db)


_ROWS: Final[dict[str, Callable[[Record], Record]]] = {
    "errors": lambda record: (
        *(record[0], record[1] % HISTORY_MAX, record[1], record[2]),
        told_of(_entry_decoder.decode(record[2])),
    ),
    "logs": lambda record: (record[0], record[1] % LOG_LINES_MAX, *record[1:]),
    "unsettled": lambda record: (record[0], bool(record[1])),
    "counters": lambda record: (COPIED, *record),
    "rates": lambda record: (bool(record[0]), *record[1:]),
    "schedules": lambda record: (record[0], bool(record[1]), *record[2:]),
}


def _called(server: str, said: str | None) -> str:
    """A server as people know it."""
    info = read_server(None if said is None else Json(said))
    return server if info is None else f"process {info.pid} on {info.host} ({server})"
