"""What this machine can do at all: its disk, and SQLite with the same rows and nothing around it."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import apsw

from tq.clock import IdMaker, SystemClock
from tq.core.ops import BATCH_MAX, SubmitMany
from tq.core.retry import RetryPolicy
from tq.core.task import NewTask
from tq.storage.records import policy_text
from tq.storage.sqlite import SqliteStore
from tq.storage.sqlite_file import open_writer

INSERT = """
INSERT INTO tasks (seq, id, lane, state, priority, run_at, max_attempts, timeout_ms, created_at, retry,
                   payload)
VALUES (?, ?, 1, ?, 0, ?, 20, 5000, ?, ?, ?)
"""
CLAIM = """
UPDATE tasks SET state = 3, attempt = attempt + 1, generation = generation + 1, started_at = ?, server = ?
WHERE seq IN (SELECT seq FROM tasks WHERE lane = 1 AND state = 2 ORDER BY priority DESC, run_at, seq LIMIT ?)
RETURNING seq, id, payload
"""
FINISH = """
UPDATE tasks SET state = 5, reason = 0, started_at = ?, finished_at = ?, keep_until = ?, worker = 1,
    result = 'null'
WHERE seq = ?
"""
SCHEDULED, PENDING = 1, 2
DAY_MS = 86_400_000


def fsync_ms(folder: Path) -> float:
    """How long one flush of 4 KiB takes, in the middle."""
    took = []
    with (folder / "flush").open("wb", buffering=0) as file:
        for _ in range(100):
            file.write(bytes(4096))
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append((time.perf_counter() - start) * 1000)
    return statistics.median(took)


def raw_inserts(folder: Path, *, count: int, at_once: int) -> float:
    """Tasks a second that SQLite inserts, *at_once* in a durable transaction."""
    with closing(_empty(folder / "inserts.db")) as db:
        return _insert(db, count=count, at_once=at_once, state=SCHEDULED)


def raw_drain(folder: Path, *, count: int, at_once: int) -> float:
    """Tasks a second that SQLite claims and finishes, *at_once* in a durable transaction each time."""
    with closing(_empty(folder / "drain.db")) as db:
        _insert(db, count=count, at_once=BATCH_MAX, state=PENDING)
        start = time.perf_counter()
        while True:
            now = SystemClock().now_ms()
            db.execute("BEGIN IMMEDIATE")
            claimed = db.execute(CLAIM, (now, "server", at_once)).fetchall()
            db.execute("COMMIT")
            if not claimed:
                return count / (time.perf_counter() - start)
            db.execute("BEGIN IMMEDIATE")
            db.executemany(FINISH, [(now, now, now + DAY_MS, seq) for seq, *_ in claimed])
            db.execute("COMMIT")


def _empty(path: Path) -> apsw.Connection:
    """A tq database as tq itself would write to it."""
    SqliteStore(path).close()
    return open_writer(path, durable=True, vfs=None)


def _insert(db: apsw.Connection, *, count: int, at_once: int, state: int) -> float:
    new_id = IdMaker(SystemClock(), random.Random())
    retry = policy_text(RetryPolicy())
    now = SystemClock().now_ms()
    start = time.perf_counter()
    for first in range(1, count + 1, at_once):
        rows = [(seq, new_id(), state, now, now, retry, "{}") for seq in range(first, first + at_once)]
        db.execute("BEGIN IMMEDIATE")
        db.executemany(INSERT, rows)
        db.execute("COMMIT")
    return count / (time.perf_counter() - start)


def new_tasks(
    count: int, *, queue: str, type: str = "noop", priority: int = 0, delay_ms: int = 0
) -> Iterator[NewTask]:
    """Tasks as a submit would make them."""
    clock = SystemClock()
    new_id = IdMaker(clock, random.Random())
    run_at = clock.now_ms() + delay_ms
    for _ in range(count):
        yield NewTask(
            id=new_id(),
            type=type,
            queue=queue,
            priority=priority,
            run_at=run_at,
            timeout_ms=5_000,
            max_attempts=20,
        )


def fill(path: Path, tasks: Iterable[NewTask]) -> None:
    """Put *tasks* into the store at *path* before a server has it."""
    clock = SystemClock()
    with closing(SqliteStore(path, durable=False)) as store:
        waiting: list[NewTask] = []
        for task in tasks:
            waiting.append(task)
            if len(waiting) == BATCH_MAX:
                store.apply([SubmitMany(tuple(waiting))], clock.now_ms())
                waiting = []
        assert not waiting, "give a multiple of BATCH_MAX"


def first_start_to_last_finish_s(path: Path, *, queue: str) -> float:
    """Seconds between the first start and the last finish of the tasks of *queue*, as they are stored."""
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as db:
        asked = """
            SELECT (max(finished_at) - min(started_at)) / 1000.0 FROM tasks
            WHERE state = 5 AND lane IN (SELECT id FROM lanes WHERE queue = ?)
        """
        return float(db.execute(asked, (queue,)).get)
