"""What must not cost more for what is kept: work that is done every second, or at every claim."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg
import pytest
from postgres_place import Schema
from storage_kit import NOW, do, finish, new, running

from tq.core import ops
from tq.core.limits import Limits
from tq.core.queries import GetNews
from tq.core.task import ServerId
from tq.storage import postgres_fleet, postgres_sql
from tq.storage.postgres import PostgresStore

pytest_plugins = ("postgres_kit",)

KEPT = 5_000


@pytest.fixture
def store(open_empty_postgres: Callable[[], PostgresStore]) -> Iterator[PostgresStore]:
    with closing(open_empty_postgres()) as opened:
        yield opened


@pytest.fixture
def keyed(store: PostgresStore, empty_schema: Schema) -> PostgresStore:
    """A store that keeps the ended tasks of many keys."""
    with psycopg.connect(empty_schema.server, autocommit=True) as db:
        db.execute(f"SET search_path = {empty_schema.name}")
        db.execute(
            "INSERT INTO lanes (queue, type, key)"
            " SELECT 'default', 'mine', 'user-' || n FROM generate_series(1, %s) AS n",
            (KEPT,),
        )
        db.execute("INSERT INTO counters (writer, lane, state, count) SELECT 1, id, 3, 0 FROM lanes")
        db.execute("VACUUM (ANALYZE) lanes, counters")
    return store


def most_rows(store: PostgresStore, statement: str, *parameters: str | int | bool | None) -> int:
    """The most rows that a step of *statement* goes through, however often."""
    with store._readers.lend() as db:
        [(found,)] = db.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters).fetchall()

    def steps(plan: dict[str, object]) -> Iterator[float]:
        yield float(plan["Actual Rows"]) * float(plan["Actual Loops"])  # type: ignore[arg-type]
        yield float(plan["Actual Loops"])  # type: ignore[arg-type]
        for part in plan.get("Plans", ()):  # type: ignore[attr-defined]
            yield from steps(part)

    return round(max(steps(found[0]["Plan"])))


def indexes(store: PostgresStore, statement: str, *parameters: str | int) -> Counter[str]:
    """The names of the indexes that *statement* goes through, and at how many places."""
    with store._readers.lend() as db:
        [(found,)] = db.execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters).fetchall()
    return Counter(re.findall(r"'Index Name': '(\w+)'", str(found)))


def test_news_does_not_look_at_lanes_in_which_nothing_waits(keyed: PostgresStore) -> None:
    nothing = ("{}", "{}", "{}", "{}")
    asked = ("{mine}", True, "us", NOW, NOW, NOW, *nothing)
    assert most_rows(keyed, postgres_fleet.SELECT_NEWS, *asked) < 20
    assert not keyed.read(GetNews(types=("mine",))).pending


def test_claim_of_a_queue_with_rules_counts_only_what_runs(keyed: PostgresStore) -> None:
    running(keyed, "a")
    assert most_rows(keyed, postgres_sql.SELECT_RUNNING, "{default}") < 20


def test_claims_find_their_rows_however_few_there_were_when_they_were_counted(
    store: PostgresStore, empty_schema: Schema
) -> None:
    """As in a burst after a night without work."""
    do(store, ops.Submit(new("first")))
    with psycopg.connect(empty_schema.server, autocommit=True) as db:
        db.execute(f"SET search_path = {empty_schema.name}")
        db.execute("VACUUM (ANALYZE) lives, tasks, lanes")
    do(store, ops.SubmitMany(tuple(new(f"t{n}") for n in range(1_000))))
    by_number = {"lives_pkey", "lives_waiting", "tasks_pkey"}
    assert set(indexes(store, postgres_sql.CLAIM_PICKED, "{1}", 1, NOW, "us")) <= by_number
    for found in (
        indexes(store, postgres_sql.CLAIM_LANE, 1, 5, NOW, "us", 0, 0, 0),
        indexes(store, postgres_sql.CLAIM_LANES, "{1}", 5, NOW, "us", 5, "{0}", "{0}", "{0}"),
    ):
        # Only to find the first that wait.
        assert found.pop("lives_pending") == 1
        assert set(found) <= by_number


def test_what_a_batch_has_started_itself_counts_against_its_limits(store: PostgresStore) -> None:
    do(store, ops.SetQueue(queue="default", limits=Limits(concurrency=3)))
    do(store, ops.SubmitMany(tuple(new(f"t{n}") for n in range(9))))
    us = ops.Claim(ServerId("us"), None, 2)
    first, second = store.apply([us, us], NOW)
    assert isinstance(first, ops.Claimed)
    assert isinstance(second, ops.Claimed)
    assert (len(first.leases), len(second.leases)) == (2, 1)
    _, third = store.apply([finish(first.leases[0]), us], NOW)
    assert isinstance(third, ops.Claimed)
    assert len(third.leases) == 1


def test_prune_comes_again_until_all_counters_are_folded(store: PostgresStore, empty_schema: Schema) -> None:
    with psycopg.connect(empty_schema.server, autocommit=True) as db:
        db.execute(
            f"INSERT INTO {empty_schema.name}.counters (writer, lane, state, count)"
            " SELECT -n, 1, 5, 1 FROM generate_series(1, 1500) AS n"
        )
    assert do(store, ops.Prune()) == ops.Swept(0, more=True)
    assert do(store, ops.Prune()) == ops.Swept(0)
    with psycopg.connect(empty_schema.server) as db:
        rows = db.execute(f"SELECT count, writer > 0 FROM {empty_schema.name}.counters").fetchall()
    assert rows == [(1500, True)]


def test_prune_comes_again_until_all_old_idempotency_keys_are_gone(store: PostgresStore) -> None:
    for at in range(0, 1_500, 500):
        store.apply(
            [ops.Submit(new(f"t{n}"), ops.RequestKey(f"r{n}", "d")) for n in range(at, at + 500)], NOW
        )
    later = NOW + ops.REQUEST_KEPT_MS
    assert do(store, ops.Prune(), later) == ops.Swept(0, more=True)
    assert do(store, ops.Prune(), later) == ops.Swept(0)
