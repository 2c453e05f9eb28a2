"""Every store: what a cancelled task does to its children."""

from __future__ import annotations

import pytest
from storage_kit import (
    DAY_MS,
    HERE,
    NOW,
    do,
    fail,
    failure,
    fates,
    finish,
    new,
    put,
    refusal,
    settle,
    start,
    succeed,
    task,
)

from tq.core import ops
from tq.core.errors import Conflict, IllegalTransition, InvalidInput
from tq.core.ops import Change, Changed, Submitted, Swept
from tq.core.task import During, OnConflict, Reason, ServerId, State, TaskId, Unique
from tq.storage.store import Store

pytest_plugins = ("every_store",)

A, B, C, P = TaskId("a"), TaskId("b"), TaskId("c"), TaskId("p")


def family(store: Store) -> None:
    """p, its child a and a's child b; p's second child c."""
    put(store, "p")
    put(store, "a", parent_id=P)
    put(store, "b", parent_id=A)
    put(store, "c", parent_id=P)


# A waiting parent


def test_waiting_children_are_cancelled_with_their_parent(store: Store) -> None:
    family(store)

    assert do(store, ops.Cancel(P)) == ops.CancelReply(State.CANCELLED)
    assert fates(store, "p a b c") == ["cancelled user", "pending", "pending", "pending"]

    assert do(store, ops.Settle(), NOW + 7) == Changed(
        (Change(A, State.CANCELLED), Change(C, State.CANCELLED), Change(B, State.CANCELLED))
    )
    assert fates(store, "p a b c") == [
        "cancelled user",
        "cancelled parent",
        "cancelled parent",
        "cancelled parent",
    ]
    assert task(store, "b").finished_at == NOW + 7
    assert store.snapshot().unsettled == ()


@pytest.mark.parametrize("limit", [1, 2, 3, 1_000])
def test_cascade_is_the_same_however_it_is_cut(store: Store, limit: int) -> None:
    family(store)
    put(store, "d", parent_id=C)
    start(store, "d")
    do(store, ops.Cancel(P))

    assert settle(store, limit=limit) == [
        ("a", "cancelled"),
        ("c", "cancelled"),
        ("b", "cancelled"),
        ("d", "running"),
    ]
    assert store.snapshot().unsettled == ()


def test_settle_of_children_says_that_there_is_more(store: Store) -> None:
    family(store)
    do(store, ops.Cancel(P))

    assert do(store, ops.Settle(limit=1)) == Changed((Change(A, State.CANCELLED),), more=True)
    assert fates(store, "a b c") == ["cancelled parent", "pending", "pending"]


def test_children_in_every_waiting_state_are_cancelled(store: Store) -> None:
    put(store, "p")
    put(store, "blocked", parent_id=P, depends_on=(P,))
    put(store, "scheduled", parent_id=P, run_at=NOW + 5)
    put(store, "pending", parent_id=P)
    put(store, "retrying", parent_id=P)
    lease = start(store, "retrying")
    do(store, finish(lease, State.RETRYING, Reason.ERROR, run_at=NOW + 9, error=failure(1)))
    do(store, ops.Cancel(P))

    settle(store)

    # One that also waited for p hears of that first.
    assert fates(store, "blocked scheduled pending retrying") == [
        "cancelled dependency",
        "cancelled parent",
        "cancelled parent",
        "cancelled parent",
    ]


def test_ended_children_stay_as_they_are_and_so_do_theirs(store: Store) -> None:
    family(store)
    succeed(store, "a")
    fail(store, "c")
    do(store, ops.Cancel(P))

    assert settle(store) == []
    assert fates(store, "a b c") == ["succeeded ok", "pending", "failed error"]


def test_cascade_may_be_declined(store: Store) -> None:
    family(store)

    do(store, ops.Cancel(P, cascade=False))

    assert settle(store) == []
    assert fates(store, "p a b c") == ["cancelled user", "pending", "pending", "pending"]


def test_reason_of_the_parent_is_as_given(store: Store) -> None:
    family(store)

    do(store, ops.Cancel(P, Reason.DEADLINE))
    settle(store)

    assert fates(store, "p a") == ["cancelled deadline", "cancelled parent"]


# Running ones


def test_running_child_is_asked_to_stop_and_its_children_are_cancelled(store: Store) -> None:
    family(store)
    lease = start(store, "a")
    do(store, ops.Cancel(P))

    assert settle(store) == [("a", "running"), ("c", "cancelled"), ("b", "cancelled")]
    assert task(store, "a").cancel_reason is Reason.PARENT

    assert do(store, finish(lease)) == ops.Finished(State.CANCELLED, Reason.PARENT)
    assert fates(store, "a b c") == ["cancelled parent", "cancelled parent", "cancelled parent"]
    assert settle(store) == []


