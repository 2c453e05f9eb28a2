"""What a server that works exposes of its work."""

from __future__ import annotations

import platform

import trio
from exposed import exposed, of, open_measured, samples, value
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from trio.testing import MockClock

from tq import __version__
from tq.context import Context, Snooze
from tq.core.errors import StorageUnavailable
from tq.core.ops import PauseQueue
from tq.engine.ring import Wanted
from tq.engine.server import Settings
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore
from tq.testing.faults import FaultyStore
from tq.testing.kit import finished, submit


def handlers() -> TaskQueue:
    queue = TaskQueue()

    @queue.task("email", queue="mail", max_attempts=2, retry={"base": 1, "jitter": 0})
    async def email(ctx: Context, fail: bool = False, take: float = 0) -> None:
        await trio.sleep(take)
        if fail:
            raise ValueError("as the test wants it")

    @queue.task("nap", timeout=1, max_attempts=1)
    async def nap(ctx: Context) -> None:
        if ctx.attempt == 1 and ctx.task.generation == 1:
            raise Snooze(5)
        await trio.sleep(60)

    return queue


async def test_tasks_are_counted_from_submit_to_end(autojump_clock: MockClock) -> None:
    async with open_measured(handlers()) as server:
        await finished(server, await submit(server, type="email", payload={"take": 3}))
        await finished(server, await submit(server, type="email", payload={"fail": True}))
        await finished(server, await submit(server, type="nap"))
        found = await exposed(server)
    lane = {"queue": "mail", "type": "email"}
    assert value(found, "tq_tasks_submitted_total", **lane) == 2
    assert of(found, "tq_tasks_finished_total") == {
        ("mail", "ok", "succeeded", "email"): 1,
        ("mail", "error", "failed", "email"): 1,
        ("default", "timeout", "failed", "nap"): 1,
    }
    assert of(found, "tq_retries_total") == {("mail", "error", "email"): 1}
    assert of(found, "tq_attempts_put_back_total") == {("default", "scheduled", "nap"): 1}
    assert value(found, "tq_task_run_seconds_count", type="email") == 3
    assert value(found, "tq_task_run_seconds_sum", type="email") == 3
    assert value(found, "tq_task_run_seconds_bucket", type="email", le="2.5") == 2
    assert value(found, "tq_task_run_seconds_bucket", type="email", le="5.0") == 3
    assert value(found, "tq_task_run_seconds_bucket", type="email", le="+Inf") == 3
    assert of(found, "tq_store_tasks_finished_total") == {
        ("succeeded",): 1,
        ("failed",): 2,
        ("cancelled",): 0,
    }
    assert value(found, "tq_store_tasks_submitted_total") == 3
    assert value(found, "tq_build_info", version=__version__, python=platform.python_version()) == 1


async def test_what_waits_is_told_by_queue_and_state_with_the_age_of_the_oldest(
    autojump_clock: MockClock,
) -> None:
    async with open_measured(handlers(), settings=Settings(workers=1)) as server:
        await server.change(PauseQueue("mail", paused=True))
        await submit(server, type="email")
        await trio.sleep(7)
        await submit(server, type="email")
        await submit(server, type="email", delay=100)
        await trio.sleep(3)
        found = await exposed(server)
        assert of(found, "tq_tasks")["mail", "pending"] == 2
        assert of(found, "tq_tasks")["mail", "scheduled"] == 1
        assert of(found, "tq_tasks")["default", "pending"] == 0
        assert of(found, "tq_oldest_pending_seconds") == {("mail",): 10.0, ("default",): 0.0}
        assert of(found, "tq_queue_paused") == {("mail",): 1.0, ("default",): 0.0}


