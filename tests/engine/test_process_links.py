"""What a handler in a child process can reach of its server: progress, log, submits, dependencies."""

from __future__ import annotations

import json

from process_app import app
from real_time import open_real_server, run_one

from tq.core.task import TaskId
from tq.engine.processes import python_child
from tq.testing import finished, submit

spawn = python_child("process_app:app")


async def test_handler_in_a_process_tells_submits_and_knows_what_it_depended_on() -> None:
    async with open_real_server(app, spawn=spawn) as server:
        before = await submit(server, type="echo", payload={"n": [1, "ü"]}, id="before")
        task = await run_one(server, "tells", depends_on=[before])

        assert task.errors == ()
        result = json.loads(task.result or "")
        assert result == {"child": "the-child", "dependencies": {"before": {"n": [1, "ü"]}}}
        assert task.progress is not None
        assert (task.progress.fraction, task.progress.message) == (0.5, "half way")
        assert [line.text for line in task.logs] == ["one 2", "UnknownType type"]
        child = await finished(server, TaskId("the-child"))
        assert child.options.parent_id == task.id


async def test_async_handler_in_a_process_does_too() -> None:
    async with open_real_server(app, spawn=spawn) as server:
        task = await run_one(server, "tells_async")

        assert [line.text for line in task.logs] == ["from a loop"]
        child = await finished(server, TaskId(json.loads(task.result or "")))
        assert child.options.parent_id is None
