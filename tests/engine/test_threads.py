"""Plain functions in real threads: cancelling them, and what they can ask of the server."""

from __future__ import annotations

import threading

import trio
from real_time import PATIENCE_S, open_real_server, wait_until

from tq.api.endpoints import actions
from tq.api.http import Request, Response
from tq.context import Context
from tq.core.errors import UnknownType
from tq.core.task import Reason, State, TaskId
from tq.engine.server import Server, Settings
from tq.handlers import TaskQueue
from tq.testing import finished, submit


async def cancel(server: Server, task_id: TaskId) -> Response:
    return await actions.cancel(server, Request("POST", f"/v1/tasks/{task_id}/cancel", {"id": task_id}))


async def test_a_thread_is_marked_its_late_result_dropped_and_its_worker_kept_until_it_ends(
    queue: TaskQueue,
) -> None:
    begun, may_end = threading.Event(), threading.Event()

    @queue.task("deaf", timeout=60, max_attempts=1)
    def deaf() -> str:
        begun.set()
        may_end.wait(PATIENCE_S)
        return "late"

    @queue.task("quick", max_attempts=1)
    async def quick() -> str:
        return "quick"

    async with open_real_server(queue, settings=Settings(workers=1)) as server:
        task_id = await submit(server, type="deaf")
        await wait_until(begun.is_set)
        answer = await cancel(server, task_id)
        assert answer.status == 202
        assert isinstance(answer.body, bytes)
        assert b'"cancellable":"thread"' in answer.body
        with trio.fail_after(2):
            task = await finished(server, task_id)
        assert (task.state, task.reason) == (State.CANCELLED, Reason.USER)
        waiting = await submit(server, type="quick")
        await trio.sleep(0.3)
        assert len(server.pool.running) == 1
        kept = await server.find(waiting)
        assert kept is not None
        assert kept.state is State.PENDING
        may_end.set()
        assert (await finished(server, waiting, within_s=PATIENCE_S)).result == '"quick"'
        late = await server.find(task_id)
        assert late is not None
        assert (late.state, late.result, late.generation) == (State.CANCELLED, None, 1)


async def test_a_thread_that_ends_while_it_is_being_cancelled_is_cancelled(queue: TaskQueue) -> None:
    """The cancel was stored first, and its answer said so."""
    begun, may_end = threading.Event(), threading.Event()

    @queue.task("near", timeout=60, max_attempts=1)
    def near() -> str:
        begun.set()
        may_end.wait(PATIENCE_S)
        return "done"

    async with open_real_server(queue) as server:
        task_id = await submit(server, type="near")
        await wait_until(begun.is_set)
        assert (await cancel(server, task_id)).status == 202
        may_end.set()
        task = await finished(server, task_id, within_s=PATIENCE_S)
        assert (task.state, task.reason, task.result) == (State.CANCELLED, Reason.USER, None)


async def test_a_thread_submits_children_and_waits_for_them_to_be_durable(queue: TaskQueue) -> None:
    refused: list[str] = []

    @queue.task("part", max_attempts=1)
    async def part(n: int) -> int:
        return n

    @queue.task("split", timeout=60, max_attempts=1)
    def split(ctx: Context) -> list[str]:
        try:
            ctx.submit_sync("nope")
        except UnknownType as refusal:
            refused.append(refusal.code)
        return [ctx.submit_sync("part", {"n": n}, id=f"part-{n}", tags=["x"]) for n in range(3)]

    async with open_real_server(queue) as server:
        task = await finished(server, await submit(server, type="split"), within_s=PATIENCE_S)
        assert (task.state, task.result) == (State.SUCCEEDED, '["part-0","part-1","part-2"]')
        assert refused == ["unknown_type"]
        child = await finished(server, TaskId("part-2"), within_s=PATIENCE_S)
        assert (child.options.parent_id, child.options.tags, child.result) == (task.id, ("x",), "2")


async def test_an_async_handler_is_told_not_to_submit_as_a_thread_does(queue: TaskQueue) -> None:
    @queue.task("wrong", max_attempts=1)
    async def wrong(ctx: Context) -> None:
        ctx.submit_sync("wrong")

    async with open_real_server(queue) as server:
        task = await finished(server, await submit(server, type="wrong"), within_s=PATIENCE_S)
        assert [error.type for error in task.errors] == ["RuntimeError"]
        assert (await server.stats()).submitted == 1
