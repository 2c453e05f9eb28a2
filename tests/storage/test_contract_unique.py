"""Every store: one request makes one task, and one task at a time has a unique key."""

from __future__ import annotations

from typing import Any

import pytest
from storage_kit import DAY_MS, NOW, claim, do, failure, fates, finish, new, refusal, settle, submit, task

from tq.core import ops, queries
from tq.core.errors import Conflict, DuplicateTask, IdempotencyKeyReused, InvalidInput, NotFound
from tq.core.ops import RequestKey, Submitted
from tq.core.task import During, Lease, NewTask, OnConflict, Reason, ServerId, State, TaskId, Unique
from tq.storage.store import Store

pytest_plugins = ("every_store",)

A, B, C = TaskId("a"), TaskId("b"), TaskId("c")
ONE, OTHER = RequestKey("k", "digest 1"), RequestKey("k", "digest 2")


# Idempotency-Keys


def test_same_request_again_is_answered_with_its_task(store: Store) -> None:
    assert do(store, ops.Submit(new("a"), ONE)) == Submitted(A, State.PENDING)
    claim(store)
    before = store.snapshot()

    assert do(store, ops.Submit(new("b"), ONE), NOW + 9) == Submitted(A, State.RUNNING, duplicate=True)

    assert store.snapshot() == before


def test_same_request_twice_in_one_batch_makes_one_task(store: Store) -> None:
    replies = store.apply([ops.Submit(new("a"), ONE), ops.Submit(new("b"), ONE), ops.Submit(new("c"))], NOW)

    assert replies == [
        Submitted(A, State.PENDING),
        Submitted(A, State.PENDING, duplicate=True),
        Submitted(C, State.PENDING),
    ]


def test_other_body_under_a_known_key_is_refused(store: Store) -> None:
    do(store, ops.Submit(new("a"), ONE))

    refused = refusal(IdempotencyKeyReused, store, ops.Submit(new("b"), OTHER))

    assert refused.message == (
        "Idempotency-Key: it came before with another body: use a new key for a new request"
    )
    assert refused.fields == {"task_id": "a"}


def test_requests_of_different_keys_are_different(store: Store) -> None:
    do(store, ops.Submit(new("a"), ONE))

    assert do(store, ops.Submit(new("b"), RequestKey("K", "digest 1"))) == Submitted(B, State.PENDING)


def test_key_is_forgotten_after_a_day(store: Store) -> None:
    do(store, ops.Submit(new("a"), ONE))

    last = do(store, ops.Submit(new("b"), ONE), NOW + DAY_MS - 1)
    assert last == Submitted(A, State.PENDING, duplicate=True)
    # The repetition just before did not prolong it.
    assert do(store, ops.Submit(new("b"), OTHER), NOW + DAY_MS) == Submitted(B, State.PENDING)
    # And now it is that of the second request, for another day.
    again = do(store, ops.Submit(new("c"), OTHER), NOW + 2 * DAY_MS - 1)
    assert again == Submitted(B, State.PENDING, duplicate=True)


def test_prune_of_keys_is_not_counted_and_takes_none_too_early(store: Store) -> None:
    do(store, ops.Submit(new("a"), ONE))

    assert do(store, ops.Prune(), NOW + DAY_MS - 1) == ops.Swept(0)
    assert do(store, ops.Submit(new("b"), ONE), NOW + DAY_MS - 1).duplicate
    assert do(store, ops.Prune(), NOW + DAY_MS) == ops.Swept(0)
    assert do(store, ops.Submit(new("b"), ONE), NOW + DAY_MS) == Submitted(B, State.PENDING)


def test_refused_request_keeps_no_key(store: Store) -> None:
    refusal(InvalidInput, store, ops.Submit(new("a", parent_id=C), ONE))

    assert do(store, ops.Submit(new("a"), OTHER)) == Submitted(A, State.PENDING)


def test_request_whose_task_is_gone_is_told_so(store: Store) -> None:
    do(store, ops.Submit(new("a", result_ttl_ms=0), ONE))
    do(store, ops.Cancel(A))
    do(store, ops.Prune())

    refused = refusal(NotFound, store, ops.Submit(new("b"), ONE))
    assert refused.fields == {"task_id": "a"}
    refusal(IdempotencyKeyReused, store, ops.Submit(new("b"), OTHER))

    assert do(store, ops.Submit(new("b"), ONE), NOW + DAY_MS) == Submitted(B, State.PENDING)


