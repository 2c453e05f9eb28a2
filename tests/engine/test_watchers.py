"""Watchers: who is told, who is dropped, and what it costs when nobody watches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing
from lease import run_of

from tq.core.errors import Overloaded, ShuttingDown
from tq.core.events import AttemptFinished, Event, ServerDraining, TaskRetried
from tq.core.ops import AnyOp, Finish
from tq.core.task import LogLine, ServerId, TaskId
from tq.engine.ring import RING_MAX, Logged, Wanted
from tq.engine.watchers import BUFFER_MAX, End, Watcher, Watchers
from tq.handlers import TaskQueue
from tq.testing.kit import VirtualClock, finished, open_server, submit

ONE = TaskId("one")
Clock = trio.testing.MockClock


@pytest.fixture
def watchers(seen: list[Event]) -> Watchers:
    return Watchers(VirtualClock(), ServerId("server-x"), seen.append)


def retried(id: str = "one") -> TaskRetried:
    return TaskRetried(at=0, task_id=TaskId(id))


async def take(watchers: Watchers, watcher: Watcher) -> list[int]:
    """The numbers of what it gets at once."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watchers.run)
        taken = await watcher.take(until=trio.current_time() + 0.001)
        nursery.cancel_scope.cancel()
    return [entry.number for entry in taken]


async def test_with_nobody_watching_nothing_is_kept_nor_counted(
    watchers: Watchers, seen: list[Event]
) -> None:
    for _ in range(3):
        watchers.emit(retried())
    assert (len(seen), len(watchers.ring), watchers.ring.last) == (3, 0, 0)


async def test_each_is_told_of_what_it_wants(watchers: Watchers, autojump_clock: Clock) -> None:
    with watchers.subscribe(Wanted(ONE)) as one, watchers.subscribe(Wanted()) as every:
        watchers.emit(retried("one"))
        watchers.emit(retried("two"))
        assert await take(watchers, one) == [1]
        assert await take(watchers, every) == [1, 2]
        assert await take(watchers, one) == []


async def test_who_left_is_told_nothing(watchers: Watchers, autojump_clock: Clock) -> None:
    with watchers.subscribe(Wanted(ONE)) as one, watchers.subscribe(Wanted(ONE)) as other:
        pass
    watchers.emit(retried())
    assert (watchers.count, len(one.buffer), len(other.buffer)) == (0, 0, 0)


async def test_events_are_recorded_for_a_minute_after_the_last_watcher_left(
    watchers: Watchers, autojump_clock: Clock
) -> None:
    with watchers.subscribe(Wanted()):
        watchers.emit(retried())
    await trio.sleep(59.9)
    watchers.emit(retried())
    assert watchers.number_of("server-x-1") == 1
    await trio.sleep(0.1)
    assert watchers.number_of("server-x-1") == 1, "nothing has happened since"
    watchers.emit(retried())
    assert watchers.number_of("server-x-1") is None
    assert watchers.number_of("server-x-2") is None
    with watchers.subscribe(Wanted()):
        assert watchers.number_of("server-x-2") is None
        watchers.emit(retried())
        assert watchers.number_of("server-x-3") == 3


@pytest.mark.parametrize(
    "id", ["server-x-2", "server-y-1", "server-x--1", "server-x-", "x", "", "server-x-¹"]
)
async def test_an_id_that_is_not_one_of_ours_has_no_number(watchers: Watchers, id: str) -> None:
    with watchers.subscribe(Wanted()):
        watchers.emit(retried())
        assert watchers.number_of(watchers.id_of(1)) == 1
        assert watchers.number_of(id) is None


async def test_who_takes_nothing_for_a_second_may_have_a_hundred_waiting(
    watchers: Watchers, autojump_clock: Clock
) -> None:
    with watchers.subscribe(Wanted()) as watcher:
        watchers.emit(retried())
        await take(watchers, watcher)
        for _ in range(BUFFER_MAX + 50):
            watchers.emit(retried())
        await trio.sleep(0.99)
        watchers.emit(retried())
        assert (watcher.end, len(watcher.buffer)) == (None, 151)
        await trio.sleep(0.01)
        watchers.emit(retried())
        assert (watcher.end, len(watcher.buffer)) == (End.DROPPED, 0)
        watchers.emit(retried())
        assert len(watcher.buffer) == 0


