"""A store that is whole is found to be so, whatever it has been through; one that is not is not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw
import psycopg
import pytest
from postgres_place import Schema
from storage_kit import NOW, do, failure, finish, new, put, start, submit
from test_copying import SEEDS, filled, unwatched

from tq.core import ops
from tq.core.errors import InvalidInput, StorageInUse
from tq.core.task import LogLine, State, Unique
from tq.storage.checking import check_contents, upgrade_store
from tq.storage.copying import copy_store
from tq.storage.postgres import PostgresStore
from tq.storage.sqlite import SqliteStore
from tq.storage.sqlite_file import migrate, migrations
from tq.storage.store import Store

pytest_plugins = ("postgres_kit",)


def faults(url: str) -> list[str]:
    """What is found to be wrong with the contents of the store *url*."""
    return [fault for each in check_contents(url) if each.wrong for fault in each.found.split("; ")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tq.db"


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_found_in_stores_that_have_been_through_much(
    seed: int, path: Path, empty_schema: Schema
) -> None:
    filled(seed, path)
    assert faults(f"sqlite:///{path}") == []
    copy_store(f"sqlite:///{path}", empty_schema.url, watch=unwatched)
    assert faults(empty_schema.url) == []


def fill(store: Store) -> None:
    """One task of each kind that the tests break."""
    put(store, "waits")
    put(store, "runs")
    start(store, "runs")
    put(store, "fails", payload='"' + "x" * 2_000 + '"', tags=("red",))
    lease = start(store, "fails")
    do(store, ops.Note(lease.task_id, lease.generation, None, (LogLine(NOW, 1, "hello"),)))
    do(store, finish(lease, State.FAILED, error=failure(1)))
    put(store, "unique", unique=Unique("u"))
    put(store, "blocked", depends_on=("waits",))


BREAKS = {
    "UPDATE {lives} SET started_at = NULL WHERE state = 3": "1 tasks that contradict their state",
    "UPDATE {lives} SET keep_until = NULL WHERE state = 6": "1 tasks that contradict their state",
    "DELETE FROM lanes WHERE type = 'waits'": "1 tasks that are in no lane, such as waits",
    "UPDATE counters SET count = count + 1 WHERE lane > 0 AND state = 3": "2 lanes and states whose counter",
    "UPDATE counters SET count = 0 WHERE lane = 0 AND state = 6": "1 totals that are smaller than what there",
    "UPDATE {lives} SET blockers = 2 WHERE state = 0": "1 blocked tasks that wait for more or for fewer",
    "DELETE FROM dependencies": "1 blocked tasks that wait for more or for fewer tasks",
    "UPDATE dependencies SET dependency = (SELECT seq FROM {lives} WHERE state = 6)": "1 tasks that have",
    "UPDATE dependencies SET dependency = 999": "1 dependencies of tasks that are not there, such as 999",
    "UPDATE tags SET seq = 999": "1 tags of tasks that are not there",
    "DELETE FROM errors": "1 tasks with other errors than they count, such as fails",
    "UPDATE {lives} SET logged = 7 WHERE logged > 0": "1 tasks with other logs than they count",
    "UPDATE logs SET seq = 999": "1 logs of tasks that are not there",
}
"""What is done to a store that is whole, and what is then found among the rest."""


@pytest.mark.parametrize("statement", BREAKS)
def test_what_is_broken_in_a_file_is_found(statement: str, path: Path) -> None:
    with closing(SqliteStore(path)) as store:
        fill(store)
    assert faults(f"sqlite:///{path}") == []
    with closing(apsw.Connection(str(path))) as db:
        db.execute(statement.format(lives="tasks"))
        assert db.changes() > 0
    assert any(found.startswith(BREAKS[statement]) for found in faults(f"sqlite:///{path}"))


@pytest.mark.parametrize("statement", BREAKS)
def test_what_is_broken_in_a_database_is_found(
    statement: str, empty_schema: Schema, open_empty_postgres: Callable[[], PostgresStore]
) -> None:
    with closing(open_empty_postgres()) as store:
        fill(store)
    assert faults(empty_schema.url) == []
    break_database(empty_schema, statement.format(lives="lives"))
    assert any(found.startswith(BREAKS[statement]) for found in faults(empty_schema.url))


def break_database(schema: Schema, statement: str) -> None:
    with psycopg.connect(schema.server) as db:
        db.execute(f"SET search_path = {schema.name}")
        assert db.execute(statement).rowcount > 0


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("DELETE FROM texts", "1 tasks without a payload, such as fails"),
        ("UPDATE texts SET seq = 999", "1 texts of tasks that are not there, such as 999"),
        ("UPDATE holders SET task_id = 'fails'", "1 keys of tasks that are not there, or have ended"),
    ],
)
def test_what_only_a_file_has_is_looked_at_too(statement: str, found: str, path: Path) -> None:
    with closing(SqliteStore(path)) as store:
        fill(store)
    with closing(apsw.Connection(str(path))) as db:
        db.execute(statement)
    assert any(each.startswith(found) for each in faults(f"sqlite:///{path}"))


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("DELETE FROM lives WHERE state = 2", "2 tasks that are in one of the tables"),
        ("UPDATE lives SET lane = lane + 1 WHERE state = 3", "1 tasks that are in one of the tables"),
        ("UPDATE lives SET unique_name = NULL WHERE holds", "1 keys of tasks that have none"),
        ("SELECT setval('arrivals', 1)", "1 numbers that would be given out twice, such as arrivals"),
    ],
)
def test_what_only_a_database_has_is_looked_at_too(
    statement: str, found: str, empty_schema: Schema, open_empty_postgres: Callable[[], PostgresStore]
) -> None:
    with closing(open_empty_postgres()) as store:
        fill(store)
    break_database(empty_schema, statement)
    assert any(each.startswith(found) for each in faults(empty_schema.url))


def test_a_damaged_page_is_found(path: Path) -> None:
    with closing(SqliteStore(path)) as store:
        submit(store, *(f"t{n}" for n in range(50)))
    with closing(apsw.Connection(str(path))) as db:
        [(page,)] = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'tasks_by_lane'")
        size = int(str(db.pragma("page_size")))
    with path.open("r+b") as file:
        file.seek(page * size - 40)
        file.write(bytes(40))
    *_, found = check_contents(f"sqlite:///{path}")
    assert (found.name, found.wrong) == ("integrity", "restore a copy of it")


def test_a_store_is_checked_while_it_is_in_use_and_is_not_changed(path: Path) -> None:
    with closing(SqliteStore(path)) as store:
        fill(store)
        assert faults(f"sqlite:///{path}") == []
        do(store, ops.Submit(new("after")))
    before = {each.name: each.read_bytes() for each in path.parent.iterdir()}
    assert faults(f"sqlite:///{path}") == []
    assert {each.name: each.read_bytes() for each in path.parent.iterdir()} == before


# Upgrading


def test_an_upgrade_is_done_once(path: Path, postgres_url: str) -> None:
    for url in (f"sqlite:///{path}", postgres_url):
        before, after = upgrade_store(url)
        assert (before, after > 0) == (0, True)
        assert upgrade_store(url) == (after, after)
        assert faults(url) == []


def test_an_older_file_is_told_of_and_upgraded(path: Path) -> None:
    known = migrations()
    with closing(apsw.Connection(str(path))) as db:
        migrate(db, known[:2], done=0)
    [found] = check_contents(f"sqlite:///{path}")
    assert (found.found, found.wrong) == ("version 2", f"tq db upgrade brings it to {len(known)}")
    assert upgrade_store(f"sqlite:///{path}") == (2, len(known))
    assert faults(f"sqlite:///{path}") == []


def test_a_file_in_use_is_not_upgraded(path: Path) -> None:
    with closing(SqliteStore(path)), pytest.raises(StorageInUse):
        upgrade_store(f"sqlite:///{path}")


@pytest.mark.parametrize("do_it", [check_contents, upgrade_store])
def test_memory_has_nothing_to_look_at(do_it: Callable[[str], object]) -> None:
    with pytest.raises(InvalidInput, match="memory: has no tables"):
        do_it("memory:")