def test_children_of_a_running_parent_do_not_wait_for_its_end(store: Store) -> None:
    family(store)
    lease = start(store, "p")

    assert do(store, ops.Cancel(P)) == ops.CancelReply(State.RUNNING)
    assert settle(store) == [("a", "cancelled"), ("c", "cancelled"), ("b", "cancelled")]

    do(store, finish(lease))
    assert fates(store, "p") == ["cancelled user"]
    assert settle(store) == []


def test_cascade_declined_for_a_running_parent_is_so_at_its_end(store: Store) -> None:
    family(store)
    lease = start(store, "p")

    do(store, ops.Cancel(P, cascade=False))
    assert settle(store) == []
    do(store, finish(lease))
    assert settle(store) == []

    assert fates(store, "p a b c") == ["cancelled user", "pending", "pending", "pending"]


@pytest.mark.parametrize("how", ["release", "crash", "recover"])
def test_cascade_declined_is_so_however_the_attempt_ends(store: Store, how: str) -> None:
    put(store, "p")
    put(store, "a", parent_id=P)
    lease = start(store, "p")
    do(store, ops.Cancel(P, cascade=False))
    match how:
        case "release":
            do(store, ops.Release(P, lease.generation))
        case "crash":
            do(store, ops.Crash(P, lease.generation, failure(1)))
        case _:
            do(store, ops.Recover(ServerId("us"), NOW))

    assert settle(store) == []
    assert fates(store, "p a") == ["cancelled user", "pending"]


def test_second_cancel_may_cascade_where_the_first_did_not(store: Store) -> None:
    family(store)
    start(store, "p")
    do(store, ops.Cancel(P, cascade=False))

    do(store, ops.Cancel(P, Reason.DEADLINE))

    assert settle(store) == [("a", "cancelled"), ("c", "cancelled"), ("b", "cancelled")]
    assert task(store, "p").cancel_reason is Reason.USER


def test_cascade_asked_for_stays_so_if_the_parent_ends_before_settle(store: Store) -> None:
    family(store)
    lease = start(store, "p")
    do(store, ops.Cancel(P))
    do(store, finish(lease))

    assert settle(store) == [("a", "cancelled"), ("c", "cancelled"), ("b", "cancelled")]


def test_child_that_was_asked_to_stop_before_keeps_its_reason(store: Store) -> None:
    family(store)
    lease = start(store, "a")
    do(store, ops.Cancel(A, cascade=False))
    do(store, ops.Cancel(P))

    assert settle(store) == [("c", "cancelled")]
    do(store, finish(lease))
    assert fates(store, "a b") == ["cancelled user", "pending"]


def test_parent_cancelled_after_its_children_finds_none(store: Store) -> None:
    family(store)
    do(store, ops.Cancel(A))
    assert settle(store) == [("b", "cancelled")]
    do(store, ops.Cancel(C))

    do(store, ops.Cancel(P))

    assert settle(store) == []
    assert fates(store, "p a b c") == [
        "cancelled user",
        "cancelled user",
        "cancelled parent",
        "cancelled user",
    ]


# Other ends


def test_handler_that_cancels_its_task_cancels_the_children(store: Store) -> None:
    family(store)
    lease = start(store, "p")

    do(store, finish(lease, State.CANCELLED, Reason.USER))

    assert settle(store) == [("a", "cancelled"), ("c", "cancelled"), ("b", "cancelled")]
    assert fates(store, "p a") == ["cancelled user", "cancelled parent"]


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED])
def test_parent_that_succeeded_or_failed_leaves_its_children(store: Store, state: State) -> None:
    family(store)
    lease = start(store, "p")

    do(store, finish(lease, state, Reason.ERROR))

    assert settle(store) == []
    assert fates(store, "a b c") == ["pending", "pending", "pending"]
    refusal(IllegalTransition, store, ops.Cancel(P))


def test_deadline_of_the_parent_leaves_its_children(store: Store) -> None:
    put(store, "p", deadline_at=NOW + 5)
    put(store, "a", parent_id=P)
    do(store, ops.Expire(), NOW + 5)

    assert settle(store) == []
    assert fates(store, "p a") == ["failed deadline", "pending"]


