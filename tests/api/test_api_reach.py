"""What a key that is limited to the queue mail reaches, and learns, of what is in the queue bank."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from key_kit import ROOT, bearer, key, locked, put
from live_client import sse, websocket
from raw_http import JSON_TYPE, Answer, Api, lines
from trio.testing import MockClock

from tq.core.keys import Scope
from tq.handlers import TaskQueue

MAIL = key(1)
AS_MAIL, AS_ROOT = bearer(MAIL), bearer(ROOT)
SECRET = {"id": "secret", "type": "pay", "queue": "bank", "payload": {"to": "eve"}, "delay": 3600}


@pytest.fixture
def queue() -> TaskQueue:
    """Handlers of any type, which do nothing."""
    made = TaskQueue()

    @made.task("*")
    async def work(payload: object) -> None:
        pass

    return made


@asynccontextmanager
async def bank(queue: TaskQueue, *extra: dict[str, object]) -> AsyncIterator[Api]:
    """A server with the task `secret` in the queue bank, and MAIL, which may do all, but in mail only."""
    every = (Scope.SUBMIT, Scope.READ, Scope.OPERATE, Scope.ADMIN, Scope.METRICS)
    async with locked(queue, put(MAIL, *every, queues=("mail",))) as api:
        for task in (SECRET, *extra):
            assert (await api.post("/v1/tasks", task, AS_ROOT)).status == 201
        yield api


async def ndjson(api: Api, *tasks: object) -> list[dict[str, object]]:
    body = b"".join(json.dumps(task).encode() + b"\n" for task in tasks)
    headers = {"Content-Type": "application/x-ndjson"} | AS_MAIL
    return lines(await api.ask("POST", "/v1/tasks/batch", body, headers))


def mail(**fields: object) -> dict[str, object]:
    return {"type": "pay", "queue": "mail", **fields}


async def exists(api: Api, task_id: str) -> bool:
    return (await api.ask("GET", f"/v1/tasks/{task_id}", headers=AS_ROOT)).status == 200


async def state(api: Api, task_id: str) -> str:
    return str((await api.ask("GET", f"/v1/tasks/{task_id}", headers=AS_ROOT)).json["state"])


def said(answer: Answer, name: str) -> dict[str, object]:
    """What *answer* says, but for the id of its request, as if it were about *name*."""
    content = json.loads(answer.body.replace(b"secret", name.encode()))
    return {field: value for field, value in content.items() if field != "request_id"}


# Submitting


async def test_every_way_to_submit_keeps_to_the_queues_of_the_key(
    queue: TaskQueue, autojump_clock: MockClock
) -> None:
    other = {"id": "x1", "type": "a", "queue": "bank"}
    async with bank(queue) as api:
        for path, content in (
            ("/submit", {"id": "x1", "type": "a", "payload": {}}),
            ("/v1/tasks", other),
            ("/v1/tasks/batch", [mail(id="m1"), other]),
        ):
            answer = await api.post(path, content, AS_MAIL)
            assert (answer.status, answer.json["code"]) == (403, "not_allowed"), path
        first, second, third = await ndjson(api, mail(id="m2"), other, mail(id="m3"))
        assert (first["id"], third["id"]) == ("m2", "m3")
        assert (second["line"], second["error"]["code"]) == (2, "not_allowed")  # type: ignore[index]
        assert [await exists(api, each) for each in ("x1", "m1", "m2", "m3")] == [False, False, True, True]


async def test_a_handlers_queue_counts_where_none_is_named(autojump_clock: MockClock) -> None:
    queue = TaskQueue()

    @queue.task("pay", queue="bank")
    async def pay(payload: object) -> None:
        pass

    async with bank(queue) as api:
        answer = await api.post("/v1/tasks", {"id": "x1", "type": "pay"}, AS_MAIL)
        assert (answer.status, answer.json["queue"]) == (403, "bank")
        assert (
            await api.post("/v1/tasks", {"id": "x1", "type": "pay", "queue": "mail"}, AS_MAIL)
        ).status == 201


@pytest.mark.parametrize("reference", [{"parent_id": "secret"}, {"depends_on": ["secret"]}])
async def test_a_reference_to_a_task_of_another_queue_is_refused_as_one_to_none(
    queue: TaskQueue, autojump_clock: MockClock, reference: dict[str, object]
) -> None:
    none = json.loads(json.dumps(reference).replace("secret", "nobody"))
    async with bank(queue) as api:
        refused = await api.post("/v1/tasks", mail(**reference), AS_MAIL)
        assert refused.status == 422
        as_none = await api.post("/v1/tasks", mail(**none), AS_MAIL)
        assert said(refused, "nobody") == said(as_none, "nobody")
        batch = await api.post("/v1/tasks/batch", [mail(**reference)], AS_MAIL)
        assert (batch.status, batch.json["index"]) == (422, 0)
        [line] = await ndjson(api, mail(**reference))
        assert line["error"]["code"] == "invalid_input"  # type: ignore[index]
        own = json.loads(json.dumps(reference).replace("secret", "m1"))
        assert (await api.post("/v1/tasks", mail(id="m1", delay=60), AS_MAIL)).status == 201
        assert (await api.post("/v1/tasks", mail(**own), AS_MAIL)).status == 201


def told_of_nothing(answer: Answer) -> None:
    """Of a task of bank is told that an id or a unique key is taken, and nothing else."""
    members = {"type", "title", "status", "detail", "code", "request_id"}
    assert (answer.status, set(answer.json)) == (409, members)
    assert answer.json["code"] == "duplicate_task"
    assert answer.json["detail"] == (
        "the id or the unique key is taken by a task of another queue: choose another"
    )


@pytest.mark.parametrize("payload", [{"to": "eve"}, {"to": "bob"}])
@pytest.mark.parametrize("type", ["pay", "look"])
async def test_who_guesses_a_task_of_another_queue_right_is_told_no_more_than_who_guesses_wrong(
    queue: TaskQueue, autojump_clock: MockClock, payload: object, type: str
) -> None:
    guess = {"id": "secret", "type": type, "queue": "mail", "payload": payload}
    async with bank(queue, {"id": "s2", "type": "pay", "payload": {"to": "eve"}, "queue": "bank"}) as api:
        told_of_nothing(await api.post("/v1/tasks", guess, AS_MAIL))
        waits = {"Prefer": "wait=1"} | AS_MAIL
        told_of_nothing(await api.post("/v1/tasks", {**guess, "id": "s2"}, waits))
        batch = await api.post("/v1/tasks/batch", [guess], AS_MAIL)
        assert (batch.status, "task_id" in batch.json, "eve" in str(batch.json)) == (409, False, False)
        [line] = await ndjson(api, guess)
        assert set(line["error"]) == {"type", "title", "status", "detail", "code"}  # type: ignore[call-overload]
        assert "another queue" in str(line)


@pytest.mark.parametrize("on_conflict", ["existing", "reject"])
async def test_a_unique_key_that_another_queue_has_names_nobody(
    queue: TaskQueue, autojump_clock: MockClock, on_conflict: str
) -> None:
    unique = {"key": "eve", "while": "active", "on_conflict": on_conflict}
    async with bank(queue, {**SECRET, "id": "s2", "unique": unique}) as api:
        told_of_nothing(await api.post("/v1/tasks", mail(unique=unique), AS_MAIL))
        [line] = await ndjson(api, mail(unique=unique))
        assert "s2" not in str(line)
        assert "another queue" in str(line)


async def test_a_limited_key_replaces_nothing(queue: TaskQueue, autojump_clock: MockClock) -> None:
    unique = {"key": "eve", "while": "active", "on_conflict": "replace"}
    async with bank(queue, {**SECRET, "id": "s2", "unique": {"key": "eve", "while": "active"}}) as api:
        assert (await api.post("/v1/tasks", mail(unique=unique), AS_MAIL)).status == 403
        [line] = await ndjson(api, mail(unique=unique))
        assert line["error"]["code"] == "not_allowed"  # type: ignore[index]
        assert await state(api, "s2") == "scheduled"


async def test_retry_names_no_holder_of_another_queue(queue: TaskQueue, autojump_clock: MockClock) -> None:
    unique = {"key": "eve", "while": "active"}
    async with bank(queue) as api:
        assert (await api.post("/v1/tasks", mail(id="m1", unique=unique), AS_MAIL)).status == 201
        await trio.sleep(1)
        assert await state(api, "m1") == "succeeded"
        assert (await api.post("/v1/tasks", {**SECRET, "id": "s2", "unique": unique}, AS_ROOT)).status == 201
        told_of_nothing(await api.post("/v1/tasks/m1/retry", {}, AS_MAIL))


async def test_idempotency_keys_of_who_reaches_other_queues_are_others(
    queue: TaskQueue, autojump_clock: MockClock
) -> None:
    async with bank(queue) as api:
        once = {"Idempotency-Key": "1"}
        first = await api.post("/v1/tasks", {**SECRET, "id": "s2"}, AS_ROOT | once)
        own = await api.post("/v1/tasks", mail(payload=1), AS_MAIL | once)
        assert (first.status, own.status) == (201, 201)
        again = await api.post("/v1/tasks", mail(payload=1), AS_MAIL | once)
        assert (again.status, again.json["id"]) == (200, own.json["id"])
        assert (await api.post("/v1/tasks", mail(payload=2), AS_MAIL | once)).status == 422


# Looking and changing


async def test_a_tree_shows_no_task_of_another_queue(queue: TaskQueue, autojump_clock: MockClock) -> None:
    family = (
        mail(id="m1", delay=60),
        mail(id="m2", delay=60, parent_id="m1"),
        {**SECRET, "id": "s2", "parent_id": "m1"},
        mail(id="m3", delay=60, parent_id="s2"),
    )
    async with bank(queue, *family) as api:
        seen = await api.ask("GET", "/v1/tasks/m1/tree", headers=AS_MAIL)
        assert (seen.status, b"s2" in seen.body, b"m2" in seen.body) == (200, False, True)
        assert b"s2" in (await api.ask("GET", "/v1/tasks/m1/tree", headers=AS_ROOT)).body
        assert (await api.ask("GET", "/v1/tasks/s2/tree", headers=AS_MAIL)).status == 404


async def test_a_task_of_another_queue_is_answered_as_one_that_is_not_there(
    queue: TaskQueue, autojump_clock: MockClock
) -> None:
    asked: tuple[tuple[str, str, bytes], ...] = (
        ("GET", "/v1/tasks/ID", b""),
        ("GET", "/v1/tasks/ID?wait=1", b""),
        ("GET", "/v1/tasks/ID/tree", b""),
        ("GET", "/v1/tasks/ID/events", b""),
        ("GET", "/status/ID", b""),
        ("PATCH", "/v1/tasks/ID", b'{"priority":1}'),
        ("POST", "/v1/tasks/ID/cancel", b"{}"),
        ("POST", "/v1/tasks/ID/retry", b"{}"),
        ("DELETE", "/v1/tasks/ID", b""),
    )
    async with bank(queue) as api:
        for method, path, body in asked:
            headers = AS_MAIL | (JSON_TYPE if body else {})
            there, not_there = [
                await api.ask(method, path.replace("ID", task_id), body, headers)
                for task_id in ("secret", "nobody")
            ]
            assert there.status == not_there.status
            assert said(there, "nobody") == said(not_there, "nobody"), path
        assert await state(api, "secret") == "scheduled"


async def test_bulk_and_lists_mean_the_queue_of_the_key(queue: TaskQueue, autojump_clock: MockClock) -> None:
    async with bank(queue, mail(id="m1", delay=60)) as api:
        listed = await api.ask("GET", "/v1/tasks", headers=AS_MAIL)
        assert [task["id"] for task in listed.json["tasks"]] == ["m1"]
        assert (await api.ask("GET", "/v1/tasks?queue=bank", headers=AS_MAIL)).status == 403
        for wanted in ({"all": True}, {"filter": {"state": "scheduled"}}, {"filter": {"type": "pay"}}):
            done = await api.post("/v1/tasks/cancel", {**wanted, "dry_run": True}, AS_MAIL)
            assert done.status == 200, done.body
            assert "secret" not in done.body.decode()
        refused = await api.post("/v1/tasks/cancel", {"filter": {"queue": "bank"}}, AS_MAIL)
        assert refused.status == 403
        assert (await api.post("/v1/tasks/cancel", {"all": True}, AS_MAIL)).status == 200
        assert (await api.post("/v1/queues/bank/purge", {}, AS_MAIL)).status == 404
        assert (await state(api, "m1"), await state(api, "secret")) == ("cancelled", "scheduled")


async def test_what_belongs_to_a_task_goes_with_it_whatever_its_queue(
    queue: TaskQueue, autojump_clock: MockClock
) -> None:
    async with bank(queue, mail(id="m1", delay=60), {**SECRET, "id": "s2", "parent_id": "m1"}) as api:
        answer = await api.post("/v1/tasks/m1/cancel", {}, AS_MAIL)
        assert (answer.status, b"s2" in answer.body) == (200, False)
        await trio.sleep(1)
        assert (await state(api, "s2"), await state(api, "secret")) == ("cancelled", "scheduled")


async def test_streams_of_a_limited_key_tell_of_its_queue_only(
    queue: TaskQueue, autojump_clock: MockClock
) -> None:
    async with bank(queue) as api:
        ticket = (await api.ask("POST", "/v1/tickets", headers=AS_MAIL)).json["ticket"]
        async with (
            websocket(api, "/v1/events", AS_MAIL) as socket,
            sse(api, f"/v1/events?ticket={ticket}") as stream,
        ):
            assert (await socket.next()).event == (await stream.next()).event == "opened"
            await api.post("/v1/tasks", {**SECRET, "id": "s2"}, AS_ROOT)
            await api.post("/v1/keys", {"scopes": ["read"]}, AS_ROOT)
            await api.post("/v1/queues/bank/pause", {}, AS_ROOT)
            await api.post("/v1/tasks", mail(id="m1"), AS_ROOT)
            for seen in (await socket.next(), await stream.next()):
                assert (seen.event, seen.data["task_id"]) == ("task.submitted", "m1")
        async with websocket(api, "/v1/events?queue=bank", AS_MAIL) as socket:
            assert socket.status == 403
        async with websocket(api, "/v1/tasks/secret/events", AS_MAIL) as socket:
            assert socket.status == 404


async def test_a_key_of_several_queues_names_one(queue: TaskQueue, autojump_clock: MockClock) -> None:
    two = key(2)
    async with locked(queue, put(two, Scope.READ, queues=("a", "b"))) as api:
        refused = await api.ask("GET", "/v1/tasks", headers=bearer(two))
        assert (refused.status, "a, b" in refused.json["detail"]) == (403, True)
        assert (await api.ask("GET", "/v1/tasks?queue=b", headers=bearer(two))).status == 200