async def test_who_waits_for_events_is_not_slow(watchers: Watchers, autojump_clock: Clock) -> None:
    with watchers.subscribe(Wanted()) as watcher:
        assert await take(watchers, watcher) == []
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                await watcher.take(until=trio.current_time() + 200)

            nursery.start_soon(wait)
            await trio.sleep(100)
            for _ in range(1000):
                watchers.emit(retried())
            assert (watcher.end, len(watcher.buffer)) == (None, 1000)
            nursery.cancel_scope.cancel()


async def test_nobody_has_more_waiting_than_the_ring_holds(watchers: Watchers) -> None:
    with watchers.subscribe(Wanted()) as watcher:
        for _ in range(RING_MAX + 1):
            watchers.emit(retried())
        assert (watcher.end, len(watcher.buffer)) == (End.DROPPED, 0)


async def test_closing_lets_go_of_all_once_they_have_taken_what_waits(
    watchers: Watchers, autojump_clock: Clock
) -> None:
    with watchers.subscribe(Wanted(ONE)) as one, watchers.subscribe(Wanted()) as every:
        watchers.emit(retried())
        watchers.emit(ServerDraining(at=0, server=ServerId("server-x"), running=1, grace_ms=5))
        watchers.close()
        assert (one.end, every.end) == (End.DRAINING, End.DRAINING)
        assert (await take(watchers, one), await take(watchers, every)) == ([1], [1])
        assert json.loads(watchers.last_word)["running"] == 1
        with pytest.raises(ShuttingDown), watchers.subscribe(Wanted()):
            pass


async def test_over_the_cap_nobody_is_taken(watchers: Watchers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tq.engine.watchers.WATCHERS_MAX", 1)
    with watchers.subscribe(Wanted()):
        with pytest.raises(Overloaded) as caught, watchers.subscribe(Wanted()):
            pass
        assert caught.value.fields == {"retry_after_ms": 5_000}
    with watchers.subscribe(Wanted()):
        pass


async def test_what_is_said_in_a_thread_is_kept_and_told_together_before_the_thread_ends(
    watchers: Watchers,
) -> None:
    lease = run_of("nap").lease
    kept: list[int] = []

    def say() -> None:
        for number in range(100):
            # Kept and told in one moment: whoever reads the one has not missed the other.
            watchers.tell(lambda number=number: kept.append(number), lease, LogLine(0, 1, str(number)))  # type: ignore[misc]

    with watchers.subscribe(Wanted(lease.task_id)) as watcher:
        await trio.to_thread.run_sync(say)
        assert kept == list(range(100))
        events = [entry.event for entry in watcher.buffer]
        assert [event.text for event in events if isinstance(event, Logged)] == list(map(str, range(100)))


async def test_what_is_said_while_nobody_watches_is_only_kept(watchers: Watchers) -> None:
    kept: list[int] = []
    watchers.tell(lambda: kept.append(1), run_of("nap").lease, LogLine(0, 1, "x"))
    assert (kept, watchers.ring.last) == ([1], 0)


async def test_many_watchers_are_woken_a_few_at_a_time(watchers: Watchers) -> None:
    """What happens between is what watches nothing: it is not held up by all of them."""
    turns: list[int] = []
    woken = 0

    async def wait() -> None:
        nonlocal woken
        with watchers.subscribe(Wanted()) as watcher:
            await watcher.take(until=trio.current_time() + 60)
            woken += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watchers.run)
        async with trio.open_nursery() as waiting:
            for _ in range(1000):
                waiting.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            watchers.emit(retried())
            while woken < 1000:
                await trio.lowlevel.checkpoint()
                turns.append(woken)
        nursery.cancel_scope.cancel()
    assert max(after - before for before, after in pairwise(turns)) <= 100


async def test_the_end_of_an_attempt_is_told_in_the_moment_its_commit_is(
    queue: TaskQueue, seen: list[Event], autojump_clock: Clock
) -> None:
    """Else a snapshot could show an end that is told once more afterwards."""

    @queue.task("nap")
    async def nap() -> None:
        await trio.sleep(1)

    async with open_server(queue, emit=seen.append) as server:
        ends: list[bool] = []
        tell = server.ledger._tell

        def watch(group: Any, batch: Sequence[AnyOp], *rest: Any) -> None:
            tell(group, batch, *rest)
            ended = {each.task_id for each in seen if isinstance(each, AttemptFinished)}
            ends.extend(op.task_id in ended for op in batch if isinstance(op, Finish))

        server.ledger._tell = watch  # type: ignore[method-assign, assignment]
        ids = [await submit(server, type="nap") for _ in range(8)]
        for id in ids:
            await finished(server, id)
    assert ends == [True] * 8
