"""Every store: finish, release, cancel and retry."""

from __future__ import annotations

import msgspec
import pytest
from storage_kit import (
    DAY_MS,
    NOW,
    changed,
    claim,
    claimed,
    do,
    failure,
    finish,
    new,
    refusal,
    running,
    state,
    submit,
    task,
)

from tq.core import ops, queries
from tq.core.errors import IllegalTransition, LeaseLost, NotFound
from tq.core.ops import AnyOp
from tq.core.task import AttemptError, Lease, Reason, ServerId, State, TaskId
from tq.storage.store import Store

pytest_plugins = ("every_store",)

A = TaskId("a")


def test_success_keeps_the_result(store: Store) -> None:
    lease = running(store, "a")
    before = task(store, "a")

    assert do(store, finish(lease, result='{ "ok": true }'), NOW + 9) == ops.Finished(State.SUCCEEDED)

    assert task(store, "a") == changed(
        before,
        state=State.SUCCEEDED,
        reason=Reason.OK,
        result='{ "ok": true }',
        started_at=NOW + 1,
        finished_at=NOW + 9,
        worker=4,
    )


def test_long_result_comes_back_and_goes_with_a_retry(store: Store) -> None:
    lease = running(store, "a")
    result = '"' + "r" * 100_000 + '"'

    do(store, finish(lease, result=result))
    assert task(store, "a").result == result

    do(store, ops.Retry(A))
    assert task(store, "a").result is None
    [again] = claim(store)
    do(store, finish(again, result="1"))
    assert task(store, "a").result == "1"


def test_long_result_finished_and_retried_in_one_batch_is_gone(store: Store) -> None:
    lease = running(store, "a")

    store.apply([finish(lease, result='"' + "r" * 5_000 + '"'), ops.Retry(A)], NOW)

    assert task(store, "a").result is None


def test_final_failure_is_remembered(store: Store) -> None:
    lease = running(store, "a")

    assert do(store, finish(lease, State.FAILED, Reason.ERROR, error=failure(1))).state is State.FAILED

    failed = task(store, "a")
    assert (failed.state, failed.reason, failed.attempt) == (State.FAILED, Reason.ERROR, 1)
    assert failed.errors == (failure(1),)


def test_failure_that_is_tried_again_waits_for_its_time(store: Store) -> None:
    lease = running(store, "a")
    before = task(store, "a")
    op = finish(lease, State.RETRYING, Reason.TIMEOUT, run_at=NOW + 500, error=failure(1))

    assert do(store, op) == ops.Finished(State.RETRYING)

    assert task(store, "a") == changed(
        before,
        state=State.RETRYING,
        reason=Reason.TIMEOUT,
        run_at=NOW + 500,
        started_at=None,
        server=None,
        errors=(failure(1),),
    )
    assert store.read(queries.NextDue()) == NOW + 500
    assert claimed(store) == []


def test_snooze_burns_no_attempt(store: Store) -> None:
    lease = running(store, "a")

    reply = do(store, finish(lease, State.SCHEDULED, None, run_at=NOW + 70, burns=False))

    assert reply == ops.Finished(State.SCHEDULED)
    snoozed = task(store, "a")
    assert (snoozed.state, snoozed.attempt, snoozed.run_at) == (State.SCHEDULED, 0, NOW + 70)
    assert (snoozed.server, snoozed.started_at) == (None, None)


def test_handler_may_cancel_its_task(store: Store) -> None:
    lease = running(store, "a")

    assert do(store, finish(lease, State.CANCELLED, Reason.USER)) == ops.Finished(State.CANCELLED)
    assert store.read(queries.GetStats()).cancelled == 1


@pytest.mark.parametrize("target", [State.PENDING, State.RUNNING, State.BLOCKED])
def test_attempt_cannot_end_in_a_state_that_none_leads_to(store: Store, target: State) -> None:
    lease = running(store, "a")

    refused = refusal(IllegalTransition, store, finish(lease, target, error=failure(1)))

    assert refused.fields == {"task_id": "a", "state": "running", "move": "finish"}


def test_history_is_the_last_twenty_attempts(store: Store) -> None:
    submit(store, "a")
    for attempt in range(1, 24):
        [lease] = claim(store)
        error = AttemptError(attempt, NOW, Reason.ERROR, "E", f"no {attempt} \0 \x1f ñ 日", "trace\n" * 300)
        do(store, finish(lease, State.RETRYING, Reason.ERROR, run_at=NOW, error=error))
        do(store, ops.Promote())

    errors = task(store, "a").errors
    assert [error.attempt for error in errors] == list(range(4, 24))
    assert errors[0].message == "no 4 \0 \x1f ñ 日"
    assert errors[0].traceback == "trace\n" * 300


