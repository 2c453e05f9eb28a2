"""Submitting once: ids of the client's own, the Idempotency-Key, unique keys; each with many at once."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
import trio.testing
from raw_http import Answer, Api, open_api

from tq.handlers import TaskQueue

CROWD = 50


@pytest.fixture
def starts() -> Counter[str]:
    return Counter()


@pytest.fixture
def queue(starts: Counter[str]) -> TaskQueue:
    queue = TaskQueue()

    @queue.task("nap", max_attempts=1, timeout=1000)
    async def nap(seconds: float = 0) -> str:
        starts["nap"] += 1
        await trio.sleep(seconds)
        return "rested"

    @queue.task("other", max_attempts=1)
    async def other(seconds: float = 0) -> None:
        pass

    return queue


async def submit_crowd(
    api: Api, body: dict[str, object], headers: dict[str, str] | None = None
) -> list[Answer]:
    """The answers to as many equal requests, each on a connection of its own, all at once."""
    answers: list[Answer] = []

    async def submit_one() -> None:
        answers.append(await api.post("/v1/tasks", body, headers))

    async with trio.open_nursery() as nursery:
        for _ in range(CROWD):
            nursery.start_soon(submit_one)
    return answers


async def cancel(api: Api, task_id: str) -> None:
    assert (await api.ask("POST", f"/v1/tasks/{task_id}/cancel?wait=5")).json["state"] == "cancelled"


def check_one_task(answers: list[Answer]) -> str:
    """Return the id of the one task that all *answers* are about."""
    assert Counter(answer.status for answer in answers) == {201: 1, 200: CROWD - 1}
    for answer in answers:
        assert answer.headers.get("tq-duplicate") == (None if answer.status == 201 else "true")
    (task_id,) = {answer.json["id"] for answer in answers}
    assert {answer.headers["location"] for answer in answers} == {f"/v1/tasks/{task_id}"}
    assert isinstance(task_id, str)
    return task_id


# Many at once


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({"id": "mine"}, None),
        ({}, {"Idempotency-Key": "request-1"}),
        ({"unique": {"key": "u"}}, None),
        ({"unique": {"key": "u", "while": "queued"}, "delay": 1}, None),
        ({"id": "mine", "unique": {"key": "u"}}, {"Idempotency-Key": "request-1"}),
    ],
    ids=["id", "idempotency key", "unique", "unique while queued", "all of them"],
)
async def test_fifty_equal_requests_at_once_make_one_task(
    queue: TaskQueue,
    starts: Counter[str],
    autojump_clock: trio.testing.MockClock,
    fields: dict[str, object],
    headers: dict[str, str] | None,
) -> None:
    async with open_api(queue) as api:
        body = {"type": "nap", "payload": {"seconds": 5}, **fields}
        task_id = check_one_task(await submit_crowd(api, body, headers))
        assert (await api.get(f"/v1/tasks/{task_id}?wait=60")).json["state"] == "succeeded"
        stats = (await api.get("/v1/stats")).json
        assert (stats["totals"]["submitted"], starts["nap"]) == (1, 1)


async def test_of_fifty_that_reject_each_other_one_is_taken(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        unique = {"key": "u", "on_conflict": "reject"}
        answers = await submit_crowd(api, {"type": "nap", "delay": 60, "unique": unique})
        assert Counter(answer.status for answer in answers) == {201: 1, 409: CROWD - 1}
        (taken,) = [answer.json["id"] for answer in answers if answer.status == 201]
        for answer in answers:
            if answer.status == 409:
                assert (answer.json["code"], answer.json["task_id"]) == ("duplicate_task", taken)
                assert answer.json["field"] == "unique.key"
        assert (await api.get("/v1/stats")).json["totals"]["submitted"] == 1


async def test_of_fifty_that_replace_each_other_the_last_is_left(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        unique = {"key": "u", "on_conflict": "replace"}
        answers = await submit_crowd(api, {"type": "nap", "delay": 60, "unique": unique})
        assert Counter(answer.status for answer in answers) == {201: CROWD}
        tasks = (await api.get("/v1/tasks?limit=500")).json["tasks"]
        assert Counter((task["state"], task["reason"]) for task in tasks) == {
            ("cancelled", "replaced"): CROWD - 1,
            ("scheduled", None): 1,
        }
        assert tasks[0]["state"] == "scheduled"


# Idempotency-Key


async def test_the_same_key_with_another_body_is_422(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        headers = {"Idempotency-Key": "k"}
        first = await api.post("/v1/tasks", {"type": "nap"}, headers)
        answer = await api.post("/v1/tasks", {"type": "nap", "priority": 1}, headers)
        assert (answer.status, answer.json["code"]) == (422, "idempotency_key_reused")
        assert answer.json["task_id"] == first.json["id"]
        assert answer.json["detail"].startswith("Idempotency-Key: ")
        assert (await api.get("/v1/stats")).json["totals"]["submitted"] == 1


async def test_a_key_says_what_became_of_its_task_and_waits_for_it(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        headers = {"Idempotency-Key": "k"}
        body = {"type": "nap", "payload": {"seconds": 30}}
        first = await api.post("/v1/tasks", body, headers)
        await trio.sleep(1)
        again = await api.post("/v1/tasks", body, headers)
        assert (again.status, again.json["state"], again.json["id"]) == (200, "running", first.json["id"])
        waited = await api.post("/v1/tasks", body, {**headers, "Prefer": "wait=60"})
        assert (waited.status, waited.json["state"]) == (200, "succeeded")
        assert (waited.headers["tq-duplicate"], waited.headers["preference-applied"]) == ("true", "wait=60")
        assert waited.json["finished_at"] == "2026-01-01T00:00:30.000Z"


async def test_a_key_is_kept_for_a_day(queue: TaskQueue, autojump_clock: trio.testing.MockClock) -> None:
    async with open_api(queue) as api:
        headers = {"Idempotency-Key": "k"}
        body = {"type": "nap", "result_ttl": 90_000}
        first = await api.post("/v1/tasks", body, headers)
        autojump_clock.jump(86_390)
        assert (await api.post("/v1/tasks", body, headers)).json["id"] == first.json["id"]
        autojump_clock.jump(11)
        answer = await api.post("/v1/tasks", body, headers)
        assert (answer.status, answer.json["id"] != first.json["id"]) == (201, True)


async def test_a_key_whose_task_is_gone_is_404(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    """To do the work a second time is what the key is to prevent."""
    async with open_api(queue) as api:
        headers = {"Idempotency-Key": "k"}
        first = await api.post("/v1/tasks", {"type": "nap", "result_ttl": 1}, headers)
        await trio.sleep(10)
        answer = await api.post("/v1/tasks", {"type": "nap", "result_ttl": 1}, headers)
        assert (answer.status, answer.json["task_id"]) == (404, first.json["id"])


async def test_a_refused_request_does_not_use_up_its_key(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        headers = {"Idempotency-Key": "k"}
        assert (await api.post("/v1/tasks", {"type": "nap", "priority": 1000}, headers)).status == 422
        assert (await api.post("/v1/tasks", {"type": "nap", "parent_id": "nobody"}, headers)).status == 422
        assert (await api.post("/v1/tasks", {"type": "nap", "priority": 10}, headers)).status == 201


@pytest.mark.parametrize("key", [b"", b"x" * 256, "café".encode(), "café".encode("latin-1"), b"a\tb"])
async def test_a_bad_key_is_400_and_nothing_is_stored(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, key: bytes
) -> None:
    head = b"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    async with open_api(queue) as api:
        client = await api.connect()
        async with client.stream:
            rest = b"Connection: close\r\nContent-Length: 14\r\nIdempotency-Key: " + key
            await client.stream.send_all(head + rest + b'\r\n\r\n{"type":"nap"}')
            answer = await client.until_closed()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"Idempotency-Key: " in answer
        assert b"1 to 255 printable ASCII characters" in answer
        assert (await api.server.stats()).submitted == 0


@pytest.mark.parametrize("key", ["x", "x" * 255, '"quoted"', "a b ~ !"])
async def test_a_key_is_any_printable_text(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, key: str
) -> None:
    async with open_api(queue) as api:
        assert (await api.post("/v1/tasks", {"type": "nap"}, {"Idempotency-Key": key})).status == 201
        assert (await api.post("/v1/tasks", {"type": "nap"}, {"Idempotency-Key": key})).status == 200


# Unique


async def test_a_unique_key_is_free_again_when_its_task_has_ended(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        body = {"type": "nap", "payload": {"seconds": 9}, "unique": {"key": "u"}}
        first = await api.post("/v1/tasks", body)
        await trio.sleep(1)
        again = await api.post("/v1/tasks", {**body, "payload": {"seconds": 1}, "queue": "elsewhere"})
        assert (again.status, again.json["id"], again.json["state"]) == (200, first.json["id"], "running")
        assert again.json["payload"] == {"seconds": 9}
        assert again.json["unique"] == {"key": "u", "while": "active", "on_conflict": "existing"}
        await trio.sleep(9)
        assert (await api.post("/v1/tasks", body)).status == 201


async def test_a_unique_key_can_be_let_go_at_the_start(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        body = {"type": "nap", "payload": {"seconds": 9}, "unique": {"key": "u", "while": "queued"}}
        first = await api.post("/v1/tasks", body)
        await trio.sleep(1)
        second = await api.post("/v1/tasks", {**body, "delay": 60})
        assert (second.status, second.json["id"] != first.json["id"]) == (201, True)
        assert (await api.post("/v1/tasks", body)).json["id"] == second.json["id"]


async def test_a_unique_key_is_one_of_its_type(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        for type in ("nap", "other"):
            body = {"type": type, "delay": 9, "unique": {"key": "u"}}
            assert (await api.post("/v1/tasks", body)).status == 201


async def test_what_is_replaced_is_cancelled_and_who_waits_for_it_is_told(
    queue: TaskQueue, starts: Counter[str], autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        body = {"type": "nap", "delay": 30, "unique": {"key": "u", "on_conflict": "replace"}}
        await api.post("/v1/tasks", {**body, "id": "old"})
        held: list[Answer] = []

        async def hold() -> None:
            held.append(await api.get("/v1/tasks/old?wait=60"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold)
            await trio.sleep(5)
            assert (await api.post("/v1/tasks", {**body, "id": "new"})).status == 201
        assert trio.current_time() == 5
        assert (held[0].json["state"], held[0].json["reason"]) == ("cancelled", "replaced")
        assert (await api.get("/v1/tasks/new?wait=60")).json["started_at"] == "2026-01-01T00:00:35.000Z"
        assert starts["nap"] == 1


async def test_what_runs_is_not_replaced(queue: TaskQueue, autojump_clock: trio.testing.MockClock) -> None:
    async with open_api(queue) as api:
        unique = {"key": "u", "on_conflict": "replace"}
        await api.post("/v1/tasks", {"id": "t1", "type": "nap", "payload": {"seconds": 9}, "unique": unique})
        await trio.sleep(1)
        answer = await api.post("/v1/tasks", {"type": "nap", "unique": unique})
        assert (answer.status, answer.json["code"], answer.json["task_id"]) == (409, "duplicate_task", "t1")


async def test_a_retry_does_not_break_into_a_unique_key(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        body = {"type": "nap", "delay": 30, "unique": {"key": "u"}}
        await api.post("/v1/tasks", {**body, "id": "old"})
        await cancel(api, "old")
        await api.post("/v1/tasks", {**body, "id": "new"})
        answer = await api.ask("POST", "/v1/tasks/old/retry")
        assert (answer.status, answer.json["code"], answer.json["task_id"]) == (409, "duplicate_task", "new")
        await cancel(api, "new")
        assert (await api.ask("POST", "/v1/tasks/old/retry")).status == 200


async def test_a_batch_does_not_take_an_idempotency_key_and_says_so(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        answer = await api.post("/v1/tasks/batch", [{"type": "nap"}], {"Idempotency-Key": "k"})
        assert (answer.status, answer.json["header"]) == (400, "Idempotency-Key")
        assert (await api.server.stats()).submitted == 0


async def test_unique_tasks_of_a_batch_are_answered_one_by_one(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        one = {"type": "nap", "delay": 30, "unique": {"key": "u"}}
        answer = await api.post("/v1/tasks/batch", [{**one, "id": "a"}, {**one, "id": "b"}])
        assert answer.status == 201
        assert answer.json["tasks"] == [
            {"id": "a", "state": "scheduled"},
            {"id": "a", "state": "scheduled", "duplicate": True},
        ]
        reject = {"key": "u", "on_conflict": "reject"}
        answer = await api.post("/v1/tasks/batch", [{"type": "other"}, {**one, "unique": reject}])
        assert (answer.status, answer.json["index"], answer.json["task_id"]) == (409, 1, "a")
        assert (await api.get("/v1/stats")).json["totals"]["submitted"] == 1
