"""Every store: schedules, and that each tick is dealt with once."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from storage_kit import NOW, claim, do, failure, finish, new, refusal, state, task
from tiers import slow

from tq.core import ops, queries
from tq.core.errors import Conflict, DuplicateTask, NotFound
from tq.core.ops import Fired, Schedule, Submitted, Tick
from tq.core.task import During, Json, OnConflict, Reason, State, TaskId, Unique
from tq.storage.store import Store

pytest_plugins = ("every_store",)

A, B = TaskId("a"), TaskId("b")
SPEC, OTHER_SPEC = Json('{"every": 100}'), Json('{"every": 200}')


def put(store: Store, name: str = "s", *, next_at: int | None = NOW + 100, now: int = NOW) -> Schedule:
    return do(store, ops.PutSchedule(name, SPEC, next_at), now)


def fire(tick: int, name: str | None = "a", *, version: int = 1, skipped: int = 0, **more: bool) -> ops.Fire:
    """The tick at NOW + *tick*, dealt with 3 ms later; the next one is a hundred after it."""
    return ops.Fire(
        name="s",
        version=version,
        tick_at=NOW + tick,
        seen_until=NOW + tick + 3,
        next_at=NOW + tick + 100,
        task=None if name is None else new(name, schedule="s"),
        skipped=skipped,
        **more,
    )


def pause(paused: bool, *, version: int = 1, next_at: int | None = None) -> ops.PauseSchedule:
    return ops.PauseSchedule("s", version, paused, next_at)


def schedule(store: Store) -> Schedule:
    found = store.read(queries.GetSchedule("s"))
    assert found is not None
    return found


# Put


def test_new_schedule_is_kept_as_given(store: Store) -> None:
    made = put(store)

    assert made == Schedule(
        name="s",
        spec=SPEC,
        version=1,
        paused=False,
        created_at=NOW,
        seen_until=NOW,
        next_at=NOW + 100,
        last_task_id=None,
        ticks=(),
    )
    assert schedule(store) == made
    assert store.snapshot().schedules == (made,)


def test_unknown_schedule_is_none(store: Store) -> None:
    put(store)

    assert store.read(queries.GetSchedule("S")) is None


def test_same_definition_again_changes_nothing(store: Store) -> None:
    made = put(store)
    before = store.snapshot()

    assert put(store, next_at=NOW + 999, now=NOW + 50) == made

    assert store.snapshot() == before


def test_new_definition_counts_from_now_on(store: Store) -> None:
    put(store)
    do(store, fire(100), NOW + 103)
    before = schedule(store)

    after = do(store, ops.PutSchedule("s", OTHER_SPEC, NOW + 350), NOW + 150)

    assert after == replace(
        before, spec=OTHER_SPEC, version=2, seen_until=NOW + 150, next_at=NOW + 350, last_task_id=A
    )
    assert after.ticks == (Tick(at=NOW + 100, task_id=A),)
    assert schedule(store) == after


def test_new_definition_of_a_paused_schedule_leaves_it_paused(store: Store) -> None:
    put(store)
    do(store, pause(True))

    after = do(store, ops.PutSchedule("s", OTHER_SPEC, NOW + 350), NOW + 150)

    assert (after.version, after.paused, after.next_at) == (2, True, None)


def test_schedule_without_a_next_tick_is_kept(store: Store) -> None:
    assert put(store, next_at=None).next_at is None
    assert store.read(queries.NextDue()) is None


@slow
def test_there_are_a_thousand_schedules_and_no_more(store: Store) -> None:
    store.apply([ops.PutSchedule(f"s{n}", SPEC, None) for n in range(1_000)], NOW)

    refused = refusal(Conflict, store, ops.PutSchedule("x", SPEC, None))
    assert refused.message == "there are 1000 schedules already, which is all there may be: remove one"
    assert refused.fields == {"limit": 1_000}

    assert do(store, ops.PutSchedule("s5", OTHER_SPEC, None)).version == 2
    do(store, ops.DeleteSchedule("s5"))
    assert do(store, ops.PutSchedule("x", SPEC, None)).version == 1


# Delete


def test_deleted_schedule_is_gone_and_its_tasks_stay(store: Store) -> None:
    put(store)
    do(store, fire(100), NOW + 103)

    assert do(store, ops.DeleteSchedule("s")) == ops.Deleted()

    assert store.read(queries.GetSchedule("s")) is None
    assert store.read(queries.NextDue()) is None
    assert state(store, "a") is State.PENDING
    refused = refusal(NotFound, store, ops.DeleteSchedule("s"))
    assert refused.fields == {"name": "s"}


def test_successor_of_a_deleted_schedule_does_not_fire_its_ticks(store: Store) -> None:
    put(store)
    do(store, ops.DeleteSchedule("s"))
    put(store, next_at=NOW + 203, now=NOW + 103)

    refusal(Conflict, store, fire(100), NOW + 103)


# Pause


def test_paused_schedule_has_no_next_tick(store: Store) -> None:
    put(store)

    paused = do(store, pause(True), NOW + 5)

    assert (paused.paused, paused.next_at, paused.version) == (True, None, 1)
    assert schedule(store) == paused
    assert store.read(queries.NextDue()) is None
    assert store.read(queries.DueSchedules(NOW + 999)) == ()
    refusal(Conflict, store, fire(100), NOW + 103)


def test_no_tick_is_made_up_for_after_a_pause(store: Store) -> None:
    put(store)
    do(store, pause(True), NOW + 5)

    resumed = do(store, pause(False, next_at=NOW + 500), NOW + 450)

    assert (resumed.paused, resumed.next_at, resumed.seen_until) == (False, NOW + 500, NOW + 450)
    refusal(Conflict, store, fire(100), NOW + 450)
    refusal(Conflict, store, fire(447), NOW + 450)
    assert do(store, fire(500), NOW + 503).submitted == Submitted(A, State.PENDING)


def test_pause_of_a_paused_schedule_changes_nothing(store: Store) -> None:
    put(store)
    assert do(store, pause(False, next_at=NOW + 7), NOW + 5) == schedule(store)
    assert schedule(store).next_at == NOW + 100
    paused = do(store, pause(True), NOW + 5)
    before = store.snapshot()

    assert do(store, pause(True), NOW + 9) == paused

    assert store.snapshot() == before


def test_pause_of_another_definition_is_refused(store: Store) -> None:
    put(store)
    do(store, ops.PutSchedule("s", OTHER_SPEC, NOW + 200))

    refused = refusal(Conflict, store, pause(True))
    assert refused.message == "schedule s has been changed meanwhile: look again"
    assert refused.fields == {"name": "s"}
    assert do(store, pause(True, version=2)).paused
    refusal(Conflict, store, pause(False, version=1, next_at=NOW + 7))


def test_word_about_a_schedule_that_is_not_there_is_refused(store: Store) -> None:
    refused = refusal(NotFound, store, pause(True))
    assert refused.message == "no schedule s: see the list of schedules"
    refusal(NotFound, store, fire(100))


# Fire


def test_tick_makes_its_task(store: Store) -> None:
    before = put(store)

    assert do(store, fire(100, skipped=2), NOW + 103) == Fired(Submitted(A, State.PENDING))

    assert schedule(store) == replace(
        before,
        seen_until=NOW + 103,
        next_at=NOW + 200,
        last_task_id=A,
        ticks=(Tick(at=NOW + 100, task_id=A, overlapped=False, skipped=2),),
    )
    made = task(store, "a")
    assert (made.state, made.created_at, made.options.schedule) == (State.PENDING, NOW + 103, "s")
    assert store.read(queries.GetStats()).submitted == 1


def test_tick_is_dealt_with_once(store: Store) -> None:
    put(store)

    first, second = store.apply([fire(100, "a"), fire(100, "b")], NOW + 103)

    assert first == Fired(Submitted(A, State.PENDING))
    assert second == Conflict("schedule s has been changed meanwhile: look again", name="s")
    assert [kept.id for kept in store.snapshot().tasks] == ["a"]
    refusal(Conflict, store, fire(99, "b"))
    assert store.read(queries.GetSchedule("s")) == schedule(store)
    assert do(store, fire(101, "b", overlap=True)).submitted == Submitted(B, State.PENDING)


def test_tick_of_another_definition_is_refused(store: Store) -> None:
    put(store)
    do(store, ops.PutSchedule("s", OTHER_SPEC, NOW + 200))

    refusal(Conflict, store, fire(200, version=1))
    refusal(Conflict, store, fire(200, version=3))
    assert do(store, fire(200, version=2)).submitted == Submitted(A, State.PENDING)


@pytest.mark.parametrize("where", [State.SCHEDULED, State.PENDING, State.RUNNING, State.RETRYING])
def test_tick_makes_no_task_while_the_last_one_has_not_ended(store: Store, where: State) -> None:
    put(store)
    first = fire(100)
    assert first.task is not None
    later = replace(first.task, run_at=NOW + (500 if where is State.SCHEDULED else 0))
    do(store, replace(first, task=later))
    if where in (State.RUNNING, State.RETRYING):
        [lease] = claim(store)
        if where is State.RETRYING:
            do(store, finish(lease, where, Reason.ERROR, run_at=NOW + 5, error=failure(1)))

    assert do(store, fire(200, "b")) == Fired(None)

    kept = schedule(store)
    assert kept.ticks[-1] == Tick(at=NOW + 200, task_id=None, overlapped=True)
    assert (kept.last_task_id, kept.seen_until, kept.next_at) == (A, NOW + 203, NOW + 300)
    assert [each.id for each in store.snapshot().tasks] == ["a"]


@pytest.mark.parametrize("end", [State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_tick_makes_its_task_once_the_last_one_has_ended(store: Store, end: State) -> None:
    put(store)
    do(store, fire(100))
    assert do(store, fire(200, "b")) == Fired(None)
    [lease] = claim(store)
    do(store, finish(lease, end, Reason.ERROR))

    assert do(store, fire(300, "b")) == Fired(Submitted(B, State.PENDING))

    assert schedule(store).last_task_id == B
    # Now that one counts.
    assert do(store, fire(400, "c")) == Fired(None)


def test_tick_makes_its_task_if_the_last_one_is_gone(store: Store) -> None:
    put(store)
    do(store, fire(100))
    do(store, ops.Cancel(A))
    do(store, ops.Delete(A))

    assert do(store, fire(200, "b")) == Fired(Submitted(B, State.PENDING))


def test_ticks_may_overlap(store: Store) -> None:
    put(store)
    do(store, fire(100))

    assert do(store, fire(200, "b", overlap=True)) == Fired(Submitted(B, State.PENDING))


def test_tick_that_came_too_late_is_noted(store: Store) -> None:
    put(store)
    do(store, fire(100))

    assert do(store, fire(200, None, skipped=3)) == Fired(None)

    kept = schedule(store)
    assert kept.ticks[-1] == Tick(at=NOW + 200, task_id=None, overlapped=False, skipped=3)
    assert (kept.last_task_id, kept.seen_until, kept.next_at) == (A, NOW + 203, NOW + 300)


def test_last_tick_of_all_leaves_none(store: Store) -> None:
    put(store)

    do(store, replace(fire(100), next_at=None))

    assert schedule(store).next_at is None
    assert store.read(queries.NextDue()) is None


def test_last_twenty_ticks_are_remembered(store: Store) -> None:
    put(store)
    for n in range(1, 24):
        do(store, fire(n * 100, f"t{n}" if n % 2 else None, overlap=True))

    ticks = schedule(store).ticks
    assert [tick.at - NOW for tick in ticks] == [n * 100 for n in range(4, 24)]
    assert [tick.task_id for tick in ticks[:3]] == [None, "t5", None]


def test_tick_whose_unique_key_is_taken_makes_none_and_is_dealt_with(store: Store) -> None:
    unique = Unique("k", During.ACTIVE, OnConflict.REJECT)
    do(store, ops.Submit(new("holder", unique=unique)))
    put(store)

    assert do(store, replace(fire(100), task=new("a", unique=unique))) == Fired(None)

    assert schedule(store).ticks == (Tick(at=NOW + 100, overlapped=True),)
    assert schedule(store).next_at == NOW + 200
    refusal(DuplicateTask, store, ops.Submit(new("b", unique=unique)))


def test_tick_and_the_task_that_it_made_work_in_one_batch(store: Store) -> None:
    replies = store.apply(
        [ops.PutSchedule("s", SPEC, NOW), fire(100), ops.Cancel(A), fire(200, "b"), pause(True)], NOW
    )

    assert replies[1:4] == [
        Fired(Submitted(A, State.PENDING)),
        ops.CancelReply(State.CANCELLED),
        Fired(Submitted(B, State.PENDING)),
    ]
    assert schedule(store).paused


# Reading


def names(found: tuple[Schedule, ...]) -> list[str]:
    return [each.name for each in found]


def test_due_schedules_come_earliest_first_then_by_name(store: Store) -> None:
    for name, next_at in (("d", 3), ("c", 1), ("b", 2), ("a", 2), ("later", 9), ("B", 2)):
        put(store, name, next_at=NOW + next_at)
    put(store, "never", next_at=None)

    assert names(store.read(queries.DueSchedules(NOW))) == []
    assert names(store.read(queries.DueSchedules(NOW + 1))) == ["c"]
    assert names(store.read(queries.DueSchedules(NOW + 3))) == ["c", "B", "a", "b", "d"]
    assert names(store.read(queries.DueSchedules(NOW + 3, limit=3))) == ["c", "B", "a"]
    assert store.read(queries.NextDue()) == NOW + 1


def test_fired_schedule_is_due_again_at_its_next_tick(store: Store) -> None:
    put(store)
    do(store, fire(100))

    assert names(store.read(queries.DueSchedules(NOW + 199))) == []
    assert names(store.read(queries.DueSchedules(NOW + 200))) == ["s"]


def test_schedules_are_listed_by_name_in_pages(store: Store) -> None:
    for name in ("b", "a", "B", "ab", "c", "~"):
        put(store, name)

    assert names(store.read(queries.GetSchedules())) == ["B", "a", "ab", "b", "c", "~"]
    assert names(store.read(queries.GetSchedules(limit=2))) == ["B", "a"]
    assert names(store.read(queries.GetSchedules(after="a", limit=2))) == ["ab", "b"]
    assert names(store.read(queries.GetSchedules(after="bb"))) == ["c", "~"]
    assert names(store.read(queries.GetSchedules(after="~"))) == []