def test_request_whose_task_was_deleted_is_told_so(store: Store) -> None:
    do(store, ops.Submit(new("a"), ONE))
    do(store, ops.Cancel(A))
    do(store, ops.Delete(A))

    refusal(NotFound, store, ops.Submit(new("b"), ONE))


def test_request_answered_with_an_older_task_is_kept_for_that_one(store: Store) -> None:
    submit(store, "a")

    assert do(store, ops.Submit(new("a"), ONE)) == Submitted(A, State.PENDING, duplicate=True)
    assert do(store, ops.Submit(new("b"), ONE)) == Submitted(A, State.PENDING, duplicate=True)
    refusal(IdempotencyKeyReused, store, ops.Submit(new("b"), OTHER))


# Unique keys


def only(name: str, policy: OnConflict = OnConflict.REJECT, *, key: str = "k", **more: Any) -> NewTask:
    """A task that has the unique key; *during* may be among *more*."""
    during = more.pop("during", During.ACTIVE)
    return new(name, unique=Unique(key, during, policy), **more)


def lease_of(store: Store, name: str) -> Lease:
    [lease] = claim(store)
    assert lease.task_id == name
    return lease


def hold(store: Store, during: During, state: State) -> None:
    """A task *a* with the unique key, brought into *state*."""
    if state is State.BLOCKED:
        do(store, ops.Submit(new("before", run_at=NOW + DAY_MS)))
        do(store, ops.Submit(only("a", during=during, depends_on=(TaskId("before"),))))
        return
    do(store, ops.Submit(only("a", during=during, run_at=NOW + (state is State.SCHEDULED))))
    if state in (State.SCHEDULED, State.PENDING):
        return
    lease = lease_of(store, "a")
    if state is State.RETRYING:
        do(store, finish(lease, state, Reason.ERROR, run_at=NOW + 5, error=failure(1)))
    elif state is not State.RUNNING:
        do(store, finish(lease, state, Reason.ERROR))


QUEUED, ACTIVE = During.QUEUED, During.ACTIVE
WAITS = [
    (during, state)
    for during in (QUEUED, ACTIVE)
    for state in (State.BLOCKED, State.SCHEDULED, State.PENDING, State.RETRYING)
]
HELD = [*WAITS, (ACTIVE, State.RUNNING)]
FREE = [(QUEUED, State.RUNNING)] + [
    (during, state)
    for during in (QUEUED, ACTIVE)
    for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED)
]


@pytest.mark.parametrize(("during", "state"), HELD)
def test_submit_is_answered_with_the_task_that_has_the_key(
    store: Store, during: During, state: State
) -> None:
    hold(store, during, state)
    before = store.snapshot()
    assert before.holders == (("email/k", A),)

    existing = do(store, ops.Submit(only("b", OnConflict.EXISTING)))

    assert existing == Submitted(A, state, duplicate=True)
    assert store.snapshot() == before


@pytest.mark.parametrize(("during", "state"), HELD)
def test_submit_under_a_taken_key_is_refused_if_it_wants_to_be(
    store: Store, during: During, state: State
) -> None:
    hold(store, during, state)

    refused = refusal(DuplicateTask, store, ops.Submit(only("b", OnConflict.REJECT)))

    assert refused.message == "unique.key: task a has 'k': wait for its end, or cancel it"
    assert refused.fields == {"task_id": "a", "field": "unique.key"}


@pytest.mark.parametrize(("during", "state"), WAITS)
def test_waiting_task_is_replaced(store: Store, during: During, state: State) -> None:
    hold(store, during, state)

    replacing = do(store, ops.Submit(only("b", OnConflict.REPLACE)), NOW + 3)

    assert replacing == Submitted(B, State.PENDING, replaced=A)
    assert fates(store, "a b") == ["cancelled replaced", "pending"]
    assert task(store, "a").finished_at == NOW + 3
    assert store.snapshot().holders == (("email/k", B),)
    assert store.read(queries.GetStats()).cancelled == 1


