"""Seeded worlds: a server that crashes, stops and loses its store, over and over, and must keep its word.

One seed is one world, and is the same again every time: ``python -m tq.testing.simulation --seed 7``.
A world lives several lives on virtual time. In each, clients submit tasks, the store goes away now and
then, and the end is a shutdown or a crash. Then everything is healed, and what was promised is checked:

- what was acknowledged is there, and has ended;
- each start of a task has a higher generation than all before, and no two run at the same time;
- a task that was seen to have ended is not started again;
- the counters say what the tasks say.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import trio
import trio.testing

from tq.context import Context, Retry, Snooze
from tq.core.errors import StorageFull, StorageUnavailable, TqError
from tq.core.queries import LaneCount
from tq.core.task import FINAL, TaskId
from tq.engine.server import Server, Settings
from tq.handlers import TaskQueue
from tq.storage.store import Store, open_store
from tq.testing.faults import FaultyStore
from tq.testing.kit import open_server, submit

LIVES: Final = 5
CLIENTS: Final = 3
HEAL_S: Final = 24 * 3600.0
"""Virtual seconds in which everything must have ended once nothing fails any more."""


@dataclass(slots=True)
class World:
    """What was promised and what was seen, across all lives."""

    random: Random
    acknowledged: set[TaskId] = field(default_factory=set)
    ended: set[TaskId] = field(default_factory=set)
    generations: dict[TaskId, int] = field(default_factory=dict)
    running: set[TaskId] = field(default_factory=set)
    crashes: int = 0
    outages: int = 0

    def chance(self, probability: float) -> bool:
        """True that often."""
        return self.random.random() < probability

    @contextmanager
    def running_task(self, ctx: Context) -> Iterator[None]:
        """Note the start and the end of an attempt, and check what must hold at its start."""
        task_id, generation = ctx.task_id, ctx.task.generation
        assert generation > self.generations.get(task_id, 0), f"{task_id} started again as {generation}"
        assert task_id not in self.ended, f"{task_id} started after it was seen to have ended"
        assert task_id not in self.running, f"{task_id} runs twice at the same time"
        self.generations[task_id] = generation
        self.running.add(task_id)
        try:
            yield
        finally:
            self.running.discard(task_id)


def make_queue(world: World) -> TaskQueue:
    """Handlers of every temper: quick, slow, failing, late, snoozing."""
    queue = TaskQueue()
    policy = {"kind": "exponential", "base": 0.2, "cap": 60}

    def task(type: str, **options: Any) -> Callable[[Callable[[Context], Any]], None]:
        def register(function: Callable[[Context], Any]) -> None:
            @queue.task(type, retry=policy, **options)
            async def handler(ctx: Context) -> str:
                with world.running_task(ctx):
                    await function(ctx)
                return "done"

        return register

    @task("quick")
    async def quick(ctx: Context) -> None:
        await trio.lowlevel.checkpoint()

    @task("slow", timeout=30)
    async def slow(ctx: Context) -> None:
        await trio.sleep(world.random.uniform(0.1, 20))

    @task("failing", max_attempts=4)
    async def failing(ctx: Context) -> None:
        await trio.sleep(world.random.uniform(0, 1))
        if world.chance(0.6):
            raise (
                Retry("once more", after=world.random.uniform(0, 5))
                if world.chance(0.3)
                else ValueError("no")
            )

    @task("late", max_attempts=2, timeout=2)
    async def late(ctx: Context) -> None:
        await trio.sleep(world.random.uniform(0, 4))

    @task("snoozing")
    async def snoozing(ctx: Context) -> None:
        if world.chance(0.5):
            raise Snooze(world.random.uniform(0, 10))

    return queue


async def live(world: World, store: FaultyStore, life: int) -> None:
    """One life of a server, to its shutdown or crash."""
    queue = make_queue(world)
    settings = Settings(workers=world.random.randint(1, 8), buffer=world.random.choice([1, 10, 100]))
    async with trio.open_nursery() as nursery:
        async with open_server(
            queue, store=store, settings=settings, seed=world.random.getrandbits(32)
        ) as server:
            for number in range(CLIENTS):
                nursery.start_soon(be_client, world, server, f"{life}-{number}")
            nursery.start_soon(trouble_store, world, store)
            await trio.sleep(world.random.uniform(1, 60))
            if world.chance(0.6):
                world.crashes += 1
                nursery.cancel_scope.cancel()
            store.failing = None
        nursery.cancel_scope.cancel()
    world.running.clear()


async def be_client(world: World, server: Server, name: str) -> None:
    """Submit tasks one after another, some of them twice, and now and then look how one ended."""
    number = 0
    while True:
        number += 1
        fields: dict[str, object] = {
            "id": f"{name}-{number}",
            "type": world.random.choice(["quick", "slow", "failing", "late", "snoozing"]),
            "priority": world.random.randint(-10, 10),
            "delay": world.random.choice([0, 0, 0, 0.5, 20]),
        }
        for _ in range(1 + world.chance(0.1)):
            try:
                world.acknowledged.add(await submit(server, **fields))
            except TqError:
                continue
        if world.acknowledged and world.chance(0.5):
            await look(world, server, world.random.choice(sorted(world.acknowledged)))
        await trio.sleep(world.random.uniform(0, 2))


async def look(world: World, server: Server, task_id: TaskId) -> None:
    """See how a task is; once seen to have ended it must not start again."""
    try:
        task = await server.wait_final(task_id, timeout_s=world.random.uniform(0, 5))
    except StorageUnavailable:
        return
    assert task is not None, f"{task_id} was acknowledged and is not there"
    if task.state in FINAL:
        world.ended.add(task_id)


async def trouble_store(world: World, store: FaultyStore) -> None:
    """Take the store away now and then."""
    while True:
        await trio.sleep(world.random.uniform(0, 30))
        world.outages += 1
        store.failing = world.random.choice([StorageUnavailable, StorageFull])
        await trio.sleep(world.random.uniform(0, 5))
        store.failing = None


async def heal(world: World, store: FaultyStore) -> None:
    """A last life in which nothing fails: everything that was acknowledged must end."""
    async with open_server(make_queue(world), store=store, seed=world.random.getrandbits(32)) as server:
        with trio.fail_after(HEAL_S):
            for task_id in sorted(world.acknowledged):
                task = await server.wait_final(task_id, timeout_s=HEAL_S)
                assert task is not None, f"{task_id} was acknowledged and is lost"
                assert task.state in FINAL, f"{task_id} is still {task.state}"


def check(world: World, store: Store) -> None:
    """What must hold at the end."""
    snapshot = store.snapshot()
    counted = Counter((task.queue, task.type, task.state) for task in snapshot.tasks)
    lanes = tuple(sorted(LaneCount(*lane, count) for lane, count in counted.items()))
    assert snapshot.stats.lanes == lanes, "the counters differ from the tasks"
    assert snapshot.stats.submitted == len(snapshot.tasks), "a task was counted twice, or not at all"
    assert world.acknowledged <= {task.id for task in snapshot.tasks}, "an acknowledged task is lost"


async def simulate(seed: int, folder: Path) -> World:
    """Live the world of *seed* to its end, with its file in *folder*.

    Raises:
        AssertionError: A promise was broken; the message says which.
    """
    world = World(Random(seed))
    url = f"sqlite:///{folder}/{seed}.db"
    open_again = partial(open_store, url, durable=False)
    for life in range(LIVES):
        await live(world, FaultyStore(open_again()), life)
    await heal(world, FaultyStore(open_again()))
    store = open_again()
    try:
        check(world, store)
    finally:
        store.close()
    return world


def run(seed: int) -> World:
    """The world of *seed*, on virtual time, with trio's own order of things seeded too."""
    _seed_trio(seed)
    with tempfile.TemporaryDirectory() as folder:
        return trio.run(simulate, seed, Path(folder), clock=trio.testing.MockClock(autojump_threshold=0))


def _seed_trio(seed: int) -> None:
    """Seed the order in which trio runs what is ready. A private switch: without it worlds still hold,
    but one seed is not one world.
    """
    scheduling: Any = getattr(getattr(trio, "_core", None), "_run", None)
    if hasattr(scheduling, "_ALLOW_DETERMINISTIC_SCHEDULING") and hasattr(scheduling, "_r"):
        scheduling._ALLOW_DETERMINISTIC_SCHEDULING = True
        scheduling._r.seed(seed)


def main() -> None:
    """Run worlds and tell of each; a broken promise ends it with the command that replays it."""
    parser = argparse.ArgumentParser(prog="python -m tq.testing.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first world")
    parser.add_argument("--count", type=int, default=1, help="how many worlds")
    arguments = parser.parse_args()
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        try:
            world = run(seed)
        except BaseException:
            print(f"broken: replay with just sim --seed {seed}", flush=True)
            raise
        print(
            f"seed {seed}: {len(world.acknowledged)} tasks, {sum(world.generations.values())} starts, "
            f"{world.crashes} crashes, {world.outages} outages: all promises kept"
        )


if __name__ == "__main__":
    main()
