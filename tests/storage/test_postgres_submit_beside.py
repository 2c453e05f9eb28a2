"""Submitting in SQL beside servers and other applications: transactions, locks, news, rights, upgrades."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any
from zlib import crc32

import psycopg
import pytest
from msgspec.structs import replace
from postgres_place import Schema
from postgres_server import execute
from psycopg import errors
from storage_kit import NOW, claim, do, finish, new, recount, submit, task
from submit_task_kit import TRACEPARENT, US, call, declare
from tiers import slow

from tq.core import ops, queries
from tq.core.errors import StorageUnavailable, TqError
from tq.core.limits import Limits
from tq.core.ops import RequestKey
from tq.core.task import Newcomer, State, TaskId
from tq.core.wire import TypeDefaults, decode_submit, new_task
from tq.storage import postgres_schema
from tq.storage.postgres import PostgresStore
from tq.storage.postgres_fleet import PostgresWake
from tq.storage.postgres_link import connect, parse_url

pytest_plugins = ("submit_task_store",)


# Again


def test_the_same_again_is_the_same_task(store: PostgresStore, db: psycopg.Connection) -> None:
    first = call(db, "plain", id="a", payload={"x": 1, "y": [2]}, priority=3)
    assert call(db, "plain", id="a", payload={"y": [2], "x": 1}) == first == "a"
    assert store.read(queries.GetStats()).submitted == 1
    assert task(store, "a").priority == 3


@pytest.mark.parametrize(
    ("type", "payload", "told"),
    [("special", 1, "another type"), ("plain", 2, "another payload"), ("plain", 1.0, "another payload")],
)
def test_another_task_of_a_known_id_is_refused(
    store: PostgresStore, db: psycopg.Connection, type: str, payload: object, told: str
) -> None:
    call(db, "plain", id="a", payload=1)
    with pytest.raises(errors.UniqueViolation, match=told) as refused:
        call(db, type, id="a", payload=payload)
    assert (refused.value.diag.column_name, refused.value.diag.constraint_name) == ("id", "tasks_id_key")
    assert store.read(queries.GetStats()).submitted == 1


def test_an_id_is_known_whichever_way_it_came(store: PostgresStore, db: psycopg.Connection) -> None:
    declare(store, None)
    submit(store, "a")
    assert call(db, "email", id="a", payload={"n": 1}) == "a"
    call(db, "email", id="b", payload={"n": 1})
    assert do(store, ops.Submit(replace(_new_of(store), id=TaskId("b")))).duplicate


def _new_of(store: PostgresStore) -> Any:
    request = decode_submit(b'{"type": "email", "payload": {"n":1}}')
    return new_task(request, TypeDefaults(), new_id=TaskId("x"), now=NOW)


# Transactions


def test_what_is_rolled_back_has_never_been(
    store: PostgresStore, db: psycopg.Connection, empty_schema: Schema
) -> None:
    with db.transaction() as transaction:
        call(db, "plain", id="a", tags=["x"], key="new")
        assert store.snapshot().tasks == ()
        assert claim(store) == ()
        raise psycopg.Rollback(transaction)
    for table in ("tasks", "lives", "tags", "lanes", "counters", "unannounced"):
        assert db.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() == (0,), table


def test_a_savepoint_takes_back_what_came_after_it(store: PostgresStore, db: psycopg.Connection) -> None:
    with db.transaction():
        call(db, "plain", id="a")
        with suppress(errors.InvalidParameterValue), db.transaction():
            call(db, "plain", id="b", key="new")
            call(db, "plain", id="c", priority=999)
        call(db, "plain", id="b", payload=2, key="new")
    assert [(each.id, each.payload) for each in store.snapshot().tasks] == [("a", "null"), ("b", "2")]
    assert store.read(queries.GetStats()).submitted == 2


def test_two_at_once_with_one_id_make_one_task(
    store: PostgresStore, db: psycopg.Connection, empty_schema: Schema
) -> None:
    with psycopg.connect(empty_schema.server) as other, ThreadPoolExecutor(1) as pool:
        other.execute(f"SET search_path = {empty_schema.name}".encode())
        call(other, "plain", id="a")
        asked = pool.submit(call, db, "plain", id="a")
        _wait_blocked(empty_schema)
        other.commit()
        assert asked.result(10) == "a"
        call(other, "plain", id="b", payload=1)
        asked = pool.submit(call, db, "plain", id="b", payload=2)
        _wait_blocked(empty_schema)
        other.rollback()
        assert asked.result(10) == "b"
    assert [(each.id, each.payload) for each in store.snapshot().tasks] == [("a", "null"), ("b", "2")]


def _wait_blocked(schema: Schema) -> None:
    """Return once a connection waits for a transaction."""
    with psycopg.connect(schema.server, autocommit=True) as db:
        for _ in range(1_000):
            asked = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
            if db.execute(asked).fetchone() != (0,):
                return
            db.execute("SELECT pg_sleep(0.01)")
    raise AssertionError("nobody waits")


def test_an_id_that_a_transaction_holds_is_refused_and_its_neighbours_go_in(
    store: PostgresStore, db: psycopg.Connection
) -> None:
    declare(store, None)
    with db.transaction() as transaction:
        call(db, "email", id="held", payload={"n": 1}, key="of the application")
        key = RequestKey("key", "digest")
        batch: list[ops.AnyOp] = [
            ops.Submit(new("a", key="new", tags=("x",))),
            ops.Submit(new("held"), key),
            ops.Submit(new("b", key="newer", depends_on=(TaskId("a"),))),
            ops.SubmitMany((new("c"), new("held"))),
            ops.SubmitMany((new("d"), new("e", queue="other"))),
            ops.Cancel(TaskId("d")),
        ]
        replies = store.apply(batch, NOW)
        assert [type(reply) for reply in replies] == [
            *(ops.Submitted, StorageUnavailable, ops.Submitted, StorageUnavailable, tuple, ops.CancelReply)
        ]
        held, many = replies[1], replies[3]
        assert isinstance(held, StorageUnavailable)
        assert held.message.startswith("the id 'held' is in a transaction that has not ended")
        assert held.fields["retry_after_ms"] == 1_000
        assert isinstance(many, StorageUnavailable)
        assert {each.id for each in store.snapshot().tasks} == {"a", "b", "d", "e"}
        raise psycopg.Rollback(transaction)
    assert not do(store, ops.Submit(new("held"), key)).duplicate
    assert do(store, ops.SubmitMany((new("c"), new("held"))))[1].duplicate


@slow
def test_few_held_among_many_are_found(store: PostgresStore, db: psycopg.Connection) -> None:
    declare(store, None)
    held = {"t3", "t4", "t250", "t499"}
    with db.transaction():
        for name in held:
            call(db, "email", id=name, payload={"n": 1})
        many: list[ops.AnyOp] = [ops.Submit(new(f"t{n}", tags=("x",))) for n in range(500)]
        replies = store.apply(many, NOW)
        assert {f"t{n}" for n, reply in enumerate(replies) if isinstance(reply, TqError)} == held
        assert store.read(queries.GetStats()).submitted == 496
        assert recount(store) == store.read(queries.GetStats()).lanes
    assert all(isinstance(reply, ops.Submitted) for reply in store.apply(many, NOW))
    assert store.read(queries.GetStats()).submitted == 500


@slow
def test_who_asks_again_for_what_is_held_keeps_nobody_waiting(
    store: PostgresStore, db: psycopg.Connection
) -> None:
    declare(store, None)
    with db.transaction():
        call(db, "email", id="held", payload={"n": 1})
        [held] = store.apply([ops.Submit(new("held"))], NOW)
        assert store._writer is not None
        store._writer.execute("SET lock_timeout = '30s'")
        begun = time.monotonic()
        again, other = store.apply([ops.Submit(new("held")), ops.Submit(new("other"))], NOW)
        assert time.monotonic() - begun < 15
        assert isinstance(held, StorageUnavailable)
        assert isinstance(again, StorageUnavailable)
        assert isinstance(other, ops.Submitted)
    assert do(store, ops.Submit(new("held"))).duplicate


@slow
def test_all_of_many_are_held(store: PostgresStore, db: psycopg.Connection) -> None:
    declare(store, None)
    with db.transaction():
        for n in range(50):
            call(db, "email", id=f"t{n}", payload={"n": 1})
        begun = time.monotonic()
        replies = store.apply([ops.Submit(new(f"t{n}")) for n in range(50)], NOW)
        assert time.monotonic() - begun < 15
        assert all(isinstance(reply, StorageUnavailable) for reply in replies)


@slow
def test_what_waits_for_a_stranger_is_not_half_applied(
    store: PostgresStore, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch in which more is held than submits goes on to fail as a whole."""
    monkeypatch.setattr("tq.storage.postgres.TRIES", 2)
    declare(store, None)
    submit(store, "known")
    with db.transaction():
        call(db, "email", id="held", payload={"n": 1})
        db.execute("SELECT 1 FROM lives FOR UPDATE")
        batch: list[ops.AnyOp] = [ops.Submit(new("a")), ops.Submit(new("held")), ops.Cancel(TaskId("known"))]
        with pytest.raises(StorageUnavailable, match="lock timeout"):
            store.apply(batch, NOW)
    assert {each.id for each in store.snapshot().tasks} == {"known", "held"}


