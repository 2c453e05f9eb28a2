"""What ``tq doctor`` looks at: the libraries, the machine, the settings; what is wrong and what to do.

Each check looks at one thing and changes nothing: a store that is there is only read, one that is not is
not made, and the file by which the disk is measured is gone again. The clock to measure by is handed in.
"""

from __future__ import annotations

import fcntl
import os
import platform
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import apsw
import msgspec

from tq import __version__
from tq.api.serve import CannotListen, bind_sockets
from tq.config import Config, is_on_postgres
from tq.core.errors import StorageError, TqError
from tq.storage.checking import Finding, check_contents
from tq.storage.sqlite_file import open_unchanged, schema_version, told_as_ours

LIBRARIES: Final = ("trio", "quart", "quart-trio", "hypercorn", "msgspec", "click", "httpx2")
WAL_RESET_FIXED: Final = (3, 51, 3)
"""From this version of SQLite on, two connections cannot damage a file by the WAL-reset bug."""
WAL_RESET_BACKPORTS: Final = frozenset({(3, 44, 6), (3, 50, 7)})
FREE_BYTES_MIN: Final = 1024**3
OPEN_FILES_MIN: Final = 1024
SYNC_SLOW_MS: Final = 20.0
SYNCS: Final = 20
NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs", "fuse.glusterfs"}
)
PASSING_FILE_SYSTEMS: Final = frozenset({"tmpfs", "ramfs"})


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Check(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one look found. ``advice`` says what to do about a status that is not ok."""

    name: str
    status: Status
    found: str
    advice: str = ""


def examine(config: Config, *, timer: Callable[[], float]) -> list[Check]:
    """All checks of this machine and of the settings in *config*.

    Args:
        timer: Seconds from an arbitrary start, to measure the disk by.
    """
    checks = [check_libraries(), check_sqlite(apsw.sqlite_lib_version()), check_open_files()]
    checks.append(check_address(config))
    if config.store == "memory:":
        found = "memory: nothing outlives the server"
        checks.append(Check("store", Status.WARN, found, "use sqlite:///PATH to keep tasks"))
        return checks
    if is_on_postgres(config.store):
        return [*checks, check_postgres(config)]
    path = Path(config.store.partition(":///")[2]).resolve()
    if not path.parent.is_dir():
        found = f"the folder {path.parent} is not there"
        return [*checks, Check("store", Status.FAIL, found, "make it, or name another store")]
    return [*checks, *_check_disk(path.parent, timer), check_store(path)]


def examine_store(config: Config) -> list[Check]:
    """All checks of the store in *config*, and of what is in it. It is only read.

    Raises:
        InvalidInput: It is in memory, where there is nothing to look at.
    """
    url = config.store
    if is_on_postgres(url):
        checks = [check_postgres(config)]
    elif url == "memory:":
        checks = []
    else:
        checks = [check_store(Path(url.partition(":///")[2]))]
    try:
        checks += [_check_of(finding) for finding in check_contents(url)]
    except StorageError as fault:
        if all(check.status is not Status.FAIL for check in checks):
            found, _, advice = fault.message.rpartition(": ")
            checks.append(Check("contents", Status.FAIL, found or advice, advice))
    return checks


def _check_of(finding: Finding) -> Check:
    status = Status.FAIL if finding.wrong else Status.OK
    return Check(finding.name, status, finding.found, finding.wrong)


def report_text(checks: Iterable[Check]) -> str:
    """*checks* for a person: a line each, and one more for what to do."""
    lines = []
    for check in checks:
        lines.append(f"{check.status:4}  {check.name:11}  {check.found}")
        if check.advice:
            lines.append(f"{'':19}-> {check.advice}")
    return "\n".join(lines)


def report_json(checks: Iterable[Check]) -> str:
    """*checks* as one line of JSON."""
    return msgspec.json.encode(list(checks)).decode()


def check_libraries() -> Check:
    """The versions of what tq runs on."""
    names = [f"tq {__version__}", f"Python {platform.python_version()}", *map(_library, LIBRARIES)]
    missing = [name for name in LIBRARIES if _library(name).endswith("missing")]
    advice = f"install tq again: {', '.join(missing)} cannot be found" if missing else ""
    return Check("libraries", Status.FAIL if missing else Status.OK, ", ".join(names), advice)


def _library(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} missing"


def check_sqlite(library: str) -> Check:
    """Whether SQLite of version *library* is one that keeps a file whole."""
    number = tuple(int(part) for part in library.split("."))
    found = f"SQLite {library}"
    if number >= WAL_RESET_FIXED or number in WAL_RESET_BACKPORTS:
        return Check("sqlite", Status.OK, found)
    wanted = ".".join(map(str, WAL_RESET_FIXED))
    return Check(
        "sqlite",
        Status.WARN,
        f"{found} has the WAL-reset bug",
        f"update apsw to one with SQLite {wanted} or newer",
    )


def check_open_files() -> Check:
    """Whether this process may open as many files, connections among them, as a server needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return Check("open files", Status.OK, "no limit")
    found = f"at most {soft}"
    if soft >= OPEN_FILES_MIN:
        return Check("open files", Status.OK, found)
    return Check("open files", Status.WARN, found, f"raise it (ulimit -n 4096; the hard limit is {hard})")


def check_address(config: Config) -> Check:
    """Whether the address of the server is free to be listened on."""
    try:
        for sock in bind_sockets([str(config.bind)]):
            sock.close()
    except CannotListen as fault:
        return Check("address", Status.FAIL, str(fault), "if a tq server of yours has it, all is well")
    return Check("address", Status.OK, f"{config.bind} is free")


def _check_disk(folder: Path, timer: Callable[[], float]) -> Iterator[Check]:
    yield check_file_system(folder, _mounts())
    yield check_space(folder, shutil.disk_usage(folder).free)
    yield check_sync(folder, timer)


def _mounts() -> str:
    try:
        return Path("/proc/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def check_file_system(folder: Path, mounts: str) -> Check:
    """Whether the file system of *folder* can carry a SQLite store.

    Args:
        mounts: As in ``/proc/mounts``; empty where there is none.
    """
    kind = _file_system(folder, mounts)
    found = f"{folder} is on {kind or 'a file system of unknown kind'}"
    if kind in NETWORK_FILE_SYSTEMS:
        return Check("file system", Status.WARN, found, "locks over a network fail: use a local disk")
    if kind in PASSING_FILE_SYSTEMS:
        return Check("file system", Status.WARN, found, "it is memory and lost at a restart: use a disk")
    return Check("file system", Status.OK, found)


def _file_system(folder: Path, mounts: str) -> str:
    """The kind of the mount that *folder* is in: the longest mount point above it; the last of equals."""
    best, kind = -1, ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        # The kernel writes a space of a path as \040.
        point = Path(fields[1].replace("\\040", " "))
        if folder.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), fields[2]
    return kind


def check_space(folder: Path, free_bytes: int) -> Check:
    """Whether there is room for tasks beside *free_bytes*."""
    found = f"{free_bytes / 1024**3:.1f} GiB free in {folder}"
    if free_bytes >= FREE_BYTES_MIN:
        return Check("space", Status.OK, found)
    return Check("space", Status.WARN, found, "free some: submits are refused with 507 on a full disk")


def check_sync(folder: Path, timer: Callable[[], float]) -> Check:
    """Whether *folder* can be written, and how long one write takes to be on stable storage."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".tq-doctor-") as file:
            begun = timer()
            for _ in range(SYNCS):
                os.write(file.fileno(), b"\0" * 4096)
                os.fsync(file.fileno())
            each_ms = (timer() - begun) / SYNCS * 1000
    except OSError as error:
        return Check(
            "disk", Status.FAIL, f"{folder}: {error.strerror}", "make it writable, or name another store"
        )
    found = f"a durable write takes {each_ms:.2f} ms"
    if each_ms <= SYNC_SLOW_MS:
        return Check("disk", Status.OK, found)
    return Check(
        "disk", Status.WARN, found, "single submits wait that long: submit in batches, or use an SSD"
    )


def check_postgres(config: Config) -> Check:
    """Whether the PostgreSQL store lets us in and is set up as a store must be. It is not changed."""
    try:
        from tq.storage.postgres_link import close_quietly, connect, parse_url
        from tq.storage.postgres_schema import describe
    except ModuleNotFoundError:
        return Check("store", Status.FAIL, "psycopg is not installed", "pip install 'tq[postgres]'")
    try:
        target = parse_url(config.store)
        db = connect(target, application="tq doctor", durable=config.durability == "full")
        try:
            return Check("store", Status.OK, describe(db, target))
        finally:
            close_quietly(db)
    except TqError as error:
        found, _, advice = error.message.rpartition(": ")
        return Check("store", Status.FAIL, found or advice, advice)


def check_store(path: Path) -> Check:
    """Whether the SQLite store at *path* is free and ours. It is not changed, nor made."""
    if not path.exists():
        return Check("store", Status.OK, f"{path} is not there yet: the first start makes it")
    if path.is_dir():
        return Check("store", Status.FAIL, f"{path} is a folder", "give the path of a file in it")
    holder = _holder(path)
    if holder:
        advice = "this is right if that is your server: a SQLite store serves one at a time"
        return Check("store", Status.WARN, f"{path} is in use by process {holder}", advice)
    try:
        with told_as_ours(path), closing(open_unchanged(path)) as db:
            schema = schema_version(db, path)
    except StorageError as fault:
        # Their messages are "what is wrong: what to do".
        found, _, advice = fault.message.rpartition(": ")
        return Check("store", Status.FAIL, found, advice)
    size_mib = path.stat().st_size / 1024**2
    return Check("store", Status.OK, f"{path} opens, schema {schema}, {size_mib:.1f} MiB, nobody has it")


def _holder(path: Path) -> str:
    """The process that has the store at *path*, as it wrote itself; empty if nobody has it."""
    try:
        lock = os.open(path.with_name(path.name + ".lock"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
    finally:
        os.close(lock)
    return ""
