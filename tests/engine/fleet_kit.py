"""Servers of one process that share a store in memory, on the virtual clock, and their troubles."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from tq.core.errors import ShuttingDown
from tq.core.task import ServerId
from tq.engine.server import Server, Settings
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore
from tq.storage.store import Store, Wake
from tq.testing.faults import FaultyStore, Freezer
from tq.testing.kit import open_server

__all__ = ["Deaf", "Freezer", "crashing", "open_fleet", "shared"]


def shared() -> MemoryStore:
    return MemoryStore(exclusive=False)


class Deaf(FaultyStore):
    """A store by which a server is not woken."""

    def open_wake(self, server: ServerId) -> Wake | None:
        return None


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
    try:
        with trio.CancelScope() as life:
            async with open_server(queue, store=store, seed=seed, **options) as server:
                yield server
                life.cancel()
    except* ShuttingDown:
        # What it had asked of its ledger when it was killed; a process that is killed tells nobody.
        pass