async def test_workers_are_told_by_what_they_do(autojump_clock: MockClock) -> None:
    queue = TaskQueue()

    @queue.task("stubborn", timeout=1, max_attempts=1)
    async def stubborn(ctx: Context) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(15)

    @queue.task("slow", timeout=100)
    async def slow(ctx: Context) -> None:
        await trio.sleep(30)

    async with open_measured(queue, settings=Settings(workers=4)) as server:
        await submit(server, type="stubborn")
        await submit(server, type="slow")
        await submit(server, type="slow")
        await trio.sleep(10)
        found = await exposed(server)
        assert of(found, "tq_workers") == {("busy",): 2, ("idle",): 1, ("overran",): 1}
        assert value(found, "tq_workers_max") == 4
        assert of(found, "tq_attempts_overran_total") == {("default", "stubborn"): 1, ("default", "slow"): 0}
        await trio.sleep(10)


async def test_transactions_the_loop_and_watchers_are_measured(autojump_clock: MockClock) -> None:
    async with open_measured(handlers()) as server:
        before = await exposed(server)
        with server.watchers.subscribe(Wanted()):
            await submit(server, type="email", delay=50)
            await trio.sleep(9.5)
            found = await exposed(server)
        assert value(found, "tq_watchers") == 1
        assert (value(found, "tq_ready"), value(found, "tq_storage_up")) == (1, 1)
        lag = of(found, "tq_loop_lag_seconds_count"), of(found, "tq_loop_lag_seconds_sum")
        assert lag == ({(): 9}, {(): 0}), "once a second; a virtual clock is never late"
        batches = value(found, "tq_ledger_batch_ops_count")
        assert batches == value(found, "tq_ledger_commit_seconds_count")
        assert batches is not None
        assert batches > (value(before, "tq_ledger_batch_ops_count") or 0)


async def test_metrics_are_told_while_the_store_is_away(autojump_clock: MockClock) -> None:
    store = FaultyStore(MemoryStore())
    async with open_measured(handlers(), store=store) as server:
        await finished(server, await submit(server, type="email"))
        store.failing = StorageUnavailable
        await trio.sleep(5)
        found = await exposed(server)
        assert (value(found, "tq_storage_up"), value(found, "tq_ready")) == (0, 0)
        assert value(found, "tq_storage_outages_total") == 1
        assert of(found, "tq_tasks") == {}
        assert value(found, "tq_tasks_submitted_total", queue="mail", type="email") == 1
        store.failing = None
        await trio.sleep(10)
        found = await exposed(server)
        assert (value(found, "tq_storage_up"), value(found, "tq_ready")) == (1, 1)


async def test_names_that_clients_give_are_bounded(autojump_clock: MockClock) -> None:
    async with open_measured(handlers()) as server:
        for number in range(500):
            await submit(server, type="email", queue=f"q{number}", delay=500 if number % 2 else 0)
        await trio.sleep(5)
        found = await exposed(server)
        assert len(of(found, "tq_oldest_pending_seconds")) == 203, "mail, default, 200 others, and other"
        assert sum(of(found, "tq_tasks").values()) == 500
        assert of(found, "tq_tasks")["other", "scheduled"] == 150
        assert len(found) < 10_000


async def test_openmetrics_has_the_same_values_and_an_end(autojump_clock: MockClock) -> None:
    async with open_measured(handlers()) as server:
        await finished(server, await submit(server, type="email"))
        assert server.write_metrics is not None
        plain = samples((await server.write_metrics(openmetrics=False)).decode())
        text = (await server.write_metrics(openmetrics=True)).decode()
    assert text.endswith("# EOF\n")
    families = list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]
    found = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }
    ours = {key for key in found if key[0].startswith("tq_")}
    assert ours == {key for key in plain if key[0].startswith("tq_")}
    assert all(found[key] == plain[key] for key in ours)


async def test_two_servers_in_one_process_count_apart(autojump_clock: MockClock) -> None:
    async with open_measured(handlers()) as one, open_measured(handlers(), seed=1) as other:
        await finished(one, await submit(one, type="email"))
        lane = {"queue": "mail", "type": "email"}
        assert value(await exposed(one), "tq_tasks_submitted_total", **lane) == 1
        assert value(await exposed(other), "tq_tasks_submitted_total", **lane) == 0
