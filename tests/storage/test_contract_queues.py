"""Every store: the rules of queues, and what they let through."""

from __future__ import annotations

from collections import Counter

import pytest
from storage_kit import HERE, NOW, claimed, do, failure, finish, new, refusal, submit
from tiers import slow

from tq.core import ops, queries
from tq.core.errors import Conflict
from tq.core.limits import Limits, Order, QueueRules, Rate
from tq.core.ops import Claimed
from tq.core.task import ServerId, TaskId
from tq.storage.store import Store

pytest_plugins = ("every_store",)

A = TaskId("a")
MINUTE = 60_000
TEN_A_SECOND = Rate(limit=10, period_ms=1_000, burst=3)
"""One each 100 ms, and three at once."""


def rule(
    store: Store,
    queue: str = "default",
    *,
    order: Order = Order.STRICT,
    concurrency: int | None = None,
    rate: Rate | None = None,
    key_concurrency: int | None = None,
    key_rate: Rate | None = None,
) -> QueueRules:
    limits = Limits(concurrency=concurrency, rate=rate)
    per_key = Limits(concurrency=key_concurrency, rate=key_rate)
    return do(store, ops.SetQueue(queue=queue, order=order, limits=limits, per_key=per_key))


def many(store: Store, prefix: str, count: int, *, key: str | None = None, queue: str = "default") -> None:
    """Tasks *prefix*0, *prefix*1 and so on."""
    do(store, ops.SubmitMany(tuple(new(f"{prefix}{n}", key=key, queue=queue) for n in range(count))))


def look(
    store: Store, now: int = NOW, *, limit: int = 100, types: tuple[str, ...] | None = None
) -> tuple[str, int | None, bool]:
    """What a claim gives, with spaces between the names, and what it says of those held back."""
    found: Claimed = do(store, ops.Claim(HERE, types, limit), now)
    return (" ".join(lease.task_id for lease in found.leases), found.again_at, found.is_capped)


def polled(store: Store, every_ms: int, for_ms: int) -> Counter[str | None]:
    """How many tasks of each key a claim each *every_ms* starts within *for_ms*."""
    starts: Counter[str | None] = Counter()
    for at in range(NOW, NOW + for_ms, every_ms):
        starts.update(lease.key for lease in do(store, ops.Claim(HERE, None, 100), at).leases)
    return starts


def done(store: Store, name: str) -> None:
    do(store, ops.Release(TaskId(name), 1))
    do(store, ops.Cancel(TaskId(name)))


# Rules


def test_queue_is_answered_by_the_rules_it_has_now(store: Store) -> None:
    first = rule(store, "q", order=Order.AGING, concurrency=2, key_rate=TEN_A_SECOND)

    assert first == QueueRules(
        order=Order.AGING, limits=Limits(concurrency=2), per_key=Limits(rate=TEN_A_SECOND), paused=False
    )
    # What is not said is as in a queue without rules, not as it was.
    assert rule(store, "q", key_concurrency=1) == QueueRules(per_key=Limits(concurrency=1))
    assert store.read(queries.GetQueues()) == (("q", QueueRules(per_key=Limits(concurrency=1))),)


def test_queues_with_rules_are_listed_by_name(store: Store) -> None:
    for name in ("b", "a", "B", "c"):
        rule(store, name, concurrency=1)

    assert [name for name, _ in store.read(queries.GetQueues())] == ["B", "a", "b", "c"]
    assert store.snapshot().queues == store.read(queries.GetQueues())


def test_queue_whose_rules_are_those_of_every_queue_is_not_listed(store: Store) -> None:
    rule(store, "q", concurrency=1)
    assert rule(store, "q") == QueueRules()
    assert store.read(queries.GetQueues()) == ()

    assert do(store, ops.PauseQueue("q", True)) == QueueRules(paused=True)
    assert do(store, ops.PauseQueue("q", False)) == QueueRules()
    assert do(store, ops.PauseQueue("never heard of", False)) == QueueRules()
    assert store.read(queries.GetQueues()) == ()


