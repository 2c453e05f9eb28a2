"""The scheduler sleeps until something is due, and is woken when that is to be earlier."""

from __future__ import annotations

from typing import TypeVar

import msgspec
import pytest
import trio
import trio.testing
from tiers import slow

from tq.context import Context
from tq.core.errors import StorageUnavailable
from tq.core.ops import Cancel, Promote, Update
from tq.core.queries import DueSchedules, NextDue, Query
from tq.core.task import TaskId
from tq.core.wire import decode_submit
from tq.engine.server import Server
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore
from tq.testing import FaultyStore, finished, open_server, submit

R = TypeVar("R")


class CountingStore(FaultyStore):
    """It counts what the scheduler does: its passes and the questions it asks."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.questions = 0

    def read(self, query: Query[R]) -> R:
        self.questions += isinstance(query, NextDue | DueSchedules)
        return super().read(query)

    @property
    def passes(self) -> int:
        return sum(isinstance(op, Promote) for batch in self.batches for op in batch)


@pytest.fixture
def starts() -> dict[str, float]:
    return {}


@pytest.fixture
def queue(starts: dict[str, float]) -> TaskQueue:
    queue = TaskQueue()

    @queue.task("note")
    async def note(ctx: Context) -> None:
        starts[ctx.task_id] = round(trio.current_time(), 4)

    return queue


async def submit_delayed(server: Server, count: int, *, delay: float) -> None:
    request = decode_submit(msgspec.json.encode({"type": "note", "delay": delay}))
    for _ in range(count // 1000):
        await server.submit_many([server.new_task(request) for _ in range(1000)])


@slow
async def test_nothing_is_asked_of_the_store_while_ten_thousand_tasks_wait_for_hours(
    queue: TaskQueue, starts: dict[str, float], autojump_clock: trio.testing.MockClock
) -> None:
    store = CountingStore()
    async with open_server(queue, store=store) as server:
        await submit_delayed(server, 10_000, delay=1200)
        await trio.sleep(1)
        before = (store.passes, store.questions)
        await trio.sleep(1198)
        assert (store.passes, store.questions) == before
        assert starts == {}
        await trio.sleep(1.5)
        assert len(starts) == 10_000
        assert set(starts.values()) == {1200.0}
        assert store.passes - before[0] <= 12
        # The sweeper's and the dispatcher's polls are all that an idle store hears.
        assert len(starts) == (await server.stats()).succeeded


async def test_a_delayed_task_starts_at_its_exact_instant(
    queue: TaskQueue, starts: dict[str, float], autojump_clock: trio.testing.MockClock
) -> None:
    async with open_server(queue) as server:
        for delay in (7.777, 0.001, 3.3333, 61.5):
            await submit(server, type="note", id=str(delay), delay=delay)
        await trio.sleep(100)
        assert starts == {"0.001": 0.001, "3.3333": 3.333, "7.777": 7.777, "61.5": 61.5}


async def test_a_task_that_is_due_earlier_than_all_others_wakes_the_scheduler(
    queue: TaskQueue, starts: dict[str, float], autojump_clock: trio.testing.MockClock
) -> None:
    store = CountingStore()
    async with open_server(queue, store=store) as server:
        await submit(server, type="note", id="late", delay=50)
        await trio.sleep(10)
        await submit(server, type="note", id="soon", delay=5.5)
        before = store.passes
        await trio.sleep(5.4)
        assert store.passes == before, "a bell in the middle of its sleep does not make a pass"
        await trio.sleep(60)
        assert starts == {"soon": 15.5, "late": 50.0}


async def test_a_task_that_is_put_forward_starts_then(
    queue: TaskQueue, starts: dict[str, float], autojump_clock: trio.testing.MockClock
) -> None:
    async with open_server(queue) as server:
        task_id = await submit(server, type="note", id="t1", delay=5000)
        await trio.sleep(10)
        await server.change(Update(task_id=task_id, run_at=server.clock.now_ms() + 2500))
        await finished(server, task_id)
        assert starts == {"t1": 12.5}


async def test_a_cancelled_task_leaves_the_others_their_instants(
    queue: TaskQueue, starts: dict[str, float], autojump_clock: trio.testing.MockClock
) -> None:
    async with open_server(queue) as server:
        await submit(server, type="note", id="first", delay=10)
        await submit(server, type="note", id="second", delay=20)
        await server.change(Cancel(TaskId("first")))
        await finished(server, TaskId("second"))
        assert starts == {"second": 20.0}


async def test_a_task_starts_the_moment_the_one_it_depends_on_ends(
    queue: TaskQueue, starts: dict[str, float], autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("work", timeout=100)
    async def work() -> None:
        await trio.sleep(3.3)

    async with open_server(queue) as server:
        await submit(server, type="work", id="before")
        await submit(server, type="note", id="after", depends_on=["before"])
        await submit(server, type="note", id="after-and-later", depends_on=["before"], delay=9.9)
        await trio.sleep(20)
        assert starts == {"after": 3.3, "after-and-later": 9.9}


async def test_a_task_that_came_due_while_the_store_was_away_starts_soon_after(
    queue: TaskQueue, starts: dict[str, float], autojump_clock: trio.testing.MockClock
) -> None:
    store = CountingStore()
    async with open_server(queue, store=store) as server:
        await submit(server, type="note", id="t1", delay=10)
        await trio.sleep(9)
        store.failing = StorageUnavailable
        await trio.sleep(60)
        store.failing = None
        await finished(server, TaskId("t1"), within_s=5)
        assert 69 <= starts["t1"] <= 74


async def test_what_another_server_put_into_a_shared_store_is_noticed_within_a_minute(
    queue: TaskQueue, starts: dict[str, float], autojump_clock: trio.testing.MockClock
) -> None:
    store = CountingStore()
    store.exclusive = False
    async with open_server(queue, store=store) as server:
        await trio.sleep(10)
        new = server.new_task(decode_submit(b'{"type":"note","id":"t1","delay":70}'))
        async with open_server(TaskQueue(), store=store, seed=1) as other:
            await other.submit(new)
        await trio.sleep(100)
        assert starts == {"t1": 80.0}