def test_running_task_is_not_replaced(store: Store) -> None:
    hold(store, ACTIVE, State.RUNNING)

    refused = refusal(DuplicateTask, store, ops.Submit(only("b", OnConflict.REPLACE)))

    assert refused.fields == {"task_id": "a", "field": "unique.key"}


@pytest.mark.parametrize("policy", OnConflict)
@pytest.mark.parametrize(("during", "state"), FREE)
def test_key_is_free_again(store: Store, during: During, state: State, policy: OnConflict) -> None:
    hold(store, during, state)
    assert store.snapshot().holders == ()

    assert do(store, ops.Submit(only("b", policy))) == Submitted(B, State.PENDING)

    assert store.snapshot().holders == (("email/k", B),)


def test_key_counts_among_tasks_of_its_type_only(store: Store) -> None:
    do(store, ops.Submit(only("a")))

    assert do(store, ops.Submit(only("b", type="sms"))) == Submitted(B, State.PENDING)
    assert do(store, ops.Submit(only("c", key="K"))) == Submitted(C, State.PENDING)
    assert store.snapshot().holders == (("email/K", C), ("email/k", A), ("sms/k", B))


def test_key_counts_across_queues(store: Store) -> None:
    do(store, ops.Submit(only("a", queue="q1")))

    refusal(DuplicateTask, store, ops.Submit(only("b", queue="q2")))


def test_same_id_again_is_a_duplicate_before_its_key_is_looked_at(store: Store) -> None:
    do(store, ops.Submit(only("a")))

    assert do(store, ops.Submit(only("a"))) == Submitted(A, State.PENDING, duplicate=True)


def test_request_answered_by_the_holder_of_its_key_is_kept(store: Store) -> None:
    do(store, ops.Submit(only("a")))
    do(store, ops.Submit(only("b", OnConflict.EXISTING), ONE))
    do(store, ops.Cancel(A))

    again = do(store, ops.Submit(only("b", OnConflict.EXISTING), ONE))

    assert again == Submitted(A, State.CANCELLED, duplicate=True)


def test_released_task_takes_its_key_again(store: Store) -> None:
    hold(store, QUEUED, State.RUNNING)

    do(store, ops.Release(A, 1))

    assert store.snapshot().holders == (("email/k", A),)
    refusal(DuplicateTask, store, ops.Submit(only("b")))


def test_task_that_is_tried_again_takes_its_key_again(store: Store) -> None:
    hold(store, QUEUED, State.PENDING)
    lease = lease_of(store, "a")
    assert store.snapshot().holders == ()

    do(store, finish(lease, State.RETRYING, Reason.ERROR, run_at=NOW + 5, error=failure(1)))

    assert store.snapshot().holders == (("email/k", A),)


@pytest.mark.parametrize("how", ["crash", "recover"])
def test_task_whose_attempt_died_takes_its_key_again(store: Store, how: str) -> None:
    hold(store, QUEUED, State.RUNNING)

    do(store, ops.Crash(A, 1, failure(1)) if how == "crash" else ops.Recover(ServerId("us"), NOW))

    assert store.snapshot().holders == (("email/k", A),)


def test_key_that_another_took_meanwhile_stays_with_it(store: Store) -> None:
    hold(store, QUEUED, State.RUNNING)
    do(store, ops.Submit(only("b", during=QUEUED)))

    do(store, ops.Release(A, 1))

    assert store.snapshot().holders == (("email/k", B),)
    assert fates(store, "a b") == ["pending", "pending"]
    # The end of one that has not the key does not free it.
    do(store, ops.Cancel(A))
    assert store.snapshot().holders == (("email/k", B),)


@pytest.mark.parametrize("how", ["cancel", "expire", "dependency"])
def test_waiting_task_that_ends_lets_its_key_go(store: Store, how: str) -> None:
    do(store, ops.Submit(new("d")))
    do(store, ops.Submit(only("a", depends_on=(TaskId("d"),), expires_at=NOW + 10)))
    match how:
        case "cancel":
            do(store, ops.Cancel(A))
        case "expire":
            do(store, ops.Expire(), NOW + 10)
        case _:
            do(store, ops.Cancel(TaskId("d")))
            settle(store)

    assert task(store, "a").state is State.CANCELLED
    assert store.snapshot().holders == ()


