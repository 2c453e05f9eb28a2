"""Every store: leasing what waits, in its order, to whom it is for."""

from __future__ import annotations

from storage_kit import NOW, changed, claim, claimed, do, finish, new, running, state, submit, task
from tiers import slow

from tq.core import ops
from tq.core.retry import DEFAULT_RETRY
from tq.core.task import Json, Lease, ServerId, State, TaskId
from tq.storage.store import Store

pytest_plugins = ("every_store",)


def test_lease_has_all_that_running_needs(store: Store) -> None:
    do(store, ops.Submit(new("a", queue="mail", priority=3, run_at=NOW - 9, result_ttl_ms=50)), NOW - 4)

    assert claim(store, now=NOW) == (
        Lease(
            task_id=TaskId("a"),
            generation=1,
            type="email",
            queue="mail",
            payload=Json('{"n":1}'),
            attempt=1,
            max_attempts=3,
            timeout_ms=5_000,
            retry=DEFAULT_RETRY,
            result_ttl_ms=50,
            created_at=NOW - 4,
            run_at=NOW - 9,
            claimed_at=NOW,
        ),
    )


def test_claimed_task_runs_at_its_server(store: Store) -> None:
    submit(store, "a")
    before = task(store, "a")

    claim(store, by="s1", now=NOW + 3)

    assert task(store, "a") == changed(
        before, state=State.RUNNING, attempt=1, generation=1, started_at=NOW + 3, server=ServerId("s1")
    )


def test_nothing_is_claimed_from_an_empty_store(store: Store) -> None:
    assert claim(store, 100) == ()


def test_nothing_is_claimed_twice(store: Store) -> None:
    submit(store, "a", "b")

    first, second = store.apply([ops.Claim(ServerId("s"), None, 1), ops.Claim(ServerId("s"), None, 9)], NOW)

    assert isinstance(first, ops.Claimed)
    assert isinstance(second, ops.Claimed)
    assert [lease.task_id for lease in (*first.leases, *second.leases)] == ["a", "b"]
    assert claim(store) == ()


def test_limit_is_kept(store: Store) -> None:
    submit(store, "a", "b", "c")

    assert claimed(store, 0) == []
    assert claimed(store, 2) == ["a", "b"]


def test_order_is_priority_then_run_at_then_arrival(store: Store) -> None:
    for name, priority, run_at in (
        ("late", 0, NOW),
        ("early", 0, NOW - 1),
        ("late too", 0, NOW),
        ("low and early", -100, NOW - 100),
        ("high", 100, NOW),
        ("high and early", 100, NOW - 50),
    ):
        do(store, ops.Submit(new(name, priority=priority, run_at=run_at)))

    assert claimed(store) == ["high and early", "high", "early", "late", "late too", "low and early"]


def test_order_holds_across_types_and_queues(store: Store) -> None:
    for index, (type, queue, priority) in enumerate(
        [("t1", "q1", 0), ("t2", "q1", 1), ("t1", "q2", 2), ("t3", "q1", 0), ("t2", "q2", 1), ("t1", "q1", 2)]
    ):
        do(store, ops.Submit(new(str(index), type=type, queue=queue, priority=priority)))

    assert claimed(store, 4) == ["2", "5", "1", "4"]
    assert claimed(store, 4) == ["0", "3"]


def test_only_the_types_named_are_claimed(store: Store) -> None:
    for name, type in (("a", "t1"), ("b", "t2"), ("c", "t3"), ("d", "t1")):
        do(store, ops.Submit(new(name, type=type)))

    assert claimed(store, types=()) == []
    assert claimed(store, types=("unheard of",)) == []
    assert claimed(store, types=("t3", "t1", "t3")) == ["a", "c", "d"]
    assert claimed(store, types=None) == ["b"]


def test_unwanted_tasks_keep_their_place(store: Store) -> None:
    for name, type in (("a", "t1"), ("b", "t2"), ("c", "t1")):
        do(store, ops.Submit(new(name, type=type)))

    assert claimed(store, types=("t2",)) == ["b"]
    assert claimed(store) == ["a", "c"]


@slow
def test_order_holds_over_hundreds_of_types(store: Store) -> None:
    # Task n of 600 is of type n mod 300; every third is of high priority.
    tasks = tuple(
        new(f"{n:03}", type=f"t{n % 300}", priority=10 if n % 3 == 0 else 0, run_at=NOW - n)
        for n in range(600)
    )
    do(store, ops.SubmitMany(tasks))

    assert claimed(store, 3) == ["597", "594", "591"]
    assert claimed(store, 100) == [f"{n:03}" for n in range(588, 288, -3)]
    assert claimed(store, 100, types=tuple(f"t{n}" for n in range(200)))[:2] == ["198", "195"]
    rest = [name for _ in range(5) for name in claimed(store, 100)]
    assert len(rest) == 600 - 3 - 100 - 100
    assert claimed(store) == []


def test_generation_grows_with_every_start(store: Store) -> None:
    first = running(store, "a")
    do(store, ops.Release(first.task_id, first.generation))
    [second] = claim(store)
    do(store, finish(second))
    do(store, ops.Retry(second.task_id))
    [third] = claim(store)

    assert [first.generation, second.generation, third.generation] == [1, 2, 3]
    assert [first.attempt, second.attempt, third.attempt] == [1, 1, 1]


def test_task_submitted_in_the_batch_is_claimed_in_it(store: Store) -> None:
    _, reply, _ = store.apply(
        [ops.Submit(new("a")), ops.Claim(ServerId("s"), ("email",), 5), ops.Submit(new("b"))], NOW
    )

    assert isinstance(reply, ops.Claimed)
    assert [lease.task_id for lease in reply.leases] == ["a"]
    assert state(store, "b") is State.PENDING
