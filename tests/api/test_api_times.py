"""Delays, deadlines, expiry, time-outs, how long an ended task is kept, and changing what waits."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing
from raw_http import JSON_TYPE, Answer, Api, open_api
from tiers import slow

from tq.context import Context, Retry, Snooze
from tq.engine.server import Settings
from tq.handlers import TaskQueue

STEADY = {"kind": "fixed", "base": 10, "jitter": 0}


def at(seconds: float) -> str:
    """The instant so many seconds after the beginning of virtual time, at most an hour."""
    minutes, rest = divmod(seconds, 60)
    return f"2026-01-01T00:{minutes:02.0f}:{rest:06.3f}Z"


def test_instants_of_these_tests() -> None:
    assert (at(0), at(61.5)) == ("2026-01-01T00:00:00.000Z", "2026-01-01T00:01:01.500Z")


@pytest.fixture
def queue() -> TaskQueue:
    queue = TaskQueue()

    @queue.task("nap", max_attempts=1, timeout=1000)
    async def nap(seconds: float = 0) -> str:
        await trio.sleep(seconds)
        return "rested"

    @queue.task("bad", timeout=100)
    async def bad() -> None:
        raise ValueError("no")

    return queue


async def patch(api: Api, task_id: str, **fields: object) -> Answer:
    return await api.ask("PATCH", f"/v1/tasks/{task_id}", json.dumps(fields).encode(), JSON_TYPE)


async def ended(api: Api, task_id: str) -> Any:
    while True:
        task = (await api.get(f"/v1/tasks/{task_id}?wait=60")).json
        if task["finished_at"] is not None:
            return task


# When it starts


@pytest.mark.parametrize(
    ("fields", "started_at"),
    [
        ({"delay": 90.5}, at(90.5)),
        ({"delay": 0}, at(0)),
        ({"run_at": at(90)}, at(90)),
        ({"run_at": "2026-01-01T01:01:30+01:00"}, at(90)),
        ({"run_at": "2020-01-01T00:00:00Z"}, at(0)),
    ],
)
async def test_a_task_starts_exactly_when_it_is_due(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, fields: dict[str, object], started_at: str
) -> None:
    async with open_api(queue) as api:
        answer = await api.post("/v1/tasks", {"id": "t1", "type": "nap", **fields})
        assert answer.json["state"] == ("pending" if started_at == at(0) else "scheduled")
        task = await ended(api, "t1")
        assert (task["started_at"], task["state"]) == (started_at, "succeeded")


@slow
async def test_many_delayed_tasks_start_each_in_its_time(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        delays = [(7 * n) % 1000 for n in range(1000)]
        batch = [{"id": f"t{delay}", "type": "nap", "delay": delay} for delay in delays]
        await api.post("/v1/tasks/batch", batch)
        await trio.sleep(500.5)
        assert (await api.get("/v1/stats")).json["states"]["succeeded"] == 501
        await trio.sleep(500)
        for delay in (1, 333, 999):
            assert (await api.get(f"/v1/tasks/t{delay}")).json["started_at"] == at(delay)


async def test_an_earlier_task_wakes_the_scheduler_that_sleeps_until_a_later_one(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "late", "type": "nap", "delay": 600})
        await trio.sleep(1)
        await api.post("/v1/tasks", {"id": "soon", "type": "nap", "delay": 2})
        assert (await ended(api, "soon"))["started_at"] == at(3)
        assert (await ended(api, "late"))["started_at"] == at(600)


# Until when it may wait


@pytest.mark.parametrize(
    ("field", "state", "reason"), [("expires_at", "cancelled", "expired"), ("deadline", "failed", "deadline")]
)
async def test_a_task_that_waits_too_long_ends_on_the_instant(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, field: str, state: str, reason: str
) -> None:
    async with open_api(queue, settings=Settings(workers=1)) as api:
        await api.post("/v1/tasks", {"id": "busy", "type": "nap", "payload": {"seconds": 100}})
        await trio.sleep(1)
        await api.post("/v1/tasks", {"id": "pending", "type": "nap", field: at(20)})
        await api.post("/v1/tasks", {"id": "scheduled", "type": "nap", "delay": 50, field: at(20.25)})
        await api.post("/v1/tasks", {"id": "blocked", "type": "nap", "depends_on": ["busy"], field: at(20.5)})
        for task_id, when in (("pending", 20), ("scheduled", 20.25), ("blocked", 20.5)):
            task = (await api.get(f"/v1/tasks/{task_id}?wait=60")).json
            assert (task["state"], task["reason"], task["finished_at"]) == (state, reason, at(when))
            assert trio.current_time() == when
            assert task["attempt"] == 0
            assert [error["type"] for error in task["errors"]] == ["DeadlinePassed"] * (state == "failed")
            assert ("fingerprint" in task) == (state == "failed")


@pytest.mark.parametrize(
    ("field", "state", "reason"), [("expires_at", "cancelled", "expired"), ("deadline", "failed", "deadline")]
)
async def test_a_task_whose_time_is_over_when_it_comes_does_not_begin(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, field: str, state: str, reason: str
) -> None:
    async with open_api(queue) as api:
        await trio.sleep(5)
        answer = await api.post("/v1/tasks", {"id": "t1", "type": "nap", field: at(1)})
        assert answer.status == 201
        task = await ended(api, "t1")
        assert (task["state"], task["reason"], task["attempt"]) == (state, reason, 0)
        assert task["finished_at"] == at(5)


async def test_a_lease_that_lay_too_long_on_its_way_does_not_begin(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    """Leases lie ahead of short tasks; those whose time runs out there end as if they had waited."""
    begun: list[str] = []

    @queue.task("short", timeout=10)
    async def short(ctx: Context) -> None:
        begun.append(ctx.task_id)
        await trio.sleep(0.01)

    async with open_api(queue, settings=Settings(workers=1)) as api:
        await api.ask("POST", "/v1/queues/default/pause")
        batch = [{"id": f"t{n}", "type": "short", "expires_at": at(0.255)} for n in range(40)]
        await api.post("/v1/tasks/batch", batch)
        await api.ask("POST", "/v1/queues/default/resume")
        await trio.sleep(5)
        tasks = (await api.get("/v1/tasks")).json["tasks"]
        expired = [task for task in tasks if task["reason"] == "expired"]
        assert 10 <= len(begun) <= 27
        assert len(expired) == 40 - len(begun)
        assert not {task["id"] for task in expired} & set(begun)
        assert {task["attempt"] for task in expired} == {0}
        assert {task["finished_at"] >= at(0.255) for task in expired} == {True}


async def test_the_deadline_clips_the_attempt_that_runs(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        body = {"id": "t1", "type": "nap", "payload": {"seconds": 50}, "max_attempts": 5, "deadline": at(7)}
        await api.post("/v1/tasks", body)
        task = await ended(api, "t1")
        assert (task["state"], task["reason"], task["attempt"]) == ("failed", "deadline", 1)
        assert task["finished_at"] == at(7)
        assert [error["reason"] for error in task["errors"]] == ["deadline"]
        assert task["deadline"] == at(7)


async def test_the_deadline_tells_the_handler_how_long_it_has(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("ask")
    async def ask(ctx: Context) -> float:
        return ctx.seconds_left()

    async with open_api(queue) as api:
        for task_id, fields, left in (
            ("a", {"deadline": at(7), "timeout": 30}, 7),
            ("b", {"deadline": at(7), "timeout": 3}, 3),
            ("c", {"expires_at": at(7), "timeout": 30}, 30),
        ):
            await api.post("/v1/tasks", {"id": task_id, "type": "ask", **fields})
            assert (await ended(api, task_id))["result"] == left


async def test_a_retry_that_would_come_after_the_deadline_fails_now(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t1", "type": "bad", "retry": STEADY, "deadline": at(25)})
        task = await ended(api, "t1")
        assert (task["state"], task["reason"], task["attempt"]) == ("failed", "deadline", 3)
        assert task["finished_at"] == at(20)
        assert [error["type"] for error in task["errors"]] == ["ValueError"] * 3


@pytest.mark.parametrize("said", [Retry("later", after=30), Snooze(30)], ids=["retry", "snooze"])
async def test_a_wait_past_the_deadline_is_not_begun(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, said: Exception
) -> None:
    @queue.task("later")
    async def later() -> None:
        raise said

    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t1", "type": "later", "deadline": at(30)})
        task = await ended(api, "t1")
        assert (task["state"], task["reason"], task["finished_at"]) == ("failed", "deadline", at(0))


async def test_an_operators_retry_forgets_the_deadline_that_has_passed(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        body = {"id": "t1", "type": "nap", "payload": {"seconds": 9}, "deadline": at(7)}
        await api.post("/v1/tasks", body)
        assert (await ended(api, "t1"))["reason"] == "deadline"
        await api.ask("POST", "/v1/tasks/t1/retry")
        task = await ended(api, "t1")
        assert (task["state"], task["finished_at"]) == ("succeeded", at(16))
        assert "deadline" not in task


# How long it is kept


async def test_an_ended_task_is_kept_as_long_as_it_says_and_then_is_404_with_a_hint(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t1", "type": "nap", "result_ttl": 30})
        await api.post("/v1/tasks", {"id": "t2", "type": "nap", "result_ttl": 0})
        await api.post("/v1/tasks", {"id": "t3", "type": "nap"})
        await trio.sleep(2)
        assert (await api.get("/v1/tasks/t2")).status == 404
        await trio.sleep(27)
        assert (await api.get("/v1/tasks/t1")).status == 200
        await trio.sleep(3)
        answer = await api.get("/v1/tasks/t1")
        assert (answer.status, answer.json["code"], answer.json["task_id"]) == (404, "not_found", "t1")
        assert "kept for a limited time" in answer.json["detail"]
        assert (await api.get("/v1/tasks/t3")).status == 200
        totals = (await api.get("/v1/stats")).json["totals"]
        assert (totals["submitted"], totals["succeeded"]) == (3, 3)


# Changing what waits


async def test_an_earlier_run_at_wakes_the_scheduler(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t1", "type": "nap", "delay": 3000})
        await trio.sleep(5)
        answer = await patch(api, "t1", run_at=at(60))
        assert (answer.status, answer.json["state"], answer.json["run_at"]) == (200, "scheduled", at(60))
        assert (await ended(api, "t1"))["started_at"] == at(60)


async def test_a_delay_of_nothing_starts_it_now(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t1", "type": "nap", "delay": 3000})
        await trio.sleep(5)
        assert (await patch(api, "t1", delay=0)).status == 200
        assert (await ended(api, "t1"))["started_at"] == at(5)


async def test_a_pending_task_can_be_put_off(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.ask("POST", "/v1/queues/q/pause")
        await api.post("/v1/tasks", {"id": "t1", "type": "nap", "queue": "q"})
        answer = await patch(api, "t1", delay=90)
        assert (answer.json["state"], answer.json["run_at"]) == ("scheduled", at(90))
        await api.ask("POST", "/v1/queues/q/resume")
        assert (await ended(api, "t1"))["started_at"] == at(90)


async def test_a_task_between_two_attempts_can_be_hurried(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        retry = STEADY | {"base": 3000}
        await api.post("/v1/tasks", {"id": "t1", "type": "bad", "retry": retry, "max_attempts": 2})
        await trio.sleep(5)
        answer = await patch(api, "t1", delay=1)
        assert (answer.json["state"], answer.json["run_at"]) == ("retrying", at(6))
        assert (await ended(api, "t1"))["finished_at"] == at(6)


async def test_everything_that_can_be_changed_is(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t1", "type": "nap", "delay": 3000})
        answer = await patch(
            api,
            "t1",
            priority="critical",
            run_at=at(100),
            timeout=2.5,
            max_attempts=7,
            result_ttl=60,
            deadline=at(900),
            expires_at=at(800),
        )
        changed = {
            "priority": 50,
            "run_at": at(100),
            "timeout": 2.5,
            "max_attempts": 7,
            "deadline": at(900),
            "expires_at": at(800),
        }
        assert {name: answer.json[name] for name in changed} == changed
        await trio.sleep(101)
        assert (await api.get("/v1/tasks/t1")).json["state"] == "succeeded"
        await trio.sleep(61)
        assert (await api.get("/v1/tasks/t1")).status == 404


async def test_a_new_priority_changes_the_order(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue, settings=Settings(workers=1)) as api:
        await api.ask("POST", "/v1/queues/default/pause")
        for task_id in ("a", "b", "c"):
            await api.post("/v1/tasks", {"id": task_id, "type": "nap", "payload": {"seconds": 10}})
        assert (await patch(api, "c", priority="high")).json["priority"] == 10
        assert (await patch(api, "a", priority="low")).json["priority"] == -10
        await api.ask("POST", "/v1/queues/default/resume")
        started = [(await ended(api, task_id))["started_at"] for task_id in ("c", "b", "a")]
        assert started == [at(0), at(10), at(20)]


async def test_a_new_deadline_and_expiry_hold_at_once(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t1", "type": "nap", "delay": 3000})
        await api.post("/v1/tasks", {"id": "t2", "type": "nap", "delay": 300, "expires_at": at(200)})
        await trio.sleep(5)
        await patch(api, "t1", deadline=at(9))
        task = await ended(api, "t1")
        assert (task["reason"], task["finished_at"]) == ("deadline", at(9))
        await patch(api, "t2", expires_at=at(400))
        assert (await ended(api, "t2"))["state"] == "succeeded"


async def test_a_deadline_that_has_passed_already_ends_the_task_at_once(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t1", "type": "nap", "delay": 3000})
        await trio.sleep(5)
        assert (await patch(api, "t1", deadline=at(4))).status == 200
        task = await ended(api, "t1")
        assert (task["reason"], task["finished_at"]) == ("deadline", at(5))


async def test_only_what_waits_can_be_changed(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t1", "type": "nap", "payload": {"seconds": 10}})
        await trio.sleep(1)
        answer = await patch(api, "t1", priority=5)
        assert (answer.status, answer.json["code"], answer.json["state"]) == (
            409,
            "illegal_transition",
            "running",
        )
        await ended(api, "t1")
        assert (await patch(api, "t1", priority=5)).status == 409
        assert (await patch(api, "nobody", priority=5)).status == 404


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b'{"priority":"urgent"}', 422, "priority"),
        (b'{"priority":5,"timeout":0}', 422, "timeout"),
        (b'{"priority":5,"delay":1,"run_at":"2026-01-01T00:00:00Z"}', 422, "delay"),
        (b'{"priority":5,"deadline":"soon"}', 422, "deadline"),
        (b'{"priority":5,"max_attempts":0}', 422, "max_attempts"),
        (b'{"priority":5,"payload":{}}', 422, "payload"),
        (b"{}", 400, None),
        (b"", 400, None),
        (b"[]", 400, None),
    ],
)
async def test_a_bad_change_says_what_is_wrong_and_changes_nothing(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, body: bytes, status: int, field: str | None
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t1", "type": "nap", "delay": 3000})
        before = (await api.get("/v1/tasks/t1")).body
        answer = await api.ask("PATCH", "/v1/tasks/t1", body, JSON_TYPE)
        assert (answer.status, answer.json.get("field")) == (status, field)
        assert (await api.get("/v1/tasks/t1")).body == before


async def test_a_time_limit_of_one_task_is_its_own(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        body = {"id": "t1", "type": "nap", "payload": {"seconds": 10}, "timeout": 2.5}
        await api.post("/v1/tasks", body)
        task = await ended(api, "t1")
        assert (task["state"], task["reason"], task["finished_at"]) == ("failed", "timeout", at(2.5))