def test_cancelled_running_task_has_its_key_until_its_attempt_has_ended(store: Store) -> None:
    hold(store, ACTIVE, State.PENDING)
    lease = lease_of(store, "a")
    do(store, ops.Cancel(A))
    refusal(DuplicateTask, store, ops.Submit(only("b")))

    do(store, finish(lease))

    assert do(store, ops.Submit(only("b"))) == Submitted(B, State.PENDING)


@pytest.mark.parametrize("during", During)
def test_retry_is_refused_while_another_has_the_key(store: Store, during: During) -> None:
    hold(store, during, State.FAILED)
    do(store, ops.Submit(only("b", during=during)))

    refused = refusal(DuplicateTask, store, ops.Retry(A))
    assert refused.message == "task a: b has its unique key now: wait for its end"
    assert refused.fields == {"task_id": "b"}

    do(store, ops.Cancel(B))
    assert do(store, ops.Retry(A)) == ops.Retried(State.PENDING)
    assert store.snapshot().holders == (("email/k", A),)


def test_task_cancelled_as_it_comes_keeps_nobody_out(store: Store) -> None:
    submit(store, "d")
    do(store, ops.Cancel(TaskId("d")))

    assert do(store, ops.Submit(only("a", depends_on=(TaskId("d"),)))).state is State.CANCELLED

    assert store.snapshot().holders == ()


def test_task_that_would_replace_its_own_parent_is_refused(store: Store) -> None:
    # Its parent is about to be cancelled: by itself.
    do(store, ops.Submit(only("a")))

    refused = refusal(Conflict, store, ops.Submit(only("b", OnConflict.REPLACE, parent_id=A)))

    assert refused.fields == {"field": "parent_id"}


# In batches


def test_batch_that_contradicts_itself_stores_none(store: Store) -> None:
    refused = refusal(DuplicateTask, store, ops.SubmitMany((new("x"), only("a"), only("b"), new("y"))))

    assert refused.message == "unique.key: task a has 'k': wait for its end, or cancel it"
    assert refused.fields == {"task_id": "a", "field": "unique.key", "index": 2}


def test_second_of_a_batch_is_answered_with_the_first(store: Store) -> None:
    replies = do(store, ops.SubmitMany((only("a"), only("b", OnConflict.EXISTING), new("c"))))

    assert replies == (
        Submitted(A, State.PENDING),
        Submitted(A, State.PENDING, duplicate=True),
        Submitted(C, State.PENDING),
    )
    assert [kept.id for kept in store.snapshot().tasks] == ["a", "c"]


def test_second_of_a_batch_replaces_the_first(store: Store) -> None:
    replies = do(store, ops.SubmitMany((only("a"), only("b", OnConflict.REPLACE))))

    assert replies == (Submitted(A, State.PENDING), Submitted(B, State.PENDING, replaced=A))
    assert fates(store, "a b") == ["cancelled replaced", "pending"]
    assert store.read(queries.GetStats()).submitted == 2


def test_refused_batch_undoes_its_replacements(store: Store) -> None:
    do(store, ops.Submit(only("c", key="taken", run_at=NOW - 1)))
    lease_of(store, "c")
    do(store, ops.Submit(only("a")))

    many = ops.SubmitMany((only("b", OnConflict.REPLACE), only("d", OnConflict.REPLACE, key="taken")))
    refused = refusal(DuplicateTask, store, many)

    assert refused.fields == {"task_id": "c", "field": "unique.key", "index": 1}
    assert [lease.task_id for lease in claim(store, 9)] == ["a"]
    assert store.snapshot().holders == (("email/k", A), ("email/taken", C))


def test_singles_in_one_transaction_see_each_other(store: Store) -> None:
    replies = store.apply(
        [ops.Submit(only("a")), ops.Submit(only("b")), ops.Cancel(A), ops.Submit(only("c"))], NOW
    )

    assert replies[0] == Submitted(A, State.PENDING)
    assert isinstance(replies[1], DuplicateTask)
    assert replies[2] == ops.CancelReply(State.CANCELLED)
    assert replies[3] == Submitted(C, State.PENDING)
