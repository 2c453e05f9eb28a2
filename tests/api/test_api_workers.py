"""GET and PUT /v1/workers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing
from raw_http import JSON_TYPE, Answer, Api, open_api

from tq.engine.server import Settings
from tq.handlers import TaskQueue


@pytest.fixture
def queue() -> TaskQueue:
    queue = TaskQueue()

    @queue.task("nap", queue="beds", timeout=100, max_attempts=1)
    async def nap(seconds: float = 0) -> str:
        await trio.sleep(seconds)
        return "rested"

    @queue.task("stuck", timeout=1, max_attempts=1)
    async def stuck(seconds: float) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)

    return queue


async def put(api: Api, content: object) -> Answer:
    return await api.ask("PUT", "/v1/workers", json.dumps(content).encode(), JSON_TYPE)


async def test_workers_are_shown_with_what_each_runs_and_since_when(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue, settings=Settings(workers=1, workers_max=8)) as api:
        await trio.sleep(1.25)
        await api.post("/v1/tasks", {"id": "t1", "type": "nap", "payload": {"seconds": 10}})
        await api.post("/v1/tasks", {"id": "t2", "type": "nap", "payload": {"seconds": 0.5}})
        await trio.sleep(1)
        answer = await api.get("/v1/workers")
        assert answer.status == 200
        assert answer.json == {
            "min": 1,
            "max": 8,
            "count": 2,
            "busy": 1,
            "workers": [
                {
                    "worker": 1,
                    "state": "busy",
                    "since": "2026-01-01T00:00:01.250Z",
                    "task_id": "t1",
                    "type": "nap",
                    "queue": "beds",
                    "attempt": 1,
                    "overran": False,
                },
                {"worker": 2, "state": "idle", "since": "2026-01-01T00:00:01.750Z"},
            ],
        }


async def test_an_idle_worker_shows_when_its_last_task_ended(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue, settings=Settings(workers=1)) as api:
        await api.post("/v1/tasks", {"type": "nap", "payload": {"seconds": 3.5}}, {"Prefer": "wait=5"})
        await trio.sleep(1)
        (worker,) = (await api.get("/v1/workers")).json["workers"]
        assert worker == {"worker": 1, "state": "idle", "since": "2026-01-01T00:00:03.500Z"}


async def test_a_stuck_worker_is_busy_and_shown_as_overran(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue, settings=Settings(workers=1)) as api:
        await api.post("/v1/tasks", {"id": "t1", "type": "stuck", "payload": {"seconds": 20}})
        await trio.sleep(10)
        shown = (await api.get("/v1/workers")).json
        assert (shown["count"], shown["busy"]) == (1, 1)
        assert shown["workers"][0]["state"] == "busy"
        assert (shown["workers"][0]["task_id"], shown["workers"][0]["overran"]) == ("t1", True)
        await trio.sleep(11)
        assert (await api.get("/v1/workers")).json["busy"] == 0


async def test_put_of_a_count_fixes_the_size_and_answers_with_the_view(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue, settings=Settings(workers=2)) as api:
        answer = await put(api, {"count": 4})
        assert answer.status == 200
        assert {**answer.json, "workers": [each["worker"] for each in answer.json["workers"]]} == {
            "min": 4,
            "max": 4,
            "count": 4,
            "busy": 0,
            "workers": [1, 2, 3, 4],
        }
        assert answer.json == (await api.get("/v1/workers")).json


async def test_put_of_a_range_lets_the_pool_grow_and_shrink(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue, settings=Settings(workers=2)) as api:
        await put(api, {"min": 1, "max": 3})
        for _ in range(6):
            await api.post("/v1/tasks", {"type": "nap", "payload": {"seconds": 5}})
        await trio.sleep(1)
        assert size(await api.get("/v1/workers")) == (1, 3, 3, 3)
        await trio.sleep(30)
        assert size(await api.get("/v1/workers")) == (1, 3, 1, 0)


def size(answer: Answer) -> tuple[int, ...]:
    return tuple(answer.json[name] for name in ("min", "max", "count", "busy"))


async def test_put_of_fewer_shows_the_busy_ones_until_their_tasks_end(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue, settings=Settings(workers=3)) as api:
        for number in range(3):
            await api.post("/v1/tasks", {"id": f"t{number}", "type": "nap", "payload": {"seconds": 5}})
        await trio.sleep(1)
        assert size(await put(api, {"count": 1})) == (1, 1, 3, 3)
        await trio.sleep(5)
        assert size(await api.get("/v1/workers")) == (1, 1, 1, 0)
        for number in range(3):
            task = (await api.get(f"/v1/tasks/t{number}")).json
            assert (task["state"], task["attempt"]) == ("succeeded", 1)


INTEGER = "an integer from 1 to 1000"


@pytest.mark.parametrize(
    ("content", "field", "said"),
    [
        ({}, "count", "count: missing: give count, or min and max"),
        ({"count": 0}, "count", f"count: 0 is not allowed: {INTEGER}"),
        ({"count": 1001}, "count", f"count: 1001 is not allowed: {INTEGER}"),
        ({"count": -(2**40)}, "count", f"count: -1099511627776 is not allowed: {INTEGER}"),
        ({"count": "4"}, "count", "count: Expected `int`, got `str`"),
        ({"count": True}, "count", "count: Expected `int`, got `bool`"),
        ({"count": 2.5}, "count", "count: Expected `int`, got `float`"),
        ({"count": None}, "count", "count: Expected `int`, got `null`"),
        ({"count": 2, "max": 3}, "count", "count: give either count, or min and max"),
        ({"min": 2}, "max", f"max: missing: min and max go together, each {INTEGER}"),
        ({"max": 2}, "min", f"min: missing: min and max go together, each {INTEGER}"),
        ({"min": 0, "max": 2}, "min", f"min: 0 is not allowed: {INTEGER}"),
        ({"min": 1, "max": 1001}, "max", f"max: 1001 is not allowed: {INTEGER}"),
        ({"min": 5, "max": 3}, "min", "min: 5 is over max, which is 3"),
        ({"workers": 3}, "workers", "workers: there is no such field here"),
        ({"minimum": 1, "maximum": 3}, "minimum", "minimum: there is no such field here"),
    ],
)
async def test_a_bad_size_is_refused_by_field_and_changes_nothing(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, content: Any, field: str, said: str
) -> None:
    async with open_api(queue, settings=Settings(workers=2)) as api:
        answer = await put(api, content)
        assert (answer.status, answer.json["code"], answer.json.get("field")) == (422, "invalid_input", field)
        assert answer.json["detail"] == said
        assert size(await api.get("/v1/workers")) == (2, 2, 2, 0)


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 400), (b"[]", 400), (b"4", 400), (b"{", 400), (b" " * 5_000, 413)]
)
async def test_a_body_that_is_no_object_is_refused(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, body: bytes, status: int
) -> None:
    async with open_api(queue) as api:
        assert (await api.ask("PUT", "/v1/workers", body, JSON_TYPE)).status == status


async def test_a_draining_server_refuses_another_size_but_shows_its_workers(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue, settings=Settings(workers=2)) as api:
        client, other = await api.connect(), await api.connect()
        async with client.stream, other.stream:
            await client.ask("POST", "/v1/tasks", b'{"type":"nap","payload":{"seconds":3}}', JSON_TYPE)
            await other.ask("GET", "/livez")
            await trio.sleep(0.1)
            await client.begin("PUT", "/v1/workers", {**JSON_TYPE, "Content-Length": "11"})
            await other.begin("GET", "/v1/workers")
            api.server.draining.set()
            await client.send(b'{"count":9}')
            refused, shown = await client.finish(), await other.finish()
        assert (refused.status, refused.json["code"]) == (503, "shutting_down")
        assert (shown.status, shown.json["busy"]) == (200, 1)
