"""Every store: promote, recover, prune, heartbeats, and the counters that outlive it all."""

from __future__ import annotations

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
    running,
    state,
    submit,
    task,
)

from tq.core import ops, queries
from tq.core.ops import Recovered, Swept
from tq.core.queries import LaneCount, Stats
from tq.core.task import AttemptError, Reason, ServerId, State, TaskId
from tq.storage.store import Store

pytest_plugins = ("every_store",)

A = TaskId("a")
US = ServerId("us")


def recover(store: Store, *, dead_before: int = NOW, limit: int = 100, now: int = NOW) -> Recovered:
    return do(store, ops.Recover(US, dead_before, limit), now)


def servers(store: Store) -> list[tuple[str, int]]:
    return [(str(server), seen_at) for server, seen_at in store.snapshot().servers]


# Promote


def test_task_is_promoted_when_its_time_has_come(store: Store) -> None:
    do(store, ops.Submit(new("a", run_at=NOW + 10)))
    before = task(store, "a")

    assert do(store, ops.Promote(), NOW + 9) == Swept(0)
    assert do(store, ops.Promote(), NOW + 10) == Swept(1)

    assert task(store, "a") == changed(before, state=State.PENDING)
    assert claimed(store) == ["a"]


def test_failed_attempt_comes_back_when_its_wait_is_over(store: Store) -> None:
    lease = running(store, "a")
    do(store, finish(lease, State.RETRYING, Reason.ERROR, run_at=NOW + 10, error=failure(1)))

    assert do(store, ops.Promote(), NOW + 10) == Swept(1)

    [again] = claim(store)
    assert (again.attempt, again.generation) == (2, 2)
    assert task(store, "a").reason is Reason.ERROR


def test_promote_takes_the_earliest_first_and_says_if_there_is_more(store: Store) -> None:
    for name, run_at in (("c", NOW + 3), ("a", NOW + 1), ("b", NOW + 1), ("later", NOW + 99)):
        do(store, ops.Submit(new(name, run_at=run_at)))

    assert do(store, ops.Promote(limit=0), NOW + 5) == Swept(0, more=True)
    assert do(store, ops.Promote(limit=2), NOW + 5) == Swept(2, more=True)
    assert [state(store, name) for name in ("a", "b", "c")] == [
        State.PENDING,
        State.PENDING,
        State.SCHEDULED,
    ]
    assert do(store, ops.Promote(limit=1), NOW + 5) == Swept(1)
    assert claimed(store) == ["a", "b", "c"]


def test_next_due_is_the_earliest_of_what_waits_for_a_time(store: Store) -> None:
    assert store.read(queries.NextDue()) is None
    submit(store, "pending")
    assert store.read(queries.NextDue()) is None
    do(store, ops.Submit(new("b", run_at=NOW + 7)))
    do(store, ops.Submit(new("a", run_at=NOW + 5)))
    assert store.read(queries.NextDue()) == NOW + 5
    do(store, ops.Cancel(A))
    assert store.read(queries.NextDue()) == NOW + 7


# Recover


def test_task_of_an_unknown_server_is_taken_back(store: Store) -> None:
    running(store, "a", by="dead")
    before = task(store, "a")

    assert recover(store, now=NOW + 3) == Recovered(pending=1)

    lost = AttemptError(
        1, NOW + 3, Reason.INTERRUPTED, "ServerLost", "the server that ran this attempt is gone"
    )
    assert task(store, "a") == changed(
        before, state=State.PENDING, attempt=0, crashes=1, started_at=None, server=None, errors=(lost,)
    )


def test_only_servers_not_seen_lately_are_dead(store: Store) -> None:
    submit(store, "a", "b", "c", "d")
    for server, seen_at in (("old", NOW - 1), ("live", NOW), ("us", NOW - 99)):
        do(store, ops.Beat(ServerId(server)), seen_at)
        claim(store, by=server)
    claim(store, by="never seen")

    assert recover(store) == Recovered(pending=2)

    assert [state(store, name) for name in "abcd"] == [
        State.PENDING,
        State.RUNNING,
        State.RUNNING,
        State.PENDING,
    ]
    assert servers(store) == [("live", NOW), ("us", NOW - 99)]