def test_new_rules_leave_a_paused_queue_paused(store: Store) -> None:
    rule(store, "q", concurrency=1)
    do(store, ops.PauseQueue("q", True))

    assert rule(store, "q", concurrency=2) == QueueRules(limits=Limits(concurrency=2), paused=True)
    assert rule(store, "q") == QueueRules(paused=True)
    assert do(store, ops.PauseQueue("q", False)) == QueueRules()


@slow
def test_thousand_queues_have_rules_and_no_more(store: Store) -> None:
    one = Limits(concurrency=1)
    replies = store.apply([ops.SetQueue(queue=f"q{n}", limits=one) for n in range(1_000)], NOW)
    assert replies == [QueueRules(limits=one)] * 1_000

    refused = refusal(Conflict, store, ops.SetQueue(queue="x", limits=one))
    assert (
        refused.message == "there are 1000 queues with rules already, which is all there may be: remove one"
    )
    assert refused.fields == {"limit": 1_000}
    refusal(Conflict, store, ops.PauseQueue("x", True))

    # Those that are there may change, and one that has none needs no place.
    assert rule(store, "q7", concurrency=2) == QueueRules(limits=Limits(concurrency=2))
    assert do(store, ops.PauseQueue("q7", True)).paused
    assert rule(store, "x") == QueueRules()
    assert rule(store, "q8") == QueueRules()
    assert do(store, ops.PauseQueue("x", True)) == QueueRules(paused=True)
    refusal(Conflict, store, ops.SetQueue(queue="q8", limits=one))
    assert len(store.read(queries.GetQueues())) == 1_000


# Pause


def test_nothing_of_a_paused_queue_is_claimed(store: Store) -> None:
    many(store, "p", 2, queue="p")
    many(store, "q", 2, queue="q")
    do(store, ops.PauseQueue("p", True))

    assert look(store) == ("q0 q1", None, False)
    submit(store, "x")
    do(store, ops.PauseQueue("default", True))
    assert look(store) == ("", None, False)

    do(store, ops.PauseQueue("p", False))
    assert look(store) == ("p0 p1", None, False)


def test_what_runs_in_a_paused_queue_goes_on(store: Store) -> None:
    submit(store, "a")
    [lease] = do(store, ops.Claim(HERE, None, 1)).leases
    do(store, ops.PauseQueue("default", True))

    assert do(store, finish(lease)).state == "succeeded"


def test_paused_queue_takes_new_tasks_and_promotes(store: Store) -> None:
    do(store, ops.PauseQueue("default", True))
    do(store, ops.Submit(new("a", run_at=NOW + 5)))

    assert do(store, ops.Promote(), NOW + 5) == ops.Swept(1)
    assert look(store, NOW + 5) == ("", None, False)


# How many at a time


def test_no_more_of_a_queue_run_than_may(store: Store) -> None:
    rule(store, concurrency=2)
    many(store, "a", 4)

    assert look(store) == ("a0 a1", None, True)
    assert look(store) == ("", None, True)
    done(store, "a0")
    assert look(store) == ("a2", None, True)
    done(store, "a1")
    done(store, "a2")
    # With the last one nothing is held back any more.
    assert look(store) == ("a3", None, False)


def test_cap_counts_all_types_and_no_other_queue(store: Store) -> None:
    rule(store, "q", concurrency=2)
    for name, type, queue in (("a", "t1", "q"), ("b", "t2", "q"), ("c", "t1", "q"), ("d", "t1", "p")):
        do(store, ops.Submit(new(name, type=type, queue=queue)))

    assert look(store, types=("t2",)) == ("b", None, False)
    assert look(store, types=("t1",)) == ("a d", None, True)
    assert look(store, types=("t2",)) == ("", None, False)


def test_limit_of_the_claim_holds_nobody_back(store: Store) -> None:
    rule(store, concurrency=2, rate=TEN_A_SECOND)
    many(store, "a", 2)

    assert look(store, limit=1) == ("a0", None, False)


