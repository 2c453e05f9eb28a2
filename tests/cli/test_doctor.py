from __future__ import annotations

import json
import socket
import subprocess
import sys
from contextlib import closing
from itertools import count
from pathlib import Path

import apsw
import pytest
from cli_kit import ROOT, run_tq, serving
from tiers import slow

from tq.config import load_config
from tq.doctor import (
    Check,
    Status,
    check_file_system,
    check_space,
    check_sqlite,
    check_store,
    check_sync,
    examine,
    report_text,
)
from tq.storage.sqlite_file import APPLICATION_ID
from tq.storage.store import open_store


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
tmpfs /tmp tmpfs rw 0 0
server:/export /mnt/shared\\040files nfs4 rw 0 0
/dev/sdb1 /mnt xfs rw 0 0
/dev/sdc1 /mnt xfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "status", "kind"),
    [
        ("/var/lib/tq", Status.OK, "ext4"),
        ("/tmp/x", Status.WARN, "tmpfs"),
        ("/mnt/data", Status.OK, "xfs"),
        ("/mnt/shared files/tq", Status.WARN, "nfs4"),
    ],
)
def test_the_file_system_of_the_store_is_found(folder: str, status: Status, kind: str) -> None:
    check = check_file_system(Path(folder), MOUNTS)
    assert (check.status, check.found) == (status, f"{folder} is on {kind}")
    assert bool(check.advice) == (status is not Status.OK)


def test_without_a_list_of_mounts_nothing_is_claimed() -> None:
    check = check_file_system(Path("/x"), "")
    assert check == Check("file system", Status.OK, "/x is on a file system of unknown kind")


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("3.51.3", Status.OK),
        ("3.52.0", Status.OK),
        ("4.0.0", Status.OK),
        ("3.50.7", Status.OK),
        ("3.44.6", Status.OK),
        ("3.51.2", Status.WARN),
        ("3.50.8", Status.WARN),
        ("3.46.1", Status.WARN),
    ],
)
def test_a_sqlite_with_the_wal_reset_bug_is_warned_of(version: str, status: Status) -> None:
    assert check_sqlite(version).status is status


def test_little_space_is_warned_of(tmp_path: Path) -> None:
    assert check_space(tmp_path, 10 * 1024**3).status is Status.OK
    assert check_space(tmp_path, 1024**3 - 1).status is Status.WARN


def test_a_slow_disk_is_warned_of(tmp_path: Path) -> None:
    assert check_sync(tmp_path, count(0, 0.1).__next__).found == "a durable write takes 5.00 ms"
    assert check_sync(tmp_path, count(0, 1).__next__).status is Status.WARN
    assert list(tmp_path.iterdir()) == [], "the file it wrote is gone"


def test_a_disk_that_cannot_be_written_fails(tmp_path: Path) -> None:
    assert check_sync(tmp_path / "missing", count().__next__).status is Status.FAIL


def test_a_store_is_looked_at_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "tq.db"
    assert check_store(path).status is Status.OK
    assert not path.exists()

    store = open_store(f"sqlite:///{path}")
    held = check_store(path)
    store.close()
    assert held.status is Status.WARN
    assert "is in use by process" in held.found

    before = contents(tmp_path)
    free = check_store(path)
    assert free.status is Status.OK, free
    assert "opens, schema" in free.found
    assert contents(tmp_path) == before, "no log, no shared memory left behind"


def test_the_log_that_a_crash_left_is_read_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "tq.db"
    crash = f"""
import os
from tq.storage.store import open_store
store = open_store("sqlite:///{path}")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", crash], check=True, cwd=ROOT)
    before = contents(tmp_path)
    assert before["tq.db-wal"]
    found = check_store(path)
    assert found.status is Status.OK, found
    assert "schema 0" not in found.found, "what is only in the log counts"
    # The shared memory is an index of the log, which every opener may make anew.
    assert contents(tmp_path) | {"tq.db-shm": b""} == before | {"tq.db-shm": b""}


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("text.db", "give another path"),
        ("folder.db", "give the path of a file in it"),
        ("other.db", "give another path"),
        ("newer #1?.db", "use a newer tq"),
    ],
)
def test_a_store_that_would_be_refused_fails(tmp_path: Path, name: str, advice: str) -> None:
    path = tmp_path / name
    match name:
        case "text.db":
            path.write_text("hello " * 1000)
        case "folder.db":
            path.mkdir()
        case _:
            with closing(apsw.Connection(str(path))) as db:
                db.execute("CREATE TABLE a (b)")
                if name != "other.db":
                    db.pragma("application_id", APPLICATION_ID)
                    db.pragma("user_version", 99)
    check = check_store(path)
    assert (check.status, check.advice) == (Status.FAIL, advice)
    assert check.found.startswith(str(path))


def test_an_address_in_use_fails(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        flags = {"bind": f"127.0.0.1:{taken.getsockname()[1]}", "store": "memory:"}
        config = load_config(flags, environ={}, folder=tmp_path)
        found = {check.name: check.status for check in examine(config, timer=count().__next__)}
    assert found["address"] is Status.FAIL
    assert found["store"] is Status.WARN, "memory: nothing is kept"


def test_a_report_has_a_line_for_what_to_do() -> None:
    checks = [Check("sqlite", Status.OK, "fine"), Check("space", Status.WARN, "little", "free some")]
    assert report_text(checks).splitlines() == [
        "ok    sqlite       fine",
        "warn  space        little",
        "                   -> free some",
    ]


@slow
def test_doctor_runs_beside_a_server_and_says_so(tmp_path: Path) -> None:
    alone = run_tq("doctor", "--bind", "127.0.0.1:0", cwd=tmp_path)
    assert alone.code == 0, alone
    with serving("demo", cwd=tmp_path) as (_, url):
        args = ["--store", "sqlite:///./tq-demo.db", "--bind", url.removeprefix("http://"), "--json"]
        beside = run_tq("doctor", *args, cwd=tmp_path)
    assert beside.code == 1
    found = {check["name"]: check["status"] for check in json.loads(beside.out)}
    assert (found["address"], found["store"]) == ("fail", "warn")
