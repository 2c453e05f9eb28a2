"""Submitting one task, holding for its end, looking at it; stats and health."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from raw_http import JSON_TYPE, open_api

from tq.api.app import make_app
from tq.core.errors import StorageFull, StorageUnavailable
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore
from tq.testing import FaultyStore, open_server


@pytest.fixture
def queue() -> TaskQueue:
    queue = TaskQueue()

    @queue.task("nap", max_attempts=1, timeout=100)
    async def nap(seconds: float = 0) -> str:
        await trio.sleep(seconds)
        return "rested"

    return queue


async def test_submit_answers_201_with_where_and_what(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        answer = await api.post("/v1/tasks", {"id": "t1", "type": "nap", "priority": "high", "delay": 1.5})
        assert answer.status == 201
        assert answer.headers["location"] == "/v1/tasks/t1"
        assert "tq-duplicate" not in answer.headers
        assert answer.json == {
            "id": "t1",
            "type": "nap",
            "queue": "default",
            "state": "scheduled",
            "priority": 10,
            "attempt": 0,
            "max_attempts": 1,
            "timeout": 100.0,
            "run_at": "2026-01-01T00:00:01.500Z",
        }


async def test_submit_again_answers_200_with_the_task_as_it_is_and_says_duplicate(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t1", "type": "nap", "queue": "first", "delay": 60})
        answer = await api.post("/v1/tasks", {"id": "t1", "type": "nap", "queue": "second"})
        assert (answer.status, answer.headers["tq-duplicate"]) == (200, "true")
        assert answer.headers["location"] == "/v1/tasks/t1"
        assert (answer.json["queue"], answer.json["state"]) == ("first", "scheduled")


async def test_another_task_under_a_known_id_is_409(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t1", "type": "nap", "payload": {"seconds": 1}})
        answer = await api.post("/v1/tasks", {"id": "t1", "type": "nap", "payload": {"seconds": 2}})
        assert (answer.status, answer.json["code"], answer.json["task_id"]) == (409, "duplicate_task", "t1")


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"", 400, "invalid_input", None),
        (b"[]", 400, "invalid_input", None),
        (b'{"type":"nap"', 400, "invalid_input", None),
        (b'{"type":"nap","type\xff":1}', 400, "invalid_input", None),
        (b'{"type":"nap","payload":' + b"[" * 65 + b"]" * 65 + b"}", 400, "invalid_input", None),
        (b'{"payload":1}', 422, "invalid_input", "type"),
        (b'{"type":"nap","zebra":1}', 422, "invalid_input", "zebra"),
        (b'{"type":"nap","priority":1000}', 422, "invalid_input", "priority"),
        (b'{"type":"nap","delay":-1}', 422, "invalid_input", "delay"),
        (b'{"type":"nap","run_at":"tomorrow"}', 422, "invalid_input", "run_at"),
        (b'{"type":"nap","retry":{"base":-1}}', 422, "invalid_input", "retry.base"),
        (b'{"type":"nap","key":""}', 422, "invalid_input", "key"),
        (b'{"type":"nap","tags":["a b"]}', 422, "invalid_input", "tags"),
        (b'{"type":"nap","unique":{"key":"k","while":"x"}}', 422, "invalid_input", "unique.while"),
        (b'{"type":"nap","parent_id":"nobody"}', 422, "invalid_input", "parent_id"),
        (b'{"type":"nap","depends_on":["nobody"]}', 422, "invalid_input", "depends_on"),
        (b'{"type":"nap","on_dependency_failure":"x"}', 422, "invalid_input", "on_dependency_failure"),
        (b'{"type":"nap","deadline":"soon"}', 422, "invalid_input", "deadline"),
        (b'{"type":"nap","expires_at":1}', 422, "invalid_input", "expires_at"),
        (b'{"type":"nope"}', 422, "unknown_type", "type"),
        (b'{"type":"nap","payload":{"seconds":"x"}}', 422, "payload_invalid", "payload"),
    ],
)
async def test_a_bad_submit_says_what_is_wrong_and_where(
    queue: TaskQueue,
    autojump_clock: trio.testing.MockClock,
    body: bytes,
    status: int,
    code: str,
    field: str | None,
) -> None:
    async with open_api(queue) as api:
        answer = await api.ask("POST", "/v1/tasks", body, JSON_TYPE)
        assert answer.headers["content-type"] == "application/problem+json"
        assert (answer.status, answer.json["code"], answer.json.get("field")) == (status, code, field)
        assert (await api.server.stats()).submitted == 0


async def test_a_payload_over_its_limit_is_413(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        answer = await api.post("/v1/tasks", {"type": "nap", "payload": "x" * 1024 * 1024})
        assert (answer.status, answer.json["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [(StorageUnavailable, 503, "storage_unavailable"), (StorageFull, 507, "storage_full")],
)
async def test_submit_without_a_store_is_never_acknowledged(
    queue: TaskQueue,
    autojump_clock: trio.testing.MockClock,
    failure: type[StorageUnavailable],
    status: int,
    code: str,
) -> None:
    store = FaultyStore(MemoryStore())
    async with open_api(queue, store=store) as api:
        store.failing = failure
        answer = await api.post("/v1/tasks", {"type": "nap"})
        assert (answer.status, answer.json["code"], answer.headers["retry-after"]) == (status, code, "1")
        assert (await api.get("/readyz")).status == 503
        store.failing = None
        assert (await api.post("/v1/tasks", {"type": "nap"})).status == 201
        assert (await api.get("/readyz")).status == 200


# Holding


async def test_prefer_wait_answers_the_finished_task(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        start = trio.current_time()
        answer = await api.post(
            "/v1/tasks", {"type": "nap", "payload": {"seconds": 7}}, {"Prefer": "wait=10"}
        )
        assert trio.current_time() - start == 7
        assert (answer.status, answer.headers["preference-applied"]) == (200, "wait=10")
        assert answer.headers["location"] == "/v1/tasks/" + answer.json["id"]
        assert (answer.json["state"], answer.json["result"]) == ("succeeded", "rested")
        assert answer.json["payload"] == {"seconds": 7}


async def test_prefer_wait_answers_the_task_as_it_is_when_time_is_up(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        start = trio.current_time()
        answer = await api.post(
            "/v1/tasks", {"type": "nap", "payload": {"seconds": 90}}, {"Prefer": "wait=5"}
        )
        assert trio.current_time() - start == 5
        assert (answer.status, answer.json["state"]) == (201, "running")


@pytest.mark.parametrize(
    ("prefer", "applied", "seconds"),
    [
        ("wait=3", "wait=3", 3),
        ('respond-async, WAIT = "3"', "wait=3", 3),
        ("wait=3; foo=bar, wait=4", "wait=3", 3),
        ("wait=1000", "wait=60", 60),
        ("wait=0", "wait=0", 0),
        ("wait=-1", None, 0),
        ("wait=soon, wait=4", None, 0),
        ("wait", None, 0),
        ("await=5", None, 0),
        ("wait=1.5", None, 0),
        ("return=minimal", None, 0),
    ],
)
async def test_prefer_is_read_as_rfc_7240_says_and_ignored_where_it_makes_no_sense(
    queue: TaskQueue,
    autojump_clock: trio.testing.MockClock,
    prefer: str,
    applied: str | None,
    seconds: int,
) -> None:
    async with open_api(queue) as api:
        start = trio.current_time()
        answer = await api.post("/v1/tasks", {"type": "nap", "delay": 3600}, {"Prefer": prefer})
        assert answer.status == 201
        assert answer.headers.get("preference-applied") == applied
        assert trio.current_time() - start == seconds


async def test_get_with_wait_answers_when_the_task_ends(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t1", "type": "nap", "payload": {"seconds": 59}})
        start = trio.current_time()
        answer = await api.get("/v1/tasks/t1?wait=60")
        assert trio.current_time() - start == 59
        assert (answer.status, answer.json["state"]) == (200, "succeeded")
        assert answer.json["finished_at"] == "2026-01-01T00:00:59.000Z"
        assert (await api.get("/v1/tasks/t1?wait=0.5")).body == answer.body


@pytest.mark.parametrize("wait", ["61", "-1", "nan", "inf", "x", "", "1e999"])
async def test_a_bad_wait_is_400_and_named(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, wait: str
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t1", "type": "nap"})
        answer = await api.get(f"/v1/tasks/t1?wait={wait}")
        assert (answer.status, answer.json["parameter"]) == (400, "wait")
        assert answer.json["detail"].startswith("wait: ")


async def test_held_requests_are_answered_at_once_when_the_server_drains(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t1", "type": "nap", "delay": 3600})
        async with trio.open_nursery() as nursery:

            async def hold() -> None:
                answer = await api.get("/v1/tasks/t1?wait=60")
                assert (answer.status, answer.json["state"]) == (200, "scheduled")
                assert answer.headers["connection"] == "close"
                assert trio.current_time() == 10

            nursery.start_soon(hold)
            await trio.sleep(10)
            api.server.draining.set()


async def test_a_held_request_ends_when_its_client_leaves(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t1", "type": "nap", "delay": 3600})
        client = await api.connect()
        await client.begin("GET", "/v1/tasks/t1?wait=60")
        await trio.sleep(1)
        assert api.server.feed._watchers
        await client.stream.aclose()
        await trio.sleep(0.001)
        assert not api.server.feed._watchers


# Looking


async def test_get_shows_the_whole_task(queue: TaskQueue, autojump_clock: trio.testing.MockClock) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t1", "type": "nap", "delay": 9})
        answer = await api.get("/v1/tasks/t1")
        assert answer.status == 200
        assert answer.json == {
            "id": "t1",
            "type": "nap",
            "queue": "default",
            "state": "scheduled",
            "reason": None,
            "payload": None,
            "priority": 0,
            "attempt": 0,
            "max_attempts": 1,
            "crashes": 0,
            "timeout": 100.0,
            "created_at": "2026-01-01T00:00:00.000Z",
            "run_at": "2026-01-01T00:00:09.000Z",
            "started_at": None,
            "finished_at": None,
            "result": None,
            "errors": [],
        }


@pytest.mark.parametrize("id", ["nobody", "a%20b", "%00", "x" * 200, "nobody?wait=5"])
async def test_get_of_an_unknown_task_is_404_with_a_hint(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, id: str
) -> None:
    async with open_api(queue) as api:
        answer = await api.get(f"/v1/tasks/{id}")
        assert (answer.status, answer.json["code"]) == (404, "not_found")
        assert "check the id" in answer.json["detail"]
        assert trio.current_time() == 0


async def test_stats_by_state_and_queue_and_in_total(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"type": "nap"}, {"Prefer": "wait=1"})
        await api.post("/v1/tasks", {"type": "nap", "queue": "later", "delay": 60})
        answer = await api.get("/v1/stats")
        assert answer.status == 200
        assert answer.json["queues"] == {"default": {"succeeded": 1}, "later": {"scheduled": 1}}
        assert answer.json["totals"] == {"submitted": 2, "cancelled": 0, "failed": 0, "succeeded": 1}


# Health


async def test_livez_and_readyz_say_yes(queue: TaskQueue, autojump_clock: trio.testing.MockClock) -> None:
    async with open_api(queue) as api:
        assert (await api.get("/livez")).json == {"status": "ok"}
        assert (await api.get("/readyz")).json == {"status": "ready"}


async def test_while_it_drains_a_server_is_alive_but_not_ready(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_server(queue) as server:
        client = make_app(server).test_client()
        server.draining.set()
        assert (await client.get("/livez")).status_code == 200
        answer = await client.get("/readyz")
        assert (answer.status_code, (await answer.get_json())["code"]) == (503, "shutting_down")
        assert answer.headers["retry-after"] == "1"


async def test_before_it_has_started_a_server_is_not_ready(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_server(queue) as server:
        server.started = False
        answer = await make_app(server).test_client().get("/readyz")
        assert (answer.status_code, (await answer.get_json())["code"]) == (503, "overloaded")
