"""Handlers to try the fleet of compose.yaml with; put your own in their place."""

import trio

from tq import Context, TaskQueue

app = TaskQueue()


@app.task("hello")
async def hello(name: str = "world") -> str:
    """Greet."""
    return f"Hello, {name}!"


@app.task("count", timeout=60)
async def count(ctx: Context, to: int = 10) -> int:
    """Count slowly, so that there is something to watch and to cancel."""
    for n in range(to):
        ctx.progress(n / to, f"at {n}")
        await trio.sleep(1)
    return to
