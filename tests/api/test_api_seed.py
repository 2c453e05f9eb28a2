"""The three frozen routes, to the byte."""

from __future__ import annotations

import json

import pytest
import trio
import trio.testing
from raw_http import JSON_TYPE, Api, open_api

from tq.api.app import make_app
from tq.core.ops import Cancel
from tq.core.task import TaskId
from tq.handlers import TaskQueue
from tq.testing import finished, open_server


@pytest.fixture
def queue() -> TaskQueue:
    queue = TaskQueue()

    @queue.task("email", max_attempts=1)
    async def email(payload: object) -> object:
        return {"said": payload}

    @queue.task("bad", max_attempts=1)
    async def bad(payload: object) -> None:
        raise ValueError("Worker 3 failed to process task")

    @queue.task("slow", max_attempts=1)
    async def slow(payload: object) -> None:
        await trio.sleep_forever()

    return queue


async def submit(api: Api, task: dict[str, object]) -> TaskId:
    answer = await api.post("/submit", task)
    assert answer.status == 200
    return TaskId(answer.json["task_id"])


async def test_submit_answers_with_the_frozen_body(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        answer = await api.post("/submit", {"id": "task-1", "type": "email", "payload": "hello"})
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.body == (
            b'{"message":"Task submitted successfully","task_id":"task-1","status":"pending"}'
        )


@pytest.mark.parametrize("id", [{}, {"id": ""}, {"id": None}])
async def test_submit_without_an_id_gets_one(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, id: dict[str, object]
) -> None:
    async with open_api(queue) as api:
        made = await submit(api, {"type": "email", "payload": "x", **id})
        assert made.startswith("task-019b")
        assert len(made) == 37


async def test_submit_ignores_fields_that_the_original_did_not_know(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        made = await submit(api, {"type": "email", "payload": 1, "delay": 3600, "zebra": True})
        assert (await finished(api.server, made)).result == '{"said":1}'


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'"text"', b"7", b"null", b"{", b'{"type":5}', b"{}", b'{"type":"email","id":7}', b"\xff",
     b'{"type":"email","payload":' + b"[" * 100_000, b'{"type":"email","id":"a b"}', b'{"type":"a b"}'],
)  # fmt: skip
async def test_submit_refuses_what_is_not_a_task_with_400(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, body: bytes
) -> None:
    async with open_api(queue) as api:
        answer = await api.ask("POST", "/submit", body, JSON_TYPE)
        assert answer.status == 400
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json["code"] == "invalid_input"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
async def test_submit_takes_post_only(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, method: str
) -> None:
    async with open_api(queue) as api:
        answer = await api.ask(method, "/submit", b'{"type":"email"}', JSON_TYPE)
        assert answer.status == 405
        assert answer.headers["allow"] == "OPTIONS, POST"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Content-Type": "application/json"}, 200),
        ({"Content-Type": "Application/JSON; charset=UTF-8"}, 200),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "application/json; charset=latin-1"}, 415),
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Encoding": "identity"}, 200),
    ],
)
async def test_submit_takes_json_by_name_or_by_silence(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, headers: dict[str, str], status: int
) -> None:
    async with open_api(queue) as api:
        answer = await api.ask("POST", "/submit", b'{"type":"email","payload":"x"}', headers)
        assert answer.status == status


