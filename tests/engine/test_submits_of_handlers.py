"""`handler.submit` in a handler: a child of its task, wherever it runs, with no Context asked for."""

from __future__ import annotations

import asyncio

import process_app
import pytest
import trio
import trio.testing
from real_time import PATIENCE_S, open_real_server, run_one

from tq.context import Context, ambient
from tq.core.task import State, Task, TaskId
from tq.engine.processes import python_child
from tq.engine.server import Server
from tq.handlers import TaskQueue
from tq.testing import finished, open_server, submit
from tq.testing.kit import keep_submits

GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def queue() -> TaskQueue:
    queue = TaskQueue()

    @queue.task("part")
    async def part(n: int) -> int:
        return 2 * n

    @queue.task("on_trio")
    async def on_trio(n: int) -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(part.submit, n + 1)
        return await part.options(priority="high", tags=["a"]).submit(n)

    @queue.task("in_a_thread")
    def in_a_thread(n: int) -> str:
        return part.submit_sync(n)

    @queue.task("on_asyncio", backend="asyncio")
    async def on_asyncio(n: int) -> str:
        return await asyncio.create_task(part.submit(n))

    @queue.task("fails", max_attempts=1)
    async def fails() -> None:
        raise ValueError

    return queue


async def child_of(server: Server, task: Task) -> Task:
    """The task whose id is the result of *task*, once it has ended."""
    assert task.state is State.SUCCEEDED, task.errors
    child = await finished(server, TaskId((task.result or "").strip('"')), within_s=PATIENCE_S)
    assert child.options.parent_id == task.id
    return child


@pytest.mark.parametrize("type", ["on_trio", "in_a_thread", "on_asyncio"])
async def test_a_submit_in_a_handler_makes_a_child(queue: TaskQueue, type: str) -> None:
    async with open_real_server(queue) as server:
        child = await child_of(server, await run_one(server, type, {"n": 21}, traceparent=GIVEN))
    assert (child.type, child.result, child.options.traceparent) == ("part", "42", GIVEN)


async def test_a_submit_in_a_process_makes_a_child() -> None:
    async with open_real_server(process_app.app, spawn=python_child("process_app:app")) as server:
        child = await child_of(server, await run_one(server, "submits"))
        assert (child.id, child.type) == ("by-a-process", "where")
        assert (await child_of(server, await run_one(server, "submits_async"))).result == "2"


async def test_fields_and_what_a_nursery_starts_are_of_the_handler_too(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_server(queue) as server:
        task = await finished(server, await submit(server, type="on_trio", payload={"n": 1}))
        child = await child_of(server, task)
        assert (child.priority, child.options.tags) == (10, ("a",))
        assert (await server.stats()).submitted == 3


async def test_a_worker_forgets_the_handler_that_ran(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    seen: list[tuple[Context, object]] = []

    @queue.task("look")
    async def look(ctx: Context) -> None:
        seen.append((ctx, ambient.get()))

    async with open_server(queue) as server:
        for type in ("fails", "look", "look"):
            await finished(server, await submit(server, type=type))
    assert [ctx for ctx, _ in seen] == [found for _, found in seen]
    assert seen[0][0] is not seen[1][0]
    assert ambient.get() is None


async def test_a_handler_that_is_called_by_a_test_submits_to_the_test() -> None:
    queue = TaskQueue()

    @queue.task("part")
    def part(n: int) -> None: ...

    @queue.task("whole")
    async def whole(n: int) -> str:
        part.submit_sync(n)
        return await part.options(delay=5).submit(n + 1)

    with keep_submits() as kept:
        assert await whole(1) == "kept-2"
    assert kept == [
        {"type": "part", "payload": {"n": 1}},
        {"type": "part", "payload": {"n": 2}, "delay": 5},
    ]
    assert ambient.get() is None
