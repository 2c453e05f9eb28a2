"""A server in this process, under trio's virtual clock if the test runs on one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from random import Random
from typing import Any, Final, TypeVar

import msgspec
import trio

from tq.clock import RunSync
from tq.context import ambient
from tq.core.events import Event
from tq.core.task import FINAL, Task, TaskId
from tq.core.wire import decode_submit
from tq.engine.processes import Spawn
from tq.engine.server import Server, Settings
from tq.engine.services import FrontDoor, run_server
from tq.handlers import Runs, TaskQueue
from tq.storage.memory import MemoryStore
from tq.storage.store import Store
from tq.tracing import Tracing

T = TypeVar("T")

EPOCH_MS: Final = 1_767_225_600_000
"""Where virtual time begins: 2026-01-01T00:00:00Z."""


class VirtualClock:
    """Wall time that moves with trio's own, so that a mock clock moves both together.

    Trio's mock clock begins at 0, so every VirtualClock of a test shows the same time.
    """

    def __init__(self, epoch_ms: int = EPOCH_MS) -> None:
        self._epoch_ms = epoch_ms

    def now_ms(self) -> int:
        """The epoch, and the virtual milliseconds since trio's clock was 0."""
        return self._epoch_ms + round(trio.current_time() * 1000)

    def monotonic(self) -> float:
        """Trio's own time."""
        return trio.current_time()


async def run_inline(function: Callable[[], T], /) -> T:
    """Run blocking *function* here and now: virtual time does not pass while it does."""
    await trio.lowlevel.checkpoint()
    return function()


def refuse_exit(code: int) -> None:
    """What a server in this process does where one of its own would end the process."""
    raise AssertionError(f"the server would have ended the process with code {code}")


@asynccontextmanager
async def open_server(
    queue: TaskQueue,
    *,
    store: Store | None = None,
    settings: Settings | None = None,
    clock: VirtualClock | None = None,
    seed: int = 0,
    emit: Callable[[Event], None] = lambda event: None,
    front_door: Callable[[Server], FrontDoor] | None = None,
    exit_now: Callable[[int], object] = refuse_exit,
    spawn: Spawn | None = None,
    tracing: Tracing | None = None,
    run_sync: RunSync = run_inline,
    run_own: RunSync | None = None,
) -> AsyncIterator[Server]:
    """A running server with *queue*'s handlers; leaving the block shuts it down in order.

    Blocking calls and plain handlers run inline, those of processes too without *spawn*, chance is seeded:
    everything is deterministic but the order of trio's own scheduling.

    Args:
        store: Closed at the end; without it, a new one in memory.
        seed: Of all chance, the ids included: give two servers on one store different ones.
        run_sync: Runs what of the store blocks; *run_own* what of that the services ask for themselves.
        spawn: Starts child processes, which know nothing of virtual time: see `python_child`.
    """
    in_processes = queue.types_that_run(Runs.PROCESS)
    server = Server(
        queue.without_processes() if in_processes and spawn is None else queue,
        store or MemoryStore(),
        settings=settings or Settings(),
        clock=clock or VirtualClock(),
        random=Random(seed),
        run_sync=run_sync,
        run_handler=run_inline,
        emit=emit,
        spawn=spawn,
        tracing=tracing,
        run_own=run_own,
    )
    async with trio.open_nursery() as nursery:
        door = None if front_door is None else front_door(server)
        await nursery.start(partial(run_server, server, front_door=door, exit_now=exit_now))
        try:
            yield server
        finally:
            server.draining.set()


async def submit(server: Server, **fields: object) -> TaskId:
    """Submit a task to *server* by the *fields* of a submit body; its id, once it is durable."""
    new = await server.prepare(decode_submit(msgspec.json.encode(fields)))
    return (await server.submit(new)).task_id


async def finished(server: Server, task_id: TaskId, *, within_s: float = 3600.0) -> Task:
    """The task once it has ended, which it must within *within_s*."""
    task = await server.wait_final(task_id, timeout_s=within_s)
    assert task is not None, f"{task_id} is not there"
    assert task.state in FINAL, f"{task_id} is still {task.state} after {within_s} s"
    return task


@contextmanager
def keep_submits() -> Iterator[list[dict[str, Any]]]:
    """What handlers submit that are called in the block as functions, in the form of ``POST /v1/tasks``.

    Nothing is sent. It is checked as a server does, but for the types that there are. The ids are ``kept-1``
    and so on. A handler that asks for a Context has its own.
    """
    kept = _Kept()
    before = ambient.set(kept)
    try:
        yield kept.bodies
    finally:
        ambient.reset(before)


class _Kept:
    """Keeps what is submitted."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    async def submit(self, type: str, payload: object = None, **fields: object) -> TaskId:
        """See Context.submit."""
        return self.submit_sync(type, payload, **fields)

    def submit_sync(self, type: str, payload: object = None, **fields: object) -> TaskId:
        """See Context.submit_sync."""
        body = msgspec.json.encode({"type": type, "payload": payload, **fields})
        decode_submit(body)
        self.bodies.append(msgspec.json.decode(body))
        return TaskId(f"kept-{len(self.bodies)}")
