"""Servers whose clocks are wrong, on a store that judges by its own. Virtual times are exact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from fleet_kit import shared
from msgspec.structs import replace
from trio.testing import MockClock

from tq.clock import FollowingClock
from tq.context import Context
from tq.core.errors import TqError
from tq.core.events import Event, LeaseExpired, LeaseRefused, ServerRejoined
from tq.core.ops import AnyOp, Recover, Reply
from tq.core.requests import ScheduleRequest
from tq.handlers import TaskQueue
from tq.storage.store import WriteLetter
from tq.testing.faults import FaultyStore
from tq.testing.kit import EPOCH_MS, VirtualClock, open_server, submit

WRONG_MS = (-60_000, 0, 60_000, 3_600_000)


class Judge(FaultyStore):
    """A store that goes by the virtual time, as PostgreSQL does by its own clock."""

    @property
    def judged_at(self) -> int | None:
        return VirtualClock().now_ms()

    def apply(
        self, ops: Sequence[AnyOp], now: int, *, news: WriteLetter | None = None
    ) -> list[Reply | TqError]:
        at = VirtualClock().now_ms()
        judged = [
            replace(op, dead_before=op.dead_before + at - now) if isinstance(op, Recover) else op
            for op in ops
        ]
        return super().apply(judged, at, news=news)


class Ran:
    """When its tasks ran: virtual seconds."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.queue = TaskQueue()

        @self.queue.task("it", retry={"base": 3, "jitter": 0}, timeout=600)
        async def it(ctx: Context, fails: int = 0, seconds: float = 0) -> None:
            self.at.append(round(trio.current_time(), 1))
            await trio.sleep(seconds)
            if ctx.attempt <= fails:
                raise ValueError


@pytest.mark.parametrize("wrong_ms", WRONG_MS)
async def test_tasks_run_in_their_time_whatever_the_clock_of_their_server_says(
    wrong_ms: int, autojump_clock: MockClock
) -> None:
    ran = Ran()
    async with open_server(
        ran.queue, store=Judge(shared()), clock=VirtualClock(EPOCH_MS + wrong_ms)
    ) as server:
        await submit(server, type="it")
        await trio.sleep_until(10)
        assert ran.at == [0]
        await submit(server, type="it", delay=5)
        await trio.sleep_until(20)
        assert ran.at == [0, 15]
        await submit(server, type="it", payload={"fails": 1})
        await trio.sleep_until(40)
        assert ran.at == [0, 15, 20, 23]
        kept = server.store.snapshot().tasks
    assert [each.run_at - EPOCH_MS for each in kept] == [0, 15_000, 23_000]
    assert all(each.started_at is not None and each.started_at >= each.created_at for each in kept)


@pytest.mark.parametrize("wrong_ms", WRONG_MS)
async def test_schedules_tick_by_the_clock_that_judges(wrong_ms: int, autojump_clock: MockClock) -> None:
    ran = Ran()
    async with open_server(
        ran.queue, store=Judge(shared()), clock=VirtualClock(EPOCH_MS + wrong_ms)
    ) as server:
        await server.put_schedule("often", ScheduleRequest(type="it", every=10))
        await trio.sleep_until(35)
    assert ran.at == [10, 20, 30]


@pytest.mark.parametrize("wrong_ms", WRONG_MS)
async def test_nobody_is_thought_dead_because_of_a_wrong_clock(
    wrong_ms: int, seen: list[Event], autojump_clock: MockClock
) -> None:
    store, ran = Judge(shared()), Ran()
    given: dict[str, Any] = {"store": store, "emit": seen.append}
    async with (
        open_server(ran.queue, clock=VirtualClock(EPOCH_MS + wrong_ms), **given) as wrong,
        open_server(TaskQueue(), clock=VirtualClock(), seed=1, **given) as right,
    ):
        await submit(wrong, type="it", payload={"seconds": 60})
        await trio.sleep_until(80)
        assert (wrong.fleet.leads, right.fleet.leads) == (True, False)
        assert all(75 <= (row.seen_at - EPOCH_MS) / 1000 <= 80 for row, _ in await right.servers())
    assert ran.at == [0]
    assert not [each for each in seen if isinstance(each, LeaseExpired | LeaseRefused | ServerRejoined)]


async def test_clock_is_moved_no_further_than_it_must(autojump_clock: MockClock) -> None:
    clock = FollowingClock(VirtualClock(0))
    await trio.sleep(10)
    # It was asked at 9 s, and answered now: all between is as good.
    clock.follow(9_000, 9_000)
    clock.follow(10_000, 9_000)
    assert (clock.now_ms(), clock.ahead_ms) == (10_000, 0)
    clock.follow(10_001, 9_000)
    assert (clock.now_ms(), clock.ahead_ms) == (10_001, 1)
    clock.follow(4_000, 9_000)
    assert (clock.now_ms(), clock.ahead_ms) == (5_001, -4_999)
    await trio.sleep(1)
    assert (clock.now_ms(), clock.monotonic()) == (6_001, 11)