def test_cap_lowered_below_what_runs_waits_for_it(store: Store) -> None:
    many(store, "a", 4)
    assert look(store, limit=3)[0] == "a0 a1 a2"
    rule(store, concurrency=2)

    done(store, "a0")
    assert look(store) == ("", None, True)
    done(store, "a1")
    assert look(store) == ("a3", None, False)


def test_no_more_of_a_key_run_than_may(store: Store) -> None:
    rule(store, key_concurrency=1)
    many(store, "a", 3, key="A")
    many(store, "b", 2, key="B")
    # The tasks without a key are not those of one key.
    many(store, "n", 3)

    assert look(store) == ("a0 b0 n0 n1 n2", None, True)
    done(store, "b0")
    assert look(store) == ("b1", None, True)
    done(store, "a0")
    assert look(store) == ("a1", None, True)


def test_cap_of_a_key_counts_all_types_and_no_other_queue(store: Store) -> None:
    rule(store, "q", key_concurrency=1)
    for name, type, queue in (("a", "t1", "p"), ("b", "t1", "p"), ("c", "t1", "q"), ("d", "t2", "q")):
        do(store, ops.Submit(new(name, type=type, queue=queue, key="A")))

    assert look(store) == ("a b c", None, True)


def test_both_caps_hold(store: Store) -> None:
    rule(store, concurrency=3, key_concurrency=2)
    many(store, "a", 5, key="A")
    many(store, "b", 5, key="B")

    assert look(store) == ("a0 b0 a1", None, True)
    done(store, "b0")
    assert look(store) == ("b1", None, True)


@pytest.mark.parametrize("how", ["release", "crash", "recover", "cancel"])
def test_place_is_free_however_the_attempt_ended(store: Store, how: str) -> None:
    rule(store, concurrency=1)
    many(store, "a", 1)
    [lease] = do(store, ops.Claim(HERE, None, 1)).leases
    do(store, ops.Submit(new("first", priority=1)))
    assert look(store) == ("", None, True)
    match how:
        case "release":
            do(store, ops.Release(lease.task_id, 1))
        case "crash":
            do(store, ops.Crash(lease.task_id, 1, failure(1)))
        case "recover":
            do(store, ops.Recover(ServerId("us"), NOW))
        case _:
            do(store, ops.Cancel(lease.task_id))
            # It runs until it has stopped.
            assert look(store) == ("", None, True)
            do(store, finish(lease))

    assert look(store)[0] == "first"


# How often


def test_rate_of_a_queue_over_five_seconds(store: Store) -> None:
    rule(store, rate=TEN_A_SECOND)
    many(store, "a", 100)

    # 3 at 0 ms, then one at 100, 200, …, 4,900 ms: 3 + 49.
    assert polled(store, 50, 5_000) == {None: 52}


def test_rate_of_each_key_over_five_seconds(store: Store) -> None:
    rule(store, key_rate=TEN_A_SECOND)
    many(store, "a", 100, key="A")
    many(store, "b", 100, key="B")
    many(store, "n", 70)

    # 52 of each key; those without a key all at 0 ms, or as soon as a claim has room.
    assert polled(store, 50, 5_000) == {"A": 52, "B": 52, None: 70}


def test_both_rates_hold(store: Store) -> None:
    rule(store, rate=TEN_A_SECOND, key_rate=Rate(limit=5, period_ms=1_000, burst=1))
    many(store, "a", 100, key="A")
    many(store, "b", 100, key="B")

    # Each key one each 200 ms, at 0, 200, …, 4,800 ms: 25; the two together are just what the queue allows.
    assert polled(store, 50, 5_000) == {"A": 25, "B": 25}


def test_rate_of_the_queue_is_shared_by_turns(store: Store) -> None:
    rule(store, rate=TEN_A_SECOND)
    many(store, "a", 100, key="A")
    many(store, "b", 100, key="B")

    # 52 in all, as above.
    assert polled(store, 50, 5_000) == {"A": 26, "B": 26}


