"""The handlers of the server that is measured."""

from __future__ import annotations

import time

from tq.handlers import TaskQueue

app = TaskQueue()


@app.task("noop")
async def noop() -> None:
    """Nothing: what is left is what tq itself costs."""


@app.task("stamp")
async def stamp() -> int:
    """When this handler started. On Linux every process reads the same monotonic clock."""
    return time.monotonic_ns()


without_stamp = TaskQueue()
"""For the server that takes what another runs."""


@without_stamp.task("other")
async def other() -> None:
    """Never submitted."""
