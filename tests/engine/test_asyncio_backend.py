"""Handlers on the asyncio loop: results, exceptions and cancellation cross between it and trio, both ways.

On the real clock, since the loop has a thread of its own.
"""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest
import trio
import trio.testing
from real_time import PATIENCE_S, open_real_server, run_one, wait_until

from tq.context import Context, Retry
from tq.core.task import Reason, State
from tq.engine import loops, worker
from tq.engine.loops import AsyncioLoop
from tq.engine.pool import Stop
from tq.engine.server import Settings
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore
from tq.testing import finished, submit


async def test_handlers_share_one_asyncio_loop_in_a_thread_of_its_own(queue: TaskQueue) -> None:
    seen: set[tuple[int, int]] = set()

    @queue.task("it", backend="asyncio")
    async def it(n: int) -> int:
        await asyncio.sleep(0)
        seen.add((id(asyncio.get_running_loop()), threading.get_ident()))
        return n + 1

    async with open_real_server(queue) as server:
        assert [(await run_one(server, "it", {"n": n})).result for n in range(3)] == ["1", "2", "3"]
    ((_, thread),) = seen
    assert thread != threading.get_ident()
    # The thread says that it has stopped a moment before it is gone.
    await wait_until(lambda: "tq asyncio" not in [each.name for each in threading.enumerate()])


async def test_no_thread_is_started_before_it_is_needed(queue: TaskQueue) -> None:
    @queue.task("plain")
    async def plain() -> None: ...

    async with open_real_server(queue) as server:
        await run_one(server, "plain")
        assert "tq asyncio" not in [each.name for each in threading.enumerate()]


async def test_exceptions_and_wishes_of_an_asyncio_handler_come_back(queue: TaskQueue) -> None:
    @queue.task("raises", backend="asyncio")
    async def raises() -> None:
        await asyncio.sleep(0)
        raise ValueError("no such address")

    @queue.task("retry", backend="asyncio")
    async def retry(ctx: Context) -> int:
        if ctx.attempt == 1:
            raise Retry(after=0.01)
        return ctx.attempt

    @queue.task("group", backend="asyncio")
    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(raises())

    async with open_real_server(queue) as server:
        for type in ("raises", "group"):
            (error,) = (await run_one(server, type)).errors
            assert (error.type, error.message) == ("ValueError", "no such address")
            assert error.traceback is not None
            assert error.traceback.splitlines()[-2].strip() == 'raise ValueError("no such address")'
            assert "engine/loops.py" not in error.traceback
        assert (await run_one(server, "retry", max_attempts=2)).result == "2"


async def test_time_limit_cancels_the_asyncio_task_which_may_await_as_it_cleans_up(queue: TaskQueue) -> None:
    ended: list[str] = []

    async def child() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append("child")

    @queue.task("it", backend="asyncio")
    async def it() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(child())
        finally:
            await asyncio.sleep(0.01)
            ended.append("parent")

    async with open_real_server(queue) as server:
        task = await run_one(server, "it", timeout=0.1)
        assert ended == ["child", "parent"]
        assert (task.state, task.reason, task.errors[0].message) == (
            State.FAILED,
            Reason.TIMEOUT,
            "timed out after 0.1 s",
        )


async def test_user_cancels_an_asyncio_handler(queue: TaskQueue) -> None:
    started = threading.Event()
    cancelled: list[bool] = []

    @queue.task("it", backend="asyncio")
    async def it() -> None:
        started.set()
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async with open_real_server(queue) as server:
        task_id = await submit(server, type="it")
        await wait_until(started.is_set)
        attempt = server.pool.find(task_id)
        assert attempt is not None
        attempt.cancel(Stop.USER, now=server.clock.monotonic())
        task = await finished(server, task_id, within_s=PATIENCE_S)
    assert (task.state, task.reason, cancelled) == (State.CANCELLED, Reason.USER, [True])


async def test_shutdown_gives_the_task_of_an_asyncio_handler_back(queue: TaskQueue) -> None:
    started = threading.Event()
    ended: list[bool] = []

    @queue.task("it", backend="asyncio")
    async def it() -> None:
        started.set()
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0.01)
            ended.append(True)

    async with open_real_server(queue, settings=Settings(grace_s=0.0)) as server:
        await submit(server, type="it")
        await wait_until(started.is_set)
        store = server.store
    assert isinstance(store, MemoryStore)
    (task,) = store.snapshot().tasks
    assert (task.state, task.attempt, ended) == (State.PENDING, 0, [True])


