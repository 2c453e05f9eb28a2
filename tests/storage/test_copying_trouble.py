"""What a copy refuses, and what can happen in the middle of one: the target then is as it was before."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from postgres_place import Schema
from storage_kit import NOW, do, new, submit
from tiers import slow

from tq.core import ops
from tq.core.errors import InvalidInput, StorageError, StorageInUse, StorageUnavailable
from tq.core.servers import ServerInfo, server_text
from tq.storage.copying import CHUNK_CHARACTERS, CHUNK_ROWS, Table, chunks, copy_store
from tq.storage.postgres import PostgresStore
from tq.storage.postgres_copy import PostgresSide
from tq.storage.sqlite import SqliteStore

pytest_plugins = ("postgres_kit",)

TASKS = 1_200
"""More than a chunk."""
INFO = ServerInfo(host="alpha", pid=42, version="1", started_at=NOW, types=None, workers=1, busy=0)
SAID = server_text(INFO)


def unwatched(done: int, total: int) -> None:
    pass


def in_the_middle(do: Callable[[], object]) -> Callable[[int, int], None]:
    """Calls *do* once, when some tasks have been copied and others have not."""
    calls = iter([do])

    def watch(done: int, total: int) -> None:
        if done > CHUNK_ROWS:
            next(calls, lambda: None)()

    return watch


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tq.db"


@pytest.fixture
def source(path: Path) -> str:
    """A SQLite store with TASKS tasks."""
    with closing(SqliteStore(path)) as store:
        many = [ops.SubmitMany(tuple(new(f"t{n}") for n in range(at, at + 400))) for at in (0, 400, 800)]
        assert len(store.apply(many, NOW)) == 3
    return f"sqlite:///{path}"


def tasks_in(schema: Schema) -> int:
    with psycopg.connect(schema.server) as db:
        [(count,)] = db.execute(f"SELECT count(*) FROM {schema.name}.tasks").fetchall()
    return int(count)


def beat(schema: Schema) -> None:
    """A server lives on *schema*, by the clock of the database."""
    with psycopg.connect(schema.server) as db:
        db.execute(
            f"INSERT INTO {schema.name}.servers (server, seen_at, said)"
            " VALUES ('s1', extract(epoch FROM clock_timestamp()) * 1000, %s)",
            (SAID,),
        )


# What is refused


def test_a_file_that_a_server_has_is_neither_copied_nor_copied_into(
    source: str, path: Path, empty_schema: Schema
) -> None:
    with closing(SqliteStore(path)), pytest.raises(StorageInUse, match="in use by process"):
        copy_store(source, empty_schema.url, watch=unwatched)
    copy_store(source, empty_schema.url, watch=unwatched)
    other = path.with_name("other.db")
    with closing(SqliteStore(other)), pytest.raises(StorageInUse, match="in use by process"):
        copy_store(empty_schema.url, f"sqlite:///{other}", watch=unwatched)


def test_a_database_whose_servers_live_is_not_copied_into(source: str, empty_schema: Schema) -> None:
    beat(empty_schema)
    with pytest.raises(StorageInUse, match=r"in use by process 42 on alpha \(s1\): stop them first"):
        copy_store(source, empty_schema.url, watch=unwatched)
    assert tasks_in(empty_schema) == 0


def test_a_database_whose_servers_live_is_not_copied(path: Path, empty_schema: Schema) -> None:
    beat(empty_schema)
    with pytest.raises(StorageInUse, match="process 42 on alpha"):
        copy_store(empty_schema.url, f"sqlite:///{path}", watch=unwatched)


def test_a_database_that_is_written_to_is_waited_for_and_then_refused(
    source: str, empty_schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tq.storage.postgres_copy.LOCK_TIMEOUT_MS", 50)
    with psycopg.connect(empty_schema.server) as db:
        db.execute(f"LOCK TABLE {empty_schema.name}.writers IN ROW EXCLUSIVE MODE")
        with pytest.raises(StorageInUse, match="is being written to"):
            copy_store(source, empty_schema.url, watch=unwatched)


def test_a_target_that_is_not_empty_is_refused(source: str, empty_schema: Schema, path: Path) -> None:
    other = path.with_name("other.db")
    with closing(SqliteStore(other)) as store:
        submit(store, "a", "b")
    with pytest.raises(StorageError, match=r"not empty \(2 tasks, 0 schedules, 0 keys, 0 queues\)"):
        copy_store(source, f"sqlite:///{other}", watch=unwatched)
    copy_store(source, empty_schema.url, watch=unwatched)
    with pytest.raises(StorageError, match=rf"not empty \({TASKS} tasks"):
        copy_store(source, empty_schema.url, watch=unwatched)


def test_a_target_with_nothing_but_a_rule_is_not_empty(source: str, path: Path) -> None:
    other = path.with_name("other.db")
    with closing(SqliteStore(other)) as store:
        do(store, ops.PauseQueue("q", paused=True))
    with pytest.raises(StorageError, match="0 tasks, 0 schedules, 0 keys, 1 queues"):
        copy_store(source, f"sqlite:///{other}", watch=unwatched)


def test_a_source_that_is_not_there_is_not_made(path: Path, postgres_url: str) -> None:
    with pytest.raises(StorageError, match="there is no store"):
        copy_store(f"sqlite:///{path}", f"sqlite:///{path}.copy", watch=unwatched)
    assert list(path.parent.iterdir()) == []
    with pytest.raises(StorageError, match="there is no store in PostgreSQL"):
        copy_store(postgres_url, f"sqlite:///{path}", watch=unwatched)


def test_a_source_of_an_older_tq_is_to_be_upgraded_first(source: str, path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 2")
    with pytest.raises(StorageError, match=r"schema version 2, and . is needed: run tq db upgrade"):
        copy_store(source, f"sqlite:///{path}.copy", watch=unwatched)


@pytest.mark.parametrize("url", ["memory:", "mysql://a:secret@b/c", "sqlite:tq.db", "tq.db"])
def test_what_is_no_store_is_refused_and_its_secrets_are_not_told(url: str, source: str) -> None:
    for pair in ((source, url), (url, source)):
        with pytest.raises(InvalidInput, match=r"cannot open store|no other process can see") as refused:
            copy_store(*pair, watch=unwatched)
        assert "secret" not in refused.value.message


def test_a_store_is_not_copied_into_itself(
    source: str, empty_schema: Schema, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tq.storage.postgres_copy.LOCK_TIMEOUT_MS", 50)
    with pytest.raises(InvalidInput, match="the same store"):
        copy_store(source, source, watch=unwatched)
    with pytest.raises(StorageInUse):
        copy_store(source, f"sqlite:///{path.parent}/../{path.parent.name}/{path.name}", watch=unwatched)
    with pytest.raises(StorageInUse):
        copy_store(empty_schema.url, f"{empty_schema.url}&pool=2", watch=unwatched)


# What happens in the middle


@slow
def test_a_server_that_starts_in_the_middle_is_refused(source: str, empty_schema: Schema) -> None:
    told: list[str] = []

    def start() -> None:
        with pytest.raises(StorageInUse) as refused:
            PostgresStore(empty_schema.url, durable=False)
        told.append(refused.value.message)

    copy_store(source, empty_schema.url, watch=in_the_middle(start))
    assert "is being copied: start when that has ended" in told[0]
    assert tasks_in(empty_schema) == TASKS
    PostgresStore(empty_schema.url, durable=False).close()


def test_a_server_that_was_thought_dead_spoils_the_copy(source: str, empty_schema: Schema) -> None:
    with pytest.raises(StorageInUse, match="process 42 on alpha"):
        copy_store(source, empty_schema.url, watch=in_the_middle(lambda: beat(empty_schema)))
    assert tasks_in(empty_schema) == 0


def test_nobody_writes_to_a_database_that_is_copied(
    path: Path, empty_schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tq.storage.postgres.TRIES", 1)
    with closing(PostgresStore(empty_schema.url, durable=False)) as store:
        many = tuple(new(f"t{n}") for n in range(1_000))
        store.apply([ops.SubmitMany(many), ops.SubmitMany((new("one more"),))], NOW)

        def write() -> None:
            with pytest.raises(StorageUnavailable):
                submit(store, "too late")

        copy_store(empty_schema.url, f"sqlite:///{path}", watch=in_the_middle(write))
        submit(store, "after")
    with closing(SqliteStore(path)) as copy:
        assert len(copy.snapshot().tasks) == 1_001


def test_a_lost_connection_leaves_nothing_and_the_next_try_works(source: str, empty_schema: Schema) -> None:
    def cut() -> None:
        with psycopg.connect(empty_schema.server) as db:
            db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE relation = %s::regclass",
                (f"{empty_schema.name}.writers",),
            )

    with pytest.raises(StorageUnavailable, match="out of reach"):
        copy_store(source, empty_schema.url, watch=in_the_middle(cut))
    assert tasks_in(empty_schema) == 0
    copy_store(source, empty_schema.url, watch=unwatched)
    assert tasks_in(empty_schema) == TASKS


def test_an_interrupt_leaves_nothing_and_the_next_try_works(source: str, path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    target = path.with_name("other.db")
    with pytest.raises(KeyboardInterrupt):
        copy_store(source, f"sqlite:///{target}", watch=in_the_middle(interrupt))
    with closing(SqliteStore(target)) as store:
        assert store.snapshot().tasks == ()
    copy_store(source, f"sqlite:///{target}", watch=unwatched)


def test_a_copy_that_lacks_something_is_thrown_away(
    source: str, empty_schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = PostgresSide.put

    def forgetful(self: PostgresSide, table: Table, records: list[tuple[object, ...]]) -> None:
        put(self, table, records[1:] if table.name in ("tasks", "counters") else records)

    monkeypatch.setattr(PostgresSide, "put", forgetful)
    with pytest.raises(StorageError, match="tasks 1200 and 1198; counters 2 and 1"):
        copy_store(source, empty_schema.url, watch=unwatched)
    assert tasks_in(empty_schema) == 0


# What is in memory


def test_chunks_are_bounded_by_rows_and_by_characters() -> None:
    assert [len(each) for each in chunks(((n,) for n in range(2 * CHUNK_ROWS + 1)), long=0)] == [
        CHUNK_ROWS,
        CHUNK_ROWS,
        1,
    ]
    half = "x" * (CHUNK_CHARACTERS // 2)
    assert [len(each) for each in chunks([(1, half, None)] * 5, long=2)] == [2, 2, 1]
    assert [len(each) for each in chunks([(1, half, None)] * 5, long=1)] == [5]
    assert list(chunks([], long=1)) == []