@pytest.mark.parametrize("op", [ops.Release(A, 1), ops.Cancel(A), ops.Retry(A)])
def test_op_on_a_task_that_is_not_there_is_refused(store: Store, op: AnyOp) -> None:
    submit(store, "b")

    refused = refusal(NotFound, store, op)

    assert refused.message == "no task a: it never existed or its time to be kept is over"
    assert refused.fields == {"task_id": "a"}


def test_finish_of_a_task_that_is_not_there_is_refused(store: Store) -> None:
    lease = running(store, "a")
    do(store, finish(lease))
    do(store, ops.Prune(), NOW + 2 * DAY_MS)

    refusal(NotFound, store, finish(lease))


def test_word_of_an_old_generation_is_refused(store: Store) -> None:
    old = running(store, "a")
    do(store, ops.Release(A, old.generation))
    [lease] = claim(store)

    refused = refusal(LeaseLost, store, finish(old, State.FAILED, Reason.ERROR, error=failure(1)))
    assert refused.message == "task a is no longer run by generation 1: drop the work"
    assert refused.fields == {"task_id": "a", "generation": 1}
    refusal(LeaseLost, store, ops.Release(A, 1))
    refusal(LeaseLost, store, ops.Release(A, 3))

    assert do(store, finish(lease)) == ops.Finished(State.SUCCEEDED)
    refusal(LeaseLost, store, finish(lease))
    refusal(LeaseLost, store, ops.Release(A, lease.generation))


def test_released_task_waits_again_in_its_old_place(store: Store) -> None:
    submit(store, "a", "b", "c")
    before = task(store, "a")
    [lease] = claim(store)

    assert do(store, ops.Release(A, lease.generation)) == ops.Released(State.PENDING)

    assert task(store, "a") == changed(before, generation=1)
    assert claimed(store) == ["a", "b", "c"]


@pytest.mark.parametrize("run_at", [NOW, NOW + 60])
def test_cancelled_waiting_task_has_ended(store: Store, run_at: int) -> None:
    do(store, ops.Submit(new("a", run_at=run_at)))
    before = task(store, "a")

    assert do(store, ops.Cancel(A), NOW + 5) == ops.CancelReply(State.CANCELLED)

    assert task(store, "a") == changed(before, state=State.CANCELLED, reason=Reason.USER, finished_at=NOW + 5)
    assert store.read(queries.NextDue()) is None
    assert claimed(store) == []


def test_retrying_task_can_be_cancelled(store: Store) -> None:
    lease = running(store, "a")
    do(store, finish(lease, State.RETRYING, Reason.ERROR, run_at=NOW + 9, error=failure(1)))

    do(store, ops.Cancel(A, Reason.PARENT))

    assert (state(store, "a"), task(store, "a").reason) == (State.CANCELLED, Reason.PARENT)


def test_cancel_of_a_running_task_only_asks(store: Store) -> None:
    running(store, "a")
    before = task(store, "a")

    assert do(store, ops.Cancel(A, Reason.PARENT)) == ops.CancelReply(State.RUNNING)
    assert do(store, ops.Cancel(A, Reason.USER)) == ops.CancelReply(State.RUNNING)

    assert task(store, "a") == changed(before, cancel_reason=Reason.PARENT)


@pytest.mark.parametrize(
    ("target", "run_at"), [(State.SUCCEEDED, None), (State.FAILED, None), (State.RETRYING, NOW + 5)]
)
def test_cancel_wins_over_the_end_of_the_attempt(store: Store, target: State, run_at: int | None) -> None:
    lease = running(store, "a")
    do(store, ops.Cancel(A))

    op = finish(lease, target, Reason.ERROR, run_at=run_at, result="1", error=failure(1))
    assert do(store, op) == ops.Finished(State.CANCELLED, Reason.USER)

    ended = task(store, "a")
    assert (ended.state, ended.reason, ended.result) == (State.CANCELLED, Reason.USER, None)
    assert (ended.cancel_reason, ended.errors) == (None, (failure(1),))


def test_released_task_that_was_to_be_cancelled_is(store: Store) -> None:
    lease = running(store, "a")
    do(store, ops.Cancel(A))

    assert do(store, ops.Release(A, lease.generation)) == ops.Released(State.CANCELLED)

    ended = task(store, "a")
    assert (ended.reason, ended.attempt) == (Reason.USER, 0)
    assert (ended.started_at, ended.server) == (None, None)


