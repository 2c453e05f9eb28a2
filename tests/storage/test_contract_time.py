"""Every store: deadlines, expiry, and new values for what waits."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from storage_kit import (
    DAY_MS,
    NOW,
    changed,
    claimed,
    do,
    failure,
    fates,
    finish,
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
from tq.core.errors import IllegalTransition, NotFound
from tq.core.ops import Change, Changed, Swept, Updated
from tq.core.task import AttemptError, Options, Reason, State, TaskId
from tq.storage.store import Store

pytest_plugins = ("every_store",)

A, B, C = TaskId("a"), TaskId("b"), TaskId("c")


def waiting(store: Store, state: State, **options: int) -> None:
    """A task *a* in *state*."""
    if state is State.BLOCKED:
        put(store, "before")
        put(store, "a", depends_on=(TaskId("before"),), **options)
        return
    put(store, "a", run_at=NOW + (500 if state is State.SCHEDULED else 0), **options)
    if state is State.RETRYING:
        lease = start(store, "a")
        do(store, finish(lease, state, Reason.ERROR, run_at=NOW + 500, error=failure(1)))


WAITS = [State.BLOCKED, State.SCHEDULED, State.PENDING, State.RETRYING]


# Expire


@pytest.mark.parametrize("state", WAITS)
def test_task_that_was_not_begun_in_time_is_cancelled(store: Store, state: State) -> None:
    waiting(store, state, expires_at=NOW + 10)
    before = task(store, "a")

    assert do(store, ops.Expire(), NOW + 9) == Changed(())
    assert do(store, ops.Expire(), NOW + 10) == Changed((Change(A, State.CANCELLED),))

    assert task(store, "a") == changed(
        before, state=State.CANCELLED, reason=Reason.EXPIRED, finished_at=NOW + 10
    )
    assert store.read(queries.GetStats()).cancelled == 1
    assert store.read(queries.NextDue()) is None
    assert "a" not in claimed(store)


@pytest.mark.parametrize("state", WAITS)
def test_task_whose_deadline_passed_while_it_waited_has_failed(store: Store, state: State) -> None:
    waiting(store, state, deadline_at=NOW + 10)
    before = task(store, "a")

    assert do(store, ops.Expire(), NOW + 9) == Changed(())
    assert do(store, ops.Expire(), NOW + 12) == Changed((Change(A, State.FAILED),))

    passed = AttemptError(
        attempt=before.attempt,
        at=NOW + 12,
        reason=Reason.DEADLINE,
        type="DeadlinePassed",
        message="the deadline passed while the task waited",
    )
    assert task(store, "a") == changed(
        before,
        state=State.FAILED,
        reason=Reason.DEADLINE,
        finished_at=NOW + 12,
        errors=(*before.errors, passed),
        # blake2b("a\nDeadlinePassed\n"), 6 bytes of it.
        fingerprint="9670ad4312a5",
    )
    assert store.read(queries.GetStats()).failed == 1


@pytest.mark.parametrize(
    ("deadline", "expiry", "now", "fate"),
    [
        (10, 20, 10, "failed deadline"),
        (20, 10, 10, "cancelled expired"),
        (20, 10, 19, "cancelled expired"),
        (20, 10, 20, "failed deadline"),
        (10, 10, 10, "failed deadline"),
    ],
)
def test_what_comes_first_ends_it_and_the_deadline_wins(
    store: Store, deadline: int, expiry: int, now: int, fate: str
) -> None:
    put(store, "a", deadline_at=NOW + deadline, expires_at=NOW + expiry)
    assert store.read(queries.NextDue()) == NOW + 10

    do(store, ops.Expire(), NOW + now)

    assert fates(store, "a") == [fate]


def test_earliest_is_ended_first_and_more_is_told_of(store: Store) -> None:
    put(store, "d", expires_at=NOW + 3)
    put(store, "c", deadline_at=NOW + 2)
    put(store, "b", expires_at=NOW + 1)
    put(store, "a", expires_at=NOW + 2)
    put(store, "later", expires_at=NOW + 9)

    assert do(store, ops.Expire(limit=0), NOW + 3) == Changed((), more=True)
    assert do(store, ops.Expire(limit=2), NOW + 3) == Changed(
        (Change(B, State.CANCELLED), Change(C, State.FAILED)), more=True
    )
    assert do(store, ops.Expire(limit=2), NOW + 3) == Changed(
        (Change(A, State.CANCELLED), Change(TaskId("d"), State.CANCELLED))
    )
    assert do(store, ops.Expire(limit=0), NOW + 3) == Changed(())


def test_running_task_is_not_expired(store: Store) -> None:
    put(store, "a", deadline_at=NOW + 10, expires_at=NOW + 5)
    lease = start(store, "a")
    assert store.read(queries.NextDue()) is None

    assert do(store, ops.Expire(), NOW + 99) == Changed(())

    # But it is once it waits again.
    do(store, ops.Release(A, lease.generation))
    assert store.read(queries.NextDue()) == NOW + 5
    assert do(store, ops.Expire(), NOW + 5) == Changed((Change(A, State.CANCELLED),))


def test_ended_task_does_not_expire(store: Store) -> None:
    put(store, "a", deadline_at=NOW + 10)
    succeed(store, "a")

    assert store.read(queries.NextDue()) is None
    assert do(store, ops.Expire(), NOW + 99) == Changed(())
    assert fates(store, "a") == ["succeeded ok"]


def test_lease_tells_the_times_of_its_task(store: Store) -> None:
    put(store, "a", deadline_at=NOW + 10, expires_at=NOW + 5, tags=("x",))

    assert start(store, "a").options == Options(tags=("x",), deadline_at=NOW + 10, expires_at=NOW + 5)


def test_deadline_adds_to_the_last_twenty_of_the_history(store: Store) -> None:
    put(store, "a", deadline_at=NOW + 10)
    for attempt in range(1, 21):
        lease = start(store, "a")
        do(store, finish(lease, State.RETRYING, Reason.ERROR, run_at=NOW, error=failure(attempt)))
        do(store, ops.Promote())

    do(store, ops.Expire(), NOW + 10)

    errors = task(store, "a").errors
    assert [error.attempt for error in errors] == [*range(2, 21), 20]
    assert [error.type for error in errors[-2:]] == ["ValueError", "DeadlinePassed"]


def test_those_who_wait_hear_of_the_expiry(store: Store) -> None:
    put(store, "a", deadline_at=NOW + 10)
    put(store, "b", depends_on=(A,))
    do(store, ops.Expire(), NOW + 10)

    assert settle(store) == [("b", "cancelled")]


def test_failed_by_deadline_is_kept_seven_days(store: Store) -> None:
    put(store, "a", deadline_at=NOW)
    put(store, "b", expires_at=NOW)
    do(store, ops.Expire())

    assert do(store, ops.Prune(), NOW + 7 * DAY_MS - 1) == Swept(1)
    assert do(store, ops.Prune(), NOW + 7 * DAY_MS) == Swept(1)


# What is due next


def test_next_due_is_the_earliest_of_all_there_is(store: Store) -> None:
    put(store, "a", run_at=NOW + 50)
    assert store.read(queries.NextDue()) == NOW + 50
    put(store, "b", deadline_at=NOW + 40)
    assert store.read(queries.NextDue()) == NOW + 40
    put(store, "c", expires_at=NOW + 30, deadline_at=NOW + 45)
    assert store.read(queries.NextDue()) == NOW + 30
    do(store, ops.PutSchedule("s", new("x").payload, NOW + 20))
    assert store.read(queries.NextDue()) == NOW + 20

    do(store, ops.DeleteSchedule("s"))
    do(store, ops.Cancel(C))
    do(store, ops.Cancel(B))
    assert store.read(queries.NextDue()) == NOW + 50


# Retry


def test_retry_drops_deadline_and_expiry_and_keeps_the_rest(store: Store) -> None:
    put(store, "a", deadline_at=NOW + 10, expires_at=NOW + 20, tags=("x", "y"))
    do(store, ops.Expire(), NOW + 10)

    do(store, ops.Retry(A), NOW + 50)

    retried = task(store, "a")
    assert retried.options == Options(tags=("x", "y"))
    assert (retried.state, retried.reason, retried.fingerprint) == (State.PENDING, None, None)
    assert [error.type for error in retried.errors] == ["DeadlinePassed"]
    assert store.read(queries.NextDue()) is None
    assert do(store, ops.Expire(), NOW + 99) == Changed(())
    assert claimed(store) == ["a"]


# Update


@pytest.mark.parametrize("state", WAITS)
def test_waiting_task_takes_new_values(store: Store, state: State) -> None:
    waiting(store, state, deadline_at=NOW + 70)
    before = task(store, "a")
    update = ops.Update(
        task_id=A,
        priority=-7,
        timeout_ms=9,
        max_attempts=11,
        result_ttl_ms=12,
        deadline_at=NOW + 90,
        expires_at=NOW + 80,
    )

    assert do(store, update, NOW + 5) == Updated(state, before.run_at, NOW + 80)

    assert task(store, "a") == changed(
        before,
        priority=-7,
        timeout_ms=9,
        max_attempts=11,
        result_ttl_ms=12,
        options=replace(before.options, deadline_at=NOW + 90, expires_at=NOW + 80),
    )
    assert store.read(queries.NextDue()) == NOW + 80
    assert do(store, ops.Expire(), NOW + 79) == Changed(())


@pytest.mark.parametrize("field", ["priority", "timeout_ms", "max_attempts", "result_ttl_ms"])
def test_number_that_is_not_named_stays(store: Store, field: str) -> None:
    do(store, ops.Submit(new("a", priority=1, result_ttl_ms=2, deadline_at=NOW + 3)))
    before = task(store, "a")
    given: dict[str, Any] = {field: 0}

    do(store, ops.Update(task_id=A, **given))

    assert task(store, "a") == changed(before, **given)


@pytest.mark.parametrize("field", ["deadline_at", "expires_at"])
def test_time_that_is_not_named_stays(store: Store, field: str) -> None:
    do(store, ops.Submit(new("a", tags=("x",), deadline_at=NOW + 3, expires_at=NOW + 4)))
    before = task(store, "a")
    given: dict[str, Any] = {field: NOW + 9}

    do(store, ops.Update(task_id=A, **given))

    assert task(store, "a") == changed(before, options=replace(before.options, **given))


def test_update_of_nothing_changes_nothing(store: Store) -> None:
    put(store, "a", deadline_at=NOW + 8)
    before = store.snapshot()

    assert do(store, ops.Update(task_id=A), NOW + 5) == Updated(State.PENDING, NOW, NOW + 8)

    assert store.snapshot() == before


def test_priority_may_become_zero(store: Store) -> None:
    do(store, ops.Submit(new("a", priority=5)))

    do(store, ops.Update(task_id=A, priority=0))

    assert task(store, "a").priority == 0


def test_new_priority_changes_the_order(store: Store) -> None:
    for name in "abc":
        do(store, ops.Submit(new(name)))

    do(store, ops.Update(task_id=C, priority=1))
    do(store, ops.Update(task_id=A, priority=-1))

    assert claimed(store) == ["c", "b", "a"]


def test_new_run_at_of_a_pending_task_that_has_come_changes_the_order(store: Store) -> None:
    for name in "ab":
        do(store, ops.Submit(new(name)))

    update = ops.Update(task_id=B, run_at=NOW - 1)

    assert do(store, update) == Updated(State.PENDING, NOW - 1, None)
    assert claimed(store) == ["b", "a"]


def test_pending_task_stays_so_if_its_new_time_is_now(store: Store) -> None:
    put(store, "a", now=NOW - 5)

    assert do(store, ops.Update(task_id=A, run_at=NOW)) == Updated(State.PENDING, NOW, None)
    assert claimed(store) == ["a"]


def test_pending_task_is_put_off(store: Store) -> None:
    put(store, "a")

    assert do(store, ops.Update(task_id=A, run_at=NOW + 50)) == Updated(State.SCHEDULED, NOW + 50, None)

    assert state(store, "a") is State.SCHEDULED
    assert store.read(queries.NextDue()) == NOW + 50
    assert claimed(store) == []
    assert do(store, ops.Promote(), NOW + 49) == Swept(0)
    assert do(store, ops.Promote(), NOW + 50) == Swept(1)
    assert claimed(store) == ["a"]


def test_scheduled_task_is_brought_forward(store: Store) -> None:
    put(store, "a", run_at=NOW + 50)

    assert do(store, ops.Update(task_id=A, run_at=NOW)) == Updated(State.SCHEDULED, NOW, None)

    assert store.read(queries.NextDue()) == NOW
    assert do(store, ops.Promote()) == Swept(1)
    assert claimed(store) == ["a"]
    assert do(store, ops.Promote(), NOW + 50) == Swept(0)


@pytest.mark.parametrize("where", [State.SCHEDULED, State.RETRYING])
def test_task_that_waits_for_its_time_is_put_off(store: Store, where: State) -> None:
    waiting(store, where)

    assert do(store, ops.Update(task_id=A, run_at=NOW + 900)) == Updated(where, NOW + 900, None)

    assert store.read(queries.NextDue()) == NOW + 900
    assert do(store, ops.Promote(), NOW + 500) == Swept(0)
    assert do(store, ops.Promote(), NOW + 900) == Swept(1)


def test_blocked_task_takes_a_new_time_for_afterwards(store: Store) -> None:
    waiting(store, State.BLOCKED)

    assert do(store, ops.Update(task_id=A, run_at=NOW + 50)) == Updated(State.BLOCKED, NOW + 50, None)

    assert store.read(queries.NextDue()) is None
    succeed(store, "before")
    assert settle(store) == [("a", "scheduled")]


def test_earlier_deadline_is_kept(store: Store) -> None:
    put(store, "a", deadline_at=NOW + 90)

    do(store, ops.Update(task_id=A, deadline_at=NOW + 10))

    assert do(store, ops.Expire(), NOW + 10) == Changed((Change(A, State.FAILED),))
    assert do(store, ops.Expire(), NOW + 90) == Changed(())


def test_later_deadline_is_kept(store: Store) -> None:
    put(store, "a", deadline_at=NOW + 10)

    do(store, ops.Update(task_id=A, deadline_at=NOW + 90))

    assert store.read(queries.NextDue()) == NOW + 90
    assert do(store, ops.Expire(), NOW + 89) == Changed(())
    assert do(store, ops.Expire(), NOW + 90) == Changed((Change(A, State.FAILED),))


def test_new_values_are_those_of_the_lease(store: Store) -> None:
    put(store, "a")
    do(store, ops.Update(task_id=A, timeout_ms=77, max_attempts=88, result_ttl_ms=99, deadline_at=NOW + 5))

    lease = start(store, "a")

    assert (lease.timeout_ms, lease.max_attempts, lease.result_ttl_ms) == (77, 88, 99)
    assert lease.options.deadline_at == NOW + 5


def test_new_time_to_be_kept_counts(store: Store) -> None:
    put(store, "a")
    do(store, ops.Update(task_id=A, result_ttl_ms=5))
    succeed(store, "a")

    assert do(store, ops.Prune(), NOW + 4) == Swept(0)
    assert do(store, ops.Prune(), NOW + 5) == Swept(1)


@pytest.mark.parametrize("end", [State.RUNNING, State.SUCCEEDED, State.FAILED, State.CANCELLED])
@pytest.mark.parametrize("run_at", [None, NOW + 5])
def test_task_that_does_not_wait_takes_no_new_values(store: Store, end: State, run_at: int | None) -> None:
    put(store, "a")
    lease = start(store, "a")
    if end is not State.RUNNING:
        do(store, finish(lease, end, Reason.ERROR))

    refused = refusal(IllegalTransition, store, ops.Update(task_id=A, priority=1, run_at=run_at))

    assert refused.fields == {"task_id": "a", "state": end.value, "move": "update"}


def test_update_of_a_task_that_is_not_there_is_refused(store: Store) -> None:
    refusal(NotFound, store, ops.Update(task_id=A, priority=1))