def test_a_transaction_that_lasts_is_in_no_servers_way(store: PostgresStore, db: psycopg.Connection) -> None:
    """New lanes, known lanes, counters: a server that uses the same meanwhile waits for none of them."""
    declare(store, None)
    submit(store, "before")
    with db.transaction():
        call(db, "email", id="in-a-known-lane")
        call(db, "email", id="in-a-new-lane", key="new")
        do(store, ops.Submit(new("meanwhile", key="new")))
        leases = claim(store, 10)
        assert {lease.task_id for lease in leases} == {"before", "meanwhile"}
        for lease in leases:
            do(store, finish(lease))
        do(store, ops.Prune(), NOW + 10**10)
    assert {lease.task_id for lease in claim(store, 10)} == {"in-a-known-lane", "in-a-new-lane"}


def test_a_lane_is_kept_for_what_is_not_committed_yet(store: PostgresStore, db: psycopg.Connection) -> None:
    call(db, "plain", id="last", result_ttl=0)
    do(store, finish(claim(store)[0]))
    with db.transaction():
        call(db, "plain", id="next")
        assert do(store, ops.Prune()).count == 1
    assert [lease.task_id for lease in claim(store)] == ["next"]


def test_lanes_of_one_name_are_one_queue_with_one_limit(store: PostgresStore, db: psycopg.Connection) -> None:
    declare(store, None)
    do(store, ops.SetQueue(queue="q", per_key=Limits(concurrency=1)))
    with db.transaction():
        call(db, "email", queue="q", key="k")
        do(store, ops.Submit(new("other", queue="q", key="k")))
    assert db.execute("SELECT count(*) FROM lanes").fetchone() == (2,)
    [lease] = claim(store, 10)
    do(store, finish(lease))
    assert len(claim(store, 10)) == 1


