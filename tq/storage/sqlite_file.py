"""The file of the SQLite store: who may have it, what it must be, what can go wrong with it.

Knows files, locks, migrations and SQLite's errors; knows nothing of tasks.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Final

import apsw

from tq.core.errors import SchemaMismatch, StorageError, StorageFull, StorageInUse, StorageUnavailable
from tq.storage.sqlite_sql import SCHEMA_SIZE

APPLICATION_ID: Final = 0x7471_6462
"""'tqdb' in the header of the file: it is ours."""
BUSY_TIMEOUT_MS: Final = 1_000
"""How long another program that writes to the file, such as a backup, is waited for."""
WRITER_CACHE_KIB: Final = 24 * 1024
READER_CACHE_KIB: Final = 2 * 1024
CHECKPOINT_PAGES: Final = 4_000
"""Pages in the log before they are moved into the file: 16 MiB."""
LOG_KEPT_BYTES: Final = 32 * 1024 * 1024
"""The log file is cut back to this size."""
FILE_MODE: Final = 0o600


def fault_of(error: apsw.Error, path: Path) -> StorageError | None:
    """*error* as one of ours, or None if it is a bug of this program."""
    match error:
        case apsw.FullError():
            return StorageFull(f"no room left for {path}: free some on its disk")
        case apsw.NotADBError():
            return SchemaMismatch(f"{path} is not a SQLite database: give another path")
        case apsw.CorruptError():
            return StorageError(f"{path} is damaged ({error}): restore a copy of it")
        case apsw.BusyError() | apsw.LockedError():
            return StorageUnavailable(f"another program keeps {path} locked: end its transaction")
        case apsw.ReadOnlyError() | apsw.PermissionsError() | apsw.AuthError():
            return StorageUnavailable(f"{path} cannot be written: make file and folder writable")
        case apsw.CantOpenError():
            return StorageUnavailable(f"{path} cannot be opened: check that it is there and readable")
        case apsw.IOError():
            return StorageUnavailable(f"reading or writing {path} failed ({error}): check its disk")
        case apsw.NoMemError() | apsw.ProtocolError() | apsw.InterruptError():
            return StorageUnavailable(f"SQLite could not work on {path} ({error}): try again")
        case _:
            return None


@contextmanager
def told_as_ours(path: Path) -> Iterator[None]:
    """Raise what SQLite has against *path* as a StorageError; let our own bugs through as they are."""
    try:
        yield
    except apsw.Error as error:
        fault = fault_of(error, path)
        if fault is None:
            raise
        raise fault from error


def claim_file(path: Path) -> int:
    """Lock *path* against every other opener and make it if it is not there; return the lock's descriptor.

    The lock is on a file beside it, because closing any descriptor of the database itself would drop
    SQLite's own locks. The kernel releases it when the process ends, however it ends; no child inherits it.

    Raises:
        StorageInUse: Somebody has it; the message names the process.
        StorageUnavailable: It cannot be opened or made.
    """
    lock = lock_file(path)
    try:
        make_file(path)
    except BaseException:
        os.close(lock)
        raise
    return lock


def lock_file(path: Path) -> int:
    """Do as `claim_file`, but leave *path* as it is, there or not."""
    if path.is_dir():
        raise StorageUnavailable(f"{path} is a folder: give the path of a file in it")
    if not path.parent.is_dir():
        raise StorageUnavailable(f"there is no folder {path.parent}: make it, or give another path")
    with _opening():
        while True:
            lock = os.open(lock_of(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
            try:
                _lock(lock, path)
                # Who made it may have removed it before we had it; then others lock another.
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(lock), lock_of(path).stat()):
                        return lock
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)


def lock_of(path: Path) -> Path:
    """The file whose lock is that of *path*. Only who has the lock may remove it."""
    return path.with_name(path.name + ".lock")


def make_file(path: Path) -> None:
    """Have *path* be there, empty if it was not. SQLite gives its log and shared memory the same mode."""
    with _opening():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))


@contextmanager
def _opening() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(
            f"{error.filename} cannot be opened ({error.strerror}): let this user read and write it"
        ) from error


def _lock(lock: int, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
        raise StorageInUse(
            f"{path} is in use by process {holder}: a SQLite store serves one server; stop that one first",
            path=str(path),
            pid=holder,
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


def open_writer(path: Path, *, durable: bool, vfs: str | None, migrates: bool = True) -> apsw.Connection:
    """The one connection that writes *path* and checkpoints it, its schema up to date if it *migrates*.

    Raises:
        SchemaMismatch: Not a file of ours, or of a newer tq.
        StorageUnavailable: It cannot be read or written.
    """
    with told_as_ours(path):
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
        try:
            db.set_busy_timeout(BUSY_TIMEOUT_MS)
            version = schema_version(db, path)
            _set_up(db, path, durable=durable)
            if migrates:
                migrate(db, migrations(), done=version)
        except BaseException:
            db.close(True)
            raise
    return db


def open_reader(path: Path, *, vfs: str | None) -> apsw.Connection:
    """A connection that only reads, from any thread, and never checkpoints."""
    with told_as_ours(path):
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY, vfs=vfs)
        db.set_busy_timeout(BUSY_TIMEOUT_MS)
        db.wal_autocheckpoint(0)
        db.pragma("query_only", True)
        db.pragma("cache_size", -READER_CACHE_KIB)
    return db


def open_unchanged(path: Path) -> apsw.Connection:
    """A reader of *path* that leaves no files behind.

    A plain reader makes the log and the shared memory if they are not there, and nobody would take them
    away. After a crash they are there, and have to be read, and so they are while a server has it.
    """
    log = path.with_name(path.name + "-wal")
    if log.exists():
        return open_reader(path, vfs=None)
    address = path.absolute().as_uri() + "?immutable=1"
    return apsw.Connection(address, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)


def schema_version(db: apsw.Connection, path: Path) -> int:
    """The version of the schema in the file, 0 if it is empty. Raises SchemaMismatch."""
    if db.pragma("application_id") != APPLICATION_ID:
        if db.execute(SCHEMA_SIZE).get:
            raise SchemaMismatch(f"{path} is a database of another program: give another path")
        return 0
    version = int(str(db.pragma("user_version")))
    known = len(migrations())
    if version > known:
        raise SchemaMismatch(
            f"{path} has schema version {version}, this tq knows up to {known}: use a newer tq",
            version=version,
            known=known,
        )
    return version


def _set_up(db: apsw.Connection, path: Path, *, durable: bool) -> None:
    mode = db.pragma("journal_mode", "wal")
    if mode != "wal":
        raise StorageUnavailable(f"the file system of {path} cannot share memory: use a local disk")
    db.pragma("synchronous", "FULL" if durable else "NORMAL")
    # Mapped pages would count as resident; the cache is bounded, the page cache of the system is not ours.
    db.pragma("mmap_size", 0)
    db.pragma("cache_size", -WRITER_CACHE_KIB)
    db.pragma("temp_store", "MEMORY")
    db.pragma("journal_size_limit", LOG_KEPT_BYTES)
    db.wal_autocheckpoint(CHECKPOINT_PAGES)


def migrations() -> list[str]:
    """The statements of each migration, the one to version 1 first."""
    folder = files("tq.storage").joinpath("migrations", "sqlite")
    found = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".sql")), key=lambda e: e.name)
    return [entry.read_text(encoding="utf-8") for entry in found]


def migrate(db: apsw.Connection, scripts: Sequence[str], *, done: int) -> None:
    """Run the *scripts* after the first *done*, all in one transaction or none of them."""
    pending = scripts[done:]
    if not pending:
        return
    with db:
        for script in pending:
            db.execute(script)
        db.pragma("application_id", APPLICATION_ID)
        db.pragma("user_version", len(scripts))
