"""Queues over HTTP: their rules, what holds while tasks wait, and to the millisecond when they start."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing
from raw_http import Api, open_api

from tq.context import Context
from tq.core.ops import Claim
from tq.engine.server import Settings
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore
from tq.testing import FaultyStore

DEFAULT_RULES = {
    "paused": False,
    "order": "strict",
    "concurrency": None,
    "rate": None,
    "per_key": {"concurrency": None, "rate": None},
}


class Starts(list[tuple[str, float]]):
    """The tasks that were started, in order, and when."""

    running = 0
    most_at_once = 0

    @property
    def ids(self) -> list[str]:
        return [task_id for task_id, _ in self]

    @property
    def instants(self) -> list[float]:
        return [round(at, 4) for _, at in self]


@pytest.fixture
def starts() -> Starts:
    return Starts()


@pytest.fixture
def queue(starts: Starts) -> TaskQueue:
    queue = TaskQueue()

    @queue.task("nap", max_attempts=1, timeout=1000)
    async def nap(ctx: Context, seconds: float = 0) -> None:
        starts.append((ctx.task_id, trio.current_time()))
        starts.running += 1
        starts.most_at_once = max(starts.most_at_once, starts.running)
        try:
            await trio.sleep(seconds)
        finally:
            starts.running -= 1

    return queue


async def submit(api: Api, *ids: str, seconds: float = 0, **fields: object) -> None:
    tasks = [{"id": id, "type": "nap", "payload": {"seconds": seconds}, **fields} for id in ids]
    answer = await api.post("/v1/tasks/batch", tasks)
    assert answer.status == 201, answer.body


async def wait_ended(api: Api, *ids: str, within_s: int = 3600) -> list[Any]:
    ended = []
    with trio.fail_after(within_s):
        for id in ids:
            while (task := (await api.get(f"/v1/tasks/{id}?wait=60")).json)["finished_at"] is None:
                pass
            ended.append(task)
    return ended


# Looking, and the rules


async def test_a_queue_that_nobody_has_used_has_the_default_rules(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        answer = await api.get("/v1/queues/mail")
        assert (answer.status, answer.json) == (200, {"queue": "mail", **DEFAULT_RULES, "tasks": {}})
        assert (await api.get("/v1/queues")).json == {"queues": []}


async def test_put_gives_a_queue_its_rules_and_shows_them(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        rules = {
            "order": "aging",
            "concurrency": 3,
            "rate": {"limit": 10, "period": 60},
            "per_key": {"concurrency": 1, "rate": {"limit": 2, "period": 0.5, "burst": 5}},
        }
        answer = await api.put("/v1/queues/mail", rules)
        assert answer.status == 200
        assert answer.json == {
            "queue": "mail",
            "paused": False,
            "order": "aging",
            "concurrency": 3,
            "rate": {"limit": 10, "period": 60.0, "burst": 10},
            "per_key": {"concurrency": 1, "rate": {"limit": 2, "period": 0.5, "burst": 5}},
            "tasks": {},
        }
        assert (await api.get("/v1/queues/mail")).json == answer.json


async def test_what_put_does_not_say_is_as_in_a_queue_without_rules(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.put("/v1/queues/mail", {"order": "aging", "concurrency": 3, "rate": {"limit": 1}})
        answer = await api.put("/v1/queues/mail", {"concurrency": 4, "rate": None})
        assert answer.json == {"queue": "mail", **DEFAULT_RULES, "concurrency": 4, "tasks": {}}
        await api.put("/v1/queues/mail", {})
        assert (await api.get("/v1/queues")).json == {"queues": []}


async def test_put_leaves_a_paused_queue_paused(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/queues/mail/pause", {})
        assert (await api.put("/v1/queues/mail", {"concurrency": 4})).json["paused"] is True


async def test_the_list_has_queues_with_rules_and_queues_with_tasks_by_name(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.put("/v1/queues/b-rules", {"concurrency": 1})
        await submit(api, "t1", "t2", queue="c-tasks", delay=60)
        await submit(api, "t3", queue="a-both")
        await api.post("/v1/queues/a-both/pause", {})
        await submit(api, "t4", queue="a-both")
        answer = await api.get("/v1/queues")
        assert [(each["queue"], each["paused"], each["tasks"]) for each in answer.json["queues"]] == [
            ("a-both", True, {"pending": 1, "succeeded": 1}),
            ("b-rules", False, {}),
            ("c-tasks", False, {"scheduled": 2}),
        ]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"order": "random"}, "order"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": 100_001}, "concurrency"),
        ({"concurrency": 1.5}, "concurrency"),
        ({"concurrency": "2"}, "concurrency"),
        ({"rate": 5}, "rate"),
        ({"rate": {}}, "rate.limit"),
        ({"rate": {"limit": 0}}, "rate.limit"),
        ({"rate": {"limit": 100_001}}, "rate.limit"),
        ({"rate": {"limit": 1, "period": 0}}, "rate.period"),
        ({"rate": {"limit": 1, "period": -1}}, "rate.period"),
        ({"rate": {"limit": 1, "period": 86_401}}, "rate.period"),
        ({"rate": {"limit": 1, "burst": 0}}, "rate.burst"),
        ({"rate": {"limit": 1, "burst": 100_001}}, "rate.burst"),
        ({"rate": {"limit": 1, "per": 3}}, "rate.per"),
        ({"per_key": {"concurrency": 0}}, "per_key.concurrency"),
        ({"per_key": {"rate": {"limit": -1}}}, "per_key.rate.limit"),
        ({"per_key": {"rate": {"limit": 1, "period": 0}}}, "per_key.rate.period"),
        ({"per_key": {"rate": {"limit": 1, "burst": 0}}}, "per_key.rate.burst"),
        ({"per_key": {"order": "strict"}}, "per_key.order"),
        ({"paused": True}, "paused"),
        ({"zebra": 1}, "zebra"),
    ],
)
async def test_a_bad_rule_is_422_and_names_its_field(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, body: object, field: str
) -> None:
    async with open_api(queue) as api:
        answer = await api.put("/v1/queues/mail", body)
        assert (answer.status, answer.json["code"], answer.json["field"]) == (422, "invalid_input", field)
        assert answer.json["detail"].startswith(f"{field}: ")
        assert (await api.get("/v1/queues")).json == {"queues": []}


async def test_a_name_that_no_queue_can_have_is_422_to_put_and_404_to_all_else(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        answer = await api.put("/v1/queues/a%20b", {})
        assert (answer.status, answer.json["field"]) == (422, "queue")
        assert (await api.get("/v1/queues/a%20b")).status == 404
        assert (await api.get("/v1/queues/" + "x" * 65)).status == 404
        for verb in ("pause", "resume", "purge"):
            assert (await api.post(f"/v1/queues/a%20b/{verb}", {})).status == 404


# Pausing and purging


async def test_a_paused_queue_starts_nothing_and_goes_on_at_once_when_resumed(
    queue: TaskQueue, starts: Starts, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        answer = await api.post("/v1/queues/mail/pause", {})
        assert (answer.status, answer.json["paused"]) == (200, True)
        await submit(api, "t1", "t2", queue="mail")
        await submit(api, "other")
        await trio.sleep(123.4567)
        assert starts == [("other", 0)]
        assert (await api.get("/v1/tasks/t1")).json["state"] == "pending"
        answer = await api.post("/v1/queues/mail/resume", {})
        assert (answer.status, answer.json["paused"]) == (200, False)
        await wait_ended(api, "t1", "t2")
        assert starts.instants == [0, 123.4567, 123.4567]


async def test_nothing_starts_after_a_pause_was_answered_though_it_was_handed_over_before(
    queue: TaskQueue, starts: Starts, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await submit(api, *(f"t{number}" for number in range(1000)), seconds=0.001)
        await trio.sleep(0.05)
        assert len(api.server.pool.handed) >= 50
        await api.post("/v1/queues/default/pause", {})
        started = len(starts)
        await trio.sleep(1)
        assert (len(starts), len(api.server.pool.handed)) == (started, 0)
        shown = (await api.get("/v1/queues/default")).json["tasks"]
        assert shown == {"pending": 1000 - started, "succeeded": started}
        await api.post("/v1/queues/default/resume", {})
        (task,) = await wait_ended(api, "t999")
        assert (task["state"], task["attempt"], len(starts)) == ("succeeded", 1, 1000)


async def test_what_runs_in_a_queue_goes_on_when_it_is_paused(
    queue: TaskQueue, starts: Starts, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue, settings=Settings(workers=1)) as api:
        await submit(api, "t1", "t2", seconds=10)
        await trio.sleep(1)
        await api.post("/v1/queues/default/pause", {})
        (task,) = await wait_ended(api, "t1")
        assert (task["state"], task["finished_at"]) == ("succeeded", "2026-01-01T00:00:10.000Z")
        await trio.sleep(100)
        assert starts == [("t1", 0)]


async def test_purge_cancels_what_waits_and_leaves_what_runs(
    queue: TaskQueue, starts: Starts, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue, settings=Settings(workers=1)) as api:
        await submit(api, "runs", seconds=10)
        await submit(api, "waits-1", "waits-2")
        await submit(api, "later", delay=60)
        await submit(api, "elsewhere", queue="mail", delay=60)
        counted = await api.post("/v1/queues/default/purge", {"dry_run": True})
        assert counted.json == {"dry_run": True, "matched": 3, "changed": 0, "more": False}
        wrong = await api.post("/v1/queues/default/purge", {"dry": True})
        assert (wrong.status, wrong.json["field"]) == (422, "dry")
        answer = await api.post("/v1/queues/default/purge", {})
        assert (answer.status, answer.json) == (
            200,
            {"dry_run": False, "matched": 3, "changed": 3, "more": False},
        )
        await wait_ended(api, "runs", "elsewhere")
        assert starts.ids == ["runs", "elsewhere"]
        assert (await api.get("/v1/tasks/later")).json["state"] == "cancelled"
        assert (await api.post("/v1/queues/default/purge", {})).json == {
            "dry_run": False,
            "matched": 0,
            "changed": 0,
            "more": False,
        }


# Concurrency


async def test_no_more_than_the_cap_run_and_the_next_starts_the_moment_one_ends(
    queue: TaskQueue, starts: Starts, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.put("/v1/queues/default", {"concurrency": 2})
        await submit(api, "t1", seconds=1.3)
        await submit(api, "t2", "t3", "t4", "t5", seconds=3.3)
        ended = await wait_ended(api, "t1", "t2", "t3", "t4", "t5")
        assert starts.instants == [0, 0, 1.3, 3.3, 4.6]
        assert starts.most_at_once == 2
        assert [(task["state"], task["attempt"]) for task in ended] == [("succeeded", 1)] * 5


async def test_a_full_queue_does_not_hold_another_one_back(
    queue: TaskQueue, starts: Starts, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.put("/v1/queues/slow", {"concurrency": 1})
        await submit(api, *(f"slow-{number}" for number in range(20)), queue="slow", priority=50, seconds=10)
        await submit(api, "t1", "t2")
        await wait_ended(api, "t1", "t2")
        assert sorted(starts) == [("slow-0", 0), ("t1", 0), ("t2", 0)]


async def test_a_cap_per_key_holds_for_each_key_and_not_for_tasks_without_one(
    queue: TaskQueue, starts: Starts, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue, settings=Settings(workers=10)) as api:
        await api.put("/v1/queues/default", {"per_key": {"concurrency": 1}})
        await submit(api, "a1", "a2", key="a", seconds=2.5)
        await submit(api, "b1", "b2", key="b", seconds=1.5)
        await submit(api, "n1", "n2", seconds=1)
        await wait_ended(api, "a1", "a2", "b1", "b2", "n1", "n2")
        assert dict(starts) == {"a1": 0, "b1": 0, "n1": 0, "n2": 0, "b2": 1.5, "a2": 2.5}


# Rates


async def test_a_rate_lets_a_burst_start_at_once_and_the_others_each_at_its_exact_instant(
    queue: TaskQueue, starts: Starts, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.put("/v1/queues/default", {"rate": {"limit": 4, "period": 5, "burst": 2}})
        ids = [f"t{number}" for number in range(7)]
        await submit(api, *ids)
        ended = await wait_ended(api, *ids)
        assert starts.instants == [0, 0, 1.25, 2.5, 3.75, 5, 6.25]
        assert {(task["state"], task["attempt"]) for task in ended} == {("succeeded", 1)}


async def test_what_was_not_used_of_a_rate_is_there_up_to_the_burst(
    queue: TaskQueue, starts: Starts, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.put("/v1/queues/default", {"rate": {"limit": 1, "period": 1.3, "burst": 3}})
        await submit(api, "t1")
        await trio.sleep(100)
        ids = [f"u{number}" for number in range(5)]
        await submit(api, *ids)
        await wait_ended(api, *ids)
        assert starts.instants == [0, 100, 100, 100, 101.3, 102.6]


async def test_a_rate_of_hundreds_a_second_is_kept_in_the_long_run(
    queue: TaskQueue, starts: Starts, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.put("/v1/queues/default", {"rate": {"limit": 400, "period": 1, "burst": 2}})
        ids = [f"t{number}" for number in range(802)]
        await submit(api, *ids)
        await wait_ended(api, *ids[-2:])
        assert starts.instants[:6] == [0, 0, 0.003, 0.005, 0.008, 0.01]
        assert starts.instants[-1] == 2.0


async def test_waiting_for_a_slow_rate_asks_the_store_no_more_than_idling_does(
    queue: TaskQueue, starts: Starts, autojump_clock: trio.testing.MockClock
) -> None:
    store = FaultyStore(MemoryStore())
    async with open_api(queue, store=store) as api:
        await api.put("/v1/queues/default", {"rate": {"limit": 1, "period": 60}})
        await submit(api, "t1", "t2")
        await trio.sleep(1)
        before = count_claims(store)
        await trio.sleep(50)
        assert count_claims(store) - before <= 51
        await wait_ended(api, "t2")
        assert starts.instants == [0, 60]


def count_claims(store: FaultyStore) -> int:
    return sum(isinstance(op, Claim) for batch in store.batches for op in batch)


async def test_a_rate_per_key_holds_for_each_key_by_itself(
    queue: TaskQueue, starts: Starts, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.put("/v1/queues/default", {"per_key": {"rate": {"limit": 1, "period": 2.7}}})
        await submit(api, "a1", "a2", "a3", key="a")
        await trio.sleep(1.1)
        await submit(api, "b1", "b2", key="b")
        await submit(api, "n1", "n2")
        await wait_ended(api, "a3", "b2", "n2")
        when = {id: round(at, 4) for id, at in starts}
        assert when == {"a1": 0, "b1": 1.1, "n1": 1.1, "n2": 1.1, "a2": 2.7, "b2": 3.8, "a3": 5.4}


async def test_a_rate_counts_starts_beside_a_cap(
    queue: TaskQueue, starts: Starts, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.put("/v1/queues/default", {"concurrency": 1, "rate": {"limit": 1, "period": 1.7}})
        await submit(api, "t1", seconds=0.4)
        await submit(api, "t2", seconds=5.3)
        await submit(api, "t3")
        await wait_ended(api, "t1", "t2", "t3")
        assert starts.instants == [0, 1.7, 7.0]


# Rules that are changed while tasks wait


async def test_a_cap_that_is_raised_lets_tasks_start_at_once(
    queue: TaskQueue, starts: Starts, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.put("/v1/queues/default", {"concurrency": 1})
        await submit(api, "t1", "t2", "t3", "t4", seconds=100)
        await trio.sleep(0.3)
        await api.put("/v1/queues/default", {"concurrency": 3})
        await wait_ended(api, "t1", "t2", "t3", "t4")
        assert starts.instants == [0, 0.3, 0.3, 100]


async def test_a_cap_that_is_lowered_interrupts_nothing(
    queue: TaskQueue, starts: Starts, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue, settings=Settings(workers=3)) as api:
        await submit(api, "t1", "t2", "t3", "t4", seconds=10)
        await trio.sleep(1)
        await api.put("/v1/queues/default", {"concurrency": 1})
        ended = await wait_ended(api, "t1", "t2", "t3", "t4")
        assert [task["state"] for task in ended] == ["succeeded"] * 4
        assert starts.instants == [0, 0, 0, 10]


async def test_a_rate_that_is_lifted_lets_tasks_start_at_once(
    queue: TaskQueue, starts: Starts, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.put("/v1/queues/default", {"rate": {"limit": 1, "period": 3600}})
        await submit(api, "t1", "t2", "t3")
        await trio.sleep(7.77)
        await api.put("/v1/queues/default", {})
        await wait_ended(api, "t1", "t2", "t3")
        assert starts.instants == [0, 7.77, 7.77]


# Who is next


async def test_a_burst_of_one_tenant_does_not_starve_another(
    queue: TaskQueue, starts: Starts, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue, settings=Settings(workers=1)) as api:
        await submit(api, *(f"big-{number}" for number in range(1000)), key="big", seconds=1)
        await trio.sleep(2.5)
        await submit(api, "small-1", "small-2", "small-3", key="small", seconds=1)
        await wait_ended(api, "small-3")
        assert starts.ids[:8] == [
            "big-0",
            "big-1",
            "big-2",
            "small-1",
            "big-3",
            "small-2",
            "big-4",
            "small-3",
        ]


async def test_in_an_aging_queue_old_tasks_come_before_younger_ones_of_higher_priority(
    queue: TaskQueue, starts: Starts, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue, settings=Settings(workers=1)) as api:
        for name in ("strict", "aging"):
            await api.put(f"/v1/queues/{name}", {"order": name})
        await submit(api, "busy", seconds=200)
        await submit(api, "strict-old", queue="strict")
        await submit(api, "aging-old", queue="aging")
        await trio.sleep(61)
        await submit(api, "strict-young", queue="strict", priority=1)
        await submit(api, "aging-young", queue="aging", priority=1)
        await submit(api, "aging-urgent", queue="aging", priority=2)
        await wait_ended(api, "strict-old", "aging-old", "aging-young", "aging-urgent")
        assert [id for id in starts.ids if id.startswith("strict")] == ["strict-young", "strict-old"]
        assert [id for id in starts.ids if id.startswith("aging")] == [
            "aging-urgent",
            "aging-old",
            "aging-young",
        ]


async def test_an_order_that_is_changed_holds_for_what_waits_already(
    queue: TaskQueue, starts: Starts, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue, settings=Settings(workers=1)) as api:
        await submit(api, "busy", seconds=200)
        await submit(api, "old")
        await trio.sleep(100)
        await submit(api, "young", priority=1)
        await api.put("/v1/queues/default", {"order": "aging"})
        await wait_ended(api, "old", "young")
        assert starts.ids == ["busy", "old", "young"]


async def test_rules_are_taken_as_json_only(queue: TaskQueue, autojump_clock: trio.testing.MockClock) -> None:
    async with open_api(queue) as api:
        answer = await api.ask("PUT", "/v1/queues/mail", json.dumps({}).encode())
        assert (answer.status, answer.json["code"]) == (415, "unsupported_media_type")


async def test_a_queue_tells_since_when_its_first_pending_task_may_start(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/queues/q/pause", {})
        assert "pending_since" not in (await api.get("/v1/queues/q")).json
        await api.post("/v1/tasks", {"type": "nap", "queue": "q", "id": "later", "delay": 10})
        await trio.sleep(5)
        await api.post("/v1/tasks", {"type": "nap", "queue": "q", "id": "first"})
        first = (await api.get("/v1/tasks/first")).json
        await trio.sleep(60)
        (shown,) = (await api.get("/v1/queues")).json["queues"]
        assert shown["tasks"] == {"pending": 2}
        assert shown["pending_since"] == first["run_at"]
        assert (await api.get("/v1/queues/q")).json == shown