# Announcing


def test_each_task_is_announced_once_in_order(store: PostgresStore, db: psycopg.Connection) -> None:
    call(db, "plain", id="a", traceparent=TRACEPARENT)
    call(db, "special", id="b", delay=60)
    call(db, "plain", id="c")
    assert store.read(queries.GetNews(types=())).unannounced
    plain = Newcomer(TaskId("a"), "plain", "default", State.PENDING, TRACEPARENT.split("-")[1])
    special = Newcomer(TaskId("b"), "special", "other", State.SCHEDULED)
    assert do(store, ops.Announce(2)) == ops.Announced((plain, special), more=True)
    assert do(store, ops.Announce(2)).tasks == (Newcomer(TaskId("c"), "plain", "default", State.PENDING),)
    assert do(store, ops.Announce()) == ops.Announced()
    assert not store.read(queries.GetNews(types=())).unannounced
    assert db.execute("SELECT count(*) FROM counters WHERE writer < 0").fetchone() == (0,)
    assert store.read(queries.GetStats()).submitted == 3


def test_what_one_server_announces_another_does_not(
    store: PostgresStore, db: psycopg.Connection, empty_schema: Schema
) -> None:
    [(ids,)] = db.execute("SELECT array_agg(submit_task('plain')) FROM generate_series(1, 200)").fetchall()
    barrier = threading.Barrier(2)

    def announce(each: PostgresStore) -> list[str]:
        barrier.wait()
        return [new.task_id for _ in range(60) for new in do(each, ops.Announce(7)).tasks]

    with closing(PostgresStore(empty_schema.url, durable=False)) as other, ThreadPoolExecutor(2) as pool:
        one, two = pool.map(announce, (store, other))
    assert sorted(one + two) == sorted(ids)


def test_the_channel_is_that_on_which_servers_listen(postgres_url: str) -> None:
    for name in ("tq", "Ünï \"x'", "a" * 63):
        with closing(PostgresStore(f"{postgres_url}?schema={name.replace(' ', '%20')}")) as store:
            wake = store.open_wake(US)
            assert isinstance(wake, PostgresWake)
            with closing(wake), psycopg.connect(postgres_url, autocommit=True) as db:
                db.execute("SELECT set_config('search_path', quote_ident(%s), false)", (name,))
                expected = f"tq_{crc32(name.encode()):08x}"
                assert db.execute("SELECT wake_channel()").fetchone() == (expected,)
                db.execute("SELECT submit_task('any', known => false)")
                assert select.select([wake._db.pgconn.socket], [], [], 10)[0], "it was rung elsewhere"
                assert wake._rung() == ["sql"]


# Rights


