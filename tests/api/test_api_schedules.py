"""Schedules over HTTP: what they are made of, when they fire, and what becomes of ticks that were missed.

Virtual time begins on Thursday, 2026-01-01, at midnight UTC.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from raw_http import open_api
from tiers import slow

from tq.context import Context
from tq.core.errors import StorageUnavailable
from tq.core.ops import Fire
from tq.core.requests import read_schedule
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore
from tq.testing import FaultyStore, open_server

DAY_S = 24 * 3600
FIVE_MINUTES = {"cron": "*/5 * * * *", "type": "report"}


class Runs(list[tuple[str, float, object]]):
    """The tasks that ran, when and with what."""


@pytest.fixture
def runs() -> Runs:
    return Runs()


@pytest.fixture
def queue(runs: Runs) -> TaskQueue:
    queue = TaskQueue()

    @queue.task("report", timeout=3600, max_attempts=1)
    async def report(ctx: Context, kind: str = "short", seconds: float = 0) -> None:
        runs.append((ctx.task_id, trio.current_time(), kind))
        await trio.sleep(seconds)

    return queue


def ticks(shown: Any) -> list[dict[str, Any]]:
    ticks: list[dict[str, Any]] = shown.json["ticks"]
    return ticks


# Making and looking


async def test_put_makes_a_schedule_and_shows_its_next_five_ticks(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        answer = await api.put(
            "/v1/schedules/nightly",
            {
                "cron": "0 3 * * *",
                "tz": "Europe/Madrid",
                "type": "report",
                "payload": {"kind": "long"},
                "queue": "night",
                "priority": "high",
                "tags": ["books"],
                "key": "acme",
                "max_attempts": 3,
                "result_ttl": 60,
            },
        )
        assert answer.status == 201
        assert answer.json == {
            "name": "nightly",
            "cron": "0 3 * * *",
            "tz": "Europe/Madrid",
            "overlap": "skip",
            "misfire_grace": 3600.0,
            "paused": False,
            "task": {
                "type": "report",
                "payload": {"kind": "long"},
                "queue": "night",
                "priority": 10,
                "timeout": 3600.0,
                "max_attempts": 3,
                "retry": {"kind": "exponential", "base": 1.0, "cap": 3600.0, "jitter": 0.5},
                "result_ttl": 60.0,
                "key": "acme",
                "tags": ["books"],
            },
            "created_at": "2026-01-01T00:00:00.000Z",
            "last_task_id": None,
            "next": [f"2026-01-0{day}T02:00:00.000Z" for day in (1, 2, 3, 4, 5)],
            "ticks": [],
        }
        assert (await api.get("/v1/schedules/nightly")).json == answer.json


async def test_the_same_put_again_answers_200_and_changes_nothing(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.put("/v1/schedules/often", FIVE_MINUTES)
        await trio.sleep(400)
        before = await api.get("/v1/schedules/often")
        again = await api.put("/v1/schedules/often", FIVE_MINUTES)
        assert (again.status, again.json) == (200, before.json)
        assert again.json["created_at"] == "2026-01-01T00:00:00.000Z"
        assert [tick["at"] for tick in ticks(again)] == ["2026-01-01T00:05:00.000Z"]


async def test_an_interval_that_is_put_again_goes_on_from_where_it_was(
    queue: TaskQueue, runs: Runs, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        asked: dict[str, object] = {"every": 100, "type": "report"}
        await api.put("/v1/schedules/often", asked)
        await trio.sleep(130)
        await api.put("/v1/schedules/often", asked)
        await trio.sleep(20)
        await api.put("/v1/schedules/often", {**asked, "payload": {"kind": "other"}})
        await trio.sleep(60)
        assert [(at, kind) for _, at, kind in runs] == [(100, "short"), (200, "other")]
        await api.put("/v1/schedules/often", {**asked, "every": 50})
        await trio.sleep(99)
        assert [at for _, at, _ in runs] == [100, 200, 260]


async def test_the_list_has_schedules_by_name_in_pages_of_100(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        assert (await api.get("/v1/schedules")).json == {"schedules": [], "next": None}
        for number in range(101, -1, -1):
            await api.put(f"/v1/schedules/s{number:03}", {"cron": "@yearly", "type": "report"})
        first = await api.get("/v1/schedules")
        assert [each["name"] for each in first.json["schedules"]] == [f"s{n:03}" for n in range(100)]
        assert first.json["next"] == "s099"
        assert first.headers["link"] == '</v1/schedules?cursor=s099>; rel="next"'
        for bad in ("", "a/b", "x" * 65):
            refused = await api.get(f"/v1/schedules?cursor={bad}")
            assert (refused.status, refused.json["parameter"]) == (400, "cursor")
        second = await api.get("/v1/schedules?cursor=s099")
        assert [each["name"] for each in second.json["schedules"]] == ["s100", "s101"]
        assert second.json["next"] is None
        assert "link" not in second.headers


async def test_a_schedule_that_is_not_there_is_404_to_everything_but_put(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        for name in ("nobody", "a%20b", "x" * 65):
            answers = [
                await api.get(f"/v1/schedules/{name}"),
                await api.delete(f"/v1/schedules/{name}"),
                *[await api.post(f"/v1/schedules/{name}/{verb}", {}) for verb in ("run", "pause", "resume")],
            ]
            assert [(answer.status, answer.json["code"]) for answer in answers] == [(404, "not_found")] * 5
        answer = await api.put("/v1/schedules/a%20b", FIVE_MINUTES)
        assert (answer.status, answer.json["field"]) == (422, "name")


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"type": None}, "invalid_input", "type"),
        ({"type": "nobody"}, "unknown_type", "type"),
        ({"type": "a b"}, "invalid_input", "type"),
        ({"cron": None}, "invalid_input", "cron"),
        ({"cron": ""}, "invalid_input", "cron"),
        ({"cron": "61 * * * *"}, "invalid_input", "cron"),
        ({"cron": "* * * * * *"}, "invalid_input", "cron"),
        ({"cron": "0 0 30 2 *"}, "invalid_input", "cron"),
        ({"cron": "@sometimes"}, "invalid_input", "cron"),
        ({"cron": 5}, "invalid_input", "cron"),
        ({"cron": "x" * 1000}, "invalid_input", "cron"),
        ({"tz": "Europe/Atlantis"}, "invalid_input", "tz"),
        ({"tz": "../etc/passwd"}, "invalid_input", "tz"),
        ({"every": 60}, "invalid_input", "every"),
        ({"cron": None, "every": 0}, "invalid_input", "every"),
        ({"cron": None, "every": -5}, "invalid_input", "every"),
        ({"cron": None, "every": 1e12}, "invalid_input", "every"),
        ({"cron": None, "every": 60, "tz": "UTC"}, "invalid_input", "tz"),
        ({"overlap": "queue"}, "invalid_input", "overlap"),
        ({"misfire_grace": -1}, "invalid_input", "misfire_grace"),
        ({"misfire_grace": 1e9}, "invalid_input", "misfire_grace"),
        ({"queue": "a b"}, "invalid_input", "queue"),
        ({"priority": 101}, "invalid_input", "priority"),
        ({"priority": "urgent"}, "invalid_input", "priority"),
        ({"timeout": 0}, "invalid_input", "timeout"),
        ({"max_attempts": 0}, "invalid_input", "max_attempts"),
        ({"retry": {"jitter": 2}}, "invalid_input", "retry.jitter"),
        ({"result_ttl": -1}, "invalid_input", "result_ttl"),
        ({"key": ""}, "invalid_input", "key"),
        ({"tags": ["a b"]}, "invalid_input", "tags"),
        ({"unique": {"key": ""}}, "invalid_input", "unique.key"),
        ({"unique": {"key": "k", "while": "ever"}}, "invalid_input", "unique.while"),
        ({"payload": {"kind": 5}}, "payload_invalid", "payload"),
        ({"payload": {"zebra": 5}}, "payload_invalid", "payload"),
        ({"delay": 5}, "invalid_input", "delay"),
        ({"run_at": "2026-01-01T00:00:00Z"}, "invalid_input", "run_at"),
        ({"deadline": "2026-01-01T00:00:00Z"}, "invalid_input", "deadline"),
        ({"id": "t1"}, "invalid_input", "id"),
        ({"zebra": 1}, "invalid_input", "zebra"),
    ],
)
async def test_a_bad_definition_is_422_and_names_its_field(
    queue: TaskQueue,
    autojump_clock: trio.testing.MockClock,
    changes: dict[str, object],
    code: str,
    field: str,
) -> None:
    asked = {name: value for name, value in (FIVE_MINUTES | changes).items() if value is not None}
    async with open_api(queue) as api:
        answer = await api.put("/v1/schedules/s", asked)
        assert (answer.status, answer.json["code"], answer.json["field"]) == (422, code, field)
        assert answer.json["detail"].startswith(field.split(".")[0])
        assert (await api.get("/v1/schedules")).json["schedules"] == []


# Firing


async def test_cron_makes_a_task_at_each_tick_with_what_the_schedule_says(
    queue: TaskQueue, runs: Runs, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.put(
            "/v1/schedules/nightly",
            {"cron": "1,4 1 * * *", "tz": "Europe/Madrid", "type": "report", "queue": "night"}
            | {"payload": {"kind": "long"}, "tags": ["books"], "priority": 5},
        )
        await trio.sleep(300)
        assert runs == [
            ("nightly:2026-01-01T00:01:00.000Z", 60, "long"),
            ("nightly:2026-01-01T00:04:00.000Z", 240, "long"),
        ]
        task = (await api.get("/v1/tasks/nightly:2026-01-01T00:04:00.000Z")).json
        assert (task["schedule"], task["queue"], task["tags"]) == ("nightly", "night", ["books"])
        assert (task["state"], task["priority"], task["payload"]) == ("succeeded", 5, {"kind": "long"})
        assert task["created_at"] == task["run_at"] == task["started_at"] == "2026-01-01T00:04:00.000Z"
        shown = await api.get("/v1/schedules/nightly")
        assert shown.json["last_task_id"] == task["id"]
        assert ticks(shown) == [
            {"at": "2026-01-01T00:01:00.000Z", "task_id": "nightly:2026-01-01T00:01:00.000Z"},
            {"at": "2026-01-01T00:04:00.000Z", "task_id": "nightly:2026-01-01T00:04:00.000Z"},
        ]
        assert shown.json["next"][0] == "2026-01-02T00:01:00.000Z"


async def test_every_fires_one_interval_after_it_was_made_and_so_on(
    queue: TaskQueue, runs: Runs, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await trio.sleep(0.25)
        await api.put("/v1/schedules/often", {"every": 1.5, "type": "report"})
        await trio.sleep(6.1)
        assert [at for _, at, _ in runs] == [1.75, 3.25, 4.75, 6.25]


async def test_only_the_last_twenty_ticks_are_shown(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.put("/v1/schedules/often", {"every": 10, "type": "report"})
        await trio.sleep(305)
        at = [tick["at"] for tick in ticks(await api.get("/v1/schedules/often"))]
        assert (len(at), at[0], at[-1]) == (20, "2026-01-01T00:01:50.000Z", "2026-01-01T00:05:00.000Z")


async def test_a_new_schedule_that_is_due_earlier_than_all_others_wakes_the_scheduler(
    queue: TaskQueue, runs: Runs, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.put("/v1/schedules/late", {"cron": "@daily", "type": "report"})
        await trio.sleep(10)
        await api.put("/v1/schedules/soon", {"every": 5, "type": "report"})
        await trio.sleep(5.5)
        assert runs == [("soon:2026-01-01T00:00:15.000Z", 15, "short")]


async def test_tasks_are_found_by_the_schedule_that_made_them(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        for name in ("one", "two"):
            await api.put(f"/v1/schedules/{name}", {"every": 10, "type": "report"})
        await api.post("/v1/tasks", {"type": "report"})
        await trio.sleep(25)
        answer = await api.get("/v1/tasks?schedule=two")
        assert [task["id"] for task in answer.json["tasks"]] == [
            "two:2026-01-01T00:00:20.000Z",
            "two:2026-01-01T00:00:10.000Z",
        ]


async def test_a_tick_makes_no_task_while_the_last_one_has_not_ended(
    queue: TaskQueue, runs: Runs, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.put("/v1/schedules/slow", {"every": 10, "type": "report", "payload": {"seconds": 25}})
        await trio.sleep(45)
        assert [at for _, at, _ in runs] == [10, 40]
        assert ticks(await api.get("/v1/schedules/slow")) == [
            {"at": "2026-01-01T00:00:10.000Z", "task_id": "slow:2026-01-01T00:00:10.000Z"},
            {"at": "2026-01-01T00:00:20.000Z", "skipped": "overlap"},
            {"at": "2026-01-01T00:00:30.000Z", "skipped": "overlap"},
            {"at": "2026-01-01T00:00:40.000Z", "task_id": "slow:2026-01-01T00:00:40.000Z"},
        ]


async def test_ticks_may_overlap_where_that_is_allowed(
    queue: TaskQueue, runs: Runs, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        asked = {"every": 10, "type": "report", "payload": {"seconds": 25}, "overlap": "allow"}
        await api.put("/v1/schedules/slow", asked)
        await trio.sleep(45)
        assert [at for _, at, _ in runs] == [10, 20, 30, 40]


async def test_a_deleted_schedule_fires_no_more_and_its_tasks_stay(
    queue: TaskQueue, runs: Runs, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.put("/v1/schedules/often", {"every": 10, "type": "report"})
        await trio.sleep(15)
        answer = await api.delete("/v1/schedules/often")
        assert (answer.status, answer.body) == (204, b"")
        await trio.sleep(100)
        assert [at for _, at, _ in runs] == [10]
        assert (await api.get("/v1/schedules/often")).status == 404
        assert (await api.get("/v1/tasks/often:2026-01-01T00:00:10.000Z")).status == 200


async def test_a_paused_schedule_fires_nothing_and_makes_up_for_nothing_when_it_is_resumed(
    queue: TaskQueue, runs: Runs, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.put("/v1/schedules/often", {"every": 10, "type": "report"})
        await trio.sleep(15)
        answer = await api.post("/v1/schedules/often/pause", {})
        assert (answer.status, answer.json["paused"], answer.json["next"]) == (200, True, [])
        await trio.sleep(30)
        assert (await api.put("/v1/schedules/often", {"every": 10, "type": "report"})).json["paused"] is True
        assert (await api.post("/v1/schedules/often/pause", {})).status == 200
        answer = await api.post("/v1/schedules/often/resume", {})
        assert (answer.status, answer.json["paused"]) == (200, False)
        assert answer.json["next"][0] == "2026-01-01T00:00:50.000Z"
        await trio.sleep(10)
        assert [at for _, at, _ in runs] == [10, 50]


async def test_a_paused_schedule_that_is_changed_stays_paused(
    queue: TaskQueue, runs: Runs, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.put("/v1/schedules/often", {"every": 10, "type": "report"})
        await api.post("/v1/schedules/often/pause", {})
        answer = await api.put("/v1/schedules/often", {"every": 5, "type": "report"})
        assert (answer.json["paused"], answer.json["next"]) == (True, [])
        await trio.sleep(60)
        assert runs == []


async def test_run_makes_the_task_now_beside_the_ticks(
    queue: TaskQueue, runs: Runs, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        await api.put("/v1/schedules/daily", {"cron": "@daily", "type": "report", "payload": {"kind": "x"}})
        await api.post("/v1/schedules/daily/pause", {})
        await trio.sleep(7)
        answer = await api.post("/v1/schedules/daily/run", {})
        assert answer.status == 201
        assert answer.headers["location"] == f"/v1/tasks/{answer.json['id']}"
        task = (await api.get(f"/v1/tasks/{answer.json['id']}?wait=5")).json
        assert (task["state"], task["schedule"], task["payload"]) == ("succeeded", "daily", {"kind": "x"})
        assert [(at, kind) for _, at, kind in runs] == [(7, "x")]
        assert ticks(await api.get("/v1/schedules/daily")) == []


# Ticks that were missed


async def down_for_a_day(queue: TaskQueue, name: str, asked: dict[str, object]) -> Any:
    """The schedule a little after a start that follows a day in which no server ran."""
    store = MemoryStore()
    async with open_api(queue, store=store) as api:
        assert (await api.put(f"/v1/schedules/{name}", asked)).status == 201
        await trio.sleep(1)
    await trio.sleep_until(DAY_S + 600)
    async with open_api(queue, store=store) as api:
        await trio.sleep(1)
        return await api.get(f"/v1/schedules/{name}")


async def test_after_a_day_without_a_server_the_last_tick_fires_and_the_others_are_counted(
    queue: TaskQueue, runs: Runs, autojump_clock: trio.testing.MockClock
) -> None:
    shown = await down_for_a_day(queue, "hourly", {"cron": "0 * * * *", "type": "report"})
    task_id = "hourly:2026-01-02T00:00:00.000Z"
    assert ticks(shown) == [{"at": "2026-01-02T00:00:00.000Z", "task_id": task_id, "missed_before": 23}]
    assert runs == [(task_id, DAY_S + 600, "short")]
    assert shown.json["next"][0] == "2026-01-02T01:00:00.000Z"


async def test_after_a_day_without_a_server_a_tick_past_its_grace_is_skipped_and_recorded(
    queue: TaskQueue, runs: Runs, autojump_clock: trio.testing.MockClock
) -> None:
    shown = await down_for_a_day(
        queue, "hourly", {"cron": "0 * * * *", "type": "report", "misfire_grace": 599}
    )
    (tick,) = ticks(shown)
    assert (tick["skipped"], tick.get("task_id")) == ("misfire", None)
    assert tick["missed_before"] == 24
    assert runs == []
    assert shown.json["next"][0] == "2026-01-02T01:00:00.000Z"


async def test_a_tick_exactly_as_late_as_its_grace_fires(
    queue: TaskQueue, runs: Runs, autojump_clock: trio.testing.MockClock
) -> None:
    await down_for_a_day(queue, "hourly", {"cron": "0 * * * *", "type": "report", "misfire_grace": 600})
    assert [at for _, at, _ in runs] == [DAY_S + 600]


async def test_a_schedule_paused_before_the_server_was_down_stays_so(
    queue: TaskQueue, runs: Runs, autojump_clock: trio.testing.MockClock
) -> None:
    store = MemoryStore()
    async with open_api(queue, store=store) as api:
        await api.put("/v1/schedules/often", FIVE_MINUTES)
        await api.post("/v1/schedules/often/pause", {})
    await trio.sleep(DAY_S)
    async with open_api(queue, store=store) as api:
        await trio.sleep(400)
        assert ticks(await api.get("/v1/schedules/often")) == []
    assert runs == []


async def test_with_two_servers_on_one_store_each_tick_makes_one_task(
    queue: TaskQueue, runs: Runs, autojump_clock: trio.testing.MockClock
) -> None:
    store = FaultyStore(MemoryStore(exclusive=False))
    async with open_api(queue, store=store) as api, open_server(queue, store=store, seed=1):
        await api.put("/v1/schedules/often", {"every": 10, "type": "report", "overlap": "allow"})
        await trio.sleep(125)
        assert [at for _, at, _ in runs] == list(range(10, 125, 10))
        assert (await api.server.stats()).submitted == 12
    # Only the one that leads tries. Where both believe they do, the store refuses the second.
    assert sum(isinstance(op, Fire) for batch in store.batches for op in batch) == 12


async def test_the_store_away_at_a_tick_delays_it(
    queue: TaskQueue, runs: Runs, autojump_clock: trio.testing.MockClock
) -> None:
    store = FaultyStore(MemoryStore())
    async with open_api(queue, store=store) as api:
        await api.put("/v1/schedules/often", {"every": 100, "type": "report"})
        await trio.sleep(95)
        store.failing = StorageUnavailable
        await trio.sleep(30)
        store.failing = None
        await trio.sleep(10)
        ((task_id, at, _),) = runs
        assert task_id == "often:2026-01-01T00:01:40.000Z"
        assert 125 <= at < 130


# A type that nobody does any more


async def test_a_schedule_whose_type_has_no_handler_any_more_fires_and_its_tasks_wait(
    queue: TaskQueue, runs: Runs, autojump_clock: trio.testing.MockClock
) -> None:
    store = MemoryStore()
    async with open_api(queue, store=store) as api:
        await api.put("/v1/schedules/often", {"every": 10, "type": "report", "overlap": "allow"})
    async with open_api(TaskQueue(), store=store) as api:
        await trio.sleep(25)
        tasks = (await api.get("/v1/tasks?schedule=often")).json["tasks"]
        assert [(task["state"], task["attempt"]) for task in tasks] == [("pending", 0), ("pending", 0)]
        answer = await api.post("/v1/schedules/often/run", {})
        assert (answer.status, answer.json["state"]) == (201, "pending")
    async with open_api(queue, store=store):
        await trio.sleep(1)
        assert len(runs) == 3


@slow
async def test_there_can_be_a_thousand_schedules_and_no_more(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_api(queue) as api:
        request = read_schedule(b'{"cron":"@yearly","type":"report"}')
        for number in range(1000):
            await api.server.put_schedule(f"s{number}", request)
        again = await api.put("/v1/schedules/s5", {"cron": "@yearly", "type": "report"})
        assert again.status == 200
        refused = await api.put("/v1/schedules/one-more", {"cron": "@yearly", "type": "report"})
        assert (refused.status, refused.json["code"]) == (409, "conflict")
