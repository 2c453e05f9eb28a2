"""Delays, and what is kept how long."""

from __future__ import annotations

from random import Random

import pytest
import trio
import trio.testing

from tq.core.errors import StorageFull, StorageUnavailable
from tq.core.task import State
from tq.engine.backoff import Backoff
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore
from tq.testing import EPOCH_MS, FaultyStore, finished, open_server, submit


async def test_delayed_task_starts_at_its_instant_and_an_earlier_one_wakes_the_scheduler(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("it")
    async def it() -> None: ...

    async with open_server(queue) as server:
        late = await submit(server, type="it", delay=3_000)
        await trio.sleep(1)
        soon = await submit(server, type="it", run_at="2026-01-01T00:00:02.500Z")
        assert (await finished(server, soon)).started_at == EPOCH_MS + 2_500
        assert (await finished(server, late)).started_at == EPOCH_MS + 3_000_000


async def test_task_due_in_the_past_runs_at_once(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("it")
    async def it() -> None: ...

    async with open_server(queue) as server:
        task = await finished(server, await submit(server, type="it", run_at="2001-01-01T00:00:00Z"))
        assert (task.state, task.started_at) == (State.SUCCEEDED, EPOCH_MS)


async def test_more_due_tasks_than_one_batch_are_all_promoted(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("it")
    async def it() -> None: ...

    store = MemoryStore()
    async with open_server(queue, store=store) as server:
        for _ in range(2_500):
            await submit(server, type="it", delay=10)
        await trio.sleep(9.999)
        assert (await server.stats()).count(State.SCHEDULED) == 2_500
        await trio.sleep(0.002)
        assert (await server.stats()).succeeded == 2_500


async def test_ended_tasks_are_pruned_after_their_time_and_totals_stay(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("good")
    async def good() -> None: ...

    @queue.task("bad", max_attempts=1)
    async def bad() -> None:
        raise ValueError

    async with open_server(queue) as server:
        short = await submit(server, type="good", result_ttl=10)
        failed = await submit(server, type="bad", result_ttl=20)
        await trio.sleep(9)
        assert await server.find(short) is not None
        await trio.sleep(3)
        assert await server.find(short) is None
        assert await server.find(failed) is not None
        await trio.sleep(10)
        assert await server.find(failed) is None
        stats = await server.stats()
        assert (stats.lanes, stats.submitted, stats.succeeded, stats.failed) == ((), 2, 1, 1)


async def test_services_go_on_within_five_seconds_of_the_stores_return(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("it")
    async def it() -> str:
        return "done"

    store = FaultyStore(MemoryStore())
    async with open_server(queue, store=store) as server:
        ids = [await submit(server, type="it", delay=delay) for delay in (1, 10, 40)]
        running = await submit(server, type="it")
        await finished(server, running)
        await trio.sleep(5)
        store.failing = StorageUnavailable
        await trio.sleep_until(60)
        store.failing = None
        for task_id in ids[1:]:
            assert (await finished(server, task_id, within_s=5)).result == '"done"'
        # While it was away each service asked seldom, not in a tight loop.
        assert store.refused < 400


async def test_result_that_cannot_be_stored_yet_is_kept_until_it_can(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    runs = 0

    @queue.task("it")
    async def it() -> str:
        nonlocal runs
        runs += 1
        await trio.sleep(1)
        return "done"

    store = FaultyStore(MemoryStore())
    async with open_server(queue, store=store) as server:
        task_id = await submit(server, type="it")
        await trio.sleep(0.5)
        store.failing = StorageFull
        await trio.sleep(30)
        store.failing = None
        task = await finished(server, task_id, within_s=5)
    assert (task.state, task.result, runs) == (State.SUCCEEDED, '"done"', 1)


@pytest.mark.parametrize("seed", range(5))
async def test_backoff_grows_to_two_seconds_and_starts_anew_after_a_success(
    autojump_clock: trio.testing.MockClock, seed: int
) -> None:
    backoff = Backoff(Random(seed))
    waits = []
    for _ in range(12):
        before = trio.current_time()
        await backoff.wait()
        waits.append(trio.current_time() - before)
    assert 0.025 <= waits[0] <= 0.075
    assert all(wait < 2.001 for wait in waits)
    assert all(wait >= 1.0 for wait in waits[6:])
    backoff.reset()
    before = trio.current_time()
    await backoff.wait()
    assert trio.current_time() - before <= 0.075