@pytest.fixture
def guest(empty_schema: Schema, store: PostgresStore) -> Iterator[psycopg.Connection]:
    """The connection of a role that may submit, and nothing else."""
    role = f"guest_{empty_schema.name}"
    execute(empty_schema.server, f"CREATE ROLE {role}")
    try:
        with psycopg.connect(empty_schema.server, autocommit=True) as connection:
            connection.execute(f"SET ROLE {role}".encode())
            yield connection
    finally:
        execute(empty_schema.server, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_who_was_not_let_may_not_submit(guest: psycopg.Connection, empty_schema: Schema) -> None:
    name = empty_schema.name
    with pytest.raises(errors.InsufficientPrivilege):
        guest.execute(f"SELECT {name}.submit_task('plain')".encode())
    empty_schema.execute(f"GRANT USAGE ON SCHEMA {{}} TO guest_{name}")
    with pytest.raises(errors.InsufficientPrivilege, match="permission denied for function"):
        guest.execute(f"SELECT {name}.submit_task('plain')".encode())


def test_who_was_let_may_submit_and_nothing_else_whatever_it_has_set(
    store: PostgresStore, guest: psycopg.Connection, empty_schema: Schema
) -> None:
    name = empty_schema.name
    empty_schema.execute(f"GRANT USAGE ON SCHEMA {{}} TO guest_{name}")
    empty_schema.execute(f"GRANT EXECUTE ON FUNCTION {{}}.submit_task TO guest_{name}")
    # What a caller has of that name is not what is written to.
    guest.execute("CREATE TEMP TABLE tasks (seq bigint, lane bigint, id text, payload text)")
    guest.execute("CREATE TEMP TABLE types (type text, defaults text)")
    guest.execute("SET search_path = pg_temp")
    guest.execute(
        "SET DateStyle = 'German, DMY'; SET TimeZone = 'Asia/Tokyo'; SET IntervalStyle = 'iso_8601'"
    )
    guest.execute("SET extra_float_digits = -5; SET enable_indexscan = off")
    call_it = f"SELECT {name}.submit_task('special', id => 'a', timeout => 0.125, deadline => '2998-01-01Z')"
    guest.execute(call_it.encode())
    found = task(store, "a")
    assert (found.timeout_ms, found.options.deadline_at) == (125, 32_440_608_000_000)
    for statement in (
        "SELECT * FROM {}.tasks",
        "SELECT {}.wake_channel()",
        "SELECT {}.lane_of('a', 'b', 'c')",
    ):
        with pytest.raises(errors.InsufficientPrivilege):
            guest.execute(statement.format(name).encode())


def test_nothing_of_ours_is_for_everybody(db: psycopg.Connection, empty_schema: Schema) -> None:
    found = db.execute(
        "SELECT proname, has_function_privilege('public', oid, 'EXECUTE') FROM pg_proc"
        " WHERE pronamespace = %s::regnamespace",
        (empty_schema.name,),
    ).fetchall()
    assert ("submit_task", False) in found
    assert {is_open for _, is_open in found} == {False}


# Upgrading


def test_tables_of_the_version_before_are_upgraded_with_what_is_in_them(
    postgres_url: str,
) -> None:
    scripts = postgres_schema.migrations()
    target = parse_url(postgres_url)
    with closing(connect(target, application="tq", durable=False)) as db:
        postgres_schema.migrate(db, target, scripts[:3])
        db.execute("INSERT INTO lanes (queue, type, key) VALUES ('default', 'email', NULL)")
        db.execute(
            "INSERT INTO tasks (seq, lane, created_at, id, retry, payload)"
            " SELECT nextval('arrivals'), 1, 5, 'old', '{}', '{\"n\":1}'"
        )
        db.execute(
            "INSERT INTO lives (seq, lane, run_at, timeout_ms, max_attempts, state, urgency)"
            " VALUES (1, 1, 5, 5000, 3, 2, 0)"
        )
        db.execute("INSERT INTO counters VALUES (1, 1, 2, 1), (1, 0, 100, 1)")
    with closing(PostgresStore(postgres_url, durable=False)) as store:
        declare(store, None)
        with psycopg.connect(postgres_url, autocommit=True) as db2:
            assert db2.execute("SELECT tq.submit_task('email', '{\"n\": 1}', 'old')").fetchone() == ("old",)
            db2.execute("SELECT tq.submit_task('email', id => 'new')")
            assert db2.execute("SELECT count(*) FROM tq.lanes").fetchone() == (1,)
        assert [lease.task_id for lease in claim(store, 10)] == ["old", "new"]
        assert store.read(queries.GetStats()).submitted == 2
        assert recount(store) == store.read(queries.GetStats()).lanes
