"""Every store: what an attempt tells while it runs, how it dies, and deletion."""

from __future__ import annotations

import pytest
from storage_kit import (
    NOW,
    changed,
    claim,
    claimed,
    do,
    failure,
    fates,
    finish,
    new,
    refusal,
    running,
    settle,
    submit,
    task,
)

from tq.core import ops, queries
from tq.core.errors import IllegalTransition, LeaseLost, NotFound
from tq.core.ops import Finished, Noted
from tq.core.task import AttemptError, LogLine, Progress, Reason, ServerId, State, TaskId
from tq.storage.store import Store

pytest_plugins = ("every_store",)

A = TaskId("a")


def lines(*texts: str, attempt: int = 1) -> tuple[LogLine, ...]:
    return tuple(LogLine(NOW + 3, attempt, text) for text in texts)


def note(*texts: str, progress: Progress | None = None, generation: int = 1) -> ops.Note:
    return ops.Note(A, generation, progress, lines(*texts))


# Notes


def test_note_is_kept_and_nothing_else_changes(store: Store) -> None:
    running(store, "a")
    before = task(store, "a")

    assert do(store, note("one", "two", progress=Progress(0.25, "reading")), NOW + 5) == Noted()

    assert task(store, "a") == changed(
        before,
        progress=Progress(0.25, "reading"),
        logs=(LogLine(NOW + 3, 1, "one"), LogLine(NOW + 3, 1, "two")),
    )


def test_last_progress_counts_and_lines_add_up(store: Store) -> None:
    running(store, "a")

    store.apply(
        [
            note("one", progress=Progress(0.5)),
            note("two"),
            note(progress=Progress(0.4, "back a little")),
            note("three"),
        ],
        NOW,
    )

    assert task(store, "a").progress == Progress(0.4, "back a little")
    assert [line.text for line in task(store, "a").logs] == ["one", "two", "three"]


def test_no_progress_is_progress_too(store: Store) -> None:
    running(store, "a")
    do(store, note(progress=Progress(0.5, "half")))

    do(store, note(progress=Progress(0.0)))

    assert task(store, "a").progress == Progress(0.0, "")


def test_last_two_hundred_lines_are_kept(store: Store) -> None:
    running(store, "a")

    do(store, note(*(f"line {n}" for n in range(150))))
    assert len(task(store, "a").logs) == 150
    do(store, note(*(f"line {n}" for n in range(150, 210))))
    assert [line.text for line in task(store, "a").logs] == [f"line {n}" for n in range(10, 210)]
    do(store, note(*(f"more {n}" for n in range(333))))
    assert [line.text for line in task(store, "a").logs] == [f"more {n}" for n in range(133, 333)]


def test_text_of_a_line_comes_back_to_the_character(store: Store) -> None:
    running(store, "a")

    do(store, note('ñ 日 😀 \0 \x1f " \\ \n', progress=Progress(1 / 3, "\0 'x'")))

    assert task(store, "a").logs[0].text == 'ñ 日 😀 \0 \x1f " \\ \n'
    assert task(store, "a").progress == Progress(1 / 3, "\0 'x'")


def test_notes_are_kept_after_the_end(store: Store) -> None:
    lease = running(store, "a")
    do(store, note("one", progress=Progress(0.9)))

    do(store, finish(lease))

    assert (task(store, "a").progress, task(store, "a").logs) == (Progress(0.9), lines("one"))


def test_lines_of_all_attempts_are_kept(store: Store) -> None:
    lease = running(store, "a")
    do(store, note("first"))
    do(store, finish(lease, State.RETRYING, Reason.ERROR, run_at=NOW, error=failure(1)))
    do(store, ops.Promote())
    claim(store)

    do(store, ops.Note(A, 2, None, lines("second", attempt=2)))

    assert [(line.attempt, line.text) for line in task(store, "a").logs] == [(1, "first"), (2, "second")]


def test_task_that_was_asked_to_stop_may_still_tell(store: Store) -> None:
    running(store, "a")
    do(store, ops.Cancel(A))

    assert do(store, note("stopping")) == Noted()

    assert task(store, "a").cancel_reason is Reason.USER


def test_note_of_an_old_generation_is_refused(store: Store) -> None:
    running(store, "a")
    do(store, ops.Release(A, 1))

    refused = refusal(LeaseLost, store, note("late"))
    assert refused.fields == {"task_id": "a", "generation": 1}
    claim(store)
    refusal(LeaseLost, store, note("late", progress=Progress(1.0)))
    assert do(store, note("now", generation=2)) == Noted()


def test_note_of_an_ended_task_is_refused(store: Store) -> None:
    do(store, finish(running(store, "a")))

    refusal(LeaseLost, store, note("late"))


def test_note_of_a_task_that_is_not_there_is_refused(store: Store) -> None:
    refusal(NotFound, store, note("late"))


# Crashes


def died(attempt: int = 1) -> AttemptError:
    return AttemptError(attempt, NOW + 2, Reason.INTERRUPTED, "ProcessDied", "killed by signal 9")


def test_attempt_whose_process_died_is_not_burnt(store: Store) -> None:
    lease = running(store, "a")
    before = task(store, "a")

    assert do(store, ops.Crash(A, lease.generation, died()), NOW + 9) == Finished(State.PENDING)

    assert task(store, "a") == changed(
        before, state=State.PENDING, attempt=0, crashes=1, started_at=None, server=None, errors=(died(),)
    )
    assert claimed(store) == ["a"]