def test_rate_counts_all_types(store: Store) -> None:
    rule(store, rate=TEN_A_SECOND)
    for n in range(10):
        do(store, ops.Submit(new(f"a{n}", type=f"t{n % 2}")))

    assert look(store, types=("t0",), limit=2) == ("a0 a2", None, False)
    assert look(store, types=("t1",)) == ("a1", NOW + 100, False)


def test_claim_tells_when_a_rate_lets_the_next_through(store: Store) -> None:
    rule(store, rate=TEN_A_SECOND)
    many(store, "a", 5)

    assert look(store) == ("a0 a1 a2", NOW + 100, False)
    assert look(store, NOW + 99) == ("", NOW + 100, False)
    assert look(store, NOW + 100) == ("a3", NOW + 200, False)
    # With the last one nothing is held back any more.
    assert look(store, NOW + 200) == ("a4", None, False)


def test_instant_told_is_that_of_the_whole_millisecond_after(store: Store) -> None:
    rule(store, rate=Rate(limit=3, period_ms=1_000, burst=1))
    many(store, "a", 40)

    assert look(store) == ("a0", NOW + 334, False)
    assert look(store, NOW + 333) == ("", NOW + 334, False)
    assert look(store, NOW + 334)[0] == "a1"


@slow
@pytest.mark.timeout(240)  # 10,000 claims on PostgreSQL
def test_uneven_rate_polled_each_millisecond_is_kept(store: Store) -> None:
    rule(store, rate=Rate(limit=3, period_ms=1_000, burst=1))
    many(store, "a", 40)

    assert polled(store, 1, 10_000) == {None: 30}  # at 0, 334, 668, …, 9,686 ms


def test_idle_time_earns_no_more_than_the_burst(store: Store) -> None:
    rule(store, rate=TEN_A_SECOND)
    many(store, "a", 20)
    look(store)

    # 250 ms earn two, and half of one that is not lost.
    assert look(store, NOW + 250) == ("a3 a4", NOW + 300, False)
    assert look(store, NOW + 300)[0] == "a5"
    assert look(store, NOW + 60_000) == ("a6 a7 a8", NOW + 60_100, False)


def test_earliest_of_several_keys_is_told(store: Store) -> None:
    rule(store, key_rate=Rate(limit=1, period_ms=1_000, burst=1))
    many(store, "a", 2, key="A")
    assert look(store) == ("a0", NOW + 1_000, False)
    many(store, "b", 2, key="B")

    assert look(store, NOW + 300) == ("b0", NOW + 1_000, False)
    assert look(store, NOW + 1_000) == ("a1", NOW + 1_300, False)


def test_later_of_two_rates_is_told(store: Store) -> None:
    one_a_second = Rate(limit=1, period_ms=1_000, burst=1)
    rule(store, "p", rate=Rate(limit=1, period_ms=100, burst=1), key_rate=one_a_second)
    many(store, "p", 2, key="A", queue="p")
    rule(store, "q", rate=one_a_second, key_rate=Rate(limit=1, period_ms=100, burst=1))
    many(store, "q", 2, key="A", queue="q")

    assert look(store) == ("p0 q0", NOW + 1_000, False)


def test_cap_and_rate_are_both_told_of(store: Store) -> None:
    rule(store, "q1", concurrency=1)
    rule(store, "q2", rate=Rate(limit=1, period_ms=500, burst=1))
    many(store, "a", 2, queue="q1")
    many(store, "b", 2, queue="q2")

    assert look(store) == ("a0 b0", NOW + 500, True)
    assert look(store, types=("other",)) == ("", None, False)


def test_start_counts_even_if_it_is_given_back(store: Store) -> None:
    rule(store, rate=Rate(limit=1, period_ms=1_000, burst=1))
    submit(store, "a")
    look(store)

    do(store, ops.Release(A, 1))

    assert look(store, NOW + 999) == ("", NOW + 1_000, False)
    assert look(store, NOW + 1_000)[0] == "a"


def test_rate_outlasts_the_tasks_that_it_counted(store: Store) -> None:
    rule(store, rate=Rate(limit=1, period_ms=1_000, burst=1))
    do(store, ops.Submit(new("a", result_ttl_ms=0)))
    look(store)
    done(store, "a")
    assert do(store, ops.Prune()) == ops.Swept(1)
    submit(store, "b")

    assert look(store) == ("", NOW + 1_000, False)


