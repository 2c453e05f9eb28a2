"""How the number of workers follows the work."""

from __future__ import annotations

import msgspec
import pytest
import trio
import trio.testing

from tq.core.errors import ShuttingDown, StorageUnavailable
from tq.core.events import Event, TaskReleased, TaskStarted, WorkersResized
from tq.core.task import State, TaskId
from tq.core.wire import SubmitRequest
from tq.engine.pool import Pool
from tq.engine.server import Server, Settings
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore
from tq.testing import FaultyStore, VirtualClock, finished, open_server, submit

TWO_TO_EIGHT = Settings(workers=2, workers_max=8)


@pytest.fixture
def queue() -> TaskQueue:
    queue = TaskQueue()

    @queue.task("nap", timeout=100)
    async def nap(seconds: float = 0) -> str:
        await trio.sleep(seconds)
        return "rested"

    return queue


async def submit_naps(server: Server, count: int, seconds: float) -> list[TaskId]:
    """Submit *count* naps in one batch and let them be handed over."""
    payload = f'{{"seconds": {seconds}}}'
    request = SubmitRequest(type="nap", payload=msgspec.Raw(payload.encode()))
    submitted = await server.submit_many([server.new_task(request) for _ in range(count)])
    await trio.testing.wait_all_tasks_blocked()
    return [one.task_id for one in submitted]


def sizes(seen: list[Event]) -> list[tuple[int, str]]:
    return [(event.count, event.why) for event in seen if isinstance(event, WorkersResized)]


# Growing


async def test_pool_begins_with_its_minimum(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, seen: list[Event]
) -> None:
    async with open_server(queue, settings=TWO_TO_EIGHT, emit=seen.append) as server:
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(server.pool.workers) == [1, 2]
    assert sizes(seen) == []


async def test_pool_grows_to_its_maximum_while_work_waits(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, seen: list[Event]
) -> None:
    async with open_server(queue, settings=TWO_TO_EIGHT, emit=seen.append) as server:
        await submit_naps(server, 20, 1)
        assert (len(server.pool.workers), len(server.pool.running)) == (8, 8)
        assert (await server.stats()).count(State.PENDING) == 12
        await trio.sleep(2.5)
        assert (await server.stats()).succeeded == 16
        assert trio.current_time() == 2.5
    assert {event.worker for event in seen if isinstance(event, TaskStarted)} == set(range(1, 9))
    assert sizes(seen)[-1] == (8, "work")


