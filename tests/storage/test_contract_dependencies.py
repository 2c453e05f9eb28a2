"""Every store: tasks that wait for others, and how they hear of their end."""

from __future__ import annotations

import pytest
from storage_kit import (
    DAY_MS,
    NOW,
    changed,
    claimed,
    do,
    fail,
    fates,
    new,
    put,
    refusal,
    settle,
    start,
    state,
    succeed,
    task,
)

from tq.core import ops, queries
from tq.core.errors import Conflict, InvalidInput
from tq.core.ops import Change, Changed, Submitted, Swept
from tq.core.task import OnFailure, Reason, State, TaskId
from tq.storage.store import Store

pytest_plugins = ("every_store",)

A, B, C = TaskId("a"), TaskId("b"), TaskId("c")


def after(*names: str) -> tuple[TaskId, ...]:
    return tuple(TaskId(name) for name in names)


# Waiting


def test_task_is_blocked_until_all_that_it_depends_on_have_succeeded(store: Store) -> None:
    put(store, "a")
    put(store, "b")
    assert put(store, "c", depends_on=after("a", "b")) is State.BLOCKED
    before = task(store, "c")
    assert before.blockers == 2
    assert claimed(store, types=("c",)) == []

    succeed(store, "b")
    assert state(store, "c") is State.BLOCKED
    assert do(store, ops.Settle()) == Changed(())
    assert task(store, "c") == changed(before, blockers=1)

    succeed(store, "a")
    assert do(store, ops.Settle(), NOW + 9) == Changed((Change(C, State.PENDING),))
    assert task(store, "c") == changed(before, state=State.PENDING, blockers=0)
    assert do(store, ops.Settle()) == Changed(())
    assert claimed(store) == ["c"]


def test_dependency_named_twice_is_one(store: Store) -> None:
    put(store, "a")
    put(store, "b", depends_on=after("a", "a"))
    assert task(store, "b").blockers == 1

    succeed(store, "a")

    assert settle(store) == [("b", "pending")]


def test_blocked_task_waits_for_no_clock(store: Store) -> None:
    put(store, "a", run_at=NOW + DAY_MS)
    put(store, "b", run_at=NOW + 10, depends_on=after("a"))

    assert do(store, ops.Promote(), NOW + 99) == Swept(0)
    assert store.read(queries.NextDue()) == NOW + DAY_MS
    assert state(store, "b") is State.BLOCKED


def test_task_waits_for_its_time_once_it_is_not_blocked_any_more(store: Store) -> None:
    put(store, "a")
    put(store, "b", run_at=NOW + 50, depends_on=after("a"))
    succeed(store, "a")

    assert do(store, ops.Settle(), NOW + 49) == Changed((Change(B, State.SCHEDULED),))

    assert store.read(queries.NextDue()) == NOW + 50
    assert do(store, ops.Promote(), NOW + 50) == Swept(1)
    assert claimed(store) == ["b"]


def test_task_whose_time_came_while_it_was_blocked_is_pending(store: Store) -> None:
    put(store, "a")
    put(store, "b", run_at=NOW + 50, depends_on=after("a"))
    succeed(store, "a")

    assert do(store, ops.Settle(), NOW + 50) == Changed((Change(B, State.PENDING),))


def test_blocked_task_can_be_cancelled(store: Store) -> None:
    put(store, "a")
    put(store, "b", depends_on=after("a"))

    assert do(store, ops.Cancel(B)) == ops.CancelReply(State.CANCELLED)

    succeed(store, "a")
    assert settle(store) == []
    assert fates(store, "a b") == ["succeeded ok", "cancelled user"]


# Bad ends


@pytest.mark.parametrize("end", ["failed", "cancelled", "expired"])
def test_bad_end_cancels_those_that_wait_for_it(store: Store, end: str) -> None:
    put(store, "a", expires_at=NOW + 5)
    put(store, "b")
    put(store, "c", depends_on=after("a", "b"))
    match end:
        case "failed":
            fail(store, "a")
        case "cancelled":
            do(store, ops.Cancel(A, cascade=False))
        case _:
            do(store, ops.Expire(), NOW + 5)

    assert do(store, ops.Settle(), NOW + 9) == Changed((Change(C, State.CANCELLED),))

    assert fates(store, "c") == ["cancelled dependency"]
    assert task(store, "c").finished_at == NOW + 9
    # The other that it waited for ends later, and tells it nothing.
    succeed(store, "b")
    assert settle(store) == []
    assert fates(store, "c") == ["cancelled dependency"]


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_task_may_run_whatever_the_end(store: Store, end: str) -> None:
    put(store, "a")
    put(store, "b")
    put(store, "c", depends_on=after("a", "b"), on_dependency_failure=OnFailure.RUN)
    if end == "failed":
        fail(store, "a")
    else:
        do(store, ops.Cancel(A))

    assert settle(store) == []
    assert task(store, "c").blockers == 1
    succeed(store, "b")
    assert settle(store) == [("c", "pending")]


