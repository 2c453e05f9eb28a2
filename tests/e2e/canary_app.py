"""Handlers whose payloads, results, errors and words are none of the log's business."""

from __future__ import annotations

from tq.context import Context
from tq.handlers import TaskQueue

app = TaskQueue()


@app.task("keep")
async def keep(secret: str, ctx: Context) -> str:
    ctx.progress(0.5, secret)
    ctx.log(secret)
    return secret


@app.task("tell", max_attempts=1)
def tell(secret: str) -> None:
    raise ValueError(secret)


@app.task("tell_apart", max_attempts=1, isolation="process", timeout=60)
def tell_apart(secret: str) -> None:
    raise ValueError(secret)
