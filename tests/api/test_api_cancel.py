"""Cancelling one task: at once where it waits, its scope where it runs, and who wins a race."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

import msgspec
import pytest
import trio
import trio.testing
from raw_http import JSON_TYPE, Answer, Api, open_api
from tiers import tiered

from tq.api.endpoints import actions
from tq.api.http import Request
from tq.context import Context, Retry, Snooze
from tq.core.errors import IllegalTransition
from tq.core.ops import Cancel
from tq.core.task import Reason, State, TaskId
from tq.core.wire import SubmitRequest
from tq.engine.server import Settings
from tq.handlers import TaskQueue


@pytest.fixture
def queue() -> TaskQueue:
    queue = TaskQueue()

    @queue.task("nap", max_attempts=1, timeout=100)
    async def nap(seconds: float = 0) -> str:
        await trio.sleep(seconds)
        return "rested"

    return queue


async def cancel(api: Api, task_id: str, query: str = "") -> Answer:
    return await api.ask("POST", f"/v1/tasks/{task_id}/cancel{query}")


async def start(api: Api, task_id: str, type: str, **fields: object) -> None:
    """Submit a task and let its handler run up to where it waits."""
    await api.post("/v1/tasks", {"id": task_id, "type": type, **fields})
    await trio.testing.wait_all_tasks_blocked()
    assert (await api.get(f"/v1/tasks/{task_id}")).json["state"] == "running"


# Waiting


@pytest.mark.parametrize(
    "fields",
    [{"delay": 3600}, {"depends_on": ["busy"]}, {"queue": "paused"}],
    ids=["scheduled", "blocked", "pending"],
)
async def test_a_waiting_task_is_cancelled_at_once(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, fields: dict[str, object]
) -> None:
    async with open_api(queue) as api:
        await api.ask("POST", "/v1/queues/paused/pause")
        await start(api, "busy", "nap", payload={"seconds": 50})
        await api.post("/v1/tasks", {"id": "t1", "type": "nap", **fields})
        answer = await cancel(api, "t1")
        assert (answer.status, answer.json["state"], answer.json["reason"]) == (200, "cancelled", "user")
        assert answer.json["finished_at"] == "2026-01-01T00:00:00.000Z"
        assert "cancellable" not in answer.json
        assert answer.body == (await api.get("/v1/tasks/t1")).body
        autojump_clock.jump(7200)
        await trio.sleep(1)
        assert (await api.get("/v1/tasks/t1")).json["attempt"] == 0


async def test_a_task_between_two_attempts_is_cancelled_at_once(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("bad")
    async def bad() -> None:
        raise ValueError("no")

    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t1", "type": "bad"}, {"Prefer": "wait=0"})
        await trio.testing.wait_all_tasks_blocked()
        assert (await api.get("/v1/tasks/t1")).json["state"] == "retrying"
        answer = await cancel(api, "t1")
        assert (answer.status, answer.json["state"], answer.json["attempt"]) == (200, "cancelled", 1)
        assert [error["message"] for error in answer.json["errors"]] == ["no"]


async def test_an_ended_task_cannot_be_cancelled(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t1", "type": "nap"}, {"Prefer": "wait=1"})
        answer = await cancel(api, "t1")
        assert (answer.status, answer.json["code"]) == (409, "illegal_transition")
        assert (answer.json["state"], answer.json["task_id"]) == ("succeeded", "t1")
        assert (await api.get("/v1/tasks/t1")).json["state"] == "succeeded"


@pytest.mark.parametrize("task_id", ["nobody", "a%20b", "x" * 200])
async def test_to_cancel_an_unknown_task_is_404(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, task_id: str
) -> None:
    async with open_api(queue) as api:
        assert (await cancel(api, task_id)).status == 404


# Running


async def test_a_running_async_handler_is_cancelled_at_once_with_all_that_it_started(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    ended: list[tuple[str, float]] = []

    async def part(name: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append((name, trio.current_time()))

    async def branch() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(part, "deep")

    @queue.task("tree", timeout=100)
    async def tree() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(part, "one")
            nursery.start_soon(branch)
            await part("self")

    async with open_api(queue) as api:
        await start(api, "t1", "tree")
        await trio.sleep(7.125)
        answer = await cancel(api, "t1")
        assert answer.status == 202
        assert (answer.json["state"], answer.json["cancellable"]) == ("running", "async")
        assert answer.json["cancel_requested"] is True
        task = (await api.get("/v1/tasks/t1?wait=60")).json
        assert (task["state"], task["reason"], task["result"]) == ("cancelled", "user", None)
        assert task["finished_at"] == "2026-01-01T00:00:07.125Z"
        assert sorted(ended) == [("deep", 7.125), ("one", 7.125), ("self", 7.125)]


async def test_cancel_with_wait_answers_the_ended_task(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("tidy", timeout=100)
    async def tidy(ctx: Context) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with ctx.cleanup():
                await trio.sleep(1.5)

    async with open_api(queue) as api:
        await start(api, "t1", "tidy")
        answer = await cancel(api, "t1", "?wait=10")
        assert (answer.status, answer.json["state"]) == (200, "cancelled")
        assert trio.current_time() == 1.5
        await start(api, "t2", "tidy")
        answer = await cancel(api, "t2", "?wait=1")
        assert (answer.status, answer.json["state"]) == (202, "running")
        assert trio.current_time() == 2.5


async def test_what_is_cancelled_has_two_seconds_to_clean_up_and_then_keeps_its_worker_only(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("stubborn", timeout=100)
    async def stubborn() -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(30)
        return "late"

    async with open_api(queue, settings=Settings(workers=1)) as api:
        await start(api, "t1", "stubborn")
        await trio.sleep(1)
        await api.post("/v1/tasks", {"id": "t2", "type": "nap"})
        task = (await cancel(api, "t1", "?wait=60")).json
        assert (task["state"], task["reason"]) == ("cancelled", "user")
        assert trio.current_time() == pytest.approx(3.0, abs=0.25)
        assert (await api.get("/v1/tasks/t2")).json["state"] == "pending"
        # The one worker is free again when the handler has ended; what it said then is dropped.
        assert (await api.get("/v1/tasks/t2?wait=60")).json["finished_at"] == "2026-01-01T00:00:30.000Z"
        assert (await api.get("/v1/tasks/t1")).json["result"] is None


async def test_an_attempt_that_swallows_its_cancellation_is_cancelled_all_the_same(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("deaf", timeout=100)
    async def deaf() -> str:
        with suppress(trio.Cancelled):
            await trio.sleep_forever()
        return "done anyway"

    @queue.task("upset", timeout=100)
    async def upset() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("in the clean-up")

    async with open_api(queue) as api:
        for task_id, type in (("t1", "deaf"), ("t2", "upset")):
            await start(api, task_id, type)
            task = (await cancel(api, task_id, "?wait=10")).json
            assert (task["state"], task["reason"], task["result"]) == ("cancelled", "user", None)
            assert trio.current_time() == 0


async def test_to_cancel_twice_is_to_cancel_once(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("tidy", timeout=100)
    async def tidy(ctx: Context) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with ctx.cleanup():
                await trio.sleep(1)

    async with open_api(queue) as api:
        await start(api, "t1", "tidy")
        assert (await cancel(api, "t1")).status == 202
        await trio.sleep(0.5)
        assert (await cancel(api, "t1")).status == 202
        assert (await api.get("/v1/tasks/t1?wait=60")).json["finished_at"] == "2026-01-01T00:00:01.000Z"
        assert (await cancel(api, "t1")).status == 409


async def test_cancel_does_not_end_what_has_timed_out_and_cleans_up_as_a_time_out(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("tidy", timeout=1)
    async def tidy(ctx: Context) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with ctx.cleanup():
                await trio.sleep(1)

    async with open_api(queue) as api:
        await start(api, "t1", "tidy")
        await trio.sleep(1.5)
        assert (await cancel(api, "t1")).status == 202
        task = (await api.get("/v1/tasks/t1?wait=60")).json
        assert (task["state"], task["reason"]) == ("cancelled", "user")


# On its way to a worker


async def test_a_task_on_its_way_to_a_worker_does_not_begin(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    """Leases lie ahead in the channel while short tasks run: those cancelled there must not begin."""
    begun: list[str] = []
    half_way = trio.Event()

    @queue.task("short", timeout=10)
    async def short(ctx: Context) -> None:
        begun.append(ctx.task_id)
        if len(begun) == 20:
            half_way.set()
        await trio.sleep(0.01)

    async with open_api(queue, settings=Settings(workers=1)) as api:
        await api.ask("POST", "/v1/queues/default/pause")
        await api.post("/v1/tasks/batch", [{"id": f"t{n}", "type": "short"} for n in range(40)])
        await api.ask("POST", "/v1/queues/default/resume")
        await half_way.wait()
        await trio.sleep(0.001)
        ahead = [f"t{n}" for n in range(40) if api.server.pool._expected.get(TaskId(f"t{n}"))]
        assert len(ahead) >= 3
        for task_id in ahead:
            answer = await cancel(api, task_id)
            assert (answer.status, answer.json["state"]) == (202, "running")
        await trio.sleep(10)
        states = {task["id"]: task["state"] for task in (await api.get("/v1/tasks")).json["tasks"]}
        assert {task_id for task_id, state in states.items() if state == "cancelled"} == set(ahead)
        for task_id in ahead:
            task = (await api.get(f"/v1/tasks/{task_id}")).json
            assert (task["reason"], task["attempt"]) == ("user", 0)
        assert not set(ahead) & set(begun)
        assert len(begun) == 40 - len(ahead)


# The race


@pytest.mark.parametrize("lead_ms", tiered([0, -2, -1, 1, 2]))
async def test_cancel_and_end_in_the_same_moment_have_one_winner_and_the_reply_tells(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, lead_ms: int
) -> None:
    replies: dict[str, Answer] = {}
    ids = [f"t{n}" for n in range(60)]

    async def cancel_at(api: Api, task_id: str, at: float) -> None:
        client = await api.connect()
        async with client.stream:
            await trio.sleep_until(at)
            replies[task_id] = await client.ask("POST", f"/v1/tasks/{task_id}/cancel")

    async with open_api(queue, settings=Settings(workers=60)) as api:
        batch = [{"id": task_id, "type": "nap", "payload": {"seconds": 1}} for task_id in ids]
        await api.post("/v1/tasks/batch", batch)
        async with trio.open_nursery() as nursery:
            for task_id in ids:
                nursery.start_soon(cancel_at, api, task_id, 1 - lead_ms / 1000)
        outcomes = set()
        for task_id in ids:
            task = (await api.get(f"/v1/tasks/{task_id}?wait=60")).json
            reply = replies[task_id]
            if reply.status == 409:
                assert (task["state"], task["result"]) == ("succeeded", "rested")
                assert reply.json["state"] == "succeeded"
            else:
                assert reply.status in (200, 202)
                assert (task["state"], task["reason"], task["result"]) == ("cancelled", "user", None)
            outcomes.add(task["state"])
        stats = (await api.get("/v1/stats")).json
        assert stats["totals"]["succeeded"] + stats["totals"]["cancelled"] == 60
        if lead_ms > 0:
            assert outcomes == {"cancelled"}
        if lead_ms < 0:
            assert outcomes == {"succeeded"}


async def test_whoever_comes_first_to_the_store_wins(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    """The handler ends, and a number of turns of the loop before or after that the cancel is asked."""
    gates: dict[str, trio.Event] = {}

    @queue.task("gate", timeout=100)
    async def gate(ctx: Context) -> str:
        await gates.setdefault(ctx.task_id, trio.Event()).wait()
        return "through"

    async def open_after(gate: trio.Event, steps: int) -> None:
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        gate.set()

    winners = set()
    async with open_api(queue) as api:
        for steps in range(-20, 10):
            task_id = f"t{steps}"
            await start(api, task_id, "gate")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(open_after, gates[task_id], steps)
                await trio.lowlevel.checkpoint()
                for _ in range(-steps):
                    await trio.lowlevel.checkpoint()
                request = Request("POST", f"/v1/tasks/{task_id}/cancel", params={"id": task_id})
                try:
                    status = (await actions.cancel(api.server, request)).status
                except IllegalTransition:
                    status = 409
            task = (await api.get(f"/v1/tasks/{task_id}?wait=60")).json
            assert (status, task["state"], task["result"]) in (
                (409, "succeeded", "through"),
                (202, "cancelled", None),
                (200, "cancelled", None),
            ), steps
            winners.add(task["state"])
        assert winners == {"succeeded", "cancelled"}
        assert trio.current_time() == 0


async def test_a_bulk_cancel_in_the_moment_of_the_end_counts_those_it_won(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue, settings=Settings(workers=60)) as api:
        body = [{"type": "nap", "payload": {"seconds": 1 + n % 2}} for n in range(60)]
        await api.post("/v1/tasks/batch", body)
        client = await api.connect()
        async with client.stream:
            await trio.sleep_until(1)
            request = b'{"filter":{"type":"nap"}}'
            answer = await client.ask("POST", "/v1/tasks/cancel", request, JSON_TYPE)
        await trio.sleep(5)
        totals = (await api.get("/v1/stats")).json["totals"]
        assert totals["cancelled"] == answer.json["changed"] >= 30
        assert totals["succeeded"] == 60 - answer.json["changed"]


@pytest.mark.parametrize(
    "said", [ValueError("no"), Snooze(60), Retry(after=0)], ids=["error", "snooze", "retry"]
)
async def test_a_cancel_wins_against_an_end_that_is_not_final(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, said: Exception
) -> None:
    gates: dict[str, trio.Event] = {}
    starts: Counter[str] = Counter()

    @queue.task("gate", timeout=100)
    async def gate(ctx: Context) -> None:
        starts[ctx.task_id] += 1
        await gates.setdefault(ctx.task_id, trio.Event()).wait()
        raise said

    async with open_api(queue) as api:
        for steps in range(12):
            task_id = f"t{steps}"
            await start(api, task_id, "gate", max_attempts=1000)
            gates[task_id].set()
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            request = Request("POST", f"/v1/tasks/{task_id}/cancel", params={"id": task_id})
            assert (await actions.cancel(api.server, request)).status in (200, 202)
            assert (await api.get(f"/v1/tasks/{task_id}?wait=60")).json["state"] == "cancelled"
            begun = starts[task_id]
            await trio.sleep(0.5)
            assert starts[task_id] == begun


async def test_a_cancel_in_the_moment_of_the_start_is_kept(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        ways = set()
        for steps in range(25):
            new = api.server.new_task(SubmitRequest(type="nap", payload=msgspec.Raw(b'{"seconds":60}')))
            submitted = await api.server.submit(new)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            reply = await api.server.change(Cancel(submitted.task_id))
            task = await api.server.wait_final(submitted.task_id, timeout_s=60)
            assert task is not None
            assert (task.state, task.reason) == (State.CANCELLED, Reason.USER)
            ways.add((reply.state, task.attempt))
        assert trio.current_time() == 0
        # Before its claim, on its way to a worker, in its attempt: not each of them in every order of trio's.
        assert ways <= {(State.CANCELLED, 0), (State.RUNNING, 0), (State.RUNNING, 1)}
        assert len(ways) >= 2
        assert api.server.pool._expected == {}


@pytest.mark.parametrize("lead_ms", tiered([0, -1, 1]))
async def test_cancel_and_time_out_in_the_same_moment_have_one_winner_and_the_reply_tells(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, lead_ms: int
) -> None:
    async with open_api(queue) as api:
        for n in range(10):
            task_id = f"t{n}"
            await start(api, task_id, "nap", payload={"seconds": 50}, timeout=1)
            client = await api.connect()
            async with client.stream:
                await trio.sleep(1 - lead_ms / 1000)
                reply = await client.ask("POST", f"/v1/tasks/{task_id}/cancel")
            task = (await api.get(f"/v1/tasks/{task_id}?wait=60")).json
            assert (reply.status, task["state"], task["reason"]) in (
                (409, "failed", "timeout"),
                (202, "cancelled", "user"),
                (200, "cancelled", "user"),
            )
            assert lead_ms == 0 or (task["state"] == "cancelled") == (lead_ms > 0)


# Bad requests


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b'{"cascade":1}', 422, "cascade"),
        (b'{"cascade":null}', 422, "cascade"),
        (b'{"casc":true}', 422, "casc"),
        (b"[]", 400, None),
        (b"{", 400, None),
    ],
)
async def test_a_bad_cancel_says_what_is_wrong_and_changes_nothing(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, body: bytes, status: int, field: str | None
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t1", "type": "nap", "delay": 5})
        answer = await api.ask("POST", "/v1/tasks/t1/cancel", body, {"Content-Type": "application/json"})
        assert (answer.status, answer.json.get("field")) == (status, field)
        assert (await api.get("/v1/tasks/t1")).json["state"] == "scheduled"
        assert (await cancel(api, "t1", "?wait=x")).json["parameter"] == "wait"
        assert (await api.get("/v1/tasks/t1")).json["state"] == "scheduled"
