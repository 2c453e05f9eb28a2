"""Schedules that come with the handlers: what `@app.schedule` takes, and what a server makes of them."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from tq.context import Context
from tq.core.events import Event, ScheduleChanged, ScheduleFired
from tq.core.ops import Fired, Schedule, Submitted
from tq.core.queries import DueSchedules, GetSchedule, GetSchedules
from tq.core.requests import read_schedule, read_spec, submit_of
from tq.core.schedule import Cron, Every
from tq.core.task import State, TaskId
from tq.engine.schedules import fire, pause, put
from tq.engine.server import Server
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore
from tq.testing import open_server


async def report(kind: str = "short") -> None:
    """A handler of nothing."""


def with_schedule(**said: Any) -> TaskQueue:
    queue = TaskQueue()
    queue.schedule(**said)(queue.task("report")(report))
    return queue


async def find(server: Server, name: str) -> Schedule:
    found = await server.read(GetSchedule(name))
    assert found is not None
    return found


# In the program


def test_a_scheduled_function_stays_an_ordinary_function() -> None:
    queue = TaskQueue()
    assert queue.schedule("@daily")(queue.task("report")(report)).function is report


def test_the_schedules_of_a_program_are_listed_by_name() -> None:
    queue = TaskQueue()

    @queue.schedule("0 3 * * *", tz="Europe/Madrid", name="nightly", payload={"kind": "long"})
    @queue.schedule(every=60)
    @queue.task("report")
    async def scheduled(kind: str = "short") -> None: ...

    assert [(each.name, each.request.cron, each.request.every) for each in queue.schedules] == [
        ("nightly", "0 3 * * *", None),
        ("report", None, 60),
    ]
    nightly = queue.schedules[0].request
    assert (nightly.type, nightly.tz, bytes(nightly.payload)) == (
        "report",
        "Europe/Madrid",
        b'{"kind":"long"}',
    )


def test_a_function_that_does_several_types_says_which() -> None:
    queue = TaskQueue()
    handler = queue.task("one")(queue.task("two")(report))
    queue.schedule("@daily", type="two")(handler)
    assert [(each.name, each.request.type) for each in queue.schedules] == [("two", "two")]
    with pytest.raises(ValueError, match=r"^schedule of report: it does one, two: say which by type$"):
        queue.schedule("@hourly")(handler)


def test_a_handler_of_every_type_says_which() -> None:
    queue = TaskQueue()
    queue.schedule("@daily", type="anything")(queue.task("*")(report))
    assert [each.request.type for each in queue.schedules] == ["anything"]


def test_a_function_that_is_no_handler_cannot_be_scheduled() -> None:
    queue = TaskQueue()
    with pytest.raises(ValueError, match=r"^schedule of report: put it above @task$"):
        queue.schedule("@daily")(report)


def test_a_type_of_another_handler_is_refused() -> None:
    queue = TaskQueue()

    @queue.task("other")
    async def other() -> None: ...

    with pytest.raises(ValueError, match=r"^schedule 'other': type 'other' has another handler$"):
        queue.schedule("@daily", type="other")(report)


def test_two_schedules_of_one_name_are_refused() -> None:
    queue = with_schedule(cron="@daily")
    with pytest.raises(ValueError, match=r"^schedule 'report' is there already: give this one another name$"):
        queue.schedule("@hourly")(report)


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ({}, "cron: give cron"),
        ({"cron": "61 * * * *"}, "cron: '61 * * * *' is not allowed"),
        ({"cron": "0 0 30 2 *"}, "cron: '0 0 30 2 *' never fires"),
        ({"cron": "@daily", "every": 5}, "every: cron is given too"),
        ({"cron": "@daily", "tz": "Mars"}, "tz: 'Mars' is not allowed"),
        ({"every": 0}, "every: 0"),
        ({"cron": "@daily", "name": "a b"}, "name: 'a b' is not allowed"),
        ({"cron": "@daily", "type": "nobody"}, "type: no handler here does 'nobody'"),
        ({"cron": "@daily", "payload": {"kind": 5}}, "payload of report: "),
        ({"cron": "@daily", "payload": object()}, "Encoding objects of type object is unsupported"),
        ({"cron": "@daily", "overlap": "queue"}, "overlap: "),
        ({"cron": "@daily", "misfire_grace": -1}, "misfire_grace: -1"),
        ({"cron": "@daily", "priority": 101}, "priority: 101 is not allowed"),
        ({"cron": "@daily", "queue": "a b"}, "queue: 'a b' is not allowed"),
        ({"cron": "@daily", "delay": 5}, "delay: there is no such field here"),
    ],
)
def test_a_fault_is_told_when_the_program_is_imported(said: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=r"^schedule '") as raised:
        with_schedule(**said)
    assert fault in str(raised.value)


def test_a_queue_whose_processes_run_here_has_the_same_schedules() -> None:
    assert len(with_schedule(cron="@daily").without_processes().schedules) == 1


# What becomes of a tick


def test_a_tick_that_came_while_its_definition_was_on_its_way_into_the_store_fires() -> None:
    store = MemoryStore()
    request = read_schedule(b'{"every":1,"type":"report"}')
    queue = with_schedule(cron="@daily")
    task = queue.new_task(submit_of(request), new_id=TaskId("often"), now=5_000)
    op = put("often", request, task, known=None, now=5_000)
    assert op.next_at == 6_000
    store.apply([op], 6_002)
    (schedule,) = store.read(DueSchedules(6_003))
    fired = fire(schedule, now=6_003)
    assert (fired.tick_at, fired.skipped, fired.next_at) == (6_000, 0, 7_000)
    (reply,) = store.apply([fired], 6_003)
    assert reply == Fired(Submitted(TaskId("often:1970-01-01T00:00:06.000Z"), State.PENDING))


# In a server


async def test_a_server_makes_the_schedules_when_it_starts_and_they_fire(
    autojump_clock: trio.testing.MockClock, seen: list[Event]
) -> None:
    queue = TaskQueue()
    runs: list[tuple[str, float, str]] = []

    @queue.schedule("1 * * * *", payload={"kind": "long"}, queue="night", tags=["books"])
    @queue.schedule(every=25, name="often")
    @queue.task("report")
    async def scheduled(ctx: Context, kind: str = "short") -> None:
        runs.append((ctx.task.queue, trio.current_time(), kind))

    async with open_server(queue, emit=seen.append) as server:
        await trio.sleep(70)
        assert runs == [("default", 25, "short"), ("default", 50, "short"), ("night", 60, "long")]
        made = await server.read(GetSchedules())
        assert [(each.name, each.version) for each in made] == [("often", 1), ("report", 1)]
        assert read_spec(made[1].spec).timing == Cron("1 * * * *", "UTC")
    assert [type(event) for event in seen if isinstance(event, ScheduleChanged | ScheduleFired)] == [
        ScheduleChanged,
        ScheduleChanged,
        ScheduleFired,
        ScheduleFired,
        ScheduleFired,
    ]


async def test_a_server_that_starts_again_leaves_the_same_schedules_as_they_are(
    autojump_clock: trio.testing.MockClock, seen: list[Event]
) -> None:
    store = MemoryStore()
    async with open_server(with_schedule(every=100), store=store) as server:
        await trio.sleep(150)
        before = await find(server, "report")
    await trio.sleep(1)
    async with open_server(with_schedule(every=100), store=store, emit=seen.append) as server:
        assert await find(server, "report") == before
        assert not any(isinstance(event, ScheduleChanged) for event in seen)
        assert (before.next_at or 0) - before.created_at == 200_000


async def test_a_changed_definition_counts_from_the_start_that_brings_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore()
    async with open_server(with_schedule(every=100), store=store) as server:
        created_at = (await find(server, "report")).created_at
    await trio.sleep_until(1000)
    async with open_server(with_schedule(every=70), store=store) as server:
        changed = await find(server, "report")
        assert (changed.version, changed.created_at) == (2, created_at)
        assert read_spec(changed.spec).timing == Every(70_000, created_at + 1_000_000)
        assert (changed.next_at, changed.ticks) == (created_at + 1_070_000, ())


async def test_a_schedule_that_was_paused_stays_paused_over_a_restart(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore()
    async with open_server(with_schedule(every=10), store=store) as server:
        known = await find(server, "report")
        await server.change(pause(known, paused=True, now=server.clock.now_ms()))
    for every in (10, 20):
        async with open_server(with_schedule(every=every), store=store) as server:
            await trio.sleep(60)
            assert (await find(server, "report")).paused
            assert (await server.stats()).submitted == 0


async def test_what_was_missed_while_no_server_ran_is_made_up_for_at_the_start(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore()
    async with open_server(with_schedule(cron="*/10 * * * *"), store=store):
        pass
    await trio.sleep_until(24 * 3600 + 60)
    async with open_server(with_schedule(cron="*/10 * * * *"), store=store) as server:
        await trio.sleep(1)
        (tick,) = (await find(server, "report")).ticks
        assert tick.task_id == "report:2026-01-02T00:00:00.000Z"
        assert tick.skipped == 143


async def test_a_schedule_that_is_taken_out_of_the_program_goes_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore()
    async with open_server(with_schedule(every=10), store=store):
        pass
    async with open_server(TaskQueue(), store=store) as server:
        await trio.sleep(15)
        assert (await find(server, "report")).last_task_id == "report:2026-01-01T00:00:10.000Z"