def test_every_way_to_be_cancelled_cascades(store: Store) -> None:
    put(store, "d")
    put(store, "e", expires_at=NOW + 5)
    put(store, "f", depends_on=(TaskId("d"),))
    unique = Unique("k", During.ACTIVE, OnConflict.REPLACE)
    do(store, ops.Submit(new("g", unique=unique)))
    for name, parent in (("e1", "e"), ("f1", "f"), ("g1", "g")):
        put(store, name, parent_id=TaskId(parent))

    do(store, ops.Expire(), NOW + 5)
    do(store, ops.Cancel(TaskId("d")))
    do(store, ops.Submit(new("g2", unique=unique)))

    assert settle(store) == [
        ("f", "cancelled"),
        ("e1", "cancelled"),
        ("f1", "cancelled"),
        ("g1", "cancelled"),
    ]
    assert fates(store, "e f g e1 f1 g1 g2") == [
        "cancelled expired",
        "cancelled dependency",
        "cancelled replaced",
        "cancelled parent",
        "cancelled parent",
        "cancelled parent",
        "pending",
    ]


# New children


def test_unknown_parent_is_refused(store: Store) -> None:
    refused = refusal(InvalidInput, store, ops.Submit(new("a", parent_id=P)))

    assert refused.message == "parent_id: no task p: it must be stored before this one, and still be kept"
    assert refused.fields == {"field": "parent_id"}
    refusal(InvalidInput, store, ops.Submit(new("p", parent_id=P)))


def test_cancelled_parent_gets_no_more_children(store: Store) -> None:
    put(store, "p")
    do(store, ops.Cancel(P))

    refused = refusal(Conflict, store, ops.Submit(new("a", parent_id=P)))

    assert refused.message == "parent_id: task p is cancelled: it gets no more children"
    assert refused.fields == {"field": "parent_id"}


@pytest.mark.parametrize("cascade", [True, False])
def test_parent_that_was_asked_to_stop_gets_no_more_children(store: Store, cascade: bool) -> None:
    put(store, "p")
    start(store, "p")
    do(store, ops.Cancel(P, cascade=cascade))

    refusal(Conflict, store, ops.Submit(new("a", parent_id=P)))
    many = ops.SubmitMany((new("x"), new("a", parent_id=P)))
    assert refusal(Conflict, store, many).fields == {"field": "parent_id", "index": 1}


def test_parent_that_succeeded_or_failed_may_get_children(store: Store) -> None:
    put(store, "p")
    succeed(store, "p")
    put(store, "q")
    fail(store, "q")

    assert put(store, "a", parent_id=P) is State.PENDING
    assert put(store, "b", parent_id=TaskId("q")) is State.PENDING


def test_retried_parent_may_get_children_again(store: Store) -> None:
    put(store, "p")
    do(store, ops.Cancel(P))
    do(store, ops.Retry(P))

    assert put(store, "a", parent_id=P) is State.PENDING
    do(store, ops.Cancel(P))
    assert settle(store) == [("a", "cancelled")]


def test_batch_may_have_its_family_in_it(store: Store) -> None:
    replies = do(store, ops.SubmitMany((new("p"), new("a", parent_id=P), new("b", parent_id=A))))
    assert replies == tuple(Submitted(task_id, State.PENDING) for task_id in (P, A, B))
    do(store, ops.Cancel(P))

    assert settle(store) == [("a", "cancelled"), ("b", "cancelled")]


# Keeping


def test_cancelled_parent_is_kept_until_its_children_have_heard(store: Store) -> None:
    put(store, "p", result_ttl_ms=0)
    put(store, "a", parent_id=P)
    do(store, ops.Cancel(P))

    assert do(store, ops.Prune()) == Swept(0)
    refusal(Conflict, store, ops.Delete(P))

    settle(store)
    assert do(store, ops.Prune()) == Swept(1)
    assert fates(store, "a") == ["cancelled parent"]


def test_child_outlives_its_parent(store: Store) -> None:
    put(store, "p")
    put(store, "a", parent_id=P)
    succeed(store, "p")
    settle(store)

    assert do(store, ops.Prune(), NOW + DAY_MS) == Swept(1)

    assert task(store, "a").options.parent_id == P
    start(store, "a")
    assert task(store, "a").server == HERE


def test_pruned_child_is_not_missed(store: Store) -> None:
    put(store, "p")
    put(store, "a", parent_id=P, result_ttl_ms=0)
    succeed(store, "a")
    do(store, ops.Prune())

    do(store, ops.Cancel(P))

    assert settle(store) == []
    do(store, ops.Delete(P))
