"""How work is handed over: as much as keeps the workers busy, no more."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tq.core.errors import StorageUnavailable
from tq.core.events import Event, TaskReleased, TaskStarted
from tq.core.ops import BATCH_MAX
from tq.core.task import State, TaskId
from tq.core.wire import SubmitRequest
from tq.engine.pool import Pool
from tq.engine.server import Settings
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore
from tq.testing import FaultyStore, VirtualClock, finished, open_server, submit


@pytest.mark.parametrize(
    ("mean_ms", "handed", "room"),
    [
        (None, 0, 5),  # nothing measured yet: one for each free worker
        (1_000.0, 0, 5),  # slow work: nothing ahead
        (50.0, 0, 10),  # each worker gets through one more in 50 ms
        (10.0, 0, 30),
        (0.05, 0, 100),  # never more than the channel holds
        (0.05, 60, 40),
        (1_000.0, 5, 0),
        (1_000.0, 9, -4),  # handed over under an older measure
    ],
)
def test_room_is_free_workers_and_what_they_get_through_in_50_ms(
    mean_ms: float | None, handed: int, room: int
) -> None:
    pool = Pool(5, 5, buffer=100, clock=VirtualClock())
    if mean_ms is not None:
        pool.measured(mean_ms)
    pool.handed.extend([0.0] * handed)
    assert pool.room_for() == room


def test_claim_pays_once_half_of_what_may_lie_ahead_is_gone() -> None:
    pool = Pool(5, 5, buffer=100, clock=VirtualClock())
    pool.measured(0.05)
    worth = []
    for handed in (0, 49, 50, 51, 100):
        pool.handed.clear()
        pool.handed.extend([0.0] * handed)
        worth.append(pool.is_worth_claiming())
    assert worth == [True, True, False, False, False]


async def test_late_critical_task_starts_at_the_next_free_worker(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, seen: list[Event]
) -> None:
    @queue.task("second")
    async def second() -> None:
        await trio.sleep(1)

    async with open_server(queue, emit=seen.append) as server:
        for _ in range(10):
            new = [server.new_task(request("second", "low")) for _ in range(1_000)]
            await server.submit_each(new)
        await trio.sleep(3.5)
        urgent = await submit(server, type="second", priority="critical")
        task = await finished(server, urgent)
        assert task.started_at is not None
        assert task.started_at - task.created_at == 500


def request(type: str, priority: str) -> SubmitRequest:
    return SubmitRequest(type=type, priority=priority)


async def test_leases_behind_work_that_turned_slow_are_recalled_and_overtaken(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, seen: list[Event]
) -> None:
    slow = False

    @queue.task("it")
    async def it() -> None:
        if slow:
            await trio.sleep(4)

    async with open_server(queue, emit=seen.append) as server:
        for _ in range(50):
            await finished(server, await submit(server, type="it"))
        assert server.pool.mean_ms == 0.0
        slow = True
        start = len(seen)
        await server.submit_each([server.new_task(request("it", "normal")) for _ in range(300)])
        await trio.sleep(1)
        released = [event for event in seen[start:] if isinstance(event, TaskReleased)]
        assert 0 < len(released) <= 100
        assert len(server.pool.running) == 5
        assert not server.pool.handed
        recalled = await server.find(released[0].task_id)
        assert recalled is not None
        assert (recalled.state, recalled.attempt, recalled.errors) == (State.PENDING, 0, ())
        urgent = await finished(server, await submit(server, type="it", priority="high"))
        assert urgent.started_at is not None
        assert urgent.started_at - urgent.created_at == 3_000


async def test_few_leases_behind_slow_work_are_recalled_though_nothing_else_waits(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, seen: list[Event]
) -> None:
    @queue.task("quick")
    async def quick() -> None: ...

    @queue.task("slow")
    async def slow() -> None:
        await trio.sleep(4)

    async with open_server(queue, emit=seen.append) as server:
        for _ in range(50):
            await finished(server, await submit(server, type="quick"))
        await server.submit_each([server.new_task(request("slow", "normal")) for _ in range(12)])
        await trio.sleep(0.5)
        assert len([event for event in seen if isinstance(event, TaskReleased)]) == 7
        assert (await server.stats()).count(State.PENDING) == 7


async def test_only_types_with_a_handler_are_claimed(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore()
    both, one = TaskQueue(), TaskQueue()

    async def nothing() -> None: ...

    both.task("known")(nothing)
    both.task("forgotten")(nothing)
    one.task("known")(nothing)
    async with open_server(both, store=store) as server:
        forgotten = await submit(server, type="forgotten", delay=1)
    async with open_server(one, store=store, seed=1) as server:
        known = await submit(server, type="known", delay=2)
        await finished(server, known)
        task = await server.find(forgotten)
        assert task is not None
        assert (task.state, task.generation) == (State.PENDING, 0)


async def test_no_worker_runs_two_tasks_and_all_run_some(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, seen: list[Event]
) -> None:
    running = 0
    most = 0

    @queue.task("it")
    async def it() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1

    async with open_server(queue, settings=Settings(workers=3), emit=seen.append) as server:
        ids = [await submit(server, type="it") for _ in range(9)]
        for task_id in ids:
            await finished(server, task_id)
        assert trio.current_time() == 3.0
    assert most == 3
    assert {event.worker for event in seen if isinstance(event, TaskStarted)} == {1, 2, 3}


async def test_busy_server_commits_many_ends_and_claims_together(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("it")
    async def it() -> None: ...

    store = FaultyStore(MemoryStore())
    async with open_server(queue, store=store) as server:
        await server.submit_each([server.new_task(request("it", "normal")) for _ in range(1_000)])
        before = len(store.batches)
        while (await server.stats()).succeeded < 1_000:  # noqa: ASYNC110 - time is virtual
            await trio.sleep(0.01)
        assert len(store.batches) - before < 200


async def test_running_task_shows_its_worker_and_start(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("it")
    async def it() -> None:
        await trio.sleep(1)

    async with open_server(queue, settings=Settings(workers=1)) as server:
        await submit(server, type="it")
        second: TaskId = await submit(server, type="it")
        await trio.sleep(1.5)
        task = await server.find(second)
        assert task is not None
        assert (task.state, task.worker, task.server) == (State.RUNNING, 1, server.id)
        assert task.started_at == task.created_at + 1_000


async def test_leases_whose_recall_failed_are_given_back_once_the_store_is_back(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, seen: list[Event]
) -> None:
    @queue.task("quick")
    async def quick() -> None: ...

    @queue.task("slow")
    async def slow() -> None:
        await trio.sleep(4)

    store = FaultyStore(MemoryStore())
    async with open_server(queue, store=store, emit=seen.append) as server:
        for _ in range(50):
            await finished(server, await submit(server, type="quick"))
        await server.submit_each([server.new_task(request("slow", "normal")) for _ in range(12)])
        await trio.sleep(0.05)
        assert len(server.pool.handed) == 7
        store.failing = StorageUnavailable
        await trio.sleep(1)
        store.failing = None
        await trio.sleep(2.5)
        assert len([event for event in seen if isinstance(event, TaskReleased)]) == 7
        stats = await server.stats()
        assert (stats.count(State.PENDING), stats.count(State.RUNNING)) == (7, 5)
        await trio.sleep(10)
        assert (await server.stats()).succeeded == 62


async def test_more_leases_than_a_batch_has_are_recalled(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, seen: list[Event]
) -> None:
    slow = False

    @queue.task("it")
    async def it() -> None:
        if slow:
            await trio.sleep(4)

    async with open_server(queue, settings=Settings(buffer=3 * BATCH_MAX), emit=seen.append) as server:
        for _ in range(50):
            await finished(server, await submit(server, type="it"))
        slow = True
        for _ in range(4):
            await server.submit_each([server.new_task(request("it", "normal")) for _ in range(BATCH_MAX)])
        await trio.sleep(1)
        assert len([event for event in seen if isinstance(event, TaskReleased)]) > BATCH_MAX
        stats = await server.stats()
        assert (stats.count(State.PENDING), stats.count(State.RUNNING)) == (4 * BATCH_MAX - 5, 5)