def test_task_that_never_began_ends_without_a_start_or_a_place(store: Store) -> None:
    lease = running(store, "a")
    op = msgspec.structs.replace(finish(lease, State.CANCELLED, Reason.EXPIRED, burns=False), started_at=None)

    assert do(store, msgspec.structs.replace(op, worker=None)) == ops.Finished(State.CANCELLED)

    ended = task(store, "a")
    assert (ended.reason, ended.attempt) == (Reason.EXPIRED, 0)
    assert (ended.started_at, ended.worker, ended.server) == (None, None, None)


def test_ended_task_cannot_be_cancelled(store: Store) -> None:
    do(store, finish(running(store, "a")))

    refused = refusal(IllegalTransition, store, ops.Cancel(A))

    assert refused.message == "task a is succeeded: it cannot be cancelled; it can be retried"


@pytest.mark.parametrize(
    ("end", "reason"),
    [(State.SUCCEEDED, Reason.OK), (State.FAILED, Reason.ERROR), (State.CANCELLED, Reason.USER)],
)
def test_retry_makes_an_ended_task_pending_from_the_start(store: Store, end: State, reason: Reason) -> None:
    lease = running(store, "a")
    do(store, finish(lease, end, reason, result="1", error=failure(1)))
    before = task(store, "a")

    assert do(store, ops.Retry(A), NOW + 50) == ops.Retried(State.PENDING)

    assert task(store, "a") == changed(
        before,
        state=State.PENDING,
        reason=None,
        attempt=0,
        run_at=NOW + 50,
        started_at=None,
        finished_at=None,
        worker=None,
        server=None,
        result=None,
        fingerprint=None,
    )
    assert task(store, "a").errors == (failure(1),)


def test_retried_task_goes_behind_those_due_before(store: Store) -> None:
    do(store, finish(running(store, "a")))
    submit(store, "b")
    do(store, ops.Retry(A), NOW + 1)

    assert claimed(store) == ["b", "a"]


def test_task_that_has_not_ended_cannot_be_retried(store: Store) -> None:
    submit(store, "a")
    refusal(IllegalTransition, store, ops.Retry(A))
    claim(store)
    refusal(IllegalTransition, store, ops.Retry(A))


def test_two_ops_on_one_task_in_one_batch_act_in_order(store: Store) -> None:
    lease = running(store, "a")

    replies = store.apply(
        [
            ops.Cancel(A),
            finish(lease, result="1"),
            finish(lease),
            ops.Retry(A),
            ops.Retry(A),
            ops.Cancel(A),
            ops.Release(A, lease.generation),
        ],
        NOW + 3,
    )

    assert replies[0] == ops.CancelReply(State.RUNNING)
    assert replies[1] == ops.Finished(State.CANCELLED, Reason.USER)
    assert isinstance(replies[2], LeaseLost)
    assert replies[3] == ops.Retried(State.PENDING)
    assert isinstance(replies[4], IllegalTransition)
    assert replies[5] == ops.CancelReply(State.CANCELLED)
    assert isinstance(replies[6], LeaseLost)
    ended = task(store, "a")
    assert (ended.state, ended.attempt, ended.run_at) == (State.CANCELLED, 0, NOW + 3)
    assert (ended.server, ended.worker, ended.started_at) == (None, None, None)
    assert store.read(queries.GetStats()).cancelled == 2


def test_two_failures_of_one_task_in_one_batch_are_both_remembered(store: Store) -> None:
    lease = running(store, "a")

    store.apply(
        [
            finish(lease, State.RETRYING, Reason.ERROR, run_at=NOW, error=failure(1, "first")),
            ops.Promote(),
            ops.Claim(ServerId("here"), None, 1),
            finish(changed_generation(lease, 2), State.FAILED, Reason.ERROR, error=failure(2, "second")),
        ],
        NOW,
    )

    assert [error.message for error in task(store, "a").errors] == ["first", "second"]


def changed_generation(lease: Lease, generation: int) -> Lease:
    return Lease(lease.task_id, generation, *tuple(getattr(lease, f) for f in lease.__struct_fields__[2:]))


def test_refused_op_does_not_disturb_its_neighbours(store: Store) -> None:
    submit(store, "a", "b", "c")
    a, b, c = claim(store, 3)
    do(store, ops.Release(b.task_id, b.generation))

    replies = store.apply([finish(a), finish(b, error=failure(1)), finish(c)], NOW)

    assert replies[0] == ops.Finished(State.SUCCEEDED)
    assert isinstance(replies[1], LeaseLost)
    assert replies[2] == ops.Finished(State.SUCCEEDED)
    assert [state(store, name) for name in "abc"] == [State.SUCCEEDED, State.PENDING, State.SUCCEEDED]
    assert task(store, "b").errors == ()
