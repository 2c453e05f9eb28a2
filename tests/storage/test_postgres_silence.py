"""A way to PostgreSQL that takes what is sent and passes nothing on: TCP sees nothing wrong with it.

The store of these tests gives up after a second in place of 32. A statement that takes long is waited for as
long as the way itself answers, so the tests of that are of what takes less.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from time import perf_counter

import psycopg
import pytest
from postgres_place import Schema
from postgres_way import Way
from storage_kit import HERE, NOW, do, new, state, submit
from tiers import slow

from tq.core import ops, queries
from tq.core.errors import StorageUnavailable
from tq.core.task import State
from tq.storage import postgres_link
from tq.storage.postgres import PostgresStore

pytest_plugins = ("postgres_kit",)

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def store(way: Way) -> Iterator[PostgresStore]:
    with closing(PostgresStore(way.url, own_clock=False, silent_s=1)) as opened:
        yield opened


def test_silent_way_is_given_up_and_made_anew(
    store: PostgresStore, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_link, "CONNECT_TIMEOUT_S", 1)
    submit(store, "a")
    way.swallows = True
    with ThreadPoolExecutor(4) as pool:
        asked: list[Future[object]] = [
            pool.submit(store.apply, [ops.Submit(new("b"))], NOW),
            pool.submit(store.read, queries.GetStats()),
            pool.submit(store.read, queries.GetServers()),
            pool.submit(store.beat, HERE, NOW),
        ]
        for each in asked:
            with pytest.raises(StorageUnavailable, match="is out of reach"):
                each.result(timeout=20)
    way.swallows = False
    submit(store, "c")
    assert (state(store, "c"), store.read(queries.GetStats()).submitted) == (State.PENDING, 2)
    store.beat(HERE, NOW)


@pytest.mark.parametrize("how", ["swallowed", "reply swallowed"])
def test_commit_of_which_nothing_is_heard_is_done_once(store: PostgresStore, way: Way, how: str) -> None:
    submit(store, "a")
    way.at_commit = how
    assert not do(store, ops.Submit(new("b"))).duplicate
    assert way.met == 1
    assert store.read(queries.GetStats()).submitted == 2


def test_what_a_silent_way_left_locked_is_let_go(store: PostgresStore, way: Way) -> None:
    """In the middle of a batch the database waits for the rest of it, and no limit of its own is counted."""
    submit(store, "a")

    def fall_silent(_: object) -> None:
        way.swallows = True

    with ThreadPoolExecutor() as pool:
        cut = pool.submit(
            store.apply, [ops.Submit(new("b")), ops.Claim(HERE, None, 1)], NOW, news=fall_silent
        )
        with pytest.raises(StorageUnavailable):
            cut.result(timeout=20)
    way.swallows = False
    began = perf_counter()
    assert not do(store, ops.Submit(new("b"))).duplicate
    assert perf_counter() - began < 0.9  # and a lock is waited for a second
    assert store.read(queries.GetStats()).submitted == 2


def test_backend_of_a_stranger_is_let_be(store: PostgresStore, way: Way, empty_schema: Schema) -> None:
    with psycopg.connect(empty_schema.server) as stranger:
        store._backend = stranger.info.backend_pid
        store._drop_writer()
        submit(store, "a")
        assert stranger.execute("SELECT 1").fetchone() == (1,)


@slow
def test_slow_statement_is_no_silence_within_its_time(store: PostgresStore, way: Way) -> None:
    target = postgres_link.parse_url(way.url)
    with closing(postgres_link.connect(target, application="tq-slow", durable=False, silent_s=1.5)) as db:
        assert db.execute("SELECT 7, pg_sleep(1)").fetchall()[0][0] == 7
        with pytest.raises(psycopg.OperationalError, match=r"it was silent for 1\.5 s") as given_up:
            db.execute("SELECT pg_sleep(10)")
        assert postgres_link.is_broken(given_up.value)
        assert db.closed


@slow
def test_server_that_lets_in_and_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_link, "CONNECT_TIMEOUT_S", 1)
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        pytest.raises(StorageUnavailable, match="is out of reach"),
    ):
        PostgresStore(f"postgresql://ana@127.0.0.1:{mute.getsockname()[1]}/tasks")


def test_setting_up_is_given_up_before_long(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_link.Connection, "silent_s", 0.5)
    asked = postgres_link._check

    def swallow(*arguments: object, **named: object) -> None:
        way.swallows = True
        asked(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(postgres_link, "_check", swallow)
    with pytest.raises(StorageUnavailable, match=r"is out of reach \(it was silent for 0.5 s\)"):
        postgres_link.connect(postgres_link.parse_url(way.url), application="tq-mute", durable=True)


@slow
def test_store_that_is_closed_lets_go_of_who_waits(way: Way) -> None:
    with ThreadPoolExecutor(2) as pool:
        with closing(PostgresStore(way.url, own_clock=False, silent_s=100)) as store:
            submit(store, "a")
            way.swallows = True
            waiting: list[Future[object]] = [
                pool.submit(store.apply, [ops.Submit(new("b"))], NOW),
                pool.submit(store.read, queries.GetStats()),
            ]
            for each in waiting:
                with pytest.raises(TimeoutError):
                    each.result(timeout=0.3)
        for each in waiting:
            with pytest.raises(StorageUnavailable):
                each.result(timeout=5)
