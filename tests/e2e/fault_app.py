"""The handlers of the fault tests. Each run leaves a line as it starts and one as it ends, in a shared file.

A line is ``start|end id generation attempt pid nanoseconds``, by the clock that all processes of a machine
share. A run that has no end was killed, or stands still.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from tq.context import Context
from tq.handlers import TaskQueue

app = TaskQueue()
_pid = os.getpid()
_runs = os.open("runs", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


@contextmanager
def _noted(ctx: Context) -> Iterator[None]:
    run = f"{ctx.task_id} {ctx.task.generation} {ctx.attempt} {_pid}"
    os.write(_runs, f"start {run} {time.monotonic_ns()}\n".encode())
    try:
        yield
    finally:
        os.write(_runs, f"end {run} {time.monotonic_ns()}\n".encode())


@app.task("quick")
async def quick(n: int, ctx: Context) -> int:
    with _noted(ctx):
        return n


@app.task("slow")
async def slow(n: int, ctx: Context) -> int:
    with _noted(ctx):
        await trio.sleep(0.05)
        return n


@app.task("thread")
def thread(n: int, ctx: Context) -> int:
    with _noted(ctx):
        return n


@app.task("second_try", retry={"base": 0.01, "jitter": 0})
async def second_try(n: int, ctx: Context) -> int:
    with _noted(ctx):
        if ctx.attempt == 1:
            raise ValueError("as the test wants it")
        return n


@app.task("nap", timeout=100)
async def nap(n: int, ctx: Context) -> int:
    """Sleeps *n* milliseconds when it is started for the first time."""
    with _noted(ctx):
        if ctx.task.generation == 1:
            await trio.sleep(n / 1000)
        return n
