"""The handlers of the end-to-end tests of isolation; served by ``tq serve isolation_app:app``."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
from pathlib import Path

from tq.context import Context
from tq.handlers import TaskQueue

app = TaskQueue()


@app.task("pid", isolation="process")
def pid() -> int:
    print("from a child", flush=True)
    return os.getpid()


@app.task("reads", isolation="process")
def reads() -> str:
    return os.read(0, 1).decode()


@app.task("spins", isolation="process", timeout=1000)
def spins(ctx: Context) -> None:
    """Holds the GIL of its process for ever, with a process of its own beside it."""
    command = subprocess.Popen(["sleep", "1000"])
    file = Path(f"{ctx.task_id}.pids")
    file.with_suffix(".new").write_text(f"{os.getpid()} {command.pid}")
    file.with_suffix(".new").rename(file)
    ctypes.PyDLL(None).sleep(1000)


@app.task("aio", backend="asyncio")
async def aio(n: int) -> int:
    await asyncio.sleep(0)
    return n + 1