def test_each_dependent_goes_its_own_way(store: Store) -> None:
    put(store, "a")
    put(store, "c", depends_on=after("a"))
    put(store, "b", depends_on=after("a"), on_dependency_failure=OnFailure.RUN)
    put(store, "d", depends_on=after("a"))
    fail(store, "a")

    assert settle(store) == [("c", "cancelled"), ("b", "pending"), ("d", "cancelled")]


# What had ended before


def test_good_end_before_blocks_nothing(store: Store) -> None:
    put(store, "a")
    succeed(store, "a")
    put(store, "b")

    assert put(store, "c", depends_on=after("a")) is State.PENDING
    assert put(store, "d", depends_on=after("a"), run_at=NOW + 5) is State.SCHEDULED
    assert put(store, "e", depends_on=after("a", "b")) is State.BLOCKED
    assert [task(store, name).blockers for name in "cde"] == [0, 0, 1]


@pytest.mark.parametrize("settled_before", [True, False])
def test_bad_end_before_cancels_at_once(store: Store, settled_before: bool) -> None:
    put(store, "a")
    put(store, "x", depends_on=after("a"))
    fail(store, "a")
    if settled_before:
        settle(store)
    put(store, "b")

    assert put(store, "c", depends_on=after("b", "a"), now=NOW + 7) is State.CANCELLED

    doomed = task(store, "c")
    assert (doomed.state, doomed.reason, doomed.finished_at) == (
        State.CANCELLED,
        Reason.DEPENDENCY,
        NOW + 7,
    )
    assert (doomed.blockers, doomed.attempt) == (0, 0)
    stats = store.read(queries.GetStats())
    assert (stats.submitted, stats.cancelled) == (4, 2 if settled_before else 1)
    succeed(store, "b")
    settle(store)
    assert fates(store, "c x") == ["cancelled dependency", "cancelled dependency"]


def test_bad_end_before_does_not_keep_one_that_is_to_run(store: Store) -> None:
    put(store, "a")
    put(store, "b")
    do(store, ops.Cancel(A))

    assert put(store, "c", depends_on=after("a"), on_dependency_failure=OnFailure.RUN) is State.PENDING
    assert put(store, "d", depends_on=after("a", "b"), on_dependency_failure=OnFailure.RUN) is State.BLOCKED
    assert task(store, "d").blockers == 1


def test_task_that_depends_on_a_doomed_one_is_doomed(store: Store) -> None:
    put(store, "a")
    do(store, ops.Cancel(A))

    replies = do(store, ops.SubmitMany((new("b", depends_on=after("a")), new("c", depends_on=after("b")))))

    assert replies == (Submitted(B, State.CANCELLED), Submitted(C, State.CANCELLED))
    assert fates(store, "b c") == ["cancelled dependency", "cancelled dependency"]


def test_doomed_task_is_pruned_in_its_time(store: Store) -> None:
    put(store, "a")
    do(store, ops.Cancel(A))
    put(store, "b", depends_on=after("a"), now=NOW + 5)

    assert do(store, ops.Prune(), NOW + DAY_MS) == Swept(1)
    assert do(store, ops.Prune(), NOW + DAY_MS + 5) == Swept(1)


# What is not there


def test_unknown_dependency_is_refused(store: Store) -> None:
    put(store, "a")

    refused = refusal(InvalidInput, store, ops.Submit(new("b", depends_on=after("a", "x"))))

    assert refused.message == "depends_on: no task x: it must be stored before this one, and still be kept"
    assert refused.fields == {"field": "depends_on"}


def test_deleted_dependency_is_refused(store: Store) -> None:
    put(store, "a")
    succeed(store, "a")
    do(store, ops.Delete(A))

    refusal(InvalidInput, store, ops.Submit(new("b", depends_on=after("a"))))


