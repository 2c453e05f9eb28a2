"""Handlers to start from: `tq serve examples.hello:app`, then `tq submit hello name=you --wait`."""

from __future__ import annotations

import time

import trio

from tq import Context, Retry, TaskQueue

app = TaskQueue()


@app.task("hello")
async def hello(name: str = "world") -> str:
    """Greet. An ``async def`` runs on the server's own event loop, under trio."""
    await trio.sleep(0.1)
    return f"Hello, {name}!"


@app.task("sum", timeout=30)
def add_up(numbers: list[float]) -> float:
    """Add numbers up. A plain ``def`` runs in a thread, so it may block."""
    time.sleep(0.1)
    return sum(numbers)


@app.task("flaky", max_attempts=5)
async def flaky(ctx: Context, succeeds_at: int = 3) -> dict[str, int]:
    """Fail until attempt *succeeds_at*. An exception would do as well; then the policy says when."""
    if ctx.attempt < succeeds_at:
        raise Retry(f"attempt {ctx.attempt} was too early", after=0.5)
    return {"attempts": ctx.attempt}


@app.task("greet_all")
async def greet_all(names: list[str]) -> int:
    """Submit a task for each name: they are children of this one, and may run anywhere."""
    for name in names:
        await hello.options(priority="low").submit(name=name)
    return len(names)
