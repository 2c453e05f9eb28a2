"""The handlers of the crash test. Each run leaves a line, ``id generation``, in a file that survives a kill.

A server of this app waits, with everything imported, for a line on its stdin before it opens the store.
"""

from __future__ import annotations

import os
import sys

import trio

import tq.cli.serving  # noqa: F401  imported before the wait, not after it
from tq.context import Context
from tq.handlers import TaskQueue

app = TaskQueue()
_runs = os.open("runs", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def _note(ctx: Context) -> None:
    os.write(_runs, f"{ctx.task_id} {ctx.task.generation}\n".encode())


@app.task("quick")
async def quick(ctx: Context) -> None:
    _note(ctx)


@app.task("slow")
async def slow(ctx: Context) -> None:
    _note(ctx)
    await trio.sleep(0.02)


@app.task("thread")
def thread(ctx: Context) -> None:
    _note(ctx)


@app.task("second_try", retry={"base": 0.01, "jitter": 0})
async def second_try(ctx: Context) -> None:
    _note(ctx)
    if ctx.attempt == 1:
        raise ValueError("as the test wants it")


sys.stdin.readline()
