"""Progress and lines of log: shown at once, stored a few times a second, kept after the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import trio
import trio.testing
from raw_http import Api, open_api

from tq.context import Context, Retry
from tq.core.errors import StorageUnavailable
from tq.core.ops import Note
from tq.engine.server import Settings
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore
from tq.testing import FaultyStore

T = TypeVar("T")


@pytest.fixture
def queue() -> TaskQueue:
    queue = TaskQueue()

    @queue.task("steps", timeout=100)
    async def steps(ctx: Context, count: int, every: float = 1) -> str:
        for step in range(count):
            ctx.progress(step / count, f"step {step}")
            ctx.log("step", step)
            await trio.sleep(every)
        ctx.log("end")
        return "done"

    @queue.task("silent")
    async def silent(ctx: Context) -> None: ...

    @queue.task("plain")
    def plain(ctx: Context) -> None:
        ctx.progress(0.25)
        ctx.progress(0.5, "half")
        ctx.log("one", 1, None)

    return queue


async def submit(api: Api, type: str, id: str = "t1", **payload: object) -> None:
    answer = await api.post("/v1/tasks", {"id": id, "type": type, "payload": payload or None})
    assert answer.status == 201, answer.body


async def show(api: Api, id: str = "t1", *, wait: int = 0) -> Any:
    return (await api.get(f"/v1/tasks/{id}?wait={wait}")).json


def texts(task: Any) -> list[str]:
    return [line["text"] for line in task["logs"]]


def notes(store: FaultyStore) -> list[Note]:
    return [op for batch in store.batches for op in batch if isinstance(op, Note)]


async def test_what_a_running_task_tells_is_shown_at_once(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    store = FaultyStore(MemoryStore())
    async with open_api(queue, store=store) as api:
        await submit(api, "steps", count=10, every=1.1)
        await trio.sleep(3.301)
        task = await show(api)
        assert task["state"] == "running"
        assert task["progress"] == {"fraction": 0.3, "message": "step 3"}
        assert task["logs"] == [
            {"at": f"2026-01-01T00:00:0{step}.{step}00Z", "attempt": 1, "text": f"step {step}"}
            for step in range(4)
        ]
        assert len(notes(store)) == 3, "what is shown is not stored yet"
        listed = (await api.get("/v1/tasks?state=running")).json["tasks"]
        assert (listed[0]["progress"], listed[0]["logs"]) == (task["progress"], task["logs"])


async def test_what_was_told_is_stored_within_a_quarter_of_a_second_and_shown_once(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    store = FaultyStore(MemoryStore())
    async with open_api(queue, store=store) as api:
        await submit(api, "steps", count=1, every=60)
        await trio.sleep(0.26)
        (stored,) = store.snapshot().tasks
        assert (stored.progress and stored.progress.message, len(stored.logs)) == ("step 0", 1)
        assert texts(await show(api)) == ["step 0"]


async def test_progress_and_logs_are_kept_after_the_end(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await submit(api, "steps", count=3, every=0.1)
        task = await show(api, wait=10)
        assert (task["state"], task["progress"]["message"]) == ("succeeded", "step 2")
        assert texts(task) == ["step 0", "step 1", "step 2", "end"]


async def test_a_plain_function_tells_too(queue: TaskQueue, autojump_clock: trio.testing.MockClock) -> None:
    async with open_api(queue) as api:
        await submit(api, "plain")
        task = await show(api, wait=10)
        assert task["progress"] == {"fraction": 0.5, "message": "half"}
        assert texts(task) == ["one 1 None"]


async def test_a_task_that_tells_nothing_shows_nothing(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    store = FaultyStore(MemoryStore())
    async with open_api(queue, store=store) as api:
        await submit(api, "silent")
        task = await show(api, wait=10)
        assert "progress" not in task
        assert "logs" not in task
        assert notes(store) == []


async def test_the_last_200_lines_are_kept(queue: TaskQueue, autojump_clock: trio.testing.MockClock) -> None:
    async with open_api(queue) as api:
        await submit(api, "steps", count=250, every=0.01)
        await trio.sleep(2.405)
        running = texts(await show(api))
        assert (len(running), running[-1]) == (200, "step 240")
        task = await show(api, wait=10)
        assert texts(task) == [*(f"step {step}" for step in range(51, 250)), "end"]


async def test_lines_of_more_than_one_attempt_say_which_it_was(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("again", max_attempts=2)
    async def again(ctx: Context) -> None:
        ctx.log("try")
        if ctx.attempt == 1:
            ctx.progress(0.9, "nearly")
            raise Retry(after=5)

    async with open_api(queue) as api:
        await submit(api, "again")
        await trio.sleep(1)
        waiting = await show(api)
        assert (waiting["state"], waiting["progress"]["message"]) == ("retrying", "nearly")
        task = await show(api, wait=10)
        assert [(line["at"], line["attempt"]) for line in task["logs"]] == [
            ("2026-01-01T00:00:00.000Z", 1),
            ("2026-01-01T00:00:05.000Z", 2),
        ]


async def test_long_texts_are_cut_and_what_cannot_be_stored_is_spelled_out(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("odd")
    async def odd(ctx: Context) -> None:
        ctx.progress(1, "p" * 5000)
        ctx.log("l" * 1024)
        ctx.log("m" * 1025)
        ctx.log("nul \0 and half a pair \ud800")

    async with open_api(queue) as api:
        await submit(api, "odd")
        task = await show(api, wait=10)
        assert task["progress"] == {"fraction": 1.0, "message": "p" * 1023 + "…"}
        assert texts(task) == ["l" * 1024, "m" * 1023 + "…", "nul \\0 and half a pair \\ud800"]


@pytest.mark.parametrize("fraction", [-0.01, 1.01, float("nan"), float("inf")])
async def test_progress_past_its_ends_fails_the_attempt(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, fraction: float
) -> None:
    @queue.task("past", max_attempts=1)
    async def past(ctx: Context) -> None:
        ctx.progress(fraction)

    async with open_api(queue) as api:
        await submit(api, "past")
        task = await show(api, wait=10)
        assert (task["state"], task["errors"][0]["type"]) == ("failed", "ValueError")
        assert task["errors"][0]["message"] == f"progress is from 0 to 1, not {fraction}"


async def test_however_often_it_tells_a_task_is_written_four_times_a_second_at_most(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    store = FaultyStore(MemoryStore())
    async with open_api(queue, store=store) as api:
        for number in range(3):
            await submit(api, "steps", id=f"t{number}", count=1000, every=0.01)
        for number in range(3):
            await show(api, f"t{number}", wait=20)
        # 10 s, and what was told last goes with the end.
        assert all(len([n for n in notes(store) if n.task_id == f"t{k}"]) <= 41 for k in range(3))
        assert len([batch for batch in store.batches if any(isinstance(op, Note) for op in batch)]) <= 43


async def test_what_is_told_while_the_store_is_away_is_stored_in_order_when_it_is_back(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    store = FaultyStore(MemoryStore())
    async with open_api(queue, store=store) as api:
        await submit(api, "steps", count=100, every=0.1)
        await trio.sleep(2)
        store.failing = StorageUnavailable
        await trio.sleep(4)
        store.failing = None
        await trio.sleep(3)
        task = await show(api)
        assert texts(task) == [f"step {step}" for step in range(len(task["logs"]))]
        assert len(task["logs"]) >= 90
        (stored,) = store.snapshot().tasks
        assert len(stored.logs) >= 85
        assert texts(await show(api, wait=20)) == [*(f"step {step}" for step in range(100)), "end"]


@pytest.mark.parametrize("away_at", [0.0, 0.2, 0.31, 0.45, 0.55, 0.7])
async def test_what_was_told_last_is_kept_though_the_store_was_away_at_the_end(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, away_at: float
) -> None:
    store = FaultyStore(MemoryStore())
    async with open_api(queue, store=store) as api:
        # It ends at 0.75, when what runs is asked what it told.
        await submit(api, "steps", count=15, every=0.05)
        await trio.sleep(away_at)
        store.failing = StorageUnavailable
        await trio.sleep(2)
        store.failing = None
        task = await show(api, wait=20)
        assert task["state"] == "succeeded"
        assert texts(task) == [*(f"step {step}" for step in range(15)), "end"]
        assert task["progress"]["message"] == "step 14"


async def test_what_was_told_last_stays_in_order_when_two_notes_of_it_come_back(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    @queue.task("ends")
    async def ends(ctx: Context) -> None:
        await trio.sleep_until(0.80)
        ctx.log("one")
        await trio.sleep_until(0.82)
        ctx.log("two")

    async def run_slowly(function: Callable[[], T], /) -> T:
        await trio.sleep(0.03)
        return function()

    monkeypatch.setattr("tq.testing.kit.run_inline", run_slowly)
    store = FaultyStore(MemoryStore())
    async with open_api(queue, store=store) as api:
        await submit(api, "ends")
        await trio.sleep_until(0.5)
        # The first line is on its way from 0.81 to 0.84; the second, and the end, come between.
        store.failing = StorageUnavailable
        await trio.sleep_until(2)
        assert store.refused >= 3
        store.failing = None
        task = await show(api, wait=20)
        assert (task["state"], texts(task)) == ("succeeded", ["one", "two"])


async def test_what_was_told_is_kept_when_the_server_is_shut_down(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    store = MemoryStore()

    @queue.task("cut", timeout=1000)
    async def cut(ctx: Context) -> None:
        try:
            ctx.log("begun")
            await trio.sleep_forever()
        finally:
            ctx.progress(0.7, "cut short")
            ctx.log("cleaned up")

    async with open_api(queue, store=store, settings=Settings(grace_s=1)) as api:
        await submit(api, "cut")
        await trio.sleep(0.1)
    (task,) = store.snapshot().tasks
    assert (task.state, task.attempt) == ("pending", 0)
    assert (task.progress and task.progress.message) == "cut short"
    assert [line.text for line in task.logs] == ["begun", "cleaned up"]
