"""The shutdown, step by step, on virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from random import Random

import pytest
import trio
import trio.testing

from tq.context import Context
from tq.core.errors import ShuttingDown, StorageUnavailable
from tq.core.events import AttemptFinished, Event, ServerDraining, ServerStopped, TaskReleased
from tq.core.task import State, TaskId
from tq.core.wire import SubmitRequest
from tq.engine.server import Phase, Server, Settings
from tq.engine.services import ExitReport, run_server
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore
from tq.testing import FaultyStore, VirtualClock, finished, open_server, refuse_exit, run_inline, submit
from tq.testing.faults import Freezer


async def test_task_that_ends_within_the_grace_is_finished_and_the_rest_waits(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, seen: list[Event]
) -> None:
    @queue.task("it", timeout=60)
    async def it(seconds: float) -> str:
        await trio.sleep(seconds)
        return "done"

    store = MemoryStore()
    async with open_server(queue, store=store, settings=Settings(workers=2), emit=seen.append) as server:
        ids = [await submit(server, type="it", payload={"seconds": s}) for s in (4, 30, 1)]
        await trio.sleep(1)
        server.draining.set()
    assert trio.current_time() == 11.0
    states = {task.id: task for task in store.snapshot().tasks}
    assert [states[task_id].state for task_id in ids] == [State.SUCCEEDED, State.PENDING, State.PENDING]
    # Neither a cut attempt nor a wait burns anything.
    assert [(states[i].attempt, states[i].crashes, states[i].errors) for i in ids[1:]] == [(0, 0, ())] * 2
    told = [event for event in seen if isinstance(event, ServerDraining | ServerStopped)]
    assert told == [
        ServerDraining(at=server.clock.now_ms() - 10_000, server=server.id, running=2, grace_ms=10_000),
        ServerStopped(at=server.clock.now_ms(), server=server.id, released=1, stuck=0),
    ]


async def test_idle_server_stops_at_once(queue: TaskQueue, autojump_clock: trio.testing.MockClock) -> None:
    async with open_server(queue):
        await trio.sleep(0.3)
    assert trio.current_time() == 0.3


async def test_what_lies_in_the_channel_is_released_with_no_attempt_burnt(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, seen: list[Event]
) -> None:
    slow = False

    @queue.task("it")
    async def it() -> None:
        if slow:
            await trio.sleep(3)

    store = MemoryStore()
    async with open_server(queue, store=store, emit=seen.append) as server:
        for _ in range(50):
            await finished(server, await submit(server, type="it"))
        slow = True
        ids = [await submit(server, type="it") for _ in range(40)]
        await trio.testing.wait_all_tasks_blocked()
        handed = len(server.pool.handed)
        assert handed > 0
        server.draining.set()
    released = [event for event in seen if isinstance(event, TaskReleased)]
    assert len(released) == handed
    waiting = [task for task in store.snapshot().tasks if task.state is State.PENDING]
    assert len(waiting) == len(ids) - 5
    assert {(task.attempt, task.crashes) for task in waiting} == {(0, 0)}


async def test_draining_server_refuses_new_tasks_and_is_not_ready(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("it")
    async def it() -> None:
        await trio.sleep(4)

    async with open_server(queue) as server:
        running = await submit(server, type="it")
        await trio.sleep(1)
        await server.check_ready()
        server.draining.set()
        assert server.phase is Phase.DRAINING
        with pytest.raises(ShuttingDown):
            await submit(server, type="it")
        with pytest.raises(ShuttingDown):
            await server.check_ready()
        await trio.sleep(1)
        task = await server.find(running)
        assert task is not None
        assert task.state is State.RUNNING


async def test_nothing_is_claimed_or_promoted_while_draining(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    started: list[TaskId] = []

    @queue.task("it")
    async def it(ctx: Context) -> None:
        started.append(ctx.task_id)
        await trio.sleep(4)

    store = MemoryStore()
    async with open_server(queue, store=store, settings=Settings(workers=1)) as server:
        first = await submit(server, type="it")
        waits = await submit(server, type="it")
        later = await submit(server, type="it", delay=2)
        await trio.sleep(1)
        server.draining.set()
    assert started == [first]
    states = {task.id: task.state for task in store.snapshot().tasks}
    assert (states[waits], states[later]) == (State.PENDING, State.SCHEDULED)


async def test_who_waits_for_a_task_is_answered_when_the_server_drains(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("it")
    async def it() -> None:
        await trio.sleep(4)

    answered: list[tuple[float, State]] = []

    async with open_server(queue) as server:
        task_id = await submit(server, type="it")

        async def watch() -> None:
            task = await server.wait_final(task_id, timeout_s=60)
            assert task is not None
            answered.append((trio.current_time(), task.state))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await trio.sleep(1)
            server.draining.set()
    assert answered == [(1.0, State.RUNNING)]


async def test_cancelled_handler_has_two_seconds_to_clean_up_at_shutdown(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    cleaned: list[float] = []

    @queue.task("it", timeout=60)
    async def it() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with Context.cleanup():
                await trio.sleep(1.5)
                cleaned.append(trio.current_time())

    store = MemoryStore()
    async with open_server(queue, store=store, settings=Settings(grace_s=10)) as server:
        await submit(server, type="it")
        await trio.testing.wait_all_tasks_blocked()
        server.draining.set()
    assert cleaned == [11.5]
    assert store.snapshot().tasks[0].state is State.PENDING


async def test_handler_that_completes_although_cancelled_at_shutdown_keeps_its_result(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("it", timeout=60)
    async def it() -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(11)
        return "done after all"

    store = MemoryStore()
    async with open_server(queue, store=store) as server:
        await submit(server, type="it")
        await trio.testing.wait_all_tasks_blocked()
        server.draining.set()
    (task,) = store.snapshot().tasks
    assert (task.state, task.result) == (State.SUCCEEDED, '"done after all"')


async def test_handler_that_never_stops_does_not_hold_the_exit(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, seen: list[Event]
) -> None:
    release = trio.Event()
    exits: list[tuple[float, int]] = []

    @queue.task("it", timeout=60)
    async def it() -> None:
        with trio.CancelScope(shield=True):
            await release.wait()

    def exit_now(code: int) -> None:
        exits.append((trio.current_time(), code))
        release.set()

    store = MemoryStore()
    async with open_server(queue, store=store, emit=seen.append, exit_now=exit_now) as server:
        await submit(server, type="it")
        await trio.testing.wait_all_tasks_blocked()
        server.draining.set()
    assert exits == [(12.0, 0)]
    (task,) = store.snapshot().tasks
    assert (task.state, task.attempt, task.crashes) == (State.PENDING, 0, 0)
    assert [event for event in seen if isinstance(event, ServerStopped)] == [
        ServerStopped(at=server.clock.now_ms(), server=server.id, released=1, stuck=1)
    ]
    assert not [event for event in seen if isinstance(event, AttemptFinished)]


async def test_store_that_never_answers_holds_nobody_back(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, seen: list[Event]
) -> None:
    exits: list[tuple[float, int]] = []
    freezer = Freezer()

    @queue.task("it", timeout=60)
    async def it() -> None:
        await trio.sleep(1.5)

    def exit_now(code: int) -> None:
        exits.append((trio.current_time(), code))
        freezer.thaw()

    async with open_server(queue, emit=seen.append, exit_now=exit_now, run_sync=freezer.run_sync) as server:
        await submit(server, type="it")
        await trio.sleep(1)
        freezer.freeze()
        server.draining.set()
    assert exits == [(15.5, 0)]
    told = [event for event in seen if isinstance(event, ServerStopped)]
    assert (told[0].released, told[0].stuck) == (0, 0)


async def test_signal_ends_a_server_whose_store_does_not_answer_at_its_start(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    freezer, signals = Freezer(), Signals()
    freezer.freeze()
    server = Server(
        queue,
        MemoryStore(),
        settings=Settings(),
        clock=VirtualClock(),
        random=Random(0),
        run_sync=freezer.run_sync,
        run_handler=run_inline,
        emit=lambda event: None,
    )
    exits: list[tuple[float, int]] = []
    async with trio.open_nursery() as nursery:

        def exit_now(code: int) -> None:
            exits.append((trio.current_time(), code))
            freezer.thaw()

        nursery.start_soon(partial(run_server, server, signals=aiter(signals), exit_now=exit_now))
        await trio.sleep_until(3)
        signals.send()
    assert exits == [(17.5, 0)]


class Signals:
    """What ``trio.open_signal_receiver`` gives, with the signals sent by the test."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[int](10)

    def send(self) -> None:
        self._send.send_nowait(15)

    def __aiter__(self) -> AsyncIterator[int]:
        return aiter(self._receive)


