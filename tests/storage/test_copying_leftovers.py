"""What a copy that did not come about leaves behind: nothing, wherever it was to go."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from postgres_place import Schema
from postgres_server import execute, new_database
from psycopg import sql
from storage_kit import do, submit
from tiers import tiered

from tq.core import ops
from tq.core.errors import SchemaMismatch, StorageError, StorageFull, StorageInUse, StorageUnavailable
from tq.core.task import ServerId
from tq.storage.copying import Record, Table, copy_store
from tq.storage.postgres import PostgresStore
from tq.storage.postgres_copy import PostgresSide
from tq.storage.postgres_link import connect, parse_url
from tq.storage.postgres_schema import migrate, migrations
from tq.storage.sqlite import SqliteStore
from tq.storage.sqlite_copy import SqliteSide

pytest_plugins = ("postgres_kit",)

LISTED = """
SELECT coalesce(relname, ''), coalesce(relkind = 'r', false)
FROM pg_namespace LEFT JOIN pg_class ON relnamespace = pg_namespace.oid WHERE nspname = %s
"""
CUT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = 'tq db copy' AND datname = current_database()
"""


def unwatched(done: int, total: int) -> None:
    pass


class Place(Protocol):
    """Where a store can be."""

    url: str

    def found(self) -> object:
        """All that is there."""
        ...

    def open(self) -> SqliteStore | PostgresStore:
        """The store there, made if need be."""
        ...


class Folder:
    """A folder for a file."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.path = folder / "tq.db"
        self.url = f"sqlite:///{self.path}"

    def found(self) -> object:
        return {each.name: each.read_bytes() for each in self.folder.iterdir()}

    def open(self) -> SqliteStore:
        return SqliteStore(self.path, durable=False)


class Database:
    """A schema in the database *server*."""

    def __init__(self, server: str, name: str) -> None:
        self.schema = Schema(server, name)
        self.url = self.schema.url

    def found(self) -> object:
        with psycopg.connect(self.schema.server) as db:
            listed = db.execute(LISTED, (self.schema.name,)).fetchall()
            return {name: self._rows(db, name) if is_table else [] for name, is_table in listed}

    def _rows(self, db: psycopg.Connection[Any], name: str) -> list[Any]:
        table = sql.Identifier(self.schema.name, name)
        return db.execute(sql.SQL("SELECT * FROM {}").format(table)).fetchall()

    def open(self) -> PostgresStore:
        return PostgresStore(self.url, durable=False)


@pytest.fixture(scope="module")
def server(postgres: str) -> Iterator[str]:
    """A database of these tests' own."""
    with new_database(postgres) as url:
        yield url


@pytest.fixture
def database(server: str) -> Iterator[Database]:
    """A schema that is not there."""
    place = Database(server, f"tq_{uuid4().hex}")
    yield place
    place.schema.execute("DROP SCHEMA IF EXISTS {} CASCADE")


@pytest.fixture
def other_database(server: str) -> Iterator[Database]:
    """Another."""
    place = Database(server, f"tq_{uuid4().hex}")
    yield place
    place.schema.execute("DROP SCHEMA IF EXISTS {} CASCADE")


Direction: TypeAlias = tuple[str, str]

DIRECTIONS = tiered(["file to schema", "schema to file", "file to file", "schema to schema"], quick=2)


@pytest.fixture(params=DIRECTIONS)
def direction(request: pytest.FixtureRequest) -> Direction:
    """From what, and to what."""
    source, _, target = request.param.partition(" to ")
    return source, target


@pytest.fixture
def target(direction: Direction, tmp_path: Path, database: Database) -> Place:
    """Where nothing is."""
    return Folder(tmp_path / "target") if direction[1] == "file" else database


@pytest.fixture
def source(direction: Direction, tmp_path: Path, other_database: Database) -> Place:
    """Where a store is, with tasks and a queue that is paused."""
    return fill(other_database) if direction[0] == "schema" else fill(Folder(tmp_path / "source"))


def fill(place: Place) -> Place:
    with closing(place.open()) as store:
        submit(store, "a", "b", "c")
        do(store, ops.PauseQueue("q", paused=True))
    return place


def refused(source: Place, target: Place, error: type[StorageError], told: str) -> None:
    """A copy is refused, and all is as before."""
    before = source.found(), target.found()
    with pytest.raises(error, match=told):
        copy_store(source.url, target.url, watch=unwatched)
    assert (source.found(), target.found()) == before


