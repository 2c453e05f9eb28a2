"""Whose request a task is of: `task.submitted` names it, however the task was submitted."""

from __future__ import annotations

import json

from raw_http import JSON_TYPE, NDJSON_TYPE, open_api

from tq.core.events import Event, TaskSubmitted
from tq.core.task import TaskId
from tq.handlers import TaskQueue
from tq.testing import finished


async def test_each_submit_over_http_is_told_of_with_the_id_of_its_request() -> None:
    queue = TaskQueue()

    @queue.task("child")
    async def child() -> None: ...

    @queue.task("it")
    async def it() -> None:
        await child.options(id="of-a-handler").submit()

    seen: list[Event] = []
    async with open_api(queue, emit=seen.append) as api:
        one = b'{"type": "it", "id": "%b", "delay": 60}'
        await api.ask("POST", "/submit", b'{"type": "it", "id": "seed"}', JSON_TYPE | {"X-Request-Id": "r-1"})
        await api.ask("POST", "/v1/tasks", one % b"one", JSON_TYPE | {"X-Request-Id": "r-2"})
        batch = b"[" + one % b"a" + b"," + one % b"b" + b"]"
        await api.ask("POST", "/v1/tasks/batch", batch, JSON_TYPE | {"X-Request-Id": "r-3"})
        lines = one % b"c" + b"\n" + one % b"d"
        await api.ask("POST", "/v1/tasks/batch", lines, NDJSON_TYPE | {"X-Request-Id": "r-4"})
        await api.put("/v1/schedules/often", {"type": "child", "every": 3600})
        ran = await api.ask("POST", "/v1/schedules/often/run", b"", JSON_TYPE | {"X-Request-Id": "r-5"})
        made = await api.post("/v1/tasks", {"type": "child", "id": "made"})
        await finished(api.server, TaskId("of-a-handler"))
    told = {each.task_id: each.request_id for each in seen if isinstance(each, TaskSubmitted)}
    assert told == {
        "seed": "r-1",
        "one": "r-2",
        "a": "r-3",
        "b": "r-3",
        "c": "r-4",
        "d": "r-4",
        json.loads(ran.body)["id"]: "r-5",
        "made": made.headers["x-request-id"],
        "of-a-handler": None,
    }