async def run_with_signals(
    queue: TaskQueue, signals: Signals, sends_at: list[float], exits: list[tuple[float, int]]
) -> ExitReport | None:
    """A server with one endless task, sent a signal at each of these times; how it ended."""
    server = Server(
        queue,
        MemoryStore(),
        settings=Settings(),
        clock=VirtualClock(),
        random=Random(0),
        run_sync=run_inline,
        run_handler=run_inline,
        emit=lambda event: None,
    )
    reports: list[ExitReport] = []
    async with trio.open_nursery() as nursery:

        def exit_now(code: int) -> None:
            exits.append((trio.current_time(), code))
            nursery.cancel_scope.cancel()

        async def run(task_status: trio.TaskStatus[Server]) -> None:
            run_it = partial(run_server, server, exit_now=exit_now, task_status=task_status)
            reports.append(await run_it(signals=aiter(signals)))

        await nursery.start(run)
        await submit(server, type="it")
        for at in sends_at:
            await trio.sleep_until(at)
            signals.send()
    return reports[0] if reports else None


@pytest.mark.parametrize(
    ("sends_at", "ends_at"),
    [([1.0], 11.0), ([1.0, 3.0], 3.0)],
    ids=["one signal: the grace", "two: at once"],
)
async def test_second_signal_cuts_the_grace_short(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, sends_at: list[float], ends_at: float
) -> None:
    @queue.task("it", timeout=60)
    async def it() -> None:
        await trio.sleep_forever()

    exits: list[tuple[float, int]] = []
    report = await run_with_signals(queue, Signals(), sends_at, exits)
    assert report == ExitReport(released=1, stuck=0)
    assert exits == []
    assert trio.current_time() == ends_at


