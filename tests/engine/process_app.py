"""The handlers of the tests of child processes, imported by the children as ``process_app:app``.

They tell where they are by writing files: what they could say otherwise is what is tested.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio
import trio.lowlevel

from tq.context import Cancel, Context, Retry, Snooze
from tq.core.errors import InvalidInput
from tq.handlers import TaskQueue

app = TaskQueue()


def tell(file: str, text: object) -> None:
    """Write *file* at once, so that who waits for it never reads half."""
    beside = Path(file + ".new")
    beside.write_text(str(text))
    beside.rename(file)


@app.task("pid", isolation="process")
def pid() -> int:
    return os.getpid()


@app.task("echo", isolation="process", timeout=20)
def echo(payload: Any) -> Any:
    return payload


@app.task("where", isolation="process")
def where(ctx: Context) -> dict[str, object]:
    return {
        "task": ctx.task_id,
        "attempt": ctx.attempt,
        "left": ctx.seconds_left(),
        "leads_group": os.getpgrp() == os.getpid() == os.getsid(0),
    }


@app.task("trio", isolation="process")
async def on_trio(n: int) -> int:
    await trio.lowlevel.checkpoint()
    return n + 1


@app.task("asyncio", isolation="process", backend="asyncio")
async def on_asyncio(n: int) -> int:
    await asyncio.sleep(0)
    return n + 2


@app.task("raises", isolation="process")
def raises() -> None:
    raise ValueError("no such address")


@app.task("raises_async", isolation="process")
async def raises_async() -> None:
    await trio.lowlevel.checkpoint()
    raise ValueError("no such address")


@app.task("exits", isolation="process")
def exits() -> None:
    sys.exit("enough")


@app.task("retry", isolation="process")
def retry(ctx: Context) -> int:
    if ctx.attempt == 1:
        raise Retry("the rate limit", after=0.01)
    return ctx.attempt


@app.task("snooze", isolation="process")
def snooze(ctx: Context) -> int:
    if ctx.task.generation == 1:
        raise Snooze(0.01)
    return ctx.task.generation


@app.task("cancel", isolation="process")
def cancel() -> None:
    raise Cancel("the order was withdrawn")


@app.task("not_json", isolation="process")
def not_json() -> object:
    return object()


@app.task("large", isolation="process", timeout=20)
def large(size: int) -> str:
    return "x" * size


@app.task("prints", isolation="process")
def prints() -> str:
    print("a line", end="")
    print("a line", file=sys.stderr)
    rubbish = b"\x00\x00\x00\x02{}\xff\xfe" + bytes(range(256)) * 300
    for output in (1, 2):
        os.write(output, rubbish)
    subprocess.run(["echo", "a line of a command"], check=True)
    return "undisturbed"


def tell_and(go_on: Callable[[], object], file: str) -> None:
    tell(file, os.getpid())
    go_on()


@app.task("sleeps", isolation="process", timeout=60)
def sleeps(file: str) -> None:
    tell_and(lambda: time.sleep(1000), file)


@app.task("deaf", isolation="process", timeout=60)
def deaf(file: str) -> None:
    """Sleeps in C with the GIL held, and ignores every signal that can be ignored."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGIO):
        signal.signal(number, signal.SIG_IGN)
    tell_and(lambda: ctypes.PyDLL(None).sleep(1000), file)


@app.task("family", isolation="process", timeout=60)
def family(file: str) -> None:
    """Starts a process of its own, and waits for it."""
    command = subprocess.Popen(["sleep", "1000"])
    tell(file, command.pid)
    command.wait()


@app.task("leaves", isolation="process")
def leaves() -> int:
    """Leaves a process behind, as careless handlers do."""
    return subprocess.Popen(["sleep", "1000"]).pid


@app.task("leaves_and_dies", isolation="process")
def leaves_and_dies(file: str) -> None:
    tell(file, subprocess.Popen(["sleep", "1000"]).pid)
    os._exit(3)


@app.task("dies", isolation="process")
def dies(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(1000)


@app.task("forks", isolation="process")
def forks() -> str:
    """Forks a copy of itself, which goes on as if it were the child; the child ends when that is gone."""
    copy = os.fork()
    if copy == 0:
        return "the copy speaks"
    os.waitpid(copy, 0)
    return "undisturbed"


@app.task("forks_and_dies", isolation="process", timeout=60)
def forks_and_dies() -> None:
    """Dies while a forked copy of it lives, which has all that it had."""
    if os.fork() == 0:
        time.sleep(1000)
    os._exit(3)


@app.task("closes", isolation="process")
def closes() -> None:
    os.closerange(3, 100)


@app.task("rubbish", isolation="process")
def rubbish() -> None:
    """Writes what is no frame to every descriptor that takes it."""
    for fd in range(3, 1024):
        try:
            os.write(fd, b"\xff" * 100)
        except OSError:
            continue
    time.sleep(1000)


@app.task("descriptors", isolation="process", timeout=60)
def descriptors(file: str, until: str) -> list[str]:
    """The sockets and pipes that this child has, once *until* is there, which the test writes."""
    tell(file, os.getpid())
    while not Path(until).exists():
        time.sleep(0.005)
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue
    return sorted(each for each in found[3:] if each.startswith(("socket", "pipe")))


@app.task("tells", isolation="process")
def tells(ctx: Context) -> dict[str, object]:
    ctx.progress(0.5, "half way")
    ctx.log("one", 2)
    child = ctx.submit_sync("pid", id="the-child")
    try:
        ctx.submit_sync("nobody")
    except InvalidInput as refusal:
        ctx.log(type(refusal).__name__, refusal.fields.get("field"))
    return {"child": child, "dependencies": ctx.dependencies}


@app.task("tells_async", isolation="process")
async def tells_async(ctx: Context) -> str:
    ctx.log("from a loop")
    return await ctx.submit("pid", parent_id=None)


@app.task("submits", isolation="process")
def submits() -> str:
    """Has no Context, and submits all the same."""
    return where.options(id="by-a-process").submit_sync()


@app.task("submits_async", isolation="process")
async def submits_async() -> str:
    return await on_trio.submit(n=1)
