"""Handlers that say what they are told to say, wherever a handler can say anything."""

from __future__ import annotations

from typing import Any

import trio

from tq.context import Context
from tq.handlers import TaskQueue

app = TaskQueue()


@app.task("*", max_attempts=1, timeout=60)
async def fail(payload: Any) -> None:
    """Fail with an error of the type and the text that the payload is."""
    raise type(payload["text"], (Exception,), {})(payload["text"])


@app.task("say", timeout=60)
async def say(texts: list[str], ctx: Context) -> list[str]:
    """Say each of *texts* in the log and as progress, and give them all back."""
    for at, text in enumerate(texts):
        ctx.progress(at / len(texts), text)
        ctx.log(text)
        await trio.sleep(0.004)
    return texts