def test_third_crash_is_poison(store: Store) -> None:
    submit(store, "a")
    for _ in range(2):
        claim(store, by="dead")
        assert recover(store) == Recovered(pending=1)
    claim(store, by="dead")

    assert recover(store, now=NOW + 8) == Recovered(failed=1)

    poisoned = task(store, "a")
    assert (poisoned.state, poisoned.reason) == (State.FAILED, Reason.POISON)
    assert (poisoned.crashes, poisoned.attempt, poisoned.generation) == (3, 0, 3)
    assert (poisoned.finished_at, poisoned.server) == (NOW + 8, "dead")
    assert len(poisoned.errors) == 3
    assert store.read(queries.GetStats()).failed == 1


def test_retry_forgives_crashes(store: Store) -> None:
    submit(store, "a")
    for _ in range(3):
        claim(store, by="dead")
        recover(store)
    do(store, ops.Retry(A))
    claim(store, by="dead")

    assert recover(store) == Recovered(pending=1)
    assert task(store, "a").crashes == 1


def test_task_that_was_to_be_cancelled_is_when_its_server_is_dead(store: Store) -> None:
    submit(store, "a")
    for _ in range(2):
        claim(store, by="dead")
        recover(store)
    claim(store, by="dead")
    do(store, ops.Cancel(A))

    assert recover(store) == Recovered(cancelled=1)

    assert (state(store, "a"), task(store, "a").reason, task(store, "a").crashes) == (
        State.CANCELLED,
        Reason.USER,
        3,
    )


def test_recover_goes_by_arrival_and_keeps_its_limit(store: Store) -> None:
    do(store, ops.Beat(ServerId("dead")), NOW - 1)
    submit(store, "a", "b", "c")
    claim(store, 3, by="dead")

    assert recover(store, limit=2) == Recovered(pending=2, more=True)
    assert [state(store, name) for name in "abc"] == [State.PENDING, State.PENDING, State.RUNNING]
    assert servers(store) == [("dead", NOW - 1)]

    assert recover(store, limit=2) == Recovered(pending=1)
    assert servers(store) == []
    assert recover(store) == Recovered()


def test_word_of_the_dead_server_is_refused(store: Store) -> None:
    lease = running(store, "a", by="dead")

    replies = store.apply([ops.Recover(US, NOW), finish(lease)], NOW)

    assert replies[0] == Recovered(pending=1)
    assert type(replies[1]).__name__ == "LeaseLost"


# Heartbeats


def test_server_is_known_by_its_last_beat_until_it_goes(store: Store) -> None:
    store.apply([ops.Beat(ServerId("b")), ops.Beat(ServerId("a"))], NOW)
    do(store, ops.Beat(ServerId("b")), NOW + 5)
    assert servers(store) == [("a", NOW), ("b", NOW + 5)]

    do(store, ops.Beat(ServerId("b"), gone=True))
    do(store, ops.Beat(ServerId("never seen"), gone=True))
    assert servers(store) == [("a", NOW)]


# Prune


def test_ended_tasks_are_kept_as_long_as_they_are_to_be(store: Store) -> None:
    submit(store, "ok", "bad", "off")
    ok, bad, off = claim(store, 3)
    store.apply(
        [
            finish(ok, result="1"),
            finish(bad, State.FAILED, Reason.ERROR, error=failure(1)),
            finish(off, State.CANCELLED, Reason.USER),
        ],
        NOW,
    )

    assert do(store, ops.Prune(), NOW + DAY_MS - 1) == Swept(0)
    assert do(store, ops.Prune(), NOW + DAY_MS) == Swept(2)
    assert [kept.id for kept in store.snapshot().tasks] == ["bad"]
    assert do(store, ops.Prune(), NOW + 7 * DAY_MS - 1) == Swept(0)
    assert do(store, ops.Prune(), NOW + 7 * DAY_MS) == Swept(1)
    assert store.snapshot().tasks == ()