async def test_submit_of_an_unknown_type_names_the_known_ones(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        answer = await api.post("/submit", {"type": "nope"})
        assert (answer.status, answer.json["code"]) == (422, "unknown_type")
        assert answer.json["known"] == ["bad", "email", "slow"]


async def test_submit_again_makes_no_second_task_and_another_payload_conflicts(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    task = {"id": "task-1", "type": "email", "payload": {"a": 1, "b": 2}}
    async with open_api(queue) as api:
        first = await api.post("/submit", task)
        again = await api.post("/submit", task | {"payload": {"b": 2, "a": 1}})
        assert (again.status, again.body) == (200, first.body)
        assert (await api.server.stats()).submitted == 1
        for other in ({"payload": {"a": 1}}, {"type": "bad"}):
            answer = await api.post("/submit", task | other)
            assert (answer.status, answer.json["code"]) == (409, "duplicate_task")


async def test_submit_is_refused_with_503_when_the_server_shuts_down(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_server(queue) as server:
        server.draining.set()
        answer = await make_app(server).test_client().post("/submit", json={"type": "email"})
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert (await answer.get_json())["code"] == "shutting_down"


async def test_status_of_a_task_that_ended_well(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await submit(api, {"id": "task-1", "type": "email", "payload": {"to": "ü", "n": 1.50}})
        await finished(api.server, TaskId("task-1"))
        answer = await api.get("/status/task-1")
        assert answer.status == 200
        assert (
            answer.body
            == (
                '{"task_id":"task-1","success":true,"data":{"said":{"to":"ü","n":1.5}},'
                '"processed_at":"2026-01-01T00:00:00.000Z"}'
            ).encode()
        )


async def test_status_of_a_task_that_failed_tells_its_last_error(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await submit(api, {"id": "task-1", "type": "bad", "payload": None})
        await finished(api.server, TaskId("task-1"))
        answer = await api.get("/status/task-1")
        assert answer.status == 200
        assert answer.body == (
            b'{"task_id":"task-1","success":false,"error":"Worker 3 failed to process task",'
            b'"processed_at":"2026-01-01T00:00:00.000Z"}'
        )


async def test_status_of_a_task_over_its_time_has_the_frozen_sentence(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await submit(api, {"id": "task-1", "type": "slow", "payload": None})
        await finished(api.server, TaskId("task-1"))
        answer = await api.get("/status/task-1")
        assert answer.body == (
            b'{"task_id":"task-1","success":false,"error":"Task timed out or was cancelled",'
            b'"processed_at":"2026-01-01T00:00:05.000Z"}'
        )


async def test_status_of_a_cancelled_task_has_the_frozen_sentence(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "task-1", "type": "slow", "delay": 60})
        await api.server.ledger.ask(Cancel(TaskId("task-1")))
        answer = await api.get("/status/task-1")
        assert answer.body == (
            b'{"task_id":"task-1","success":false,"error":"Task timed out or was cancelled",'
            b'"processed_at":"2026-01-01T00:00:00.000Z"}'
        )


@pytest.mark.parametrize("id", ["task-1", "nobody", "a/b", "a%20b", "x" * 500])
async def test_status_of_anything_else_is_pending_or_not_found(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, id: str
) -> None:
    async with open_api(queue) as api:
        await submit(api, {"id": "task-1", "type": "slow", "payload": None})
        answer = await api.get(f"/status/{id}")
        assert answer.status == 200
        shown = json.dumps(id.replace("%20", " ")).encode()
        assert answer.body == b'{"task_id":' + shown + b',"status":"pending or not found"}'


async def test_status_without_an_id_is_400(queue: TaskQueue, autojump_clock: trio.testing.MockClock) -> None:
    async with open_api(queue) as api:
        answer = await api.get("/status/")
        assert (answer.status, answer.json["code"]) == (400, "invalid_input")


async def test_stats_counts_what_was_processed_and_what_waits(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        assert (await api.get("/stats")).body == (
            b'{"total_processed":0,"successful":0,"failed":0,"queue_length":0}'
        )
        for _ in range(5 + 7):
            await submit(api, {"type": "slow", "payload": 1})
        await trio.sleep(1)
        assert (await api.get("/stats")).body == (
            b'{"total_processed":0,"successful":0,"failed":0,"queue_length":7}'
        )
        for _ in range(2):
            await submit(api, {"type": "email", "payload": 1})
        await trio.sleep(15)
        answer = await api.get("/stats?_=123")
        assert answer.status == 200
        assert answer.body == b'{"total_processed":14,"successful":2,"failed":12,"queue_length":0}'
