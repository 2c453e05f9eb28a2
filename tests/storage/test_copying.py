"""A copied queue is the queue: it says the same, and goes on as the one it was copied from would have."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest
from chooser import SERVERS, Chooser
from msgspec.structs import replace
from postgres_place import Schema
from storage_kit import do, new, recount
from submit_task_kit import call
from tiers import tiered

from tq.core import ops
from tq.core.ops import LETTER_KEPT_MS, SWEEP_LIMIT_MAX
from tq.core.queries import GetStats
from tq.core.retry import RetryPolicy
from tq.core.task import Json, NewTask, ServerId, State, TaskId
from tq.storage import postgres_copy, sqlite_copy
from tq.storage.copying import copy_store
from tq.storage.memory import MemoryStore
from tq.storage.postgres import PostgresStore
from tq.storage.sqlite import SqliteStore
from tq.storage.store import Store

pytest_plugins = ("postgres_kit",)

SEEDS = (0, 3, 13, 14)
IDS = 150
BATCHES = 120
"""Before the copy, and again half as many after it."""


LEANING = {
    "prune": 0,
    "prune_letters": 0,
    "delete": 0.2,
    "recover": 0.1,
    "promote": 0.7,
    "settle": 0.5,
    "delete_schedule": 0.1,
    "note": 6,
    "put_key": 1.5,
    "revoke_key": 0.5,
    "set_queue": 3,
}


class Filler(Chooser):
    """Makes more tasks than are ended and deleted, and leaves much undone."""

    weights = tuple(LEANING.get(make.__name__, weight) for make, weight in Chooser.weighted.items())

    def task_id(self) -> TaskId:
        return TaskId(f"task-{self.random.randrange(IDS)}")

    def new(self) -> NewTask:
        made = replace(super().new(), retry=self.pick(RetryPolicy(), RetryPolicy(base_ms=7)))
        return replace(made, payload=Json('"' + "ñ" * 999 + '"')) if self.often(0.1) else made


def unwatched(done: int, total: int) -> None:
    pass


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def apply_both(batch: list[ops.AnyOp], now: int, *stores: Store) -> None:
    """Have *batch* done by all *stores*; they agree."""
    answers = [store.apply(batch, now) for store in stores]
    assert all(answer == answers[0] for answer in answers), batch


def drive(chooser: Chooser, batches: int, *stores: Store) -> None:
    """Random batches to all *stores*, the first of which the chooser looks at; they agree at the end."""
    for _ in range(batches):
        batch = chooser.batch()
        answers = [store.apply(batch, chooser.now) for store in stores]
        assert all(answer == answers[0] for answer in answers), batch
        chooser.leases += [
            lease for answer in answers[0] if isinstance(answer, ops.Claimed) for lease in answer.leases
        ]


def forget_servers(chooser: Chooser, *stores: Store) -> None:
    """Have nothing be known of servers, as after a copy; what they ran still runs."""
    chooser.now += LETTER_KEPT_MS + 1
    leaving: list[ops.AnyOp] = [ops.Beat(server, gone=True) for server in SERVERS]
    leaving += [ops.Lead(server, gone=True) for server in SERVERS]
    apply_both([*leaving, ops.PruneLetters(SWEEP_LIMIT_MAX)], chooser.now, *stores)


def assert_alike(chooser: Chooser, one: Store, other: Store) -> None:
    """Both say the same, whatever they are asked."""
    assert one.snapshot() == other.snapshot()
    for _ in range(20):
        for query in chooser.questions():
            assert one.read(query) == other.read(query), query


def filled(seed: int, path: Path, *, batches: int = BATCHES) -> tuple[Chooser, MemoryStore]:
    """A store in the file *path* with all kinds of tasks; the model of it, and its chooser."""
    model = MemoryStore()
    chooser = Filler(seed, model)
    with closing(SqliteStore(path)) as store:
        drive(chooser, batches, model, store)
        forget_servers(chooser, model, store)
        assert store.snapshot() == model.snapshot()
    return chooser, model


def rows_of(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """What is in the tables of the file, but for counts of nothing."""
    with closing(apsw.Connection(str(path))) as db:
        found = {
            table: sorted(db.execute(f"SELECT {', '.join(columns)} FROM {table}"), key=repr)
            for table, columns in sqlite_copy.COLUMNS.items()
        }
    found["counters"] = [row for row in found["counters"] if 0 not in row[2:]]
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tq.db"


@pytest.mark.parametrize("seed", tiered(SEEDS))
def test_a_copy_says_the_same_and_goes_on_the_same(
    seed: int, path: Path, empty_schema: Schema, open_empty_postgres: Callable[[], PostgresStore]
) -> None:
    chooser, model = filled(seed, path)
    before = rows_of(path)
    copy_store(url_of(path), empty_schema.url, watch=unwatched)
    assert rows_of(path) == before
    with closing(open_empty_postgres()) as copy:
        assert_alike(chooser, model, copy)
        drive(chooser, BATCHES // 2, model, copy)
        assert_alike(chooser, model, copy)


@pytest.mark.parametrize("seed", tiered(SEEDS))
def test_there_and_back_every_row_is_what_it_was(
    seed: int, path: Path, empty_schema: Schema, tmp_path: Path
) -> None:
    chooser, model = filled(seed, path)
    back = tmp_path / "back.db"
    there = copy_store(url_of(path), empty_schema.url, watch=unwatched)
    again = copy_store(empty_schema.url, url_of(back), watch=unwatched)
    assert [line.source for line in there.counts] == [line.target for line in again.counts]
    assert rows_of(back) == rows_of(path)
    with closing(SqliteStore(back)) as store:
        assert_alike(chooser, model, store)
        drive(chooser, BATCHES // 2, model, store)
        assert_alike(chooser, model, store)


def test_a_file_is_copied_into_a_file(path: Path, tmp_path: Path) -> None:
    filled(SEEDS[0], path)
    copy_store(url_of(path), url_of(tmp_path / "other.db"), watch=unwatched)
    assert rows_of(tmp_path / "other.db") == rows_of(path)


def test_lanes_of_one_name_that_sql_made_become_one(empty_schema: Schema, tmp_path: Path) -> None:
    with closing(PostgresStore(empty_schema.url)) as store, psycopg.connect(empty_schema.server) as db:
        db.execute(f'SET search_path = "{empty_schema.name}"'.encode())
        call(db, "t", id="by-sql", known=False)
        # Before the caller's commit: the lane that the caller has made is not there yet.
        do(store, ops.Submit(new("by-server", type="t")))
        db.commit()
        assert db.execute("SELECT count(*) FROM lanes WHERE type = 't'").fetchone() == (2,)
    copy_store(empty_schema.url, url_of(tmp_path / "tq.db"), watch=unwatched)
    with closing(SqliteStore(tmp_path / "tq.db")) as copy:
        claimed = do(copy, ops.Claim(ServerId("us"), ("t",), 10), now=2**42)
        assert {lease.task_id for lease in claimed.leases} == {"by-sql", "by-server"}
        assert recount(copy) == copy.read(GetStats()).lanes


# Nothing is forgotten


def test_every_column_of_sqlite_is_copied_or_left_out_for_a_reason(path: Path) -> None:
    SqliteStore(path).close()
    with closing(apsw.Connection(str(path))) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        found = {
            table: {column for (column,) in db.execute("SELECT name FROM pragma_table_info(?)", (table,))}
            for table in tables
        }
    told = {table: set(columns) for table, columns in sqlite_copy.COLUMNS.items()}
    assert found == told | {table: found[table] for table in sqlite_copy.LEFT_OUT}


def test_every_column_of_postgres_is_copied_or_left_out_for_a_reason(empty_schema: Schema) -> None:
    found: dict[str, set[str]] = {}
    with psycopg.connect(empty_schema.server) as db:
        for table, column in db.execute(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = %s",
            (empty_schema.name,),
        ):
            found.setdefault(table, set()).add(column)
    told = {
        table: {
            *columns,
            *postgres_copy.SET_AFTERWARDS.get(table, ()),
            *postgres_copy.BY_DEFAULT.get(table, ()),
        }
        for table, columns in postgres_copy.COLUMNS.items()
    }
    assert found == told | {table: found[table] for table in postgres_copy.LEFT_OUT}


def test_the_seeds_fill_every_column(tmp_path: Path) -> None:
    """So that one that is not copied, or as another, is seen by the tests above."""
    values: dict[tuple[str, str], set[Any]] = {}
    for seed in SEEDS:
        filled(seed, tmp_path / f"{seed}.db")
        with closing(apsw.Connection(str(tmp_path / f"{seed}.db"))) as db:
            for table, columns in sqlite_copy.COLUMNS.items():
                for row in db.execute(f"SELECT {', '.join(columns)} FROM {table}"):
                    for column, value in zip(columns, row, strict=True):
                        values.setdefault((table, column), set()).add(value)
            states = {state for (state,) in db.execute("SELECT state FROM tasks")}
            values.setdefault(("tasks", "state"), set()).update(states)
    assert len(values["tasks", "state"]) == len(State)
    same = {name for name, found in values.items() if len(found) < 2}
    assert same == set()
    assert set(values) == {
        (table, column) for table, columns in sqlite_copy.COLUMNS.items() for column in columns
    }
