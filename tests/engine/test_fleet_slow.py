"""A server whose batches take long: whether the others think it dead. Virtual times are exact."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import pytest
import trio
from fleet_kit import shared
from trio.testing import MockClock

from tq.core.events import Event, LeaseExpired, LeaseRefused, ServerRejoined
from tq.handlers import TaskQueue
from tq.testing.faults import Freezer
from tq.testing.kit import open_server, run_inline, submit

T = TypeVar("T")


class SlowBatches:
    """Runs what blocks; a batch takes so many seconds before it is committed, and nothing else does."""

    def __init__(self) -> None:
        self.batch_s = 0.0

    async def run_sync(self, function: Callable[[], T], /) -> T:
        is_batch = getattr(getattr(function, "func", None), "__name__", "") == "apply"
        await trio.sleep(self.batch_s if is_batch else 0)
        return function()


def napping(type: str, naps: list[float]) -> TaskQueue:
    """A queue that notes how long each of its naps was."""
    queue = TaskQueue()

    @queue.task(type, timeout=600)
    async def nap(seconds: float) -> None:
        began = trio.current_time()
        try:
            await trio.sleep(seconds)
        finally:
            naps.append(trio.current_time() - began)

    return queue


def signs_of_death(seen: list[Event]) -> list[Event]:
    return [each for each in seen if isinstance(each, LeaseExpired | LeaseRefused | ServerRejoined)]


async def test_who_waits_20_s_for_each_batch_is_alive(seen: list[Event], autojump_clock: MockClock) -> None:
    store, slow = shared(), SlowBatches()
    naps: list[float] = []
    async with (
        open_server(napping("other", []), store=store, emit=seen.append),
        open_server(
            napping("ours", naps), store=store, seed=1, emit=seen.append, run_sync=slow.run_sync
        ) as ours,
    ):
        await submit(ours, type="ours", payload={"seconds": 90})
        await trio.sleep_until(2)
        slow.batch_s = 20
        for at in range(3, 100):
            await trio.sleep_until(at)
            assert ours.pool.is_leased, at
        slow.batch_s = 0
        await trio.sleep_until(130)
    assert naps == [90]
    assert signs_of_death(seen) == []


async def test_who_commits_nothing_for_long_is_taken_for_dead(
    seen: list[Event], autojump_clock: MockClock
) -> None:
    store, slow = shared(), SlowBatches()
    async with (
        open_server(napping("other", []), store=store, emit=seen.append),
        open_server(
            napping("ours", []), store=store, seed=1, emit=seen.append, run_sync=slow.run_sync
        ) as ours,
    ):
        await submit(ours, type="ours", payload={"seconds": 90})
        await trio.sleep_until(4)
        slow.batch_s = 100
        await trio.sleep_until(70)
        assert signs_of_death(seen) == []
        await trio.sleep_until(80)
        assert not ours.pool.is_leased
        assert [each.at for each in signs_of_death(seen)] != []
        slow.batch_s = 0
        await trio.sleep_until(200)


async def test_work_goes_on_while_all_who_ask_wait_for_the_store(
    seen: list[Event], autojump_clock: MockClock
) -> None:
    store, readers = shared(), Freezer()
    naps: list[float] = []
    async with (
        open_server(napping("other", []), store=store, emit=seen.append),
        open_server(
            napping("ours", naps),
            store=store,
            seed=1,
            emit=seen.append,
            run_sync=readers.run_sync,
            run_own=run_inline,
        ) as ours,
    ):
        readers.freeze()
        await submit(ours, type="ours", payload={"seconds": 1}, delay=30)
        await trio.sleep_until(40)
        assert naps == [1]
        readers.thaw()
    assert signs_of_death(seen) == []


@pytest.mark.parametrize("slow_s", [7.0, 14.0])
async def test_heartbeats_go_on_as_before_once_batches_are_quick(
    autojump_clock: MockClock, slow_s: float
) -> None:
    store, slow = shared(), SlowBatches()
    async with open_server(napping("ours", []), store=store, run_sync=slow.run_sync) as ours:
        slow.batch_s = slow_s
        await trio.sleep_until(60)
        slow.batch_s = 0
        await trio.sleep_until(80)
        beaten: set[int] = set()
        for at in range(80, 100):
            await trio.sleep_until(at + 0.5)
            beaten |= {seen_at for server, seen_at in store.snapshot().servers if server == ours.id}
    seen_at = sorted(beaten)
    assert len(seen_at) >= 4
    assert {after - before for before, after in pairwise(seen_at)} == {5_000}
