"""SQLite on a disk that fails: what was acknowledged stays, what was not can be repeated."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest
from storage_kit import NOW, claim, claimed, do, failure, finish, new, recount, state, submit, task

from tq.core import ops, queries
from tq.core.errors import StorageError, StorageFull, StorageUnavailable
from tq.core.ops import AnyOp
from tq.core.task import Reason, ServerId, State, TaskId
from tq.storage.memory import MemoryStore
from tq.storage.sqlite import SqliteStore
from tq.storage.store import Snapshot

LONG = '"' + "x" * 50_000 + '"'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tq.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(path)
    yield opened
    opened.close()


class Disk(apsw.VFS):
    """The usual file system, but what ``broken`` names, such as "sync log", fails."""

    name = "failing"

    def __init__(self) -> None:
        self.broken: dict[str, type[apsw.Error]] = {}
        super().__init__(self.name, "")

    def try_to(self, what: str) -> None:
        if what in self.broken:
            raise self.broken[what]("as the test wants it")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return DiskFile(self, name, flags)


class DiskFile(apsw.VFSFile):
    def __init__(self, disk: Disk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._disk = disk
        self._kind = "log" if flags[0] & apsw.SQLITE_OPEN_WAL else "database"
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.try_to(f"write {self._kind}")
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        self._disk.try_to(f"sync {self._kind}")
        super().xSync(flags)


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    yield disk
    disk.unregister()


def batch() -> list[AnyOp]:
    """One of everything, on a store that has just the task "a", leased."""
    return [
        ops.Submit(new("b", payload=LONG)),
        ops.Submit(new("c", type="new lane")),
        finish_a(),
        ops.SubmitMany((new("d"), new("e", queue="q9"))),
        ops.Claim(ServerId("s"), None, 2),
        ops.Cancel(TaskId("a")),
        ops.Beat(ServerId("s")),
    ]


def finish_a() -> ops.Finish:
    return ops.Finish(
        task_id=TaskId("a"),
        generation=1,
        state=State.RETRYING,
        reason=Reason.ERROR,
        run_at=NOW + 9,
        error=failure(1),
        started_at=NOW,
    )


def check_survival(
    store: SqliteStore, kind: type[StorageError], spoil: Callable[[], object], mend: Callable[[], object]
) -> None:
    """After *spoil* a batch fails as *kind* says and leaves nothing behind; after *mend* it is done."""
    model = MemoryStore()
    for either in (store, model):
        submit(either, "a")
        claim(either)
    before = store.snapshot()
    assert before == model.snapshot()

    spoil()
    for _ in range(2):
        with pytest.raises(StorageError) as fault:
            store.apply(batch(), NOW)
        assert type(fault.value) is kind
        assert store.snapshot() == before
    mend()

    assert store.apply(batch(), NOW) == model.apply(batch(), NOW)
    assert store.snapshot() == model.snapshot()
    assert recount(store) == store.read(queries.GetStats()).lanes
    assert claimed(store) == claimed(model)


@pytest.mark.parametrize("what", ["write log", "sync log"])
@pytest.mark.parametrize(
    ("thrown", "kind"), [(apsw.IOError, StorageUnavailable), (apsw.FullError, StorageFull)]
)
def test_failed_commit_leaves_nothing_and_can_be_repeated(
    path: Path, disk: Disk, what: str, thrown: type[apsw.Error], kind: type[StorageError]
) -> None:
    store = SqliteStore(path, vfs=disk.name)
    try:
        check_survival(store, kind, lambda: disk.broken.update({what: thrown}), disk.broken.clear)
        before = store.snapshot()
    finally:
        store.close()
    check_reopened(path, before)


def check_reopened(path: Path, before: Snapshot) -> None:
    store = SqliteStore(path)
    try:
        assert store.snapshot() == before
    finally:
        store.close()


def test_failed_checkpoint_fails_no_commit(path: Path) -> None:
    store = SqliteStore(path)
    try:
        store._writer.wal_autocheckpoint(1)
        # Not by a Disk: what Python raises inside SQLite comes out even where SQLite itself goes on.
        [descriptor] = [fd for fd in os.listdir("/proc/self/fd") if leads_to(fd, path)]
        read_only = os.open(path, os.O_RDONLY)
        os.dup2(read_only, int(descriptor), inheritable=False)
        os.close(read_only)
        submit(store, *"abc")
        before = store.snapshot()
        assert path.with_name("tq.db-wal").stat().st_size > 0
        with pytest.raises(apsw.IOError):
            store._writer.wal_checkpoint()
    finally:
        store.close()
    check_reopened(path, before)
    assert len(before.tasks) == 3


def leads_to(descriptor: str, path: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}") == str(path)
    except FileNotFoundError:  # that of the listing itself
        return False


def test_store_closes_on_a_broken_disk(path: Path, disk: Disk) -> None:
    store = SqliteStore(path, vfs=disk.name)
    submit(store, *"abc")
    before = store.snapshot()
    disk.broken = {"write database": apsw.FullError, "sync database": apsw.IOError}

    store.close()

    disk.broken.clear()
    check_reopened(path, before)


def test_full_disk_is_told_of_and_recovers_when_there_is_room(store: SqliteStore) -> None:
    def fill() -> None:
        store._writer.pragma("max_page_count", store._writer.pragma("page_count"))

    check_survival(store, StorageFull, fill, lambda: store._writer.pragma("max_page_count", 1_000_000))


def test_full_disk_message_says_what_to_do(store: SqliteStore, path: Path) -> None:
    store._writer.pragma("max_page_count", 1)

    with pytest.raises(StorageFull) as fault:
        submit(store, *(f"t{n}" for n in range(200)))

    assert fault.value.message == f"no room left for {path}: free some on its disk"


def test_other_program_that_writes_makes_us_wait_and_then_say_so(store: SqliteStore, path: Path) -> None:
    store._writer.set_busy_timeout(1)
    other = apsw.Connection(str(path))

    check_survival(
        store,
        StorageUnavailable,
        lambda: other.execute("BEGIN IMMEDIATE"),
        lambda: other.execute("ROLLBACK"),
    )
    other.close()


def test_failed_read_is_unavailable_and_the_next_one_works(store: SqliteStore) -> None:
    submit(store, "a")
    with store._readers.lend() as reader:
        reader.set_progress_handler(lambda: True, 1)

    with pytest.raises(StorageUnavailable):
        store.snapshot()

    assert task(store, "a").state is State.PENDING
    assert len(store.snapshot().tasks) == 1


def test_bug_of_ours_is_not_dressed_up_as_trouble_with_the_disk(store: SqliteStore) -> None:
    submit(store, "a")
    [lease] = claim(store)
    before = store.snapshot()

    with pytest.raises(AssertionError):
        store.apply([ops.Submit(new("b")), finish(lease, State.RETRYING, run_at=None)], NOW)

    assert store.snapshot() == before
    assert do(store, finish(lease)) == ops.Finished(State.SUCCEEDED)
    assert state(store, "a") is State.SUCCEEDED