async def test_pool_grows_by_no_more_than_the_work_that_waits(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_server(queue, settings=TWO_TO_EIGHT) as server:
        await submit_naps(server, 2, 60)
        assert len(server.pool.workers) == 2
        await submit_naps(server, 1, 60)
        assert len(server.pool.workers) == 3
        await submit_naps(server, 2, 60)
        assert len(server.pool.workers) == 5


async def test_pool_does_not_grow_while_a_worker_is_idle(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, seen: list[Event]
) -> None:
    async with open_server(queue, settings=TWO_TO_EIGHT, emit=seen.append) as server:
        for _ in range(100):
            await finished(server, await submit(server, type="nap", payload={"seconds": 0.5}))
        assert len(server.pool.workers) == 2
    assert sizes(seen) == []


async def test_late_critical_task_starts_at_the_next_free_worker_of_a_grown_pool(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_server(queue, settings=Settings(workers=1, workers_max=5)) as server:
        await submit_naps(server, 1_000, 1)
        await trio.sleep(3.5)
        urgent = await finished(server, await submit(server, type="nap", priority="critical"))
        assert urgent.started_at is not None
        assert urgent.started_at - urgent.created_at == 500


async def test_pool_grows_past_what_the_channel_holds_at_once(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    settings = Settings(workers=1, workers_max=50, buffer=3)
    async with open_server(queue, settings=settings) as server:
        await submit_naps(server, 60, 1)
        assert len(server.pool.running) == 50
        assert trio.current_time() == 0


async def test_pool_of_fixed_size_has_all_its_workers_from_the_start_to_the_end(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, seen: list[Event]
) -> None:
    async with open_server(queue, settings=Settings(workers=3), emit=seen.append) as server:
        assert sorted(server.pool.workers) == [1, 2, 3]
        await submit_naps(server, 10, 1)
        assert len(server.pool.running) == 3
        await trio.sleep(60)
        assert sorted(server.pool.workers) == [1, 2, 3]
    assert sizes(seen) == []


async def test_a_stuck_worker_counts_as_busy(autojump_clock: trio.testing.MockClock) -> None:
    queue = TaskQueue()
    release = trio.Event()

    @queue.task("stuck", timeout=1, max_attempts=1)
    async def stuck() -> None:
        with trio.CancelScope(shield=True):
            await release.wait()

    @queue.task("nap")
    async def nap() -> None:
        await trio.sleep(1)

    async with open_server(queue, settings=Settings(workers=1, workers_max=2)) as server:
        await submit(server, type="stuck")
        await trio.sleep(30)
        assert [attempt.concluded for attempt in server.pool.running] == [True]
        assert len(server.pool.workers) == 1
        both = [await submit(server, type="nap") for _ in range(2)]
        ended = [(await finished(server, task_id)).worker for task_id in both]
        assert ended == [2, 2]
        release.set()
        await trio.sleep(11)
        assert len(server.pool.workers) == 1


async def test_pool_keeps_to_its_maximum_though_more_leases_lie_ahead_of_short_tasks(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, seen: list[Event]
) -> None:
    async with open_server(queue, settings=TWO_TO_EIGHT, emit=seen.append) as server:
        for _ in range(3):
            await submit_naps(server, 500, 0)
        assert (await server.stats()).succeeded == 1_500
        assert len(server.pool.workers) == 8
    assert {event.worker for event in seen if isinstance(event, TaskStarted)} == set(range(1, 9))


# Shrinking


async def test_pool_shrinks_to_its_minimum_after_ten_seconds_idle(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, seen: list[Event]
) -> None:
    async with open_server(queue, settings=TWO_TO_EIGHT, emit=seen.append) as server:
        await submit_naps(server, 8, 1)
        assert len(server.pool.workers) == 8
        await trio.sleep(10.9)
        assert len(server.pool.workers) == 8
        await trio.sleep(0.5)
        assert sorted(server.pool.workers) == [1, 2]
        await trio.sleep(60)
        assert sorted(server.pool.workers) == [1, 2]
    assert sizes(seen)[-1] == (2, "idle")


async def test_pool_shrinks_to_what_a_light_load_needs_though_every_worker_gets_some_of_it(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, seen: list[Event]
) -> None:
    async with open_server(queue, settings=TWO_TO_EIGHT, emit=seen.append) as server:
        await submit_naps(server, 8, 0.1)
        # Leases go round: one task a second reaches each of eight workers more often than every 10 s.
        for _ in range(12):
            await submit_naps(server, 3, 0.5)
            await trio.sleep(1)
        assert len(server.pool.workers) == 3


async def test_shrinking_takes_no_worker_that_runs_something(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_server(queue, settings=TWO_TO_EIGHT) as server:
        await submit_naps(server, 5, 1)
        long = await submit_naps(server, 3, 50)
        await trio.sleep(30)
        assert sorted(server.pool.workers) == [6, 7, 8]
        tasks = [await finished(server, task_id) for task_id in long]
        assert [(task.state, task.attempt) for task in tasks] == [(State.SUCCEEDED, 1)] * 3


async def test_the_smallest_free_number_is_used_again(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, seen: list[Event]
) -> None:
    async with open_server(queue, settings=TWO_TO_EIGHT, emit=seen.append) as server:
        await submit_naps(server, 5, 1)
        await submit_naps(server, 3, 50)
        await trio.sleep(30)
        assert sorted(server.pool.workers) == [6, 7, 8]
        await submit_naps(server, 2, 1)
        assert sorted(server.pool.workers) == [1, 2, 6, 7, 8]


async def test_no_task_is_lost_while_the_pool_breathes(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, seen: list[Event]
) -> None:
    async with open_server(queue, settings=TWO_TO_EIGHT, emit=seen.append) as server:
        ids = []
        for round in range(12):
            ids += await submit_naps(server, 20, 0.3)
            server.resize_workers(minimum=1 + round % 3, maximum=3 + (round * 5) % 9)
            await trio.sleep(round)
        tasks = [await finished(server, task_id) for task_id in ids]
        assert {(task.state, task.attempt, task.crashes) for task in tasks} == {(State.SUCCEEDED, 1, 0)}
    starts = [event.task_id for event in seen if isinstance(event, TaskStarted)]
    assert sorted(starts) == sorted(ids)


# Asked for another size


async def test_a_smaller_pool_interrupts_nothing_and_shrinks_as_tasks_end(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, seen: list[Event]
) -> None:
    async with open_server(queue, settings=Settings(workers=4), emit=seen.append) as server:
        ids = [(await submit_naps(server, 1, seconds))[0] for seconds in (1, 2, 3, 4)]
        waiting = await submit_naps(server, 4, 1)
        server.resize_workers(minimum=1, maximum=1)
        assert len(server.pool.workers) == 4
        sized = []
        for _ in range(3):
            await trio.sleep(1)
            await trio.testing.wait_all_tasks_blocked()
            sized.append((len(server.pool.workers), len(server.pool.running)))
        assert sized == [(3, 3), (2, 2), (1, 1)]
        tasks = [await finished(server, task_id) for task_id in ids + waiting]
        assert {(task.state, task.attempt) for task in tasks} == {(State.SUCCEEDED, 1)}
        assert trio.current_time() == 8.0
    assert not [event for event in seen if isinstance(event, TaskReleased)]
    assert sizes(seen) == [(3, "asked"), (2, "asked"), (1, "asked")]


async def test_idle_workers_above_a_new_maximum_end_at_once(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, seen: list[Event]
) -> None:
    async with open_server(queue, settings=Settings(workers=8), emit=seen.append) as server:
        await trio.testing.wait_all_tasks_blocked()
        server.resize_workers(minimum=2, maximum=3)
        assert sorted(server.pool.workers) == [1, 2, 3]
        await submit_naps(server, 8, 1)
        assert len(server.pool.running) == 3
        await trio.sleep(20)
        assert sorted(server.pool.workers) == [1, 2]
    assert {event.worker for event in seen if isinstance(event, TaskStarted)} == {1, 2, 3}
    assert sizes(seen) == [(3, "asked"), (2, "idle")]


async def test_a_larger_pool_starts_on_what_waits_at_once(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, seen: list[Event]
) -> None:
    async with open_server(queue, settings=Settings(workers=1), emit=seen.append) as server:
        await submit_naps(server, 9, 5)
        assert len(server.pool.running) == 1
        server.resize_workers(minimum=2, maximum=6)
        assert len(server.pool.workers) == 2
        await trio.testing.wait_all_tasks_blocked()
        assert len(server.pool.running) == 6
        assert trio.current_time() == 0
    assert sizes(seen)[0] == (2, "asked")


async def test_leases_handed_over_before_the_pool_became_smaller_are_run(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    handed: list[int] = []

    def resize_at_first_start(event: Event) -> None:
        if isinstance(event, TaskStarted) and not handed:
            handed.append(len(server.pool.handed))
            server.resize_workers(minimum=1, maximum=1)

    async with open_server(queue, settings=Settings(workers=6), emit=resize_at_first_start) as server:
        ids = await submit_naps(server, 6, 1)
        tasks = [await finished(server, task_id) for task_id in ids]
        assert {(task.state, task.attempt) for task in tasks} == {(State.SUCCEEDED, 1)}
        assert trio.current_time() == 1.0
        assert len(server.pool.workers) == 1
        later = [await finished(server, task_id) for task_id in await submit_naps(server, 6, 1)]
        assert {task.worker for task in later} == set(server.pool.workers)
    assert handed == [5]


async def test_a_draining_server_is_not_resized(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_server(queue) as server:
        await submit_naps(server, 5, 1)
        server.draining.set()
        with pytest.raises(ShuttingDown):
            server.resize_workers(minimum=9, maximum=9)
        assert len(server.pool.workers) == 5


@pytest.mark.parametrize("seconds", [0, 0.001, 1, 30])
async def test_a_server_that_stops_while_it_grows_and_shrinks_leaves_every_task_ended_or_waiting(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, seconds: float
) -> None:
    store = MemoryStore()
    async with open_server(queue, store=store, settings=TWO_TO_EIGHT) as server:
        await submit_naps(server, 30, seconds)
        server.resize_workers(minimum=1, maximum=4)
        server.draining.set()
    states = {(task.state, task.attempt, task.crashes) for task in store.snapshot().tasks}
    assert states <= {(State.SUCCEEDED, 1, 0), (State.PENDING, 0, 0)}
    assert server.pool.running == set()
    assert server.pool.workers == {}


async def test_pool_shrinks_while_the_store_is_away_and_grows_when_it_is_back(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    store = FaultyStore(MemoryStore())
    async with open_server(queue, store=store, settings=TWO_TO_EIGHT) as server:
        ids = await submit_naps(server, 20, 1)
        store.failing = StorageUnavailable
        await trio.sleep(20)
        assert len(server.pool.workers) == 2
        store.failing = None
        tasks = [await finished(server, task_id) for task_id in ids]
        assert {(task.state, task.attempt) for task in tasks} == {(State.SUCCEEDED, 1)}
        assert len(server.pool.workers) == 8


# The rule by itself


def test_room_counts_the_workers_that_there_could_be() -> None:
    pool = Pool(2, 8, buffer=100, clock=VirtualClock())
    assert pool.room_for() == 8
    assert pool.is_worth_claiming()


def test_what_may_lie_ahead_follows_a_new_maximum() -> None:
    pool = Pool(5, 5, buffer=100, clock=VirtualClock())
    pool.measured(50.0)
    assert pool.room_for() == 10
    pool.resize(1, 1)
    assert pool.room_for() == 2