async def test_cancelled_error_that_nobody_asked_for_is_a_failure(queue: TaskQueue) -> None:
    @queue.task("it", backend="asyncio")
    async def it() -> None:
        raise asyncio.CancelledError("by itself")

    async with open_real_server(queue) as server:
        (error,) = (await run_one(server, "it")).errors
    assert (error.type, error.message, error.reason) == ("CancelledError", "by itself", Reason.ERROR)


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt, GeneratorExit])
async def test_no_exception_stops_the_loop_under_the_others(
    queue: TaskQueue, raised: type[BaseException]
) -> None:
    release: list[asyncio.Event] = []

    @queue.task("other", backend="asyncio")
    async def other() -> str:
        release.append(asyncio.Event())
        await release[0].wait()
        return "undisturbed"

    @queue.task("it", backend="asyncio")
    async def it() -> None:
        raise raised("3")

    @queue.task("child", backend="asyncio")
    async def child() -> None:
        await asyncio.create_task(it())

    @queue.task("free", backend="asyncio")
    async def free() -> None:
        release[0].set()

    async with open_real_server(queue) as server:
        waits = await submit(server, type="other")
        await wait_until(lambda: bool(release))
        for type in ("it", "child"):
            (error,) = (await run_one(server, type)).errors
            assert (error.type, error.message) == (raised.__name__, "3")
        assert (await run_one(server, "free")).state is State.SUCCEEDED
        assert (await finished(server, waits, within_s=PATIENCE_S)).result == '"undisturbed"'


async def test_handler_that_swallows_its_cancellation_is_concluded_and_keeps_its_worker(
    queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tq.engine.pool.CLEANUP_S", 0.1)
    monkeypatch.setattr(worker, "OVERSEE_EVERY_S", 0.02)
    release: list[asyncio.Event] = []

    @queue.task("it", backend="asyncio")
    async def it() -> str:
        release.append(asyncio.Event())
        while not release[0].is_set():
            try:
                await release[0].wait()
            except asyncio.CancelledError:
                continue  # the very misbehaviour that is tested
        return "too late"

    @queue.task("free", backend="asyncio")
    async def free() -> None:
        release[0].set()

    async with open_real_server(queue) as server:
        task = await run_one(server, "it", timeout=0.05)
        assert task.reason is Reason.TIMEOUT
        assert [attempt.lease.task_id for attempt in server.pool.running] == [task.id]
        await run_one(server, "free")
        await wait_until(lambda: not server.pool.running)
        assert await server.find(task.id) == task


async def test_call_cancelled_before_its_first_step_ends() -> None:
    bridge = AsyncioLoop()
    begun, hold = threading.Event(), threading.Event()

    async def block() -> None:
        begun.set()
        hold.wait()  # no other task of the loop gets its turn

    async def never() -> None:
        raise AssertionError("it has begun")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bridge.run)
        async with trio.open_nursery() as calls:
            calls.start_soon(bridge.call, block)
            await trio.to_thread.run_sync(begun.wait)
            with trio.CancelScope() as scope:
                calls.start_soon(hold_until_cancelled, scope, hold)
                await bridge.call(never)
            assert scope.cancelled_caught
        nursery.cancel_scope.cancel()


async def hold_until_cancelled(scope: trio.CancelScope, hold: threading.Event) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    hold.set()


async def test_what_runs_when_the_loop_is_stopped_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if it blocks the loop, so that nothing on it can be cancelled."""
    monkeypatch.setattr(loops, "STOP_S", 0.1)
    hold, holds = threading.Event(), threading.Event()
    bridge = AsyncioLoop()

    async def block() -> None:
        holds.set()
        hold.wait()

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bridge.run)
            nursery.start_soon(bridge.call, block)
            await wait_until(holds.is_set)
            nursery.cancel_scope.cancel()
    hold.set()
    await wait_until(lambda: "tq asyncio" not in [each.name for each in threading.enumerate()])
    with pytest.raises(RuntimeError, match="the asyncio loop has been stopped"):
        await bridge.call(block)


@pytest.mark.parametrize(
    ("function", "isolation", "backend", "message"),
    [
        ("def", None, "asyncio", "backend is for an async def"),
        ("async def", "thread", "trio", "an async def runs on a loop"),
        ("def", "fibre", "trio", "isolation is thread or process, not 'fibre'"),
        ("async def", None, "curio", "backend is trio or asyncio, not 'curio'"),
    ],
)
def test_isolation_that_cannot_be_is_refused(
    queue: TaskQueue, function: str, isolation: str | None, backend: str, message: str
) -> None:
    def plain() -> None: ...

    async def asynchronous() -> None: ...

    register = partial(queue.task, "it", isolation=isolation, backend=backend)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"handler of 'it': {message}"):
        register()(plain if function == "def" else asynchronous)
