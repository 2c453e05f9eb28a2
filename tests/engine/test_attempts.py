"""What comes of an attempt, for everything a handler can do."""

from __future__ import annotations

import threading
from random import Random

import pytest
import trio
import trio.testing

from tq.clock import SystemClock, run_in_thread
from tq.context import Cancel, Context, Retry, Snooze
from tq.core.events import AttemptFinished, AttemptOverran, Event
from tq.core.task import Reason, State, Task
from tq.engine.server import Server, Settings
from tq.engine.services import run_server
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore
from tq.testing import EPOCH_MS, finished, open_server, refuse_exit, submit


async def run_one(queue: TaskQueue, type: str = "it", **fields: object) -> Task:
    async with open_server(queue) as server:
        return await finished(server, await submit(server, type=type, max_attempts=1, **fields))


async def test_result_of_handler_is_kept_as_json(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("it")
    async def it(a: int, b: int = 2) -> dict[str, int]:
        return {"sum": a + b}

    task = await run_one(queue, payload={"a": 1})
    assert (task.state, task.reason, task.result) == (State.SUCCEEDED, Reason.OK, '{"sum":3}')
    assert (task.attempt, task.generation, task.errors) == (1, 1, ())


async def test_task_times_out_after_exactly_five_seconds(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("it")
    async def it() -> None:
        await trio.sleep_forever()

    task = await run_one(queue)
    assert (task.state, task.reason) == (State.FAILED, Reason.TIMEOUT)
    assert task.started_at == EPOCH_MS
    assert task.finished_at == EPOCH_MS + 5_000
    (error,) = task.errors
    assert (error.type, error.message, error.duration_ms) == ("TimedOut", "timed out after 5 s", 5_000)


async def test_time_limit_of_task_goes_before_that_of_type_and_server(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("typed", timeout=7)
    async def typed() -> None:
        await trio.sleep_forever()

    @queue.task("plain")
    async def plain() -> None:
        await trio.sleep_forever()

    async with open_server(queue, settings=Settings(timeout_s=3.0)) as server:
        ids = [
            await submit(server, type="typed", max_attempts=1),
            await submit(server, type="plain", max_attempts=1),
            await submit(server, type="typed", max_attempts=1, timeout=1.5),
        ]
        ended = [await finished(server, task_id) for task_id in ids]
    assert [task.finished_at for task in ended] == [EPOCH_MS + 7_000, EPOCH_MS + 3_000, EPOCH_MS + 1_500]


async def test_handler_that_ends_just_in_time_succeeds(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("it")
    async def it() -> str:
        await trio.sleep(4.999)
        return "in time"

    assert (await run_one(queue)).result == '"in time"'


async def test_exception_is_recorded_with_the_handlers_own_traceback(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("it")
    async def it() -> None:
        raise ValueError("no such address")

    task = await run_one(queue)
    assert (task.state, task.reason) == (State.FAILED, Reason.ERROR)
    (error,) = task.errors
    assert (error.type, error.message, error.attempt, error.reason) == (
        "ValueError",
        "no such address",
        1,
        Reason.ERROR,
    )
    assert error.traceback is not None
    assert "in it\n    raise ValueError" in error.traceback
    assert "engine/worker.py" not in error.traceback


async def test_failure_is_retried_until_attempts_are_used_up(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    attempts: list[int] = []

    @queue.task("it")
    async def it(ctx: Context) -> None:
        attempts.append(ctx.attempt)
        raise ValueError("again")

    async with open_server(queue) as server:
        task_id = await submit(
            server, type="it", max_attempts=3, retry={"kind": "fixed", "base": 10, "jitter": 0}
        )
        task = await finished(server, task_id)
    assert attempts == [1, 2, 3]
    assert [error.at - EPOCH_MS for error in task.errors] == [0, 10_000, 20_000]
    assert (task.state, task.attempt, task.generation) == (State.FAILED, 3, 3)


async def test_handler_says_when_its_next_attempt_is_made(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("it")
    async def it(ctx: Context) -> str:
        if ctx.attempt < 3:
            raise Retry("the rate limit", after=90)
        return "done"

    async with open_server(queue) as server:
        task = await finished(server, await submit(server, type="it"))
    assert (task.state, task.attempt, task.finished_at) == (State.SUCCEEDED, 3, EPOCH_MS + 180_000)
    assert [(error.type, error.message) for error in task.errors] == [("Retry", "the rate limit")] * 2


async def test_handler_that_asks_for_a_retry_too_often_has_failed(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("it")
    async def it() -> None:
        raise Retry(after=1)

    assert (await run_one(queue)).state is State.FAILED


async def test_snoozed_task_comes_back_with_no_attempt_burnt(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    snoozes = 0

    @queue.task("it")
    async def it(ctx: Context) -> int:
        nonlocal snoozes
        if snoozes < 5:
            snoozes += 1
            raise Snooze(60)
        return ctx.attempt

    task = await run_one(queue)
    assert (task.state, task.result, task.errors) == (State.SUCCEEDED, "1", ())
    assert (task.generation, task.finished_at) == (6, EPOCH_MS + 300_000)


async def test_handler_can_cancel_its_own_task(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("it")
    async def it() -> None:
        async with trio.open_nursery():
            raise Cancel("the order was withdrawn")

    task = await run_one(queue)
    assert (task.state, task.reason) == (State.CANCELLED, Reason.USER)
    assert [(error.reason, error.message) for error in task.errors] == [
        (Reason.USER, "the order was withdrawn")
    ]


def test_delays_that_a_handler_asks_for_are_bounded() -> None:
    for seconds in (-1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="a delay is from 0 to"):
            Snooze(seconds)
        with pytest.raises(ValueError, match="a delay is from 0 to"):
            Retry(after=seconds)


async def test_result_that_is_not_json_fails_at_once_without_retry(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("it")
    async def it() -> object:
        return object()

    async with open_server(queue) as server:
        task = await finished(server, await submit(server, type="it", max_attempts=5))
    assert (task.state, task.reason, task.attempt) == (State.FAILED, Reason.ERROR, 1)
    assert task.errors[0].type == "ResultNotJson"


@pytest.mark.parametrize(
    ("size", "state"), [(1024 * 1024 - 2, State.SUCCEEDED), (1024 * 1024 - 1, State.FAILED)]
)
async def test_result_may_have_one_mebibyte(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, size: int, state: State
) -> None:
    @queue.task("it")
    async def it() -> str:
        return "x" * size

    task = await run_one(queue)
    assert task.state is state
    if state is State.FAILED:
        assert task.errors[0].type == "ResultTooLarge"


async def test_handler_that_swallows_its_cancellation_and_returns_has_timed_out(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("it")
    async def it() -> str:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            return "as if nothing had been"  # the very misbehaviour that is tested
        return "never"

    task = await run_one(queue)
    assert (task.state, task.reason, task.result) == (State.FAILED, Reason.TIMEOUT, None)


async def test_children_in_the_handlers_nursery_are_cancelled_with_it(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    ended: list[str] = []

    async def child(name: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(name)

    @queue.task("it")
    async def it() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child, "one")
            nursery.start_soon(child, "two")

    task = await run_one(queue)
    assert task.reason is Reason.TIMEOUT
    assert sorted(ended) == ["one", "two"]


async def test_group_of_one_exception_is_recorded_as_that_exception(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    async def child() -> None:
        raise KeyError("k")

    @queue.task("it")
    async def it() -> None:
        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            inner.start_soon(child)
            outer.start_soon(trio.sleep_forever)

    (error,) = (await run_one(queue)).errors
    assert (error.type, error.message) == ("KeyError", "'k'")


async def test_group_of_several_exceptions_is_recorded_whole(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("it")
    async def it() -> None:
        raise ExceptionGroup("both", [ValueError("one"), TypeError("two")])

    (error,) = (await run_one(queue)).errors
    assert (error.type, error.message) == ("ExceptionGroup", "both (2 sub-exceptions)")
    assert error.traceback is not None
    assert "ValueError: one" in error.traceback
    assert "TypeError: two" in error.traceback


class Uncommon(BaseException):
    pass


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt, GeneratorExit, Uncommon])
async def test_no_exception_of_a_handler_ends_more_than_its_attempt(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, raised: type[BaseException]
) -> None:
    @queue.task("it")
    async def it() -> None:
        raise raised("3")

    @queue.task("plain")
    def plain() -> None:
        raise raised("3")

    for type in ("it", "plain"):
        (error,) = (await run_one(queue, type)).errors
        assert (error.type, error.message) == (raised.__name__, "3")


async def test_handler_that_blocks_the_loop_past_its_time_has_timed_out(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    @queue.task("it")
    async def it() -> str:
        # What blocking looks like: time passes with no checkpoint.
        autojump_clock.jump(6)
        return "as if nothing had been"

    task = await run_one(queue)
    assert (task.state, task.reason, task.result) == (State.FAILED, Reason.TIMEOUT, None)


async def test_exception_without_a_readable_message_is_recorded_all_the_same(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    class Unreadable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    @queue.task("it")
    async def it() -> None:
        raise Unreadable

    @queue.task("odd")
    async def odd() -> None:
        raise ValueError("nul \0 and half a pair \ud800")

    assert (await run_one(queue)).errors[0].message == "(its message cannot be shown: RuntimeError)"
    assert (await run_one(queue, "odd")).errors[0].message == "nul \\0 and half a pair \\ud800"


async def test_cleanup_block_outlives_the_cancellation_for_two_seconds(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock
) -> None:
    cleaned: list[float] = []

    @queue.task("it")
    async def it() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with Context.cleanup():
                await trio.sleep(1.5)
                cleaned.append(trio.current_time())
                await trio.sleep(10)

    start = trio.current_time()
    task = await run_one(queue)
    assert task.finished_at == EPOCH_MS + 7_000
    assert cleaned == [start + 6.5]


async def test_payload_that_no_longer_fits_fails_without_retry(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore()
    older, newer = TaskQueue(), TaskQueue()

    @older.task("it")
    async def it(a: int) -> None: ...

    @newer.task("it", max_attempts=5)
    async def renamed(b: int) -> None: ...

    async with open_server(older, store=store, settings=Settings(workers=1)) as server:
        task_id = await submit(server, type="it", payload={"a": 1}, delay=60)
    async with open_server(newer, store=store) as server:
        task = await finished(server, task_id)
    assert (task.state, task.attempt, task.errors[0].type) == (State.FAILED, 1, "PayloadInvalid")


async def test_handler_that_never_stops_is_concluded_and_keeps_its_worker(
    queue: TaskQueue, autojump_clock: trio.testing.MockClock, seen: list[Event]
) -> None:
    release = trio.Event()

    @queue.task("stubborn")
    async def stubborn() -> str:
        with trio.CancelScope(shield=True):
            await release.wait()
        return "too late"

    @queue.task("quick")
    async def quick() -> None: ...

    async with open_server(queue, settings=Settings(workers=1), emit=seen.append) as server:
        task = await finished(server, await submit(server, type="stubborn", max_attempts=1))
        assert (task.state, task.reason) == (State.FAILED, Reason.TIMEOUT)
        assert task.finished_at is not None
        assert 7_000 <= task.finished_at - EPOCH_MS <= 7_250
        assert [event for event in seen if isinstance(event, AttemptOverran)] == [
            AttemptOverran(at=task.finished_at, task_id=task.id, type="stubborn", queue="default", worker=1)
        ]
        waits = await submit(server, type="quick")
        await trio.sleep(60)
        quick_task = await server.find(waits)
        assert quick_task is not None
        assert quick_task.state is State.PENDING
        release.set()
        assert (await finished(server, waits)).state is State.SUCCEEDED
        assert (await server.find(task.id)) == task
    ends = [event for event in seen if isinstance(event, AttemptFinished)]
    assert [(event.type, event.state) for event in ends] == [
        ("stubborn", State.FAILED),
        ("quick", State.SUCCEEDED),
    ]


async def test_plain_function_runs_in_a_thread_and_overruns_are_dropped(queue: TaskQueue) -> None:
    """On the real clock: threads do not know virtual time. Nothing sleeps; the thread waits to be let go."""
    let_go = threading.Event()
    threads: list[int] = []

    @queue.task("it")
    def it(a: int) -> int:
        threads.append(threading.get_ident())
        return a + 1

    @queue.task("endless", timeout=0.05)
    def endless() -> str:
        let_go.wait()
        return "too late"

    server = Server(
        queue,
        MemoryStore(),
        settings=Settings(),
        clock=SystemClock(),
        random=Random(1),
        run_sync=run_in_thread,
        run_handler=run_in_thread,
        emit=lambda event: None,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(run_it, server)
        done = await finished(server, await submit(server, type="it", payload={"a": 1}))
        assert done.result == "2"
        late = await finished(server, await submit(server, type="endless", max_attempts=1))
        assert (late.state, late.reason) == (State.FAILED, Reason.TIMEOUT)
        let_go.set()
        server.draining.set()
    assert threads != [threading.get_ident()]
    assert (await run_in_thread(lambda: server.store.snapshot())).tasks[1] == late


async def run_it(server: Server, task_status: trio.TaskStatus[Server]) -> None:
    await run_server(server, exit_now=refuse_exit, task_status=task_status)
