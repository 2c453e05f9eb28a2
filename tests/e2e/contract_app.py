"""The handler behind the tests of the contract: it does tasks of every type, at once."""

from __future__ import annotations

from typing import Any

from tq.handlers import TaskQueue

app = TaskQueue()


@app.task("*", max_attempts=2, retry={"base": 0.01})
async def work(payload: Any) -> Any:
    if isinstance(payload, str):
        raise ValueError("a payload that is a text fails")
    return payload