def test_task_may_say_how_long_it_is_kept(store: Store) -> None:
    store.apply(
        [
            ops.Submit(new("b", result_ttl_ms=50)),
            ops.Submit(new("a", result_ttl_ms=0)),
            ops.Cancel(TaskId("a")),
            ops.Cancel(TaskId("b")),
        ],
        NOW,
    )

    assert do(store, ops.Prune(), NOW) == Swept(1)
    assert do(store, ops.Prune(), NOW + 49) == Swept(0)
    assert do(store, ops.Prune(), NOW + 50) == Swept(1)


def test_prune_keeps_its_limit(store: Store) -> None:
    for name in "abc":
        do(store, ops.Submit(new(name, result_ttl_ms=1)))
        do(store, ops.Cancel(TaskId(name)))

    assert do(store, ops.Prune(limit=0), NOW + 1) == Swept(0, more=True)
    assert do(store, ops.Prune(limit=2), NOW + 1) == Swept(2, more=True)
    assert do(store, ops.Prune(limit=1), NOW + 1) == Swept(1)


def test_retried_task_is_not_pruned(store: Store) -> None:
    do(store, finish(running(store, "a")))
    do(store, ops.Retry(A))

    assert do(store, ops.Prune(), NOW + 99 * DAY_MS) == Swept(0)
    assert claimed(store) == ["a"]


def test_id_of_a_pruned_task_is_free_and_clean_again(store: Store) -> None:
    long = '"' + "x" * 5_000 + '"'
    do(store, ops.Submit(new("a", payload=long)))
    [lease] = claim(store)
    do(store, finish(lease, State.FAILED, Reason.ERROR, result=long, error=failure(1)))
    do(store, ops.Prune(), NOW + 7 * DAY_MS)

    assert do(store, ops.Submit(new("a", type="sms", payload="2"))) == ops.Submitted(A, State.PENDING)

    again = task(store, "a")
    assert (again.payload, again.result, again.errors, again.generation) == ("2", None, (), 0)


# Counters


def test_counters_of_an_empty_store_are_zero(store: Store) -> None:
    assert store.read(queries.GetStats()) == Stats(lanes=(), submitted=0, succeeded=0, failed=0, cancelled=0)


def test_counters_tell_lanes_and_totals(store: Store) -> None:
    for name, type, queue, run_at in (
        ("a", "t1", "q", NOW),
        ("b", "t1", "q", NOW),
        ("c", "t2", "q", NOW + 9),
        ("d", "t1", "p", NOW),
    ):
        do(store, ops.Submit(new(name, type=type, queue=queue, run_at=run_at)))
    [lease] = claim(store)
    do(store, finish(lease))

    assert store.read(queries.GetStats()) == Stats(
        lanes=(
            LaneCount("p", "t1", State.PENDING, 1),
            LaneCount("q", "t1", State.PENDING, 1),
            LaneCount("q", "t1", State.SUCCEEDED, 1),
            LaneCount("q", "t2", State.SCHEDULED, 1),
        ),
        submitted=4,
        succeeded=1,
        failed=0,
        cancelled=0,
    )


def test_totals_survive_pruning_and_count_every_end(store: Store) -> None:
    do(store, finish(running(store, "a")))
    do(store, ops.Retry(A))
    do(store, finish(claim(store)[0], State.FAILED, Reason.ERROR, error=failure(1)))
    do(store, ops.Prune(), NOW + 7 * DAY_MS)

    assert store.read(queries.GetStats()) == Stats(lanes=(), submitted=1, succeeded=1, failed=1, cancelled=0)


def test_lane_works_after_its_last_task_was_pruned(store: Store) -> None:
    replies = store.apply(
        [ops.Submit(new("a", result_ttl_ms=0)), ops.Cancel(A), ops.Prune(), ops.Submit(new("b"))], NOW
    )
    assert replies[2] == Swept(1)
    do(store, ops.Cancel(TaskId("b")))
    do(store, ops.Prune(), NOW + DAY_MS)
    submit(store, "c")

    assert claimed(store) == ["c"]
    assert store.read(queries.GetStats()).lanes == (LaneCount("default", "email", State.RUNNING, 1),)
