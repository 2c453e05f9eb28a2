"""The dead letters: failed tasks by cause, found, retried and deleted, one or all that match."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
import trio
import trio.testing
from raw_http import JSON_TYPE, Answer, Api, open_api

from tq.handlers import TaskQueue


@pytest.fixture
def broken() -> set[str]:
    """The names of what does not work."""
    return {"database", "mail"}


@pytest.fixture
def queue(broken: set[str]) -> TaskQueue:
    queue = TaskQueue()

    def connect(name: str) -> None:
        if name in broken:
            raise ConnectionError(f"no {name}")

    @queue.task("load", max_attempts=1)
    async def load(name: str = "database") -> str:
        connect(name)
        if name == "odd":
            raise ValueError("odd")
        return "loaded"

    @queue.task("send", max_attempts=1)
    async def send(name: str = "mail") -> str:
        connect(name)
        return "sent"

    return queue


async def fail(api: Api, type: str, **fields: object) -> None:
    answer = await api.post("/v1/tasks", {"type": type, **fields}, {"Prefer": "wait=10"})
    assert answer.json["state"] == "failed", answer.body


async def delete(api: Api, task_id: str) -> Answer:
    return await api.ask("DELETE", f"/v1/tasks/{task_id}")


async def ids(api: Api, query: str = "") -> list[str]:
    return [task["id"] for task in (await api.get(f"/v1/tasks{query}")).json["tasks"]]


async def groups(api: Api, query: str = "") -> list[dict[str, Any]]:
    found = (await api.get(f"/v1/failures{query}")).json["groups"]
    assert isinstance(found, list)
    return found


async def test_failures_are_grouped_by_type_and_exception_and_where_it_was_raised(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        assert await groups(api) == []
        for name in ("database", "mail", "database"):
            await fail(api, "load", payload={"name": name})
        await fail(api, "send", id="s1")
        await fail(api, "load", payload={"name": "odd"}, id="odd")
        found = await groups(api)
        assert [(group["type"], group["count"], group["error"]["type"]) for group in found] in (
            [("load", 3, "ConnectionError"), ("send", 1, "ConnectionError"), ("load", 1, "ValueError")],
            [("load", 3, "ConnectionError"), ("load", 1, "ValueError"), ("send", 1, "ConnectionError")],
        )
        by_type = {(group["type"], group["error"]["type"]): group for group in found}
        sent = by_type["send", "ConnectionError"]
        assert sent["latest"] == "s1"
        assert sent["error"]["frame"] == "test_api_dead.py:queue.<locals>.connect"
        assert by_type["load", "ValueError"]["latest"] == "odd"
        assert by_type["load", "ValueError"]["error"]["frame"] == "test_api_dead.py:queue.<locals>.load"
        task = (await api.get("/v1/tasks/s1")).json
        assert task["fingerprint"] == sent["fingerprint"]
        assert await ids(api, f"?fingerprint={sent['fingerprint']}") == ["s1"]
        assert len(await groups(api, "?limit=2")) == 2


async def test_failures_with_a_bad_limit_are_400(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        for limit in ("0", "501", "x", "-1", ""):
            answer = await api.get(f"/v1/failures?limit={limit}")
            assert (answer.status, answer.json["parameter"]) == (400, "limit")


async def test_dead_letters_are_found_by_what_is_known_of_them(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await fail(api, "load", id="a", queue="night", tags=["x"])
        await fail(api, "load", id="b", payload={"name": "odd"}, key="acme")
        await fail(api, "send", id="c")
        await api.post(
            "/v1/tasks", {"id": "d", "type": "send", "payload": {"name": "ok"}}, {"Prefer": "wait=1"}
        )
        await api.post("/v1/tasks", {"id": "e", "type": "send", "delay": 100})
        assert await ids(api, "?state=failed") == ["c", "b", "a"]
        assert await ids(api, "?state=failed&type=load") == ["b", "a"]
        assert await ids(api, "?state=failed&queue=night") == ["a"]
        assert await ids(api, "?state=failed&tag=x") == ["a"]
        assert await ids(api, "?state=failed&key=acme") == ["b"]
        assert await ids(api, "?error=no%20mail") == ["c"]
        assert await ids(api, "?error=CONNECTIONERROR") == ["c", "a"]
        assert await ids(api, "?error=%25") == []
        assert await ids(api, "?state=failed&where=payload.name:odd") == ["b"]


async def test_all_of_one_cause_are_retried_once_it_is_mended(
    queue: TaskQueue, broken: set[str], autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        for _ in range(3):
            await fail(api, "load")
        await fail(api, "send")
        cause = next(group for group in await groups(api) if group["type"] == "load")
        wanted = {"filter": {"fingerprint": cause["fingerprint"]}}
        answer = await api.post("/v1/tasks/retry", {**wanted, "dry_run": True})
        assert (answer.status, answer.json) == (
            200,
            {"dry_run": True, "matched": 3, "changed": 0, "more": False},
        )
        assert len(await ids(api, "?state=failed")) == 4
        broken.remove("database")
        answer = await api.post("/v1/tasks/retry", wanted)
        assert answer.json == {"dry_run": False, "matched": 3, "changed": 3, "more": False}
        await trio.sleep(1)
        assert [group["type"] for group in await groups(api)] == ["send"]
        assert len(await ids(api, "?state=succeeded&type=load")) == 3


async def test_bulk_retry_means_the_failed_ones_unless_it_names_others(
    queue: TaskQueue, broken: set[str], autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await fail(api, "load")
        await api.post("/v1/tasks", {"type": "load", "delay": 100, "id": "c"})
        await api.ask("POST", "/v1/tasks/c/cancel")
        await api.post("/v1/tasks", {"type": "load", "delay": 100, "id": "w"})
        broken.clear()
        assert (await api.post("/v1/tasks/retry", {"all": True})).json["changed"] == 1
        assert (await api.get("/v1/tasks/c")).json["state"] == "cancelled"
        answer = await api.post("/v1/tasks/retry", {"filter": {"state": "cancelled"}})
        assert answer.json == {"dry_run": False, "matched": 1, "changed": 1, "more": False}
        assert (await api.get("/v1/tasks/c?wait=5")).json["state"] == "succeeded"


@pytest.mark.parametrize(
    ("action", "state", "told"),
    [
        ("cancel", "ended", "filter.state: a task that is succeeded cannot be cancelled: name some of "),
        ("retry", "cancelled,scheduled", "filter.state: a task that is scheduled cannot be retried: "),
        ("delete", "waiting", "filter.state: a task that is blocked cannot be deleted: name some of "),
    ],
)
async def test_bulk_of_states_that_it_is_not_for_is_refused(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, action: str, state: str, told: str
) -> None:
    async with open_api(queue) as api:
        answer = await api.post(f"/v1/tasks/{action}", {"filter": {"state": state}})
        assert (answer.status, answer.json["field"]) == (422, "filter.state")
        assert answer.json["detail"].startswith(told)


async def test_dead_letters_are_deleted_all_or_some(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        for _ in range(5):
            await fail(api, "load")
        await fail(api, "send", id="s1")
        await api.post("/v1/tasks", {"type": "load", "delay": 100, "id": "w"})
        answer = await api.post("/v1/tasks/delete", {"filter": {"type": "load"}, "dry_run": True})
        assert answer.json == {"dry_run": True, "matched": 5, "changed": 0, "more": False}
        answer = await api.post("/v1/tasks/delete", {"filter": {"type": "load"}, "limit": 2})
        assert answer.json == {"dry_run": False, "matched": 2, "changed": 2, "more": True}
        answer = await api.post("/v1/tasks/delete", {"filter": {"type": "load"}, "limit": 3})
        assert answer.json == {"dry_run": False, "matched": 3, "changed": 3, "more": False}
        assert await ids(api) == ["w", "s1"]
        assert (await api.post("/v1/tasks/delete", {"all": True})).json["changed"] == 1
        assert await ids(api) == ["w"]
        assert (await api.get("/v1/stats")).json["totals"]["failed"] == 6


COUNTED: list[dict[str, str]] = [
    {},
    {"queue": "a"},
    {"queue": "none"},
    {"type": "load"},
    {"queue": "b", "type": "load"},
    {"queue": "b", "key": "k"},
]
"""Filters, of which the counters alone answer all but the last."""


@pytest.mark.parametrize(
    ("action", "states"), [("cancel", "waiting,running"), ("retry", "failed"), ("delete", "ended")]
)
async def test_what_is_counted_is_what_is_listed(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, action: str, states: str
) -> None:
    async with open_api(queue) as api:
        for name in ("a", "b"):
            for key in ({}, {"key": "k"}):
                await fail(api, "load", queue=name, **key)
                await fail(api, "send", queue=name, **key)
                for delay in (50, 60):
                    task = {"type": "load", "queue": name, "delay": delay, **key}
                    task_id = (await api.post("/v1/tasks", task)).json["id"]
                await api.post(f"/v1/tasks/{task_id}/cancel", {})
        for wanted in COUNTED:
            listed = await ids(api, f"?{urlencode({'state': states, **wanted})}")
            for limit in (1, 1000):
                body = {"filter": wanted} if wanted else {"all": True}
                answer = await api.post(f"/v1/tasks/{action}", {**body, "dry_run": True, "limit": limit})
                assert answer.json == {
                    "dry_run": True,
                    "matched": min(limit, len(listed)),
                    "changed": 0,
                    "more": len(listed) > limit,
                }, wanted


@pytest.mark.parametrize("action", ["cancel", "retry", "delete"])
@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"{}", 422, "filter"),
        (b"", 400, None),
        (b"[]", 400, None),
        (b'{"filter":{}}', 422, "filter"),
        (b'{"all":false}', 422, "filter"),
        (b'{"all":1}', 422, "all"),
        (b'{"filter":{"state":"dead"}}', 422, "filter.state"),
        (b'{"filter":{"colour":"red"}}', 422, "filter.colour"),
        (b'{"filter":{"type":"a b"}}', 422, "filter.type"),
        (b'{"filter":{"where":"x"}}', 422, "filter.where"),
        (b'{"filter":[]}', 422, "filter"),
        (b'{"filter":{"type":"load"},"limit":0}', 422, "limit"),
        (b'{"filter":{"type":"load"},"limit":100001}', 422, "limit"),
        (b'{"filter":{"type":"load"},"limit":1.5}', 422, "limit"),
        (b'{"filter":{"type":"load"},"dry_run":"yes"}', 422, "dry_run"),
        (b'{"filter":{"type":"load"},"zebra":1}', 422, "zebra"),
    ],
)
async def test_a_bad_bulk_request_says_what_is_wrong_and_changes_nothing(
    queue: TaskQueue,
    autojump_clock: trio.testing.MockClock,
    action: str,
    body: bytes,
    status: int,
    field: str | None,
) -> None:
    async with open_api(queue) as api:
        await fail(api, "load", id="f")
        await api.post("/v1/tasks", {"type": "load", "delay": 100, "id": "w"})
        answer = await api.ask("POST", f"/v1/tasks/{action}", body, JSON_TYPE)
        assert (answer.status, answer.json.get("field")) == (status, field)
        if field:
            assert answer.json["detail"].startswith(f"{field}: ")
        states = {task["id"]: task["state"] for task in (await api.get("/v1/tasks")).json["tasks"]}
        assert states == {"f": "failed", "w": "scheduled"}


async def test_one_dead_letter_is_deleted(queue: TaskQueue, autojump_clock: trio.testing.MockClock) -> None:
    async with open_api(queue) as api:
        await fail(api, "load", id="a")
        await api.post("/v1/tasks", {"type": "load", "delay": 100, "id": "w"})
        answer = await delete(api, "a")
        assert (answer.status, answer.body) == (204, b"")
        assert (await api.get("/v1/tasks/a")).status == 404
        assert (await delete(api, "a")).status == 404
        answer = await delete(api, "w")
        assert (answer.status, answer.json["code"]) == (409, "illegal_transition")
        assert "cancel it first" in answer.json["detail"]


# Cancelling many


async def test_all_that_match_are_cancelled_waiting_and_running(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("nap", timeout=100)
    async def nap() -> None:
        await trio.sleep(50)

    async with open_api(queue) as api:
        await api.post("/v1/tasks/batch", [{"type": "nap", "tags": ["old"]} for _ in range(700)])
        await api.post("/v1/tasks", {"type": "nap", "id": "keep", "delay": 1})
        await trio.sleep(2)
        answer = await api.post("/v1/tasks/cancel", {"filter": {"tag": "old"}, "dry_run": True})
        assert answer.json == {"dry_run": True, "matched": 700, "changed": 0, "more": False}
        answer = await api.post("/v1/tasks/cancel", {"filter": {"tag": "old"}, "limit": 600})
        assert answer.json == {"dry_run": False, "matched": 600, "changed": 600, "more": True}
        answer = await api.post("/v1/tasks/cancel", {"filter": {"tag": "old"}})
        assert answer.json == {"dry_run": False, "matched": 100, "changed": 100, "more": False}
        await trio.sleep(0.001)
        assert (await api.get("/v1/stats")).json["states"]["cancelled"] == 700
        assert (await api.get("/v1/tasks/keep?wait=60")).json["finished_at"] == "2026-01-01T00:00:52.000Z"