def test_same_rules_again_do_not_forget_what_started(store: Store) -> None:
    rule(store, rate=TEN_A_SECOND)
    many(store, "a", 9)
    look(store)

    rule(store, rate=TEN_A_SECOND, concurrency=50)
    do(store, ops.PauseQueue("default", True))
    do(store, ops.PauseQueue("default", False))

    assert look(store) == ("", NOW + 100, False)


def test_new_rate_begins_anew(store: Store) -> None:
    rule(store, rate=Rate(limit=1, period_ms=3_600_000, burst=1))
    many(store, "a", 9)
    assert look(store) == ("a0", NOW + 3_600_000, False)

    rule(store, rate=TEN_A_SECOND)

    assert look(store, NOW + 1) == ("a1 a2 a3", NOW + 101, False)


# Turns


def test_late_tenant_does_not_wait_behind_a_thousand(store: Store) -> None:
    many(store, "a", 1_000, key="A")
    many(store, "b", 3, key="B")

    names = claimed(store, 10)

    assert names == ["a0", "b0", "a1", "b1", "a2", "b2", "a3", "a4", "a5", "a6"]


def test_turns_are_the_same_one_by_one(store: Store) -> None:
    many(store, "a", 1_000, key="A")
    many(store, "b", 3, key="B")

    names = [name for _ in range(8) for name in claimed(store, 1)]

    assert names == ["a0", "b0", "a1", "b1", "a2", "b2", "a3", "a4"]


def test_tenant_that_never_had_a_turn_is_next(store: Store) -> None:
    many(store, "a", 10, key="A")
    claimed(store, 5)
    many(store, "b", 2, key="B")
    many(store, "c", 2, key="C")

    assert claimed(store, 6) == ["b0", "c0", "a5", "b1", "c1", "a6"]


def test_tasks_without_a_key_take_turns_as_one(store: Store) -> None:
    many(store, "n", 4)
    many(store, "a", 2, key="A")
    many(store, "b", 2, key="B")

    assert claimed(store) == ["n0", "a0", "b0", "n1", "a1", "b1", "n2", "n3"]


def test_turns_are_of_the_key_not_of_the_type(store: Store) -> None:
    for name, type, key in (("a0", "t1", "A"), ("a1", "t2", "A"), ("b0", "t2", "B")):
        do(store, ops.Submit(new(name, type=type, key=key)))
    assert claimed(store, types=("t1",)) == ["a0"]

    assert claimed(store) == ["b0", "a1"]


def test_turns_are_of_each_queue_by_itself(store: Store) -> None:
    many(store, "p", 1, key="A", queue="p")
    assert claimed(store) == ["p0"]
    many(store, "a", 2, key="A", queue="q")
    many(store, "b", 2, key="B", queue="q")

    assert claimed(store) == ["a0", "b0", "a1", "b1"]


def test_priority_comes_before_turns(store: Store) -> None:
    for name, key, priority in (
        ("a0", "A", 0),
        ("a1", "A", 0),
        ("b0", "B", 0),
        ("b1", "B", 0),
        ("high a0", "A", 5),
        ("high a1", "A", 5),
    ):
        do(store, ops.Submit(new(name, key=key, priority=priority)))

    # A had two turns with those of high priority, so that B is next.
    assert claimed(store) == ["high a0", "high a1", "b0", "a0", "b1", "a1"]


def test_turns_come_before_the_time(store: Store) -> None:
    for name, key, run_at in (("a0", "A", -9), ("a1", "A", -8), ("b0", "B", 0), ("b1", "B", -1)):
        do(store, ops.Submit(new(name, key=key, run_at=NOW + run_at)))

    assert claimed(store) == ["a0", "b1", "a1", "b0"]


# Aging


