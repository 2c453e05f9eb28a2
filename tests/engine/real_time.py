"""A server in the test's process on the machine's own clock: threads and processes have no other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import Final

import trio

from tq.clock import SystemClock, run_in_thread
from tq.core.task import Task
from tq.engine.processes import Spawn
from tq.engine.server import Server, Settings
from tq.engine.services import run_server
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore
from tq.testing import finished, refuse_exit, submit

PATIENCE_S: Final = 20.0
"""Seconds to wait for what comes soon if it comes at all."""


@asynccontextmanager
async def open_real_server(
    queue: TaskQueue, *, spawn: Spawn | None = None, settings: Settings | None = None
) -> AsyncIterator[Server]:
    server = Server(
        queue,
        MemoryStore(),
        settings=settings or Settings(),
        clock=SystemClock(),
        random=Random(1),
        run_sync=run_in_thread,
        run_handler=run_in_thread,
        emit=lambda event: None,
        spawn=spawn,
    )
    with trio.fail_after(3 * PATIENCE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(run_server, server, exit_now=refuse_exit))
            try:
                yield server
            finally:
                server.draining.set()


async def run_one(server: Server, type: str, payload: object = None, **fields: object) -> Task:
    """A task of one attempt, once it has ended."""
    task_id = await submit(server, type=type, payload=payload, **{"max_attempts": 1, **fields})
    return await finished(server, task_id, within_s=PATIENCE_S)


async def wait_until(condition: Callable[[], bool], *, within_s: float = PATIENCE_S) -> None:
    """Poll *condition*, for what nothing tells about."""
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110  # no event comes from another process
            await trio.sleep(0.002)
