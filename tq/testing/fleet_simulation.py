"""Seeded worlds of several servers on one store: they crash, stop, freeze and are cut off, beside each other.

One seed is one world: ``just sim-fleet --seed 7``. Each of two or three servers lives
life after life, on virtual time, while clients submit to it and cancel; now and then one is frozen, or cut
off from the store, for so long that the others take it for dead, and comes back. Then everything is healed.
Beside what is promised of one server (see `tq.testing.simulation`):

- no attempt at a task begins while another goes on, but where that one's server has been silent for so long
  that its lease may have run out, or has just come back;
- a server that has come back begins nothing of what it had claimed before, if that was taken back.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Final

import trio
import trio.testing

from tq.context import Context
from tq.core.errors import ShuttingDown, StorageUnavailable
from tq.core.servers import DEAD_AFTER_MS
from tq.engine.fleet import BEAT_EVERY_S, NEWS_EVERY_S
from tq.engine.server import Settings
from tq.storage.memory import MemoryStore
from tq.testing.faults import FaultyStore, Freezer
from tq.testing.kit import open_server
from tq.testing.simulation import (
    CAP,
    CAPPED,
    CLIENTS,
    KEYED,
    World,
    be_client,
    check,
    heal,
    make_queue,
    seed_trio,
    set_up,
)

SPAN_S: Final = 200.0
"""Virtual seconds until everything is healed."""
SILENT_S: Final = DEAD_AFTER_MS / 1000 - BEAT_EVERY_S
"""Who is silent for so long may be taken for dead: its last heartbeat was up to BEAT_EVERY_S before that."""
BACK_S: Final = 2 * NEWS_EVERY_S
"""Who comes back has learned by then what it lost, and stopped it."""


class Place:
    """Where one server lives, and what its handlers do there."""

    def __init__(self, world: World, places: list[Place]) -> None:
        self.world = world
        self.random = world.random
        self.freezer = Freezer()
        self.running: dict[str, Context] = {}
        self.lives = 0
        self.silences = 0
        self._places = places
        self._silent_since: float | None = None
        self._back_until = 0.0

    def chance(self, probability: float) -> bool:
        """True that often."""
        return self.world.chance(probability)

    @property
    def is_sure(self) -> bool:
        """Whether nobody can have taken the server for dead lately."""
        now = trio.current_time()
        if self._silent_since is not None:
            return now < self._silent_since + SILENT_S
        return now >= self._back_until

    @contextmanager
    def silent(self) -> Iterator[None]:
        """The server reaches nothing inside the block."""
        self.silences += 1
        self._silent_since = trio.current_time()
        try:
            yield
        finally:
            if not self.is_sure:
                self._back_until = trio.current_time() + BACK_S
            self._silent_since = None

    @contextmanager
    def running_task(self, ctx: Context) -> Iterator[None]:
        """Note the start and the end of an attempt, and check what must hold at its start."""
        world, task_id, generation = self.world, ctx.task_id, ctx.task.generation
        before = world.generations.get(task_id, 0)
        world.expect(f"{task_id} started again as {generation}", kept=generation > before)
        world.expect(f"{task_id} started after it was seen to have ended", kept=task_id not in world.ended)
        beside = [place for place in self._places if task_id in place.running and place.is_sure]
        world.expect(f"{task_id} runs twice at the same time", kept=not beside)
        world.generations[task_id] = max(generation, before)
        self.running[task_id] = ctx
        self._expect_limits(ctx)
        try:
            yield
        finally:
            if self.running.get(task_id) is ctx:
                del self.running[task_id]

    def _expect_limits(self, ctx: Context) -> None:
        sure = [each for place in self._places if place.is_sure for each in place.running.values()]
        in_queue = [each for each in sure if each.task.queue == ctx.task.queue]
        of_key = [each for each in in_queue if each.task.key == ctx.task.key]
        if ctx.task.queue == CAPPED:
            self.world.expect(f"{len(in_queue)} run in {CAPPED}", kept=len(in_queue) <= CAP)
        if ctx.task.queue == KEYED and ctx.task.key is not None:
            self.world.expect(f"{len(of_key)} run of key {ctx.task.key}", kept=len(of_key) <= 1)


async def inhabit(place: Place, base: MemoryStore, number: int) -> None:
    """One life after another, for ever."""
    while True:
        place.lives += 1
        try:
            await live(place, FaultyStore(base), f"{number}-{place.lives}")
        except* ShuttingDown:
            # What a server that is killed while it is frozen has asked of its ledger.
            pass
        place.running.clear()
        await trio.sleep(place.random.uniform(0, 20))


async def live(place: Place, store: FaultyStore, name: str) -> None:
    """One life of a server, to its shutdown or crash."""
    random, world = place.random, place.world
    settings = Settings(workers=random.randint(1, 8), buffer=random.choice([1, 10, 100]))
    queue, seed = make_queue(place), random.getrandbits(32)
    async with trio.open_nursery() as nursery:
        async with open_server(
            queue, store=store, settings=settings, seed=seed, run_sync=place.freezer.run_sync
        ) as server:
            await set_up(server)
            for number in range(CLIENTS):
                nursery.start_soon(be_client, world, server, f"{name}-{number}")
            with trio.move_on_after(random.uniform(5, 90)):
                await trouble(place, store)
            if world.chance(0.6):
                world.crashes += 1
                nursery.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


async def trouble(place: Place, store: FaultyStore) -> None:
    """Freeze the server, or cut it off, now and then."""
    while True:
        await trio.sleep(place.random.uniform(0, 40))
        try:
            with place.silent():
                if place.chance(0.5):
                    place.freezer.freeze()
                else:
                    store.failing = StorageUnavailable
                await trio.sleep(place.random.choice([0.5, 5, 12, 20, 40]))
        finally:
            place.freezer.thaw()
            store.failing = None


async def simulate(seed: int) -> tuple[World, list[Place]]:
    """Live the world of *seed* to its end.

    Raises:
        AssertionError: A promise was broken; the message says which.
    """
    world = World(Random(seed))
    base = MemoryStore(exclusive=False)
    places: list[Place] = []
    places += [Place(world, places) for _ in range(world.random.choice([2, 2, 3]))]
    with trio.move_on_after(SPAN_S):
        async with trio.open_nursery() as nursery:
            for number, place in enumerate(places):
                nursery.start_soon(inhabit, place, base, number)
    world.running.clear()
    await heal(world, FaultyStore(base))
    check(world, base)
    return world, places


def run(seed: int) -> tuple[World, list[Place]]:
    """The world of *seed*, on virtual time, with trio's own order of things seeded too."""
    seed_trio(seed)
    return trio.run(simulate, seed, clock=trio.testing.MockClock(autojump_threshold=0))


def main() -> None:
    """Run worlds and tell of each; a broken promise ends it with the command that replays it."""
    parser = argparse.ArgumentParser(prog="python -m tq.testing.fleet_simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first world")
    parser.add_argument("--count", type=int, default=1, help="how many worlds")
    arguments = parser.parse_args()
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        try:
            world, places = run(seed)
        except BaseException:
            print(f"broken: replay with just sim-fleet --seed {seed}", flush=True)
            raise
        print(
            f"seed {seed}: {len(places)} servers, {sum(place.lives for place in places)} lives, "
            f"{len(world.acknowledged)} tasks, {sum(world.generations.values())} starts, "
            f"{world.crashes} crashes, {sum(place.silences for place in places)} silences: all promises kept"
        )


if __name__ == "__main__":
    main()
