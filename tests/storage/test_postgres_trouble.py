"""What can go wrong between the PostgreSQL store and its database, and what the store makes of it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from urllib.parse import quote, urlsplit

import psycopg
import pytest
from postgres_place import Schema
from postgres_server import execute, private_server
from postgres_way import Way
from storage_kit import HERE, NOW, claim, do, finish, new, running, state, submit, task
from tiers import slow

from tq.core import ops, queries
from tq.core.errors import InvalidInput, SchemaMismatch, StorageError, StorageUnavailable, TqError
from tq.core.task import ServerId, State, TaskId
from tq.storage import postgres_link, postgres_sql
from tq.storage.postgres import PostgresStore
from tq.storage.postgres_schema import migrations
from tq.storage.store import open_store

pytest_plugins = ("postgres_kit",)

THERE = ServerId("there")


@pytest.fixture
def store(way: Way) -> Iterator[PostgresStore]:
    # By a name of its own: other tests have connections to the same server.
    with closing(PostgresStore(way.url, own_clock=False, name="tq-trouble")) as opened:
        yield opened


# A connection that breaks


def test_commit_whose_reply_is_lost_has_gone_in_once(store: PostgresStore, way: Way) -> None:
    way.at_commit = "reply lost"
    submit(store, "a")
    assert way.met == 1
    assert [each.id for each in store.snapshot().tasks] == ["a"]
    assert store.read(queries.GetStats()).submitted == 1
    way.at_commit = "reply lost"
    [lease] = claim(store)
    assert (lease.generation, way.met) == (1, 2)


def test_commit_that_never_arrives_is_made_again(store: PostgresStore, way: Way) -> None:
    way.at_commit = "never arrives"
    assert not do(store, ops.Submit(new("a"))).duplicate
    assert way.met == 1
    assert store.read(queries.GetStats()).submitted == 1


def test_commit_that_is_still_under_way_is_waited_for(store: PostgresStore, way: Way) -> None:
    """It arrives after we have asked: whoever only looked would say that it had not gone in."""
    # As where something between tells us another number, and the process that commits cannot be ended.
    store._backend = None
    way.at_commit = "held up"
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(do, store, ops.Submit(new("a")))
        with pytest.raises(TimeoutError):
            asked.result(timeout=0.5)
        way.let_go.set()
        assert not asked.result(timeout=10).duplicate
    assert store.read(queries.GetStats()).submitted == 1


def test_commit_that_is_still_on_its_way_is_overtaken_and_made_once(store: PostgresStore, way: Way) -> None:
    """It arrives where nobody takes it any more."""
    way.at_commit = "held up"
    assert not do(store, ops.Submit(new("a"))).duplicate
    assert way.met == 1
    way.let_go.set()
    assert store.read(queries.GetStats()).submitted == 1


def test_connections_that_were_cut_off_are_made_anew(store: PostgresStore, empty_schema: Schema) -> None:
    submit(store, "a")
    cut = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'tq-trouble'"
    )
    execute(empty_schema.server, cut)
    assert state(store, "a") is State.PENDING
    execute(empty_schema.server, cut)
    do(store, ops.Beat(HERE))
    execute(empty_schema.server, cut)
    assert store.beat(HERE, NOW + 1)
    assert store.snapshot().servers == ((HERE, NOW + 1),)


def test_server_that_is_not_there_is_told_of_without_the_password() -> None:
    with pytest.raises(StorageUnavailable) as refused:
        PostgresStore("postgresql://ana:s3cr%40t@127.0.0.1:1/tasks")
    told = refused.value.message
    assert told.startswith("PostgreSQL 127.0.0.1/tasks is out of reach (")
    assert "s3cr" not in repr(refused.value) + repr(refused.value.__cause__)


def test_closed_store_says_so(store: PostgresStore) -> None:
    store.close()
    store.close()
    with pytest.raises(StorageUnavailable, match="is closed: open it again"):
        submit(store, "a")
    with pytest.raises(StorageUnavailable, match="is closed: open it again"):
        store.snapshot()


# Others in the way


@slow
def test_batch_behind_a_stranger_fails_in_time_and_heartbeats_get_through(
    store: PostgresStore, empty_schema: Schema
) -> None:
    submit(store, "a", "b")
    do(store, ops.Beat(HERE))
    with psycopg.connect(empty_schema.server) as stranger, ThreadPoolExecutor(1) as pool:
        stranger.execute(f"SELECT 1 FROM {empty_schema.name}.lives FOR UPDATE")
        asked = pool.submit(store.apply, [ops.Cancel(TaskId("a"))], NOW)
        assert store.beat(HERE, NOW + 7)
        assert store.snapshot().servers == ((HERE, NOW + 7),)
        with pytest.raises(StorageUnavailable, match="lock timeout"):
            asked.result(timeout=30)
        stranger.rollback()
    assert state(store, "a") is State.PENDING
    assert len(claim(store, 5)) == 2


def test_deadlock_is_run_again(
    open_empty_postgres: Callable[[], PostgresStore], empty_schema: Schema
) -> None:
    with closing(open_empty_postgres()) as store:
        submit(store, "a", "b")
        with psycopg.connect(empty_schema.server) as stranger, ThreadPoolExecutor(1) as pool:
            lock = f"SELECT 1 FROM {empty_schema.name}.lives WHERE seq = %s FOR UPDATE"
            stranger.execute("SET deadlock_timeout = '60s'")
            stranger.execute(lock, (2,))
            asked = pool.submit(store.apply, [ops.Cancel(TaskId("a")), ops.Cancel(TaskId("b"))], NOW)
            stranger.execute(lock, (1,))
            stranger.rollback()
            assert asked.result() == [ops.CancelReply(State.CANCELLED)] * 2


# Opening


def test_ten_may_start_at_once_on_an_empty_database(postgres_url: str) -> None:
    def begin(number: int) -> int:
        with closing(PostgresStore(postgres_url)) as store:
            submit(store, f"task-{number}")
            return number

    with ThreadPoolExecutor(10) as pool:
        assert sorted(pool.map(begin, range(10))) == list(range(10))
    with closing(PostgresStore(postgres_url)) as store:
        assert store.read(queries.GetStats()).submitted == 10


def test_tables_of_a_newer_tq_are_left_alone(postgres_url: str) -> None:
    PostgresStore(postgres_url).close()
    execute(postgres_url, "INSERT INTO tq.schema_versions VALUES (99)")
    with pytest.raises(SchemaMismatch, match="has schema version 99, this tq knows up to"):
        PostgresStore(postgres_url)


def test_tables_that_are_there_are_not_made_again(postgres_url: str) -> None:
    with closing(PostgresStore(postgres_url)) as store:
        submit(store, "a")
    with closing(PostgresStore(postgres_url)) as store:
        assert task(store, "a").state is State.PENDING
    with psycopg.connect(postgres_url) as db:
        assert db.execute("SELECT max(version) FROM tq.schema_versions").fetchone() == (len(migrations()),)


def test_role_that_may_not_make_tables_is_told_what_to_run(postgres_url: str) -> None:
    execute(postgres_url, "DROP ROLE IF EXISTS tq_guest")
    execute(postgres_url, "CREATE ROLE tq_guest LOGIN")
    try:
        url = urlsplit(postgres_url)
        guest = url._replace(netloc=f"tq_guest@{url.netloc.rpartition('@')[2]}").geturl()
        with pytest.raises(StorageUnavailable) as refused:
            PostgresStore(guest)
        assert 'CREATE SCHEMA "tq" AUTHORIZATION "tq_guest";' in refused.value.message
        execute(postgres_url, "CREATE SCHEMA tq AUTHORIZATION tq_guest")
        PostgresStore(guest).close()
    finally:
        execute(postgres_url, "DROP OWNED BY tq_guest CASCADE")
        execute(postgres_url, "DROP ROLE tq_guest")


def test_database_that_forgets_at_a_power_cut_is_refused_unless_asked_for(postgres_url: str) -> None:
    database = urlsplit(postgres_url).path.lstrip("/")
    execute(postgres_url, f"ALTER DATABASE {database} SET synchronous_commit = off")
    with pytest.raises(StorageError, match="has synchronous_commit = off, and would lose acknowledged"):
        PostgresStore(postgres_url)
    PostgresStore(postgres_url, durable=False).close()


@slow
def test_server_that_does_not_sync_is_refused() -> None:
    with private_server(fsync="off", full_page_writes="off") as server:
        with pytest.raises(StorageError, match="has fsync = off, and would lose acknowledged"):
            PostgresStore(server.url())
        PostgresStore(server.url(), durable=False).close()


def test_version_that_is_too_old_is_refused_and_left_alone(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(postgres_url) as db:
        version = db.info.server_version // 10_000
        monkeypatch.setattr("tq.storage.postgres_link.VERSION_MIN", version + 1)
        with pytest.raises(StorageError, match=f"is version {version}: tq needs PostgreSQL {version + 1}"):
            PostgresStore(postgres_url)
        assert db.execute("SELECT to_regnamespace('tq')").fetchone() == (None,)


def test_database_in_another_encoding_is_refused(postgres_url: str) -> None:
    execute(postgres_url, "CREATE DATABASE tq_latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    try:
        with pytest.raises(
            StorageError, match="has the encoding LATIN1: make a database with ENCODING 'UTF8'"
        ):
            PostgresStore(urlsplit(postgres_url)._replace(path="/tq_latin").geturl())
    finally:
        execute(postgres_url, "DROP DATABASE tq_latin")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://u:s3cret@h/d?pool=1", "pool in the URL of the store is how many"),
        ("postgresql://u:s3cret@h/d?schema=", "schema in the URL of the store is the name"),
        ("postgresql://u:s3cret@h/d?prepare=maybe", "prepare in the URL of the store is on or off"),
        ("postgresql://u:s3cret@h/d?colour=red", "cannot be understood"),
        ("postgresql://u:s3cret@h:port/d", "cannot be understood"),
        ("postgresq://u:s3cret@h/d", "cannot open store 'postgresq'"),
    ],
)
def test_url_that_is_wrong_is_refused_without_the_password(url: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(told)) as refused:
        open_store(url)
    assert "s3cret" not in repr(refused.value)


def test_missing_driver_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("tq.storage.postgres")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InvalidInput, match=re.escape("pip install 'tq[postgres]'")):
        open_store("postgresql://h/d")


def test_options_of_the_url_are_kept_to(postgres_url: str) -> None:
    schema = 'we"ird, n\u00e4me'
    url = f"{postgres_url}?schema={quote(schema)}&pool=2&prepare=off"
    with closing(open_store(url)) as store:
        submit(store, "a")
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda _: state(store, "a"), range(40))) == [State.PENDING] * 40
        with psycopg.connect(postgres_url) as db:
            asked = db.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE application_name = 'tq' AND datname = current_database()"
            )
            assert asked.fetchone() == (2,)
            known = db.execute("SELECT count(*) FROM pg_namespace WHERE nspname = %s", (schema,))
            assert known.fetchone() == (1,)


# The clock


def test_clock_of_the_database_judges(empty_schema: Schema) -> None:
    with closing(PostgresStore(empty_schema.url)) as store:
        submit(store, "a", now=NOW)
        created_at = task(store, "a").created_at
        assert created_at > NOW + 10**10
        assert store.judged_at == created_at
        do(store, ops.Beat(THERE), NOW)
        assert store.beat(THERE, NOW)
        assert all(created_at <= seen_at < created_at + 60_000 for _, seen_at in store.snapshot().servers)
        claim(store, by=THERE)
        # Who asks has a clock that is years behind: a minute ago by it is a minute ago.
        assert do(store, ops.Recover(HERE, NOW - 60_000), NOW) == ops.Recovered()
        assert do(store, ops.Recover(HERE, NOW + 60_000), NOW) == ops.Recovered(pending=1)


# What the tables become


def test_counters_of_who_has_gone_are_folded_into_those_of_who_prunes(
    open_empty_postgres: Callable[[], PostgresStore], empty_schema: Schema
) -> None:
    for name in ("a", "b", "c"):
        with closing(open_empty_postgres()) as store:
            submit(store, name)
    with closing(open_empty_postgres()) as store, psycopg.connect(empty_schema.server, autocommit=True) as db:
        writers = f"SELECT count(DISTINCT writer) FROM {empty_schema.name}.counters"
        assert db.execute(writers).fetchone() == (3,)
        do(store, ops.Prune())
        assert db.execute(writers).fetchone() == (1,)
        assert store.read(queries.GetStats()).submitted == 3
        assert store.read(queries.GetStats()).count(State.PENDING) == 3


def test_lane_is_forgotten_with_its_last_task_but_not_under_a_new_one(
    open_empty_postgres: Callable[[], PostgresStore], empty_schema: Schema
) -> None:
    with closing(open_empty_postgres()) as store, psycopg.connect(empty_schema.server) as stranger:
        lease = running(store, "a")
        do(store, finish(lease))
        lanes = f"SELECT count(*) FROM {empty_schema.name}.lanes"
        stranger.execute(f"SELECT 1 FROM {empty_schema.name}.lanes FOR KEY SHARE")
        do(store, ops.Delete(TaskId("a")))
        assert stranger.execute(lanes).fetchone() == (1,)
        stranger.rollback()
        do(store, finish(running(store, "b")))
        do(store, ops.Delete(TaskId("b")))
        assert stranger.execute(lanes).fetchone() == (0,)


def test_many_starts_end_in_a_vacuum(
    open_empty_postgres: Callable[[], PostgresStore], empty_schema: Schema
) -> None:
    def vacuums() -> int:
        asked = "SELECT vacuum_count FROM pg_stat_user_tables WHERE relid = %s::regclass"
        with psycopg.connect(empty_schema.server) as db:
            [(count,)] = db.execute(asked, (f"{empty_schema.name}.lives",)).fetchall()
        return int(count)

    before = vacuums()
    with closing(open_empty_postgres()) as store:
        assert store._tidying is not None
        store._tidying._started_max = 10
        submit(store, *(f"task-{n}" for n in range(10)))
        claim(store, 10)
        # It is free again once it is done.
        assert store._tidying._busy.acquire(timeout=10)
        store._tidying._busy.release()
    assert vacuums() == before + 1


STATEMENTS = {
    name: text
    for name, text in vars(postgres_sql).items()
    if isinstance(text, str) and re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b", text) and name[0] != "_"
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_statement_of_a_batch_goes_through_all_tasks(empty_schema: Schema, name: str) -> None:
    text = STATEMENTS[name]
    count = max((int(number) for number in re.findall(r"\$(\d+)", text)), default=0)
    target = postgres_link.parse_url(empty_schema.url)
    with closing(postgres_link.connect(target, application="tq", durable=False)) as db:
        db.execute(f"PREPARE asked AS {text}", prepare=False)
        nulls = f"({', '.join(['NULL'] * count)})" if count else ""
        plan = "\n".join(row[0] for row in db.execute(f"EXPLAIN EXECUTE asked{nulls}", prepare=False))
    assert not re.search(r"Seq Scan on (tasks|lives|errors|logs|tags|requests|counters)\b", plan), plan
    if name in ("SELECT_HEADS", "CLAIM_LANE", "CLAIM_LANES", "SELECT_AGING_HEADS", "SELECT_STREAMS"):
        assert "using lives_pending on lives" in plan
        assert "Sort  " not in plan or name == "CLAIM_LANES"


ORDERED = {"CLAIM_LANE": "lives_pending", "SELECT_HEADS": "lives_pending", "SELECT_DUE": "lives_timed"}
"""Statements that give the first of an order, and the indexes that have it."""
INSERT_ENDED = """
INSERT INTO tq.lives (seq, lane, run_at, timeout_ms, max_attempts, state, urgency)
SELECT n, 1, n, 5000, 20, 5, 0 FROM generate_series(1, 20000) AS n
"""


def test_what_is_first_is_not_sorted_for_however_little_waited_when_it_was_planned(postgres_url: str) -> None:
    PostgresStore(postgres_url).close()
    execute(postgres_url, INSERT_ENDED)
    execute(postgres_url, "VACUUM (ANALYZE) tq.tasks, tq.lives")
    target = postgres_link.parse_url(postgres_url)
    with closing(postgres_link.connect(target, application="tq", durable=False)) as db:
        for name, index in ORDERED.items():
            text = STATEMENTS[name]
            count = max((int(number) for number in re.findall(r"\$(\d+)", text)), default=0)
            db.execute(f"PREPARE {name} AS {text}", prepare=False)
            nulls = f"({', '.join(['NULL'] * count)})" if count else ""
            plan = "\n".join(row[0] for row in db.execute(f"EXPLAIN EXECUTE {name}{nulls}", prepare=False))
            assert f"using {index} on lives" in plan, plan
            assert "Sort  " not in plan, plan


def test_refusals_are_told_apart_from_bugs(store: PostgresStore) -> None:
    [refused] = store.apply([ops.Release(TaskId("a"), 1)], NOW)
    assert isinstance(refused, TqError)
    with pytest.raises(psycopg.DataError):
        store.apply([ops.Release(TaskId("a\0"), 1)], NOW)
    submit(store, "still-answers")
