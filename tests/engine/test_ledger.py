"""Group commit: few transactions, an answer for each caller, nothing undone by cancellation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import pytest
import trio
import trio.testing

from tq.core import ops
from tq.core.errors import NotFound, ShuttingDown, StorageFull, StorageUnavailable, TqError
from tq.core.events import Event, StorageLost, StorageRestored, TaskRetried, TaskSubmitted
from tq.core.task import Json, NewTask, State, TaskId
from tq.engine.ledger import Ledger
from tq.storage.memory import MemoryStore
from tq.testing import FaultyStore, VirtualClock

T = TypeVar("T")


def a_task(name: str) -> NewTask:
    return NewTask(id=TaskId(name), type="t", payload=Json("1"), run_at=0, timeout_ms=5_000, max_attempts=1)


async def run_slowly(function: Callable[[], T], /) -> T:
    """A store that takes a second for each transaction."""
    await trio.sleep(1)
    return function()


class Desk:
    """A ledger over a store with faults, and what it told."""

    def __init__(self) -> None:
        self.store = FaultyStore(MemoryStore())
        self.seen: list[Event] = []
        self.committed: list[int] = []
        self.ledger = Ledger(
            self.store,
            clock=VirtualClock(),
            run_sync=run_slowly,
            on_commit=lambda batch, replies: self.committed.append(len(batch)),
            emit=self.seen.append,
        )


async def test_callers_that_come_while_a_commit_runs_share_the_next(
    autojump_clock: trio.testing.MockClock,
) -> None:
    desk = Desk()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.ledger.run)
        async with trio.open_nursery() as callers:
            callers.start_soon(desk.ledger.ask, ops.Submit(a_task("first")))
            await trio.sleep(0.5)
            for number in range(300):
                callers.start_soon(desk.ledger.ask, ops.Submit(a_task(f"later-{number}")))
        assert trio.current_time() == 2.0
        nursery.cancel_scope.cancel()
    assert desk.committed == [1, 300]
    assert desk.store.snapshot().stats.submitted == 301


async def test_one_transaction_has_at_most_a_thousand_ops(autojump_clock: trio.testing.MockClock) -> None:
    desk = Desk()

    async def ask_many(name: str) -> None:
        await desk.ledger.ask_each([ops.Submit(a_task(f"{name}-{number}")) for number in range(400)])

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as callers:
            for name in "abcde":
                callers.start_soon(ask_many, name)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(desk.ledger.run)
        nursery.cancel_scope.cancel()
    assert desk.committed == [800, 800, 400]


async def test_each_caller_gets_its_own_refusal(autojump_clock: trio.testing.MockClock) -> None:
    desk = Desk()
    replies: dict[str, object] = {}

    async def ask(name: str, op: ops.Op[object]) -> None:
        try:
            replies[name] = await desk.ledger.ask(op)
        except TqError as refusal:
            replies[name] = refusal

    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.ledger.run)
        async with trio.open_nursery() as callers:
            callers.start_soon(ask, "good", ops.Submit(a_task("one")))
            callers.start_soon(ask, "bad", ops.Retry(TaskId("nobody")))
        nursery.cancel_scope.cancel()
    assert replies["good"] == ops.Submitted(TaskId("one"), State.PENDING)
    assert isinstance(replies["bad"], NotFound)


async def test_cancelling_the_caller_does_not_undo_what_it_asked(
    autojump_clock: trio.testing.MockClock,
) -> None:
    desk = Desk()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.ledger.run)
        with trio.move_on_after(0.1) as scope:
            await desk.ledger.ask(ops.Submit(a_task("one")))
            await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        nursery.cancel_scope.cancel()
    assert [task.id for task in desk.store.snapshot().tasks] == ["one"]


@pytest.mark.parametrize("failure", [StorageUnavailable, StorageFull])
async def test_caller_learns_that_the_store_is_away_and_events_tell_it_once(
    autojump_clock: trio.testing.MockClock, failure: type[StorageUnavailable]
) -> None:
    desk = Desk()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.ledger.run)
        desk.store.failing = failure
        for _ in range(3):
            with pytest.raises(failure) as caught:
                await desk.ledger.ask(ops.Submit(a_task("one")))
            assert caught.value.fields["retry_after_ms"] == 1_000
            assert desk.ledger.is_away
        desk.store.failing = None
        await desk.ledger.ask(ops.Submit(a_task("one")))
        assert not desk.ledger.is_away
        nursery.cancel_scope.cancel()
    assert [type(event) for event in desk.seen] == [StorageLost, StorageRestored, TaskSubmitted]
    assert desk.store.snapshot().stats.submitted == 1


async def test_those_who_wait_when_the_ledger_stops_are_refused_not_left(
    autojump_clock: trio.testing.MockClock,
) -> None:
    desk = Desk()
    with expect_shutting_down() as refused:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.ledger.run)
            nursery.start_soon(desk.ledger.ask, ops.Submit(a_task("one")))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(desk.ledger.ask, ops.Submit(a_task("two")))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert refused
    with pytest.raises(ShuttingDown):
        await desk.ledger.ask(ops.Submit(a_task("three")))
    assert desk.store.snapshot().tasks == ()


@contextmanager
def expect_shutting_down() -> Iterator[list[ShuttingDown]]:
    refused: list[ShuttingDown] = []
    try:
        yield refused
    except* ShuttingDown as group:
        refused.extend(fault for fault in group.exceptions if isinstance(fault, ShuttingDown))


async def test_bug_in_the_store_ends_the_ledger_and_answers_everybody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class BrokenStore(MemoryStore):
        def apply(self, *batch: object, **more: object) -> list[ops.Reply | TqError]:
            raise ZeroDivisionError

    desk = Desk()
    desk.store.store = BrokenStore()
    answers: list[type[Exception]] = []

    async def ask() -> None:
        try:
            await desk.ledger.ask(ops.Submit(a_task("one")))
        except ShuttingDown as refusal:
            answers.append(type(refusal))

    with pytest.RaisesGroup(ZeroDivisionError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(desk.ledger.run)
    assert answers == [ShuttingDown]


async def test_what_a_caller_tells_comes_right_behind_its_own_ops(
    autojump_clock: trio.testing.MockClock,
) -> None:
    told: list[str] = []
    ledger = Ledger(
        MemoryStore(),
        clock=VirtualClock(),
        run_sync=run_slowly,
        on_commit=lambda batch, replies: told.append(f"{len(batch)} committed"),
        emit=lambda event: told.append(str(getattr(event, "task_id", event))),
    )

    def tells(replies: Sequence[object]) -> list[Event]:
        return [TaskRetried(at=0, task_id=TaskId(f"told {len(replies)}"))]

    async def ask(name: str) -> None:
        await ledger.ask_each([ops.Submit(a_task(name))], tells=tells if name == "b" else None)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.run)
        async with trio.open_nursery() as callers:
            for name in ("first", "a", "b", "c"):
                callers.start_soon(ask, name)
                await trio.sleep(0.1)
            # What commits now has not been told, and waiting for it is over when it is.
            await ledger.wait_told()
            assert told == ["first", "1 committed"]
        await ledger.wait_told()
        nursery.cancel_scope.cancel()
    assert told == ["first", "1 committed", "a", "b", "told 1", "c", "3 committed"]
