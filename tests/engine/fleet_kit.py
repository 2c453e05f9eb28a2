"""Servers of one process that share a store in memory, on the virtual clock, and their troubles."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio

from tq.core.task import ServerId
from tq.engine.server import Server, Settings
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore
from tq.storage.store import Store, Wake
from tq.testing.faults import FaultyStore
from tq.testing.kit import open_server

T = TypeVar("T")
R = TypeVar("R")


def shared() -> MemoryStore:
    return MemoryStore(exclusive=False)


class Deaf(FaultyStore):
    """A store by which a server is not woken."""

    def open_wake(self, server: ServerId) -> Wake | None:
        return None


class Freezer:
    """Runs what blocks, unless its server is frozen: then that waits, before or after it is done.

    So a server that was stopped by its machine looks to its store, and to the others.
    """

    def __init__(self) -> None:
        self._thawed = trio.Event()
        self._thawed.set()

    def freeze(self) -> None:
        self._thawed = trio.Event()

    def thaw(self) -> None:
        self._thawed.set()

    async def run_sync(self, function: Callable[[], T], /) -> T:
        await trio.lowlevel.checkpoint()
        await self._thawed.wait()
        done = function()
        await self._thawed.wait()
        return done


@asynccontextmanager
async def open_fleet(
    store: Store, *queues: TaskQueue, workers: int = 5, seed: int = 0, **options: Any
) -> AsyncIterator[list[Server]]:
    """A server for each of *queues*, begun one after another."""
    servers: list[Server] = []
    async with trio.open_nursery() as nursery:
        leave = trio.Event()

        async def live(
            number: int, queue: TaskQueue, task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED
        ) -> None:
            settings = Settings(workers=workers, host=f"host-{number}", pid=number)
            async with open_server(
                queue, store=store, settings=settings, seed=seed + number, **options
            ) as server:
                task_status.started(server)
                await leave.wait()

        for number, queue in enumerate(queues, 1):
            servers.append(await nursery.start(live, number, queue))
        try:
            yield servers
        finally:
            leave.set()


@asynccontextmanager
async def crashing(queue: TaskQueue, store: Store, *, seed: int = 9, **options: Any) -> AsyncIterator[Server]:
    """A server that is killed at the end of the block."""
    with trio.CancelScope() as life:
        async with open_server(queue, store=store, seed=seed, **options) as server:
            yield server
            life.cancel()
