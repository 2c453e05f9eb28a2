"""Priority, retries, what handlers can say of their attempt, and the history of a task, through HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing
from raw_http import Api, open_api

from tq.context import Cancel, Context, Retry, Snooze
from tq.engine.server import Settings
from tq.handlers import TaskQueue

STEADY = {"kind": "fixed", "base": 1, "jitter": 0}


@pytest.fixture
def queue() -> TaskQueue:
    queue = TaskQueue()

    @queue.task("bad")
    async def bad(ctx: Context, good_at: int = 0) -> str:
        if ctx.attempt != good_at:
            raise ValueError(f"attempt {ctx.attempt}")
        return "good"

    return queue


async def run(api: Api, type: str, **fields: object) -> Any:
    """The task, once it has ended."""
    answer = await api.post("/v1/tasks", {"type": type, **fields})
    assert answer.status == 201, answer.body
    while True:
        task = (await api.get(answer.headers["location"] + "?wait=60")).json
        if task["finished_at"] is not None:
            return task


# Priority


async def test_order_is_by_priority_by_name_or_number_then_by_arrival(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    order: list[str] = []

    @queue.task("note", priority="high")
    async def note(name: str) -> None:
        order.append(name)
        await trio.sleep(1)

    said: dict[str, dict[str, object]] = {
        "low": {"priority": "low"},
        "normal": {"priority": "normal"},
        "of the type": {},
        "11": {"priority": 11},
        "-100": {"priority": -100},
        "critical": {"priority": "critical"},
        "100": {"priority": 100},
        "normal too": {"priority": 0},
    }
    async with open_api(queue, settings=Settings(workers=1)) as api:
        await api.ask("POST", "/v1/queues/default/pause")
        for name, fields in said.items():
            await api.post("/v1/tasks", {"type": "note", "payload": {"name": name}, **fields})
        await api.ask("POST", "/v1/queues/default/resume")
        await trio.sleep(20)
        assert order == ["100", "critical", "11", "of the type", "normal", "normal too", "low", "-100"]
        listed = (await api.get("/v1/tasks")).json["tasks"]
        begun = sorted(listed, key=lambda task: str(task["started_at"]))
        assert [task["payload"]["name"] for task in begun] == order
        assert [task["priority"] for task in begun] == [100, 50, 11, 10, 0, 0, -10, -100]


async def test_a_critical_task_goes_before_a_thousand_that_wait(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("slow", max_attempts=1)
    async def slow() -> None:
        await trio.sleep(1)

    async with open_api(queue) as api:
        await api.post("/v1/tasks/batch", [{"type": "slow", "priority": "low"} for _ in range(1000)])
        await trio.sleep(10.5)
        answer = await api.post("/v1/tasks", {"type": "slow", "priority": "critical"}, {"Prefer": "wait=10"})
        assert answer.json["started_at"] == "2026-01-01T00:00:11.000Z"


# Retries


@pytest.mark.parametrize(
    ("policy", "finished_at"),
    [
        ({"kind": "fixed", "base": 10, "jitter": 0}, "2026-01-01T00:00:30.000Z"),
        ({"kind": "exponential", "base": 10, "jitter": 0}, "2026-01-01T00:01:10.000Z"),
        ({"kind": "polynomial", "base": 10, "jitter": 0}, "2026-01-01T00:16:20.000Z"),
        ({"kind": "polynomial", "base": 10, "cap": 100, "jitter": 0}, "2026-01-01T00:03:30.000Z"),
        ({"jitter": 0}, "2026-01-01T00:00:07.000Z"),
        ({"base": 0}, "2026-01-01T00:00:00.000Z"),
    ],
)
async def test_a_task_says_how_it_is_retried(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, policy: dict[str, object], finished_at: str
) -> None:
    async with open_api(queue) as api:
        task = await run(api, "bad", payload={"good_at": 4}, retry=policy)
        assert (task["state"], task["attempt"], task["result"]) == ("succeeded", 4, "good")
        assert task["finished_at"] == finished_at
        assert [error["attempt"] for error in task["errors"]] == [1, 2, 3]


async def test_a_type_says_how_its_tasks_are_retried_and_a_task_says_otherwise(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("typed", max_attempts=3, retry={"kind": "fixed", "base": 7, "jitter": 0})
    async def typed() -> None:
        raise ValueError("no")

    async with open_api(queue) as api:
        task = await run(api, "typed")
        assert (task["state"], task["reason"], task["attempt"]) == ("failed", "error", 3)
        assert task["finished_at"] == "2026-01-01T00:00:14.000Z"
        task = await run(api, "typed", max_attempts=2, retry=STEADY)
        assert (task["attempt"], task["finished_at"]) == (2, "2026-01-01T00:00:15.000Z")


async def test_while_it_waits_for_its_next_attempt_a_task_says_until_when_and_why(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t1", "type": "bad", "retry": STEADY | {"base": 30}})
        await trio.sleep(1)
        task = (await api.get("/v1/tasks/t1")).json
        assert (task["state"], task["reason"], task["attempt"]) == ("retrying", "error", 1)
        assert task["run_at"] == "2026-01-01T00:00:30.000Z"
        assert (task["started_at"], task["finished_at"]) == (None, None)


async def test_a_task_keeps_the_errors_of_its_last_twenty_attempts(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        task = await run(api, "bad", max_attempts=25, retry=STEADY)
        assert (task["state"], task["attempt"], len(task["errors"])) == ("failed", 25, 20)
        assert [error["message"] for error in task["errors"]] == [f"attempt {n}" for n in range(6, 26)]


async def test_an_error_says_what_where_when_and_how_long(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    def inner() -> None:
        raise KeyError("x")

    @queue.task("deep", max_attempts=1)
    async def deep() -> None:
        await trio.sleep(1.5)
        inner()

    async with open_api(queue) as api:
        task = await run(api, "deep")
        (error,) = task["errors"]
        trace = error.pop("traceback")
        assert error == {
            "attempt": 1,
            "at": "2026-01-01T00:00:01.500Z",
            "reason": "error",
            "type": "KeyError",
            "message": "'x'",
            "frame": "test_api_retries.py:test_an_error_says_what_where_when_and_how_long.<locals>.inner",
            "duration": 1.5,
        }
        assert "in deep\n    inner()" in trace
        assert "raise KeyError" in trace
        assert trace.endswith("KeyError: 'x'\n")


async def test_the_frame_of_an_error_is_the_handlers_own_where_a_library_raised_it(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("stdlib", max_attempts=1)
    async def stdlib() -> None:
        json.loads("{")

    @queue.task("package", max_attempts=1)
    async def package() -> None:
        trio.open_memory_channel[None](-1)

    @queue.task("ours", max_attempts=1)
    async def ours(ctx: Context) -> None:
        await ctx.submit("nope")

    @queue.task("nursery", max_attempts=1)
    async def nursery() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stdlib)

    @queue.task("several", max_attempts=1)
    async def several() -> None:
        raise ExceptionGroup("several", [ValueError("a"), ValueError("b")])

    async with open_api(queue) as api:
        found = {}
        for type in ("stdlib", "package", "ours", "nursery", "several"):
            (error,) = (await run(api, type))["errors"]
            found[type] = (error["type"], error["frame"].rpartition(".")[2])
            assert error["frame"].startswith("test_api_retries.py:test_the_frame_of_an_error_is")
        assert found == {
            "stdlib": ("JSONDecodeError", "stdlib"),
            "package": ("ValueError", "package"),
            "ours": ("UnknownType", "ours"),
            "nursery": ("JSONDecodeError", "stdlib"),
            "several": ("ExceptionGroup", "several"),
        }


async def test_a_time_out_is_an_error_without_a_frame(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("slow", max_attempts=1)
    async def slow() -> None:
        await trio.sleep_forever()

    async with open_api(queue) as api:
        task = await run(api, "slow", timeout=2)
        assert (task["state"], task["reason"]) == ("failed", "timeout")
        assert task["errors"] == [
            {
                "attempt": 1,
                "at": "2026-01-01T00:00:02.000Z",
                "reason": "timeout",
                "type": "TimedOut",
                "message": "timed out after 2 s",
                "duration": 2.0,
            }
        ]


async def test_an_operators_retry_starts_over_and_keeps_the_history(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        task = await run(api, "bad", id="t1", max_attempts=2, retry=STEADY)
        fingerprint = task["fingerprint"]
        assert (task["state"], task["attempt"], len(task["errors"])) == ("failed", 2, 2)
        answer = await api.ask("POST", "/v1/tasks/t1/retry")
        assert (answer.status, answer.json["attempt"]) == (200, 0)
        assert (answer.json["state"], answer.json["reason"]) == ("pending", None)
        assert "fingerprint" not in answer.json
        task = (await api.get("/v1/tasks/t1?wait=60")).json
        assert [error["attempt"] for error in task["errors"]] == [1, 2, 1, 2]
        assert task["fingerprint"] == fingerprint


async def test_an_operators_retry_takes_no_fields(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await run(api, "bad", id="t1", max_attempts=1)
        answer = await api.post("/v1/tasks/t1/retry", {"delay": 5})
        assert (answer.status, answer.json["field"]) == (422, "delay")
        assert (await api.get("/v1/tasks/t1")).json["state"] == "failed"


@pytest.mark.parametrize("delay", [{"delay": 9}, {}], ids=["scheduled", "running"])
async def test_only_an_ended_task_can_be_retried(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, delay: dict[str, object]
) -> None:
    @queue.task("slow")
    async def slow() -> None:
        await trio.sleep(3)

    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t1", "type": "slow", **delay})
        await trio.sleep(1)
        answer = await api.ask("POST", "/v1/tasks/t1/retry")
        assert (answer.status, answer.json["code"]) == (409, "illegal_transition")
        assert (await api.ask("POST", "/v1/tasks/nobody/retry")).status == 404


# What handlers can say


async def test_retry_says_when_and_burns_the_attempt(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("later", max_attempts=3)
    async def later() -> None:
        raise Retry("the other side is busy", after=100)

    async with open_api(queue) as api:
        task = await run(api, "later")
        assert (task["state"], task["attempt"]) == ("failed", 3)
        assert task["finished_at"] == "2026-01-01T00:03:20.000Z"
        assert {error["type"] for error in task["errors"]} == {"Retry"}
        assert task["errors"][0]["message"] == "the other side is busy"


async def test_snooze_comes_again_and_burns_no_attempt(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    starts: list[float] = []

    @queue.task("sleepy", max_attempts=1)
    async def sleepy(ctx: Context) -> int:
        starts.append(trio.current_time())
        if len(starts) < 6:
            raise Snooze(60)
        return ctx.attempt

    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t1", "type": "sleepy"})
        await trio.sleep(30)
        task = (await api.get("/v1/tasks/t1")).json
        assert (task["state"], task["attempt"], task["run_at"]) == (
            "scheduled",
            0,
            "2026-01-01T00:01:00.000Z",
        )
        await trio.sleep(300)
        task = (await api.get("/v1/tasks/t1")).json
        assert (task["state"], task["result"], task["errors"]) == ("succeeded", 1, [])
        assert starts == [0, 60, 120, 180, 240, 300]


@pytest.mark.parametrize(("message", "kept"), [("not wanted any more", 1), ("", 0)])
async def test_cancel_from_a_handler_ends_the_task_and_says_why(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, message: str, kept: int
) -> None:
    @queue.task("moot")
    async def moot() -> None:
        raise Cancel(message)

    async with open_api(queue) as api:
        task = await run(api, "moot")
        assert (task["state"], task["reason"], task["attempt"]) == ("cancelled", "user", 1)
        assert [error["message"] for error in task["errors"]] == [message] * kept
        assert "fingerprint" not in task