def test_task_cannot_depend_on_itself(store: Store) -> None:
    refusal(InvalidInput, store, ops.Submit(new("a", depends_on=after("a"))))
    refused = refusal(InvalidInput, store, ops.SubmitMany((new("b"), new("a", depends_on=after("a")))))
    assert refused.fields == {"field": "depends_on", "index": 1}


def test_batch_may_depend_on_what_is_earlier_in_it(store: Store) -> None:
    replies = do(
        store, ops.SubmitMany((new("a"), new("b", depends_on=after("a")), new("c", depends_on=after("b"))))
    )

    assert replies == (
        Submitted(A, State.PENDING),
        Submitted(B, State.BLOCKED),
        Submitted(C, State.BLOCKED),
    )


def test_batch_cannot_depend_on_what_is_later_in_it(store: Store) -> None:
    many = ops.SubmitMany((new("x"), new("a", depends_on=after("b")), new("b", depends_on=after("a"))))

    assert refusal(InvalidInput, store, many).fields == {"field": "depends_on", "index": 1}


def test_singles_in_one_transaction_see_each_other(store: Store) -> None:
    early, first, second = store.apply(
        [
            ops.Submit(new("b", depends_on=after("a"))),
            ops.Submit(new("a")),
            ops.Submit(new("c", depends_on=after("a"))),
        ],
        NOW,
    )

    assert isinstance(early, InvalidInput)
    assert (first, second) == (Submitted(A, State.PENDING), Submitted(C, State.BLOCKED))


# Settling


def test_chain_goes_on_one_by_one(store: Store) -> None:
    for name, before in (("a", ()), ("b", "a"), ("c", "b"), ("d", "c")):
        put(store, name, depends_on=after(*before))

    told = []
    for name in "abcd":
        succeed(store, name)
        told += settle(store)

    assert told == [("b", "pending"), ("c", "pending"), ("d", "pending")]


@pytest.mark.parametrize("limit", [1, 2, 3, 1_000])
def test_chain_falls_as_a_whole(store: Store, limit: int) -> None:
    for name, before in (("a", ()), ("b", "a"), ("c", "b"), ("d", "c")):
        put(store, name, depends_on=after(*before))
    fail(store, "a")

    assert settle(store, limit=limit) == [("b", "cancelled"), ("c", "cancelled"), ("d", "cancelled")]

    assert store.snapshot().unsettled == ()


@pytest.mark.parametrize("limit", [1, 2, 3, 1_000])
def test_diamond_waits_for_both_sides(store: Store, limit: int) -> None:
    for name, before in (("a", ()), ("b", "a"), ("c", "a"), ("d", "bc")):
        put(store, name, depends_on=after(*before))

    succeed(store, "a")
    assert settle(store, limit=limit) == [("b", "pending"), ("c", "pending")]
    succeed(store, "c")
    assert settle(store, limit=limit) == []
    assert task(store, "d").blockers == 1
    succeed(store, "b")
    assert settle(store, limit=limit) == [("d", "pending")]


@pytest.mark.parametrize("limit", [1, 2, 3, 1_000])
def test_those_concerned_are_told_in_order_of_arrival(store: Store, limit: int) -> None:
    put(store, "z")
    put(store, "a")
    put(store, "e", depends_on=after("a"))
    put(store, "f", depends_on=after("z"), on_dependency_failure=OnFailure.RUN)
    put(store, "b", depends_on=after("z"))
    put(store, "d", depends_on=after("e"))
    put(store, "c", depends_on=after("b"))
    fail(store, "a")
    fail(store, "z")
    assert store.snapshot().unsettled == after("z", "a")

    # z tells f and b; then comes a, which is before them, and tells e; then e tells d, and b tells c.
    assert settle(store, limit=limit) == [
        ("f", "pending"),
        ("b", "cancelled"),
        ("e", "cancelled"),
        ("d", "cancelled"),
        ("c", "cancelled"),
    ]
    assert store.snapshot().unsettled == ()


def test_settle_says_that_there_is_more(store: Store) -> None:
    put(store, "a")
    for name in "bcd":
        put(store, name, depends_on=after("a"))
    succeed(store, "a")

    assert do(store, ops.Settle(limit=0)) == Changed((), more=True)
    assert do(store, ops.Settle(limit=2)) == Changed(
        (Change(B, State.PENDING), Change(C, State.PENDING)), more=True
    )
    assert do(store, ops.Settle(limit=2)) == Changed((Change(TaskId("d"), State.PENDING),))
    assert do(store, ops.Settle(limit=0)) == Changed(())


