"""How long tasks are kept after their end, and what stays of them."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from raw_http import Api, open_api

from tq.core.events import Event, TasksPruned
from tq.core.ops import Prune
from tq.core.wire import decode_submit
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore
from tq.testing import FaultyStore, open_server

HOUR_S = 3600


@pytest.fixture
def queue() -> TaskQueue:
    queue = TaskQueue()

    @queue.task("ok")
    async def ok() -> None: ...

    @queue.task("brief", result_ttl=5)
    async def brief() -> None: ...

    @queue.task("fail", max_attempts=1)
    async def fail() -> None:
        raise ValueError("it broke")

    return queue


async def submit(api: Api, id: str, type: str = "ok", **fields: object) -> None:
    answer = await api.post("/v1/tasks", {"id": id, "type": type, **fields}, {"Prefer": "wait=1"})
    assert answer.status in (200, 201), answer.body


async def are_there(api: Api, *ids: str) -> list[bool]:
    return [(await api.get(f"/v1/tasks/{id}")).status == 200 for id in ids]


async def totals(api: Api) -> Any:
    return (await api.get("/v1/stats")).json["totals"]


async def test_a_task_is_kept_as_long_as_it_or_its_type_says(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await submit(api, "own", result_ttl=3)
        await submit(api, "types", "brief")
        await submit(api, "own-over-types", "brief", result_ttl=9)
        await submit(api, "failed", "fail", result_ttl=3)
        ids = ("own", "types", "own-over-types", "failed")
        for at, expected in (
            (2.5, [True, True, True, True]),
            (4.1, [False, True, True, False]),
            (6.1, [False, False, True, False]),
            (10.1, [False, False, False, False]),
        ):
            await trio.sleep_until(at)
            assert await are_there(api, *ids) == expected


async def test_a_task_that_was_pruned_is_404_with_a_hint(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await submit(api, "t1", result_ttl=0)
        await trio.sleep(1.1)
        answer = await api.get("/v1/tasks/t1")
        assert (answer.status, answer.json["code"], answer.json["task_id"]) == (404, "not_found", "t1")
        assert "a task that has ended is kept for a limited time only" in answer.json["detail"]
        assert (await api.get("/status/t1")).json == {"task_id": "t1", "status": "pending or not found"}
        assert (await api.get("/v1/tasks")).json["tasks"] == []
        assert (await api.post("/v1/tasks/t1/retry", {})).status == 404


async def test_totals_survive_pruning_and_states_do_not(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await submit(api, "t1", result_ttl=2)
        await submit(api, "t2", "fail", result_ttl=2)
        await submit(api, "t3", delay=60, result_ttl=2)
        await api.post("/v1/tasks/t3/cancel", {})
        before = await totals(api)
        assert before == {"submitted": 3, "cancelled": 1, "failed": 1, "succeeded": 1}
        seed = (await api.get("/stats")).json
        await trio.sleep(4)
        assert await are_there(api, "t1", "t2", "t3") == [False, False, False]
        assert await totals(api) == before
        assert (await api.get("/stats")).json == seed
        assert seed == {"total_processed": 2, "successful": 1, "failed": 1, "queue_length": 0}
        assert (await api.get("/v1/stats")).json["queues"] == {}


async def test_without_a_word_ended_tasks_are_kept_a_day_and_failed_ones_a_week(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    store = MemoryStore()
    async with open_api(queue, store=store) as api:
        await submit(api, "succeeded")
        await submit(api, "failed", "fail")
        await submit(api, "cancelled", delay=HOUR_S)
        await api.post("/v1/tasks/cancelled/cancel", {})
    ids = ("succeeded", "cancelled", "failed")
    for at, expected in (
        (24 * HOUR_S - 10, [True, True, True]),
        (24 * HOUR_S + 10, [False, False, True]),
        (7 * 24 * HOUR_S - 10, [False, False, True]),
        (7 * 24 * HOUR_S + 10, [False, False, False]),
    ):
        await trio.sleep_until(at)
        async with open_api(queue, store=store) as api:
            await trio.sleep(0.1)
            assert await are_there(api, *ids) == expected
            assert await totals(api) == {"submitted": 3, "cancelled": 1, "failed": 1, "succeeded": 1}


async def test_what_waits_or_runs_is_never_pruned(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("hold", timeout=100)
    async def hold() -> None:
        await trio.sleep(50)

    async with open_api(queue) as api:
        await submit(api, "waits", delay=30, result_ttl=1)
        await submit(api, "runs", "hold", result_ttl=1)
        await submit(api, "retried", "fail", result_ttl=3)
        await api.post("/v1/queues/default/pause", {})
        await api.post("/v1/tasks/retried/retry", {})
        await trio.sleep(20)
        assert await are_there(api, "waits", "runs", "retried") == [True, True, True]


async def test_pruning_goes_in_batches_of_a_thousand(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, seen: list[Event]
) -> None:
    store = FaultyStore(MemoryStore())
    async with open_server(queue, store=store, emit=seen.append) as server:
        request = decode_submit(b'{"type":"ok","result_ttl":60}')
        for _ in range(5):
            await server.submit_many([server.new_task(request) for _ in range(500)])
        await trio.sleep(70)
        assert (await server.stats()).succeeded == 2500
        assert store.snapshot().tasks == ()
    pruned = [event for event in seen if isinstance(event, TasksPruned)]
    assert [event.count for event in pruned] == [1000, 1000, 500]
    assert len({event.at for event in pruned}) == 1, "one after another, with no pause between them"
    assert all(op.limit == 1000 for batch in store.batches for op in batch if isinstance(op, Prune)), (
        "never more at once"
    )