def set_version(place: Place, version: int) -> None:
    match place:
        case Folder():
            with closing(sqlite3.connect(place.path)) as db:
                db.execute(f"PRAGMA user_version = {version}")
        case Database():
            place.schema.execute("DELETE FROM {}.schema_versions")
            place.schema.execute(f"INSERT INTO {{}}.schema_versions VALUES ({version})")


@contextmanager
def served(place: Place) -> Iterator[None]:
    """A server has the store there."""
    with closing(place.open()) as store:
        do(store, ops.Beat(ServerId("s1")))
        yield


# What is refused


def test_no_source_leaves_nothing(target: Place, tmp_path: Path, other_database: Database) -> None:
    refused(Folder(tmp_path / "source"), target, StorageError, "there is no store")
    refused(other_database, target, StorageError, "there is no store in PostgreSQL")


def test_a_source_that_is_no_store_leaves_nothing(target: Place, tmp_path: Path) -> None:
    source = Folder(tmp_path / "source")
    source.path.write_text("a letter to a friend, which is long enough for a header")
    refused(source, target, SchemaMismatch, "is not a SQLite database")
    source.path.write_text("")
    refused(source, target, StorageError, "schema version 0")
    source.path.unlink()
    with closing(sqlite3.connect(source.path)) as db:
        db.execute("CREATE TABLE other (x)")
    refused(source, target, SchemaMismatch, "is a database of another program")


@pytest.mark.parametrize(
    ("version", "told"), [(2, "run tq db upgrade on it first"), (99, "this tq knows up to")]
)
def test_a_source_of_another_version_leaves_nothing(
    source: Place, target: Place, version: int, told: str
) -> None:
    set_version(source, version)
    refused(source, target, StorageError, told)


def test_a_source_that_a_server_has_leaves_nothing(source: Place, target: Place) -> None:
    with served(source), pytest.raises(StorageInUse, match="is in use by"):
        copy_store(source.url, target.url, watch=unwatched)
    assert target.found() == {}


def test_a_target_that_is_not_empty_is_left_as_it_is(source: Place, target: Place) -> None:
    with closing(target.open()) as store:
        submit(store, "other")
    refused(source, target, StorageError, r"is not empty \(1 tasks")


@pytest.mark.parametrize(
    ("version", "told"), [(2, "run tq db upgrade on it first"), (99, "this tq knows up to")]
)
def test_a_target_of_another_version_is_left_as_it_is(
    source: Place, target: Place, version: int, told: str
) -> None:
    target.open().close()
    set_version(target, version)
    refused(source, target, StorageError, told)


def test_a_target_that_a_server_has_is_left_as_it_is(source: Place, target: Place) -> None:
    with served(target):
        before = target.found()
        with pytest.raises(StorageInUse, match="is in use by"):
            copy_store(source.url, target.url, watch=unwatched)
        assert target.found() == before


def test_a_target_of_another_program_is_left_as_it_is(source: Place, tmp_path: Path) -> None:
    target = Folder(tmp_path / "target")
    with closing(sqlite3.connect(target.path)) as db:
        db.execute("CREATE TABLE other (x)")
    refused(source, target, SchemaMismatch, "is a database of another program")
    target.path.write_text("a letter to a friend, which is long enough for a header")
    refused(source, target, SchemaMismatch, "is not a SQLite database")


def test_a_target_where_nothing_can_be_is_left_as_it_is(source: Place, tmp_path: Path) -> None:
    target = Folder(tmp_path / "target")
    target.url = f"sqlite:///{target.folder}"
    refused(source, target, StorageUnavailable, "is a folder")
    target.url = f"sqlite:///{target.folder}/not/there.db"
    refused(source, target, StorageUnavailable, "there is no folder")
    assert {each.name for each in tmp_path.iterdir()} <= {"source", "target"}


# What fails in the middle, or at its end


@pytest.fixture(params=["nothing", "something empty", "an empty store"])
def prepared(request: pytest.FixtureRequest, target: Place) -> Place:
    """A target with what may be there before."""
    match target, request.param:
        case Folder(), "something empty":
            target.path.touch()
        case Database(), "something empty":
            target.schema.execute("CREATE SCHEMA {}")
        case _, "an empty store":
            target.open().close()
    return target


