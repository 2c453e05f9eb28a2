"""How soon what one server takes begins at another that it rings for, and what that costs. Virtual times."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
from fleet_kit import Deaf, open_fleet, shared
from trio.testing import MockClock

from tq.core.ops import Claim
from tq.core.task import ServerId
from tq.engine.dispatcher import LOOK_EVERY_S, LOOK_FOR_S
from tq.engine.ears import RING_GAP_S
from tq.engine.server import Server
from tq.handlers import TaskQueue
from tq.storage.store import Store, Wake
from tq.testing.faults import FaultyStore
from tq.testing.kit import open_server, submit

STEP_S = 0.0187
"""Between two submits: no multiple of anything."""


class Overheard(FaultyStore):
    """Notes when its server rings."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.rung: list[float] = []

    def open_wake(self, server: ServerId) -> Wake | None:
        wake = super().open_wake(server)
        assert wake is not None
        ring = wake.ring

        def note() -> None:
            self.rung.append(trio.current_time())
            ring()

        wake.ring = note  # type: ignore[method-assign]
        return wake


@dataclass
class Pair:
    """``front`` takes what only ``works`` does; ``began`` is when each began."""

    front: Server
    works: Server
    rings: list[float]
    works_store: FaultyStore
    began: list[float]

    def claims(self) -> int:
        """How often there was a claim since the last time."""
        count = sum(isinstance(op, Claim) for batch in self.works_store.batches for op in batch)
        self.works_store.batches.clear()
        return count


@asynccontextmanager
async def pair(*, deaf: bool = False, workers: int = 5) -> AsyncIterator[Pair]:
    """Two servers that have known each other for a while. What they do takes no time."""
    base = shared()
    queue = TaskQueue()
    began: list[float] = []

    @queue.task("stamp")
    async def stamp(seconds: float = 0) -> None:
        began.append(trio.current_time())
        await trio.sleep(seconds)

    overheard, works_store = Overheard(base), (Deaf if deaf else FaultyStore)(base)
    async with (
        open_server(TaskQueue(), store=overheard, seed=1) as front,
        open_server(queue, store=works_store, seed=2) as works,
    ):
        works.resize_workers(minimum=workers, maximum=workers)
        await trio.sleep(3.3)
        overheard.rung.clear()
        works_store.batches.clear()
        yield Pair(front, works, overheard.rung, works_store, began)


async def submit_steadily(server: Server, count: int, step_s: float) -> list[float]:
    """Submit tasks *step_s* apart; when each was."""
    times = []
    for _ in range(count):
        times.append(trio.current_time())
        await submit(server, type="stamp")
        await trio.sleep(step_s)
    return times


async def test_a_server_rings_at_most_20_times_a_second_however_much_it_submits(
    autojump_clock: MockClock,
) -> None:
    async with pair() as servers:
        await submit_steadily(servers.front, 1_000, 0.003)
    gaps = [late - early for early, late in zip(servers.rings, servers.rings[1:], strict=False)]
    assert min(gaps) >= RING_GAP_S - 1e-9
    assert 50 <= len(servers.rings) <= 61  # in 3 s


async def test_what_is_submitted_between_two_rings_begins_at_another_server_within_3_ms(
    autojump_clock: MockClock,
) -> None:
    async with pair() as servers:
        submitted = await submit_steadily(servers.front, 500, STEP_S)
        await trio.sleep(1)
    waits = sorted(began - at for at, began in zip(submitted, servers.began, strict=True))
    assert LOOK_EVERY_S == 0.003
    assert waits[-1] <= LOOK_EVERY_S + 1e-9
    assert sum(waits) / len(waits) == pytest.approx(LOOK_EVERY_S / 2, rel=0.3)


async def test_a_server_that_found_something_does_not_look_by_itself_for_longer_than_50_ms(
    autojump_clock: MockClock,
) -> None:
    async with pair() as servers:
        await submit(servers.front, type="stamp")
        await trio.sleep(2)
        # That of the ring, which found it, one because it found less than asked, and one every 3 ms.
        assert LOOK_FOR_S == 0.05
        assert 1 < servers.claims() <= 19
        await trio.sleep(60)
        assert servers.claims() == 0


async def test_a_server_for_which_nobody_rings_does_not_look_by_itself(autojump_clock: MockClock) -> None:
    async with pair(deaf=True) as servers:
        await submit(servers.front, type="stamp")
        await trio.sleep(10)
        assert len(servers.began) == 1
        assert servers.claims() <= 2
        # What it is given itself its own bell tells of.
        await submit_steadily(servers.works, 10, STEP_S)
        assert len(servers.began) == 11
        assert servers.claims() <= 20


async def test_a_server_without_a_free_worker_does_not_look(autojump_clock: MockClock) -> None:
    async with pair(workers=1) as servers:
        await submit(servers.front, type="stamp", payload={"seconds": 1})
        await trio.sleep(0.02)
        servers.claims()
        await trio.sleep(0.9)
        assert servers.claims() == 0


async def test_servers_that_ring_for_each_other_do_not_keep_each_other_looking(
    autojump_clock: MockClock,
) -> None:
    queue = TaskQueue()

    @queue.task("stamp")
    async def stamp() -> None:
        pass

    store = FaultyStore(shared())
    async with open_fleet(store, queue, queue) as (first, _):
        await trio.sleep(3)
        await submit(first, type="stamp")
        await trio.sleep(1)
        store.batches.clear()
        await trio.sleep(10)
        assert not [op for batch in store.batches for op in batch if isinstance(op, Claim)]
