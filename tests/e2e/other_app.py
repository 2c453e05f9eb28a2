"""Handlers of a server that shares a store with one of `work_app`, and has no type in common with it."""

from __future__ import annotations

import trio

from tq import Context, TaskQueue

app = TaskQueue()


@app.task("elsewhere")
async def elsewhere(value: int) -> int:
    return value + 1


@app.task("forever", timeout=3600)
async def forever(ctx: Context) -> None:
    ctx.log("begun")
    await trio.sleep_forever()