def when_all_is_there(do: Callable[[], object]) -> Callable[[int, int], None]:
    """Calls *do* when the last record has been written, and nothing is committed."""

    def watch(done: int, total: int) -> None:
        if done == total:
            do()

    return watch


def interrupt() -> None:
    raise KeyboardInterrupt


def broken(source: Place, target: Place, error: type[BaseException], do: Callable[[], object]) -> None:
    """*do* breaks a copy with *error* and all is as before; the next one works."""
    before = source.found(), target.found()
    with pytest.raises(error):
        copy_store(source.url, target.url, watch=when_all_is_there(do))
    assert (source.found(), target.found()) == before
    copy_store(source.url, target.url, watch=unwatched)
    with closing(target.open()) as store:
        assert len(store.snapshot().tasks) == 3


def test_an_interrupt_leaves_all_as_it_was(source: Place, prepared: Place) -> None:
    broken(source, prepared, KeyboardInterrupt, interrupt)


def test_a_lost_connection_to_a_database_leaves_all_as_it_was(source: Place, prepared: Place) -> None:
    databases = [place for place in (source, prepared) if isinstance(place, Database)]

    def cut() -> None:
        for each in databases:
            execute(each.schema.server, CUT)

    if databases:
        broken(source, prepared, StorageUnavailable, cut)


@pytest.mark.parametrize("name", tiered(["commit", "make", "put", "tally"]))
def test_a_disk_that_is_full_leaves_all_as_it_was(
    source: Place, prepared: Place, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise StorageFull("no room left")

    side = SqliteSide if isinstance(prepared, Folder) else PostgresSide
    with monkeypatch.context() as patch:
        patch.setattr(side, name, fails)
        refused(source, prepared, StorageFull, "no room left")
    copy_store(source.url, prepared.url, watch=unwatched)


def test_a_copy_that_lacks_something_leaves_all_as_it_was(
    source: Place, prepared: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    side: type[SqliteSide | PostgresSide] = SqliteSide if isinstance(prepared, Folder) else PostgresSide
    put = side.put

    def forgetful(self: Any, table: Table, records: Sequence[Record]) -> None:
        put(self, table, records[1:] if table.name in ("tasks", "counters") else records)

    monkeypatch.setattr(side, "put", forgetful)
    refused(source, prepared, StorageError, "tasks 3 and 2")


# Others meanwhile


def test_a_server_that_starts_on_new_tables_meanwhile_is_refused(tmp_path: Path, database: Database) -> None:
    told: list[str] = []

    def start() -> None:
        with pytest.raises(StorageInUse) as error:
            database.open()
        told.append(error.value.message)

    copy_store(fill(Folder(tmp_path / "source")).url, database.url, watch=when_all_is_there(start))
    assert "is being copied into: start when that has ended" in told[0]
    with closing(database.open()) as store:
        assert len(store.snapshot().tasks) == 3


def test_of_two_copies_into_a_new_store_one_is_refused(source: Place, target: Place) -> None:
    def copy_again() -> None:
        with pytest.raises(StorageInUse):
            copy_store(source.url, target.url, watch=unwatched)

    copy_store(source.url, target.url, watch=when_all_is_there(copy_again))
    with closing(target.open()) as store:
        assert len(store.snapshot().tasks) == 3


def test_tables_that_are_being_made_are_not_copied_into(tmp_path: Path, database: Database) -> None:
    source, at = fill(Folder(tmp_path / "source")), parse_url(database.url)
    db = connect(at, application="tq", durable=False)
    with closing(db), db.transaction():
        migrate(db, at, migrations())
        with pytest.raises(StorageInUse, match="is being written to"):
            copy_store(source.url, database.url, watch=unwatched)
    with closing(database.open()) as store:
        assert store.snapshot().tasks == ()


def test_a_role_that_may_not_make_tables_leaves_nothing(tmp_path: Path, database: Database) -> None:
    source, name = fill(Folder(tmp_path / "source")), f"reader_{uuid4().hex}"
    database.schema.execute(f"CREATE ROLE {name} LOGIN")
    try:
        parts = urlsplit(database.schema.server)
        server = parts._replace(netloc=f"{name}@{parts.netloc.rpartition('@')[2]}").geturl()
        refused(
            source,
            Database(server, database.schema.name),
            StorageUnavailable,
            f"the role {name} may not make the tables",
        )
    finally:
        database.schema.execute(f"DROP ROLE {name}")