@pytest.mark.parametrize(
    ("waited", "expected"),
    [
        (9 * MINUTE, ["normal", "low"]),
        (10 * MINUTE, ["normal", "low"]),
        (10 * MINUTE + 1, ["low", "normal"]),
        (11 * MINUTE, ["low", "normal"]),
    ],
)
def test_point_of_priority_is_a_head_start_of_a_minute(
    store: Store, waited: int, expected: list[str]
) -> None:
    rule(store, order=Order.AGING)
    do(store, ops.Submit(new("low", priority=-10, run_at=NOW - waited)))
    do(store, ops.Submit(new("normal")))

    assert claimed(store) == expected


def test_low_priority_waits_for_ever_unless_it_ages(store: Store) -> None:
    rule(store, "aging", order=Order.AGING)
    for queue in ("strict", "aging"):
        do(store, ops.Submit(new(f"{queue} low", type=queue, queue=queue, priority=-10)))

    order: dict[str, list[str]] = {"strict": [], "aging": []}
    for minute in range(13):
        for queue, names in order.items():
            at = NOW + minute * MINUTE
            do(store, ops.Submit(new(f"{queue} {minute}", type=queue, queue=queue, run_at=at)), at)
            names += claimed(store, 1, types=(queue,))

    assert order["strict"] == [f"strict {minute}" for minute in range(13)]
    assert order["aging"] == [*(f"aging {minute}" for minute in range(11)), "aging low", "aging 11"]


def test_those_of_one_age_go_by_priority_then_arrival(store: Store) -> None:
    rule(store, order=Order.AGING)
    for name, priority in (("a", 0), ("b", 1), ("c", 0), ("d", 2)):
        do(store, ops.Submit(new(name, priority=priority, run_at=NOW + priority * MINUTE)), NOW + 9 * MINUTE)

    assert claimed(store) == ["d", "b", "a", "c"]


def test_there_are_no_turns_where_tasks_age(store: Store) -> None:
    rule(store, order=Order.AGING)
    many(store, "a", 3, key="A")
    many(store, "b", 1, key="B")

    assert claimed(store) == ["a0", "a1", "a2", "b0"]


def test_new_order_counts_for_those_that_wait_already(store: Store) -> None:
    for name, priority, waited in (("a", -10, 11), ("b", 0, 0), ("c", -10, 9), ("d", -10, 12)):
        do(store, ops.Submit(new(name, priority=priority, run_at=NOW - waited * MINUTE)))

    rule(store, order=Order.AGING)
    assert claimed(store, 2) == ["d", "a"]
    rule(store, order=Order.STRICT)
    do(store, ops.Release(TaskId("d"), 1))
    assert claimed(store) == ["b", "d", "c"]


# Among queues


def test_first_tasks_of_all_queues_go_by_priority_then_time_then_arrival(store: Store) -> None:
    for name, queue, priority, run_at in (
        ("a", "q1", 0, 0),
        ("b", "q2", 0, -5),
        ("c", "q3", 1, 0),
        ("d", "q4", 0, 0),
        ("e", "q1", 0, -5),
    ):
        do(store, ops.Submit(new(name, queue=queue, priority=priority, run_at=NOW + run_at)))

    assert claimed(store) == ["c", "b", "e", "a", "d"]


def test_first_task_of_a_queue_stands_for_those_behind_it(store: Store) -> None:
    rule(store, "aging", order=Order.AGING)
    do(store, ops.Submit(new("low", queue="aging", priority=-10, run_at=NOW - 11 * MINUTE)))
    do(store, ops.Submit(new("normal", queue="aging")))
    do(store, ops.Submit(new("strict", queue="strict", priority=-5)))

    assert claimed(store) == ["strict", "low", "normal"]


def test_queue_at_its_limit_is_passed_over(store: Store) -> None:
    rule(store, "q1", concurrency=1)
    rule(store, "q2", rate=Rate(limit=1, period_ms=1_000, burst=1))
    for n, queue in enumerate(("q1", "q2", "q3") * 2):
        do(store, ops.Submit(new(f"{queue} {n}", queue=queue, priority=-n)))

    assert claimed(store) == ["q1 0", "q2 1", "q3 2", "q3 5"]
