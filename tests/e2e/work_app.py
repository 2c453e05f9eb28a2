"""The handlers of the end-to-end tests; served by ``tq serve work_app:app``."""

from __future__ import annotations

import threading

import trio

from tq.context import Context
from tq.handlers import TaskQueue

app = TaskQueue()


def _say(what: str, ctx: Context) -> None:
    print(what, ctx.task_id, flush=True)


@app.task("echo")
async def echo(payload: object) -> object:
    return payload


@app.task("shout")
def shout(text: str) -> str:
    return text.upper()


@app.task("fail", max_attempts=1)
async def fail() -> None:
    raise ValueError("as the test wants it")


@app.task("fail_for_now", retry={"base": 3600, "jitter": 0})
async def fail_for_now() -> None:
    raise ValueError("not yet")


@app.task("nap", timeout=100)
async def nap(seconds: float, ctx: Context) -> str:
    _say("started", ctx)
    await trio.sleep(seconds)
    return "rested"


@app.task("hang_once", timeout=100)
async def hang_once(ctx: Context) -> int:
    """Never ends when it is started for the first time."""
    _say("started", ctx)
    if ctx.task.generation == 1:
        await trio.sleep_forever()
    return ctx.task.generation


@app.task("hang", timeout=100)
async def hang(ctx: Context) -> None:
    _say("started", ctx)
    await trio.sleep_forever()


@app.task("shielded", timeout=100)
async def shielded(ctx: Context) -> None:
    """Never ends, and cannot be cancelled."""
    _say("started", ctx)
    try:
        await trio.sleep_forever()
    finally:
        _say("cancelled", ctx)
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()


@app.task("blocked", timeout=100)
def blocked(ctx: Context) -> None:
    """Holds its thread for ever."""
    _say("started", ctx)
    threading.Event().wait()


@app.task("large")
async def large(size: int) -> str:
    return "x" * size