def test_third_crash_is_poison(store: Store) -> None:
    submit(store, "a")
    states = []
    for generation in (1, 2, 3):
        claim(store)
        states.append(do(store, ops.Crash(A, generation, died()), NOW + 9).state.value)

    assert states == ["pending", "pending", "failed"]
    poisoned = task(store, "a")
    assert (poisoned.state, poisoned.reason, poisoned.crashes) == (State.FAILED, Reason.POISON, 3)
    assert (poisoned.attempt, poisoned.generation, poisoned.finished_at) == (0, 3, NOW + 9)
    assert poisoned.errors == (died(), died(), died())
    # blake2b("email\nProcessDied\n"), 6 bytes of it.
    assert poisoned.fingerprint == "e8680f339761"
    stats = store.read(queries.GetStats())
    assert (stats.failed, stats.cancelled, stats.succeeded) == (1, 0, 0)


def test_crashes_of_processes_and_of_servers_add_up(store: Store) -> None:
    running(store, "a", by="dead")
    do(store, ops.Crash(A, 1, died()))
    for _ in range(2):
        claim(store, by="dead")
        do(store, ops.Recover(ServerId("us"), NOW))

    assert fates(store, "a") == ["failed poison"]


def test_end_of_an_attempt_between_does_not_forgive_crashes(store: Store) -> None:
    lease = running(store, "a")
    do(store, ops.Crash(A, lease.generation, died()))
    [lease] = claim(store)
    do(store, finish(lease, State.RETRYING, Reason.ERROR, run_at=NOW, error=failure(1)))
    do(store, ops.Promote())

    assert task(store, "a").crashes == 1


@pytest.mark.parametrize("before", [0, 2])
def test_crash_of_a_task_that_was_to_be_cancelled_cancels_it(store: Store, before: int) -> None:
    submit(store, "a")
    for generation in range(1, before + 1):
        claim(store)
        do(store, ops.Crash(A, generation, died()))
    claim(store)
    do(store, ops.Cancel(A))

    assert do(store, ops.Crash(A, before + 1, died())) == Finished(State.CANCELLED, Reason.USER)

    ended = task(store, "a")
    assert (ended.state, ended.reason, ended.fingerprint) == (State.CANCELLED, Reason.USER, None)
    assert (ended.crashes, len(ended.errors), ended.cancel_reason) == (before + 1, before + 1, None)


def test_crash_told_of_by_an_old_generation_is_refused(store: Store) -> None:
    running(store, "a")
    do(store, ops.Release(A, 1))
    refusal(LeaseLost, store, ops.Crash(A, 1, died()))
    claim(store)
    refusal(LeaseLost, store, ops.Crash(A, 1, died()))
    refusal(NotFound, store, ops.Crash(TaskId("b"), 1, died()))


def test_those_who_wait_hear_of_the_poison(store: Store) -> None:
    submit(store, "a")
    do(store, ops.Submit(new("b", depends_on=(A,))))
    for generation in (1, 2, 3):
        claim(store)
        do(store, ops.Crash(A, generation, died()))

    assert settle(store) == [("b", "cancelled")]


# Delete


@pytest.mark.parametrize(
    ("end", "totals"),
    [(State.SUCCEEDED, (1, 0, 0)), (State.FAILED, (0, 1, 0)), (State.CANCELLED, (0, 0, 1))],
)
def test_ended_task_is_deleted_and_totals_stay(
    store: Store, end: State, totals: tuple[int, int, int]
) -> None:
    do(store, finish(running(store, "a"), end, Reason.ERROR, result="1", error=failure(1)))

    assert do(store, ops.Delete(A)) == ops.Deleted()

    assert store.snapshot().tasks == ()
    stats = store.read(queries.GetStats())
    assert (stats.succeeded, stats.failed, stats.cancelled) == totals
    assert (stats.submitted, stats.lanes) == (1, ())
    refusal(NotFound, store, ops.Delete(A))


@pytest.mark.parametrize("where", ["blocked", "scheduled", "pending", "running", "retrying"])
def test_task_that_has_not_ended_is_not_deleted(store: Store, where: str) -> None:
    submit(store, "before")
    do(store, ops.Cancel(TaskId("before"), cascade=False))
    if where == "blocked":
        do(store, ops.Retry(TaskId("before")))
        do(store, ops.Submit(new("a", depends_on=(TaskId("before"),))))
    else:
        do(store, ops.Submit(new("a", run_at=NOW + (where == "scheduled"))))
    if where in ("running", "retrying"):
        [lease] = claim(store)
    if where == "retrying":
        do(store, finish(lease, State.RETRYING, Reason.ERROR, run_at=NOW + 5, error=failure(1)))

    refused = refusal(IllegalTransition, store, ops.Delete(A))

    assert refused.message == (
        f"task a is {where}: only a task that has ended can be deleted; cancel it first"
    )
    assert refused.fields == {"task_id": "a", "state": where, "move": "delete"}


def test_id_of_a_deleted_task_is_free_and_clean_again(store: Store) -> None:
    lease = running(store, "a")
    do(store, note("old", progress=Progress(0.5)))
    do(store, finish(lease, State.FAILED, Reason.ERROR, error=failure(1)))
    do(store, ops.Delete(A))

    submit(store, "a")

    again = task(store, "a")
    assert (again.logs, again.progress, again.errors, again.generation) == ((), None, (), 0)
    assert again.fingerprint is None
    assert claimed(store) == ["a"]
