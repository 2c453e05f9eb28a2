"""A PostgreSQL of our own on the disk, as durable as it comes, and what it says of itself."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg

from benchmarks.servers import ROOT
from tq.clock import SystemClock
from tq.core.ops import BATCH_MAX, SubmitMany
from tq.core.retry import RetryPolicy
from tq.core.task import NewTask, ServerId
from tq.storage.postgres import PostgresStore
from tq.storage.records import policy_text

# The launcher is that of the tests.
sys.path.append(str(ROOT / "tests"))

from postgres_server import PostgresServer, is_open, join, new_database

DISKS: Final = (ROOT / "benchmarks", Path("/var/tmp"), Path(tempfile.gettempdir()))
"""Where it may lie: not in memory, where a flush costs nothing, and where whoever runs it may go."""
DURABLE: Final = ("fsync", "full_page_writes", "synchronous_commit")
used_s: Final[list[float]] = []
"""The seconds of CPU of each PostgreSQL that has ended: it is no child of ours."""

INSERT_LANE: Final = "INSERT INTO tq.lanes (queue, type) VALUES (%s, 'noop') RETURNING id"
INSERT_FINISHED: Final = """
WITH fresh AS MATERIALIZED (
    SELECT nextval('tq.arrivals') AS seq, n FROM generate_series(1, %(count)s) AS n
), stored AS (
    INSERT INTO tq.tasks (seq, lane, created_at, id, retry, payload)
    SELECT seq, %(lane)s, %(at)s, 'finished-' || seq, %(retry)s, '{}' FROM fresh
)
INSERT INTO tq.lives (seq, lane, run_at, started_at, finished_at, keep_until, timeout_ms, max_attempts,
    generation, attempt, worker, state, urgency, reason, server, result)
SELECT seq, %(lane)s, %(at)s, %(at)s, %(at)s, CASE WHEN n %% 2 = 0 THEN %(even)s ELSE %(odd)s END, 5000, 20,
    1, 1, 1, 5, 0, 0, 'server', 'null'
FROM fresh
"""
INSERT_COUNT: Final = """
WITH writer AS (INSERT INTO tq.writers (batch, seen_at) VALUES (0, %s) RETURNING writer)
INSERT INTO tq.counters (writer, lane, state, count) SELECT writer, %s, 5, %s FROM writer
"""
SELECT_TOOK: Final = """
SELECT (max(finished_at) - min(started_at)) / 1000.0 FROM tq.lives
WHERE state = 5 AND lane IN (SELECT id FROM tq.lanes WHERE queue = %s)
"""
SELECT_KEPT_TOO_LONG: Final = "SELECT count(*) FROM tq.lives WHERE keep_until <= %s"
SELECT_SIZE: Final = """
SELECT pg_total_relation_size('tq.tasks') + pg_total_relation_size('tq.lives')
"""
SELECT_TRANSACTIONS: Final = """
SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()
"""
SELECT_STATEMENTS: Final = "SELECT sum(calls) FROM pg_stat_statements"


@dataclass(frozen=True, slots=True)
class Database:
    """A database of its own on *server*."""

    server: PostgresServer
    url: str

    def ask(self, statement: str, *parameters: object) -> Any:
        """The first column of the only row."""
        with psycopg.connect(self.url, autocommit=True) as db:
            row = db.execute(statement.encode(), parameters or None).fetchone()
        assert row is not None
        return row[0]

    def fill(self, tasks: Iterable[NewTask]) -> None:
        """Submit *tasks* as a server does, and ring for the servers that there are."""
        clock = SystemClock()
        with closing(PostgresStore(self.url, durable=False)) as store:
            waiting: list[NewTask] = []
            for task in tasks:
                waiting.append(task)
                if len(waiting) == BATCH_MAX:
                    store.apply([SubmitMany(tuple(waiting))], clock.now_ms())
                    waiting = []
            assert not waiting, "give a multiple of BATCH_MAX"
            wake = store.open_wake(ServerId("benchmark"))
            assert wake is not None
            wake.ring()
            wake.close()

    def fill_finished(self, count: int, *, queue: str, even_until: int, odd_until: int) -> None:
        """Put *count* finished tasks into *queue*, every second of them kept until another instant."""
        PostgresStore(self.url).close()  # makes the tables
        now = SystemClock().now_ms()
        with psycopg.connect(self.url, autocommit=True) as db:
            [(lane,)] = db.execute(INSERT_LANE, (queue,)).fetchall()
            db.execute(
                INSERT_FINISHED,
                {
                    "count": count,
                    "lane": lane,
                    "at": now,
                    "even": even_until,
                    "odd": odd_until,
                    "retry": policy_text(RetryPolicy()),
                },
            )
            db.execute(INSERT_COUNT, (now, lane, count))
        self.vacuum()

    def vacuum(self) -> None:
        """As autovacuum will, sooner or later."""
        with psycopg.connect(self.url, autocommit=True) as db:
            db.execute("VACUUM (ANALYZE) tq.tasks, tq.lives")

    def size_mb(self) -> float:
        """Of the tables that tasks are in, with their indexes, in MB of a million bytes."""
        return float(self.ask(SELECT_SIZE)) / 1e6

    def counts(self) -> Callable[[], tuple[float, float]]:
        """Begins to count: what it returns gives the transactions and the statements since."""
        with psycopg.connect(self.url, autocommit=True) as db:
            db.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        before = self.ask(SELECT_TRANSACTIONS), self.ask(SELECT_STATEMENTS)

        def since() -> tuple[float, float]:
            # Ours are among them: the three connections of these questions.
            after = self.ask(SELECT_TRANSACTIONS) - 3, self.ask(SELECT_STATEMENTS) - 3
            return float(after[0] - before[0]), float(after[1] - before[1])

        return since

    def cpu_s(self) -> float:
        """Seconds of CPU that the whole of PostgreSQL has used."""
        ticks = sum(_ticks(self.server.pid, ended=True))
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if int(_stat(folder.name)[1]) == self.server.pid:
                    ticks += sum(_ticks(int(folder.name)))
            except (FileNotFoundError, ProcessLookupError):
                pass
        return ticks / os.sysconf("SC_CLK_TCK")


def _stat(pid: int | str) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _ticks(pid: int, *, ended: bool = False) -> list[int]:
    """Of the process, and of its children that have *ended*."""
    return [int(each) for each in _stat(pid)[11 : 15 if ended else 13]]


@contextmanager
def postgres_on_disk() -> Iterator[PostgresServer]:
    """A PostgreSQL with its own settings of durability, all on, stopped and removed at the end."""
    disk = next((each for each in DISKS if is_open(each)), None)
    if disk is None:
        raise SystemExit(f"PostgreSQL cannot be run in any of {', '.join(map(str, DISKS))}")
    folder = Path(tempfile.mkdtemp(prefix=".run-", dir=disk))
    # Should this process be killed, git does not see what is left.
    (folder / ".gitignore").write_text("*\n")
    server = join(folder, shared_preload_libraries="pg_stat_statements")
    try:
        for name in DURABLE:
            assert Database(server, server.url()).ask(f"SHOW {name}") == "on", name
        yield server
        used_s.append(Database(server, server.url()).cpu_s())
    finally:
        server.leave()


@contextmanager
def database(server: PostgresServer) -> Iterator[Database]:
    """An empty one."""
    with new_database(server.url()) as url:
        yield Database(server, url)
