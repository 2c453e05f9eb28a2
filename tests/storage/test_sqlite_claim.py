"""What is SQLite's own of claims: what they cost, and what of rules, turns and rates outlives a restart."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import apsw
import pytest
from sqlite_kit import BY_LANE, BY_SEQ, plan, said, work
from storage_kit import HERE, NOW, claim, claimed, do, finish, new, recount, submit, task

from tq.core import ops, queries
from tq.core.limits import Limits, Order, QueueRules, Rate
from tq.core.ops import Claim, Claimed, PauseQueue, SetQueue
from tq.core.queries import GetStats
from tq.core.task import AttemptError, Reason, State
from tq.storage import sqlite_claim, sqlite_pick, sqlite_sql
from tq.storage.sqlite import SqliteStore
from tq.storage.sqlite_file import APPLICATION_ID

ONE_A_MINUTE = Rate(limit=1, period_ms=60_000, burst=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tq.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(path, durable=False)
    yield opened
    opened.close()


def crowd(store: SqliteStore, count: int, prefix: str = "t", *, keys: int = 0, **given: object) -> None:
    """*count* pending tasks; with *keys*, of so many keys by turns."""
    for start in range(0, count, 1_000):
        numbers = range(start, min(start + 1_000, count))
        key = {n: f"k{n % keys}" if keys else None for n in numbers}
        tasks = (new(f"{prefix}{n}", key=key[n], **given) for n in numbers)  # type: ignore[arg-type]
        do(store, ops.SubmitMany(tuple(tasks)))


def spread(store: SqliteStore, count: int) -> None:
    """*count* pending tasks of forty priorities."""
    do(store, ops.SubmitMany(tuple(new(f"p{n}", priority=n % 40) for n in range(count))))


def work_of_claim(store: SqliteStore, limit: int = 10) -> int:
    """What it takes to claim *limit* tasks, which must be there, and to give them back."""

    def claim_and_release() -> bool:
        leases = claim(store, limit)
        store.apply([ops.Release(lease.task_id, lease.generation) for lease in leases], NOW)
        return len(leases) == limit

    return work(store._writer, claim_and_release)


# Cost


@pytest.mark.parametrize(
    ("statement", "steps"),
    [
        (sqlite_claim.select_waiting(1), [BY_LANE, BY_SEQ]),
        (sqlite_claim.select_waiting(4), [BY_LANE] * 4 + [BY_SEQ]),
        (sqlite_claim.select_waiting(sqlite_claim.LANES_MERGED_MAX), [BY_LANE] * 128 + [BY_SEQ]),
        # Sorts the heads of lanes, one each.
        (sqlite_claim.SELECT_FIRST_LANES, [BY_SEQ, BY_LANE, "USE TEMP B-TREE FOR ORDER BY"]),
        (sqlite_claim.SELECT_PICKED, [BY_SEQ]),
        (sqlite_claim.UPDATE_CLAIMED, [BY_SEQ]),
        (sqlite_pick.SELECT_HEADS, [BY_LANE]),
        (
            sqlite_pick.SELECT_AGING_HEADS,
            [
                "SEARCH tasks USING COVERING INDEX tasks_pending (lane=? AND priority<?)",
                "SEARCH tasks USING COVERING INDEX tasks_pending (lane=? AND priority=?)",
            ],
        ),
        (
            sqlite_pick.SELECT_STREAMS,
            [BY_LANE, "SEARCH tasks USING COVERING INDEX tasks_pending (lane=? AND priority=?)"],
        ),
        (sqlite_sql.DELETE_EMPTY_LANES, ["SEARCH tasks USING COVERING INDEX tasks_by_lane (lane=?)"]),
    ],
)
def test_statement_goes_by_an_index(store: SqliteStore, statement: str, steps: list[str]) -> None:
    assert plan(store, statement) == steps


def test_claim_does_not_walk_past_unwanted_tasks(store: SqliteStore) -> None:
    crowd(store, 5_000, "u", type="other", priority=9)
    submit(store, "a", "b")

    assert work(store._writer, lambda: claimed(store, types=("email",))) < 3_000
    # Two lanes wanted: the merge goes no further than the limit.
    submit(store, "c")
    assert work(store._writer, lambda: claimed(store, 1)) < 3_000


@pytest.mark.parametrize("order", list(Order))
def test_claim_by_rules_costs_the_same_however_many_wait(store: SqliteStore, order: Order) -> None:
    do(store, SetQueue(queue="default", order=order, limits=Limits(concurrency=1_000)))
    spread(store, 800)
    few = work_of_claim(store)
    crowd(store, 10_000)
    crowd(store, 5_000, "l", priority=39)

    assert work_of_claim(store) < few * 1.5


@pytest.mark.parametrize(
    "held_back",
    [
        PauseQueue("held", True),
        SetQueue(queue="held", limits=Limits(concurrency=1)),
        SetQueue(queue="held", limits=Limits(rate=ONE_A_MINUTE)),
        SetQueue(queue="held", per_key=Limits(concurrency=1)),
        SetQueue(queue="held", per_key=Limits(rate=ONE_A_MINUTE), order=Order.AGING),
    ],
)
def test_queue_that_is_held_back_is_not_looked_at(
    store: SqliteStore, held_back: SetQueue | PauseQueue
) -> None:
    do(store, held_back)
    crowd(store, 20, "o", queue="other")
    without = work_of_claim(store)
    do(store, ops.Submit(new("first", queue="held", key="k0", priority=9)))
    claim(store, 1)
    crowd(store, 10_000, "h", queue="held", keys=1, priority=9)

    assert work_of_claim(store) < without * 2
    assert {lease.queue for lease in claim(store, 100)} == {"other"}


def test_keys_cost_a_handful_of_statements(store: SqliteStore) -> None:
    crowd(store, 2_000, keys=500)
    do(store, SetQueue(queue="default", per_key=Limits(concurrency=10)))

    with said(store._writer) as words:
        assert len(claim(store, 100)) == 100

    assert words == [
        "BEGIN",
        "SELECT",  # the heads of all lanes
        "SELECT",  # more of the first
        "SELECT",  # what leases need
        "UPDATE",
        "UPDATE",  # turns
        "INSERT",  # counters
        "COMMIT",
    ]


def test_ten_thousand_lanes_are_looked_into_once_each(store: SqliteStore) -> None:
    crowd(store, 10_000, keys=10_000)

    assert work(store._writer, lambda: len(claim(store, 100)) == 100) < 1_000_000


# Order


def test_key_with_a_deep_backlog_is_read_as_far_as_it_is_picked_from(store: SqliteStore) -> None:
    crowd(store, 300, "deep", keys=1)
    crowd(store, 20, "wide", keys=20, priority=-1)

    # k0 has both: its turn comes first, and alone at the higher priority.
    assert claimed(store, 100) == [f"deep{n}" for n in range(100)]
    assert claimed(store, 100) == [f"deep{n}" for n in range(100, 200)]


def test_lanes_of_one_key_are_read_on_before_the_other_goes_on(store: SqliteStore) -> None:
    crowd(store, 10, "low", keys=10, priority=-1)
    for n in range(5):
        do(store, ops.Submit(new(f"early{n}", key="x", type="a", run_at=NOW - 10 + n)))
        do(store, ops.Submit(new(f"late{n}", key="x", type="b", run_at=NOW - 5 + n)))

    assert claimed(store, 6) == ["early0", "early1", "early2", "early3", "early4", "late0"]


def test_many_lanes_of_one_key_count_as_one_in_turns(store: SqliteStore) -> None:
    for n in range(20):
        do(store, ops.Submit(new(f"many{n}", type=f"type{n}", key="many")))
    do(store, ops.Submit(new("one", key="one", run_at=NOW - 1)))
    assert claimed(store, 1) == ["one"]
    do(store, ops.Submit(new("another", key="one")))

    assert claimed(store, 3) == ["many0", "another", "many1"]


def test_more_queues_than_the_limit_give_their_first(store: SqliteStore) -> None:
    for n in range(30):
        do(store, ops.Submit(new(f"t{n}", queue=f"q{n}", key="k", priority=n)))

    assert claimed(store, 3) == ["t29", "t28", "t27"]


# Restart


def test_turns_outlive_a_restart(path: Path) -> None:
    store = SqliteStore(path)
    crowd(store, 9, keys=3)
    assert claimed(store, 2) == ["t0", "t1"]
    store.close()

    store = SqliteStore(path)
    try:
        assert claimed(store, 4) == ["t2", "t3", "t4", "t5"]
    finally:
        store.close()


def test_turns_of_a_queue_without_keys_outlive_a_restart_when_a_key_comes(path: Path) -> None:
    store = SqliteStore(path)
    submit(store, "a", "b", "c", "d")
    assert claimed(store, 2) == ["a", "b"]
    do(store, ops.Submit(new("k1", key="k")))
    assert claimed(store, 2) == ["k1", "c"]
    do(store, ops.Submit(new("k2", key="k")))
    store.close()

    store = SqliteStore(path)
    try:
        assert claimed(store) == ["k2", "d"]
    finally:
        store.close()


def test_queue_that_was_served_before_a_restart_waits_for_a_new_key(path: Path) -> None:
    store = SqliteStore(path)
    submit(store, "a", "b")
    assert claimed(store, 1) == ["a"]
    store.close()

    store = SqliteStore(path)
    try:
        do(store, ops.Submit(new("k", key="k")))
        assert claimed(store) == ["k", "b"]
    finally:
        store.close()


def test_turns_are_written_only_where_keys_share_a_queue(store: SqliteStore) -> None:
    submit(store, *"abcd")
    claim(store)
    with said(store._writer) as words:
        claim(store)
    assert words == ["BEGIN", "SELECT", "UPDATE", "INSERT", "COMMIT"]

    do(store, ops.Submit(new("k", key="k")))
    claim(store)
    with said(store._writer) as words:
        claim(store)
    assert words == ["BEGIN", "SELECT", "UPDATE", "UPDATE", "INSERT", "COMMIT"]


def test_rules_and_rates_outlive_a_restart(path: Path) -> None:
    store = SqliteStore(path)
    limits = Limits(concurrency=5, rate=ONE_A_MINUTE)
    do(store, SetQueue(queue="default", order=Order.AGING, limits=limits, per_key=limits))
    do(store, PauseQueue("idle", True))
    do(store, SetQueue(queue="plain"))
    crowd(store, 3, keys=1)
    assert claimed(store) == ["t0"]
    store.close()

    store = SqliteStore(path)
    try:
        assert store.read(queries.GetQueues()) == (
            ("default", QueueRules(order=Order.AGING, limits=limits, per_key=limits)),
            ("idle", QueueRules(paused=True)),
        )
        assert do(store, Claim(HERE, None, 9), NOW + 59_999) == Claimed((), NOW + 60_000)
        assert len(do(store, Claim(HERE, None, 9), NOW + 60_000).leases) == 1
    finally:
        store.close()


def test_rate_that_was_changed_begins_anew_after_a_restart_too(path: Path) -> None:
    store = SqliteStore(path)
    limits = Limits(rate=ONE_A_MINUTE)
    do(store, SetQueue(queue="default", limits=limits, per_key=limits))
    crowd(store, 3, keys=1)
    assert claimed(store) == ["t0"]
    other = Limits(rate=Rate(limit=1, period_ms=60_001, burst=1))
    do(store, SetQueue(queue="default", limits=other, per_key=other))
    store.close()

    store = SqliteStore(path)
    try:
        assert claimed(store) == ["t1"]
    finally:
        store.close()


# What is kept


def test_lanes_that_nobody_uses_any_more_are_forgotten(store: SqliteStore) -> None:
    for n in range(50):
        do(store, ops.Submit(new(f"t{n}", queue=f"q{n}", key=f"k{n}", result_ttl_ms=0)))
    store.apply([finish(lease) for lease in claim(store, 50) if lease.task_id != "t0"], NOW)
    do(store, ops.Prune())

    assert store._writer.execute("SELECT queue, key FROM lanes").fetchall() == [("q0", "k0")]
    assert store._writer.execute("SELECT DISTINCT lane FROM counters WHERE lane > 0").fetchall() == [(1,)]
    book = store._book
    assert book is not None
    assert (book.lanes, book.names) == ({("q0", "email", "k0"): 1}, {1: ("q0", "email", "k0")})
    assert (book.keys, list(book.served), book.running) == ({"q0": {"k0": {1}}}, [1], {1: 1})


@pytest.mark.parametrize("restart", [False, True])
def test_lane_that_comes_back_has_never_been_served(path: Path, restart: bool) -> None:
    store = SqliteStore(path)
    crowd(store, 2, keys=2, result_ttl_ms=0)
    leases = claim(store, 2)
    store.apply([finish(leases[0]), ops.Prune(), ops.Submit(new("back", key="k0"))], NOW)
    do(store, ops.Submit(new("next", key="k1", run_at=NOW - 5)))
    if restart:
        store.close()
        store = SqliteStore(path)
    try:
        assert claimed(store, 2) == ["back", "next"]
    finally:
        store.close()


def test_key_whose_last_served_lane_is_gone_has_the_turn_of_its_others(store: SqliteStore) -> None:
    for name, key, type in (("x1", "x", "a"), ("y1", "y", "a"), ("x2", "x", "b")):
        do(store, ops.Submit(new(name, key=key, type=type, result_ttl_ms=0)))
        [lease] = claim(store)
        if type == "b":
            store.apply([finish(lease), ops.Prune()], NOW)
    do(store, ops.Submit(new("y3", key="y", type="a")))
    do(store, ops.Submit(new("x3", key="x", type="a")))

    assert claimed(store) == ["x3", "y3"]


def test_rates_that_hold_nothing_back_are_forgotten_in_time(store: SqliteStore) -> None:
    do(store, SetQueue(queue="default", per_key=Limits(rate=ONE_A_MINUTE)))
    crowd(store, 3, keys=3)
    claim(store, 3)
    do(store, ops.Prune(), NOW + 59_999)
    assert store._writer.execute("SELECT count(*) FROM rates").get == 3

    do(store, ops.Prune(), NOW + 60_000)

    assert store._writer.execute("SELECT count(*) FROM rates").get == 0
    assert store._book is not None
    assert store._book.tats == {}


def test_store_of_version_1_keeps_its_tasks(path: Path) -> None:
    db = apsw.Connection(str(path))
    db.execute(files("tq.storage").joinpath("migrations", "sqlite", "0001_tasks.sql").read_text())
    db.pragma("application_id", APPLICATION_ID)
    db.pragma("user_version", 1)
    db.execute(f"""
        INSERT INTO lanes VALUES (3, 'default', 'email'), (5, 'mail', 'email');
        INSERT INTO tasks (seq, id, lane, state, priority, run_at, max_attempts, timeout_ms, created_at,
                           retry, payload)
        VALUES (1, 'a', 3, 2, 0, {NOW}, 3, 5000, {NOW}, '{{}}', '1'),
               (2, 'b', 5, 2, 1, {NOW}, 3, 5000, {NOW}, '{{}}', '2');
        INSERT INTO tasks (seq, id, lane, state, priority, run_at, max_attempts, timeout_ms, created_at,
                           retry, finished_at, failures)
        VALUES (3, 'long', 3, 6, 0, {NOW}, 3, 5000, {NOW}, '{{}}', {NOW}, 1);
        INSERT INTO texts VALUES (3, 0, '"payload"'), (3, 1, '"result"');
        INSERT INTO errors VALUES (3, 0, 0,
            '{{"attempt":1,"at":5,"reason":"error","type":"E","message":"no"}}');
        INSERT INTO counters VALUES (3, 2, 1), (5, 2, 1), (3, 6, 1), (0, 100, 3), (0, 6, 1);
    """)
    db.close()

    store = SqliteStore(path)
    try:
        assert [(lease.task_id, lease.queue, lease.key) for lease in claim(store, 1)] == [("b", "mail", None)]
        do(store, ops.Submit(new("c")))
        do(store, ops.Submit(new("k", key="")))
        assert claimed(store) == ["a", "k", "c"]
        assert task(store, "a").state is State.RUNNING
        long = task(store, "long")
        assert (long.payload, long.result) == ('"payload"', '"result"')
        assert long.errors == (AttemptError(1, 5, Reason.ERROR, "E", "no"),)
        assert store.read(GetStats()).lanes == recount(store)
        assert store._writer.execute("SELECT id, queue, key FROM lanes").fetchall() == [
            (3, "default", None),
            (5, "mail", None),
            (6, "default", ""),
        ]
    finally:
        store.close()
