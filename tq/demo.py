"""The handlers of ``tq demo``: any type is accepted, the work takes a moment, some of it fails."""

from __future__ import annotations

from random import Random
from typing import Any, Final

import trio

from tq.context import Context
from tq.handlers import TaskQueue

SHORTEST_S: Final = 0.5
LONGEST_S: Final = 1.5
FAILS_ONE_IN: Final = 5


class DemoError(Exception):
    """The failure that the demo makes up."""


def make_demo(random: Random) -> TaskQueue:
    """A queue whose one handler takes every type: 0.5 to 1.5 s, one time in five a failure, no retry."""
    queue = TaskQueue()

    @queue.task("*", max_attempts=1)
    async def work(payload: Any, ctx: Context) -> str:
        seconds = random.uniform(SHORTEST_S, LONGEST_S)
        fails = random.randrange(FAILS_ONE_IN) == 0
        await trio.sleep(seconds)
        if fails:
            raise DemoError(f"Worker {ctx.worker} failed to process task")
        return f"Task '{ctx.type}' processed by worker {ctx.worker} in {seconds:.2f}s"

    return queue