async def test_third_signal_exits_at_once(queue: TaskQueue, autojump_clock: trio.testing.MockClock) -> None:
    @queue.task("it", timeout=60)
    async def it() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with Context.cleanup():
                await trio.sleep(1.9)

    exits: list[tuple[float, int]] = []
    assert await run_with_signals(queue, Signals(), [1.0, 2.0, 2.5], exits) is None
    assert exits == [(2.5, 130)]


async def test_front_door_that_is_not_closed_holds_the_store_open_for_it(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    """Requests in flight are answered from the store, so it closes last."""
    found: list[bool] = []

    @queue.task("it")
    async def it() -> None: ...

    async def front_door(
        server: Server, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        task_id = await submit(server, type="it")
        task_status.started()
        await server.draining.wait()
        await trio.sleep(3)
        found.append(await server.find(task_id) is not None)

    async with open_server(queue, front_door=lambda server: partial(front_door, server)) as server:
        server.draining.set()
    assert found == [True]
    assert trio.current_time() == 3.0


async def test_store_that_is_away_does_not_hold_the_exit_and_the_next_start_recovers(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("it")
    async def it() -> None: ...

    store = FaultyStore(MemoryStore())
    async with open_server(queue, store=store) as server:
        for _ in range(50):
            await finished(server, await submit(server, type="it"))
        await server.submit_each([server.new_task(SubmitRequest(type="it")) for _ in range(300)])
        # More ends than the results channel holds: workers wait for room in it.
        with trio.move_on_after(1):
            while not store.failing:
                await trio.lowlevel.checkpoint()
                if server.pool.handed:
                    store.failing = StorageUnavailable
        await trio.sleep(5)
        server.draining.set()
        start = trio.current_time()
    assert trio.current_time() - start < 15
    store.failing = None
    async with open_server(queue, store=store, seed=1) as server:
        await trio.sleep(5)
        assert (await server.stats()).succeeded == 350


async def test_bug_in_a_service_ends_the_server_with_that_error(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    def emit(event: Event) -> None:
        if isinstance(event, AttemptFinished):
            raise ZeroDivisionError

    @queue.task("it")
    async def it() -> None: ...

    store = MemoryStore()
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with open_server(queue, store=store, emit=emit, exit_now=refuse_exit) as server:
            await submit(server, type="it")
            await trio.sleep_forever()
    assert store.snapshot().tasks[0].state is State.SUCCEEDED