def test_those_told_are_counted_whether_or_not_they_move(store: Store) -> None:
    put(store, "a")
    put(store, "x")
    for name in "bc":
        put(store, name, depends_on=after("a", "x"))
    succeed(store, "a")

    assert do(store, ops.Settle(limit=1)) == Changed((), more=True)
    assert [task(store, name).blockers for name in "bc"] == [1, 2]


def test_task_that_ended_with_nobody_concerned_is_settled(store: Store) -> None:
    put(store, "a")
    succeed(store, "a")

    assert store.snapshot().unsettled == ()
    do(store, ops.Delete(A))


def test_ended_task_is_kept_until_others_have_heard_of_it(store: Store) -> None:
    put(store, "a", result_ttl_ms=0)
    put(store, "b", depends_on=after("a"))
    put(store, "c", result_ttl_ms=0)
    succeed(store, "a")
    succeed(store, "c")

    # One that is passed over does not count.
    assert do(store, ops.Prune(limit=1)) == Swept(1)
    refused = refusal(Conflict, store, ops.Delete(A))
    assert refused.message == "others still wait to hear of the end of a: try again"
    assert refused.fields == {"task_id": "a"}
    assert [kept.id for kept in store.snapshot().tasks] == ["a", "b"]

    assert settle(store) == [("b", "pending")]
    assert do(store, ops.Prune()) == Swept(1)
    assert claimed(store) == ["b"]


def test_dependency_retried_before_it_was_settled_blocks_on(store: Store) -> None:
    put(store, "a")
    put(store, "b", depends_on=after("a"))
    fail(store, "a")
    do(store, ops.Retry(A))

    assert settle(store) == []
    assert (state(store, "b"), task(store, "b").blockers) == (State.BLOCKED, 1)

    succeed(store, "a")
    assert settle(store) == [("b", "pending")]


def test_retried_task_waits_for_nothing(store: Store) -> None:
    put(store, "a")
    put(store, "x")
    put(store, "b", depends_on=after("a", "x"))
    fail(store, "a")
    settle(store)

    assert do(store, ops.Retry(B)) == ops.Retried(State.PENDING)
    assert task(store, "b").blockers == 0
    # What it once waited for ends, as it likes.
    do(store, ops.Cancel(TaskId("x")))
    assert settle(store) == []
    start(store, "b")


def test_pruned_dependent_is_not_missed(store: Store) -> None:
    put(store, "a")
    put(store, "b", depends_on=after("a"), result_ttl_ms=0)
    do(store, ops.Cancel(B))
    assert do(store, ops.Prune()) == Swept(1)

    succeed(store, "a")

    assert settle(store) == []
    do(store, ops.Delete(A))


def test_new_task_of_a_pruned_id_waits_for_its_own_dependencies_only(store: Store) -> None:
    put(store, "a")
    put(store, "c")
    put(store, "b", depends_on=after("a"))
    do(store, ops.Cancel(B))
    do(store, ops.Delete(B))
    put(store, "b", depends_on=after("c"))

    fail(store, "a")

    assert settle(store) == []
    assert (state(store, "b"), task(store, "b").blockers) == (State.BLOCKED, 1)
    succeed(store, "c")
    assert settle(store) == [("b", "pending")]


def test_end_and_settling_work_in_one_batch(store: Store) -> None:
    put(store, "a")
    put(store, "b", depends_on=after("a"))

    replies = store.apply(
        [ops.Cancel(A), ops.Settle(), ops.Submit(new("c", depends_on=after("b"))), ops.Settle()], NOW
    )

    assert replies == [
        ops.CancelReply(State.CANCELLED),
        Changed((Change(B, State.CANCELLED),)),
        Submitted(C, State.CANCELLED),
        Changed(()),
    ]


def test_hundred_wait_for_one_and_one_for_a_hundred(store: Store) -> None:
    names = [f"n{index:02}" for index in range(100)]
    put(store, "a")
    do(store, ops.SubmitMany(tuple(new(name, depends_on=after("a")) for name in names)))
    put(store, "z", depends_on=after(*names))
    assert task(store, "z").blockers == 100

    fail(store, "a")

    assert settle(store, limit=30) == [(name, "cancelled") for name in [*names, "z"]]
