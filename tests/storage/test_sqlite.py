"""What is SQLite's own: its file, its lock, its schema, its plans."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from sqlite_kit import BY_ID, BY_SEQ, plan
from storage_kit import NOW, claim, claimed, do, finish, new, recount, submit

from tq.core import ops, queries
from tq.core.errors import SchemaMismatch, StorageError, StorageInUse, StorageUnavailable
from tq.core.task import AttemptError, Reason, ServerId, State, TaskId
from tq.storage import sqlite_sql as sql
from tq.storage.sqlite import SqliteStore
from tq.storage.sqlite_file import APPLICATION_ID, migrate
from tq.storage.store import open_store

LONG = '"' + "x" * 50_000 + '"'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tq.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(path)
    yield opened
    opened.close()


def pragma(store: SqliteStore, name: str) -> object:
    return store._writer.pragma(name)


# The file


@pytest.mark.parametrize(("durable", "synchronous"), [(True, 2), (False, 1)])
def test_log_is_synced_at_every_commit_if_durable(path: Path, durable: bool, synchronous: int) -> None:
    store = SqliteStore(path, durable=durable)
    try:
        assert pragma(store, "journal_mode") == "wal"
        assert pragma(store, "synchronous") == synchronous
        assert pragma(store, "application_id") == APPLICATION_ID
        assert pragma(store, "user_version") == 5
    finally:
        store.close()


def test_only_the_writer_checkpoints(store: SqliteStore) -> None:
    assert pragma(store, "wal_autocheckpoint") == 4_000
    with store._readers.lend() as reader:
        assert reader.pragma("wal_autocheckpoint") == 0
        with pytest.raises(apsw.ReadOnlyError):
            reader.execute("DELETE FROM tasks")


def test_files_are_for_their_owner_alone(store: SqliteStore, path: Path) -> None:
    submit(store, "a")

    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}

    assert modes == {"tq.db": 0o600, "tq.db-wal": 0o600, "tq.db-shm": 0o600, "tq.db.lock": 0o600}


def test_everything_is_there_after_a_restart(path: Path) -> None:
    first = SqliteStore(path)
    for name in ("a", "b", "c"):
        do(first, ops.Submit(new(name, type=name, payload=LONG)))
    do(first, ops.Beat(ServerId("s")))
    lease, _ = claim(first, 2)
    do(first, finish(lease, State.FAILED, Reason.ERROR, result=LONG, error=error()))
    before = first.snapshot()
    first.close()
    first.close()
    assert not path.with_name("tq.db-wal").exists()

    second = SqliteStore(path)
    try:
        assert second.snapshot() == before
        do(second, ops.Submit(new("d", type="d")))
        assert claimed(second) == ["c", "d"]
        assert recount(second) == second.read(queries.GetStats()).lanes
    finally:
        second.close()


def error() -> AttemptError:
    return AttemptError(1, NOW, Reason.ERROR, "E", "no")


def test_closed_store_says_so(path: Path) -> None:
    store = SqliteStore(path)
    store.close()

    with pytest.raises(StorageUnavailable, match=r"is closed: open it again$"):
        store.read(queries.GetStats())


def test_store_is_opened_by_its_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite:///./here.db", f"sqlite:///{tmp_path}/there.db"):
        open_store(url).close()

    assert (tmp_path / "here.db").exists()
    assert (tmp_path / "there.db").exists()


def test_killed_process_leaves_what_was_acknowledged(path: Path) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from storage_kit import submit
from tq.storage.sqlite import SqliteStore
store = SqliteStore(Path({str(path)!r}))
submit(store, "a", "b")
print("done", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        with pytest.raises(StorageInUse) as refused:
            SqliteStore(path)
        process.send_signal(signal.SIGKILL)

    assert refused.value.message == (
        f"{path} is in use by process {process.pid}: a SQLite store serves one server; stop that one first"
    )
    store = SqliteStore(path)
    try:
        assert claimed(store) == ["a", "b"]
    finally:
        store.close()


def test_same_process_is_refused_as_well_and_disturbs_nothing(store: SqliteStore, path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    for other in (path, link):
        with pytest.raises(StorageInUse, match=f"in use by process {os.getpid()}"):
            SqliteStore(other)

    submit(store, "a")
    assert claimed(store) == ["a"]


def test_child_process_does_not_keep_the_lock(path: Path) -> None:
    store = SqliteStore(path)
    with subprocess.Popen(["sleep", "60"], close_fds=False) as child:
        store.close()
        SqliteStore(path).close()
        child.kill()


# What it is not


def test_lock_that_its_maker_removed_meanwhile_is_taken_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock
    removed: list[Path] = []

    def flock_late(lock: int, how: int) -> None:
        if not removed:
            removed.append(path.with_name("tq.db.lock"))
            removed[0].unlink()
        flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", flock_late)
    with closing(SqliteStore(path)):
        assert removed[0].exists()
        with pytest.raises(StorageInUse):
            SqliteStore(path)


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable, match=r"is a folder: give the path of a file in it$"):
        SqliteStore(tmp_path)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        StorageUnavailable, match=r"^there is no folder .*/gone: make it, or give another path$"
    ):
        SqliteStore(tmp_path / "gone" / "tq.db")


def test_file_that_may_not_be_opened_is_refused(path: Path) -> None:
    # Not by its mode: root may open anything. A lock that is a folder cannot be opened by anybody.
    path.with_name("tq.db.lock").mkdir()

    with pytest.raises(StorageUnavailable, match=r"lock cannot be opened \(Is a directory\): let this user"):
        SqliteStore(path)


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\0" + b"\xff" * 5_000])
def test_file_that_is_no_database_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)

    with pytest.raises(SchemaMismatch, match=r"is not a SQLite database: give another path$"):
        SqliteStore(path)

    assert path.read_bytes() == content


def test_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    with apsw.Connection(str(path)) as other:
        other.execute("CREATE TABLE photos (name TEXT)")
    other.close()
    before = path.read_bytes()

    with pytest.raises(SchemaMismatch, match=r"is a database of another program: give another path$"):
        SqliteStore(path)

    assert path.read_bytes() == before


def test_schema_of_a_newer_tq_is_refused(path: Path) -> None:
    store = SqliteStore(path)
    store._writer.pragma("user_version", 6)
    store.close()

    with pytest.raises(SchemaMismatch) as refused:
        SqliteStore(path)

    assert refused.value.message == f"{path} has schema version 6, this tq knows up to 5: use a newer tq"
    assert refused.value.fields == {"version": 6, "known": 5}


def test_damaged_file_is_told_of_and_not_repeated(path: Path) -> None:
    store = SqliteStore(path)
    for start in range(0, 900, 300):
        do(store, ops.SubmitMany(tuple(new(f"t{n}") for n in range(start, start + 300))))
    store.close()
    with path.open("r+b") as file:
        file.seek(2 * 4096)
        file.write(b"\xff" * (path.stat().st_size - 2 * 4096))

    with pytest.raises(StorageError, match="is damaged") as fault:
        claim_from(path)

    assert not isinstance(fault.value, StorageUnavailable)


def claim_from(path: Path) -> None:
    store = SqliteStore(path)
    try:
        claim(store)
    finally:
        store.close()


def test_migrations_are_all_applied_or_none(path: Path) -> None:
    db = apsw.Connection(str(path))
    good = "CREATE TABLE one (x); INSERT INTO one VALUES (1);"

    with pytest.raises(apsw.SQLError):
        migrate(db, [good, "CREATE TABLE two (x); CREATE TABLE one (x);"], done=0)

    assert db.execute(sql.SCHEMA_SIZE).get == 0
    assert (db.pragma("user_version"), db.pragma("application_id")) == (0, 0)

    migrate(db, [good, "CREATE TABLE two (x);"], done=0)
    migrate(db, [good, "CREATE TABLE two (x);", "CREATE TABLE three (x);"], done=2)
    assert (db.pragma("user_version"), db.execute(sql.SCHEMA_SIZE).get) == (3, 3)
    db.close()


# Speed


@pytest.mark.parametrize(
    ("statement", "steps"),
    [
        (sql.SELECT_ROWS, [BY_ID]),
        (sql.UPDATE_ROWS, [BY_SEQ]),
        (sql.SELECT_KNOWN, [BY_ID, "SEARCH texts USING INDEX sqlite_autoindex_texts_1 (seq=? AND part=?)"]),
        (sql.SELECT_DUE, ["SEARCH tasks USING INDEX tasks_timed (run_at<?)"]),
        # Each reads one row.
        (
            sql.SELECT_NEXT_DUE,
            ["SCAN tasks USING INDEX tasks_timed", "SEARCH tasks USING INDEX tasks_stopping (stop_at>?)"],
        ),
        (sql.UPDATE_PROMOTED, [BY_SEQ]),
        # Walks what runs, which is little.
        (sql.SELECT_LOST, ["SCAN tasks USING INDEX tasks_running"]),
        (sql.SELECT_OUTLIVED, ["SEARCH tasks USING INDEX tasks_kept (keep_until>? AND keep_until<?)"]),
        (sql.DELETE_TASKS[0], ["SEARCH errors USING COVERING INDEX sqlite_autoindex_errors_1 (seq=?)"]),
        (sql.DELETE_TASKS[1], ["SEARCH texts USING COVERING INDEX sqlite_autoindex_texts_1 (seq=?)"]),
        (sql.DELETE_TASKS[2], [BY_SEQ]),
    ],
)
def test_statement_goes_by_an_index(store: SqliteStore, statement: str, steps: list[str]) -> None:
    assert plan(store, statement) == steps


def test_batch_of_hundreds_costs_a_handful_of_statements(store: SqliteStore) -> None:
    said: list[str] = []
    store._writer.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: said.append(event["sql"].split()[0]))

    store.apply([ops.Submit(new(f"t{n}")) for n in range(500)], NOW)
    # Six to read the book, one for the ids that are taken; a lane, the tasks, the counters.
    assert said == ["BEGIN", *["SELECT"] * 7, *["INSERT"] * 3, "COMMIT"]
    said.clear()
    leases = claim(store, 50)
    assert said == ["BEGIN", "SELECT", "UPDATE", "UPDATE", "INSERT", "COMMIT"]
    said.clear()
    leases += claim(store, 50)
    # The lane's first turn is kept already.
    assert said == ["BEGIN", "SELECT", "UPDATE", "INSERT", "COMMIT"]
    said.clear()
    store.apply([finish(lease, result="1") for lease in leases], NOW)
    assert said == ["BEGIN", "SELECT", "UPDATE", "INSERT", "COMMIT"]


def test_pruned_task_leaves_nothing_behind(store: SqliteStore) -> None:
    do(store, ops.Submit(new("a", payload=LONG)))
    [lease] = claim(store)
    do(store, finish(lease, State.FAILED, Reason.ERROR, result=LONG, error=error()))
    assert rows(store) == {"tasks": 1, "texts": 2, "errors": 1}

    do(store, ops.Prune(), NOW + 10**9)

    assert rows(store) == {"tasks": 0, "texts": 0, "errors": 0}


def rows(store: SqliteStore) -> dict[str, int]:
    tables = ("tasks", "texts", "errors")
    return {table: store._writer.execute(f"SELECT count(*) FROM {table}").get for table in tables}


# Reading beside writing


def test_many_threads_read_while_one_writes(store: SqliteStore) -> None:
    faults: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                stats = store.read(queries.GetStats())
                assert stats.count(State.PENDING) == stats.submitted
                assert store.read(queries.GetTask(TaskId("t0"))) is not None
        except BaseException as fault:
            faults.append(fault)

    submit(store, "t0")
    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for n in range(1, 100):
        submit(store, f"t{n}")
    done.set()
    for thread in threads:
        thread.join()

    assert faults == []
    assert len(store._readers._idle) <= 4
