"""Seeded worlds: a server that crashes, stops and loses its store, over and over, and must keep its word.

One seed is one world, and is the same again every time: ``python -m tq.testing.simulation --seed 7``.
A world lives several lives on virtual time. In each, clients submit tasks of every kind and cancel some, a
schedule ticks, the store goes away now and then, and the end is a shutdown or a crash. Then everything is
healed, and what was promised is checked:

- what was acknowledged is there, and has ended;
- each start of a task has a higher generation than all before, and no two run at the same time;
- a task that was seen to have ended, or whose cancel was acknowledged, is not started again, and that one
  is cancelled;
- no more run in a queue, or of a key, than its rules allow;
- what depends on others has succeeded only where they did;
- nothing is left to settle, and no unique key taken, once all have ended;
- the counters say what the tasks say.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final, Protocol

import trio
import trio.testing

from tq.context import Context, Retry, Snooze
from tq.core.errors import StorageFull, StorageUnavailable, TqError
from tq.core.limits import Limits, Order
from tq.core.ops import Cancel, DeleteSchedule, SetQueue
from tq.core.queries import LaneCount
from tq.core.requests import ScheduleRequest
from tq.core.task import FINAL, During, OnConflict, OnFailure, State, TaskId
from tq.core.views import format_instant
from tq.engine.server import Server, Settings
from tq.handlers import TaskQueue
from tq.storage.store import Store, open_store
from tq.testing.faults import FaultyStore
from tq.testing.kit import open_server, submit

LIVES: Final = 5
CLIENTS: Final = 3
CAPPED: Final = "capped"
CAP: Final = 2
KEYED: Final = "keyed"
QUEUES: Final = (
    SetQueue(queue=CAPPED, limits=Limits(concurrency=CAP)),
    SetQueue(queue=KEYED, order=Order.STRICT, per_key=Limits(concurrency=1)),
)
SCHEDULE: Final = "clock"
HEAL_S: Final = 24 * 3600.0
"""Virtual seconds in which everything must have ended once nothing fails any more."""


@dataclass(slots=True)
class World:
    """What was promised and what was seen, across all lives."""

    random: Random
    acknowledged: set[TaskId] = field(default_factory=set)
    ended: set[TaskId] = field(default_factory=set)
    generations: dict[TaskId, int] = field(default_factory=dict)
    running: dict[TaskId, Context] = field(default_factory=dict)
    cancelled: set[TaskId] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)
    crashes: int = 0
    outages: int = 0

    def chance(self, probability: float) -> bool:
        """True that often."""
        return self.random.random() < probability

    def expect(self, broken: str, *, kept: bool) -> None:
        """Remember a promise that was not *kept*: raised in a handler, it would only end an attempt."""
        if not kept:
            self.broken.append(broken)

    @contextmanager
    def running_task(self, ctx: Context) -> Iterator[None]:
        """Note the start and the end of an attempt, and check what must hold at its start."""
        task_id, generation = ctx.task_id, ctx.task.generation
        before = self.generations.get(task_id, 0)
        self.expect(f"{task_id} started again as {generation}", kept=generation > before)
        self.expect(f"{task_id} started after it was seen to have ended", kept=task_id not in self.ended)
        self.expect(f"{task_id} runs twice at the same time", kept=task_id not in self.running)
        self.expect(
            f"{task_id} started after its cancel was acknowledged", kept=task_id not in self.cancelled
        )
        self.generations[task_id] = generation
        self.running[task_id] = ctx
        self._expect_limits(ctx)
        try:
            yield
        finally:
            self.running.pop(task_id, None)

    def _expect_limits(self, ctx: Context) -> None:
        in_queue = [each for each in self.running.values() if each.task.queue == ctx.task.queue]
        of_key = [each for each in in_queue if each.task.key == ctx.task.key]
        if ctx.task.queue == CAPPED:
            self.expect(f"{len(in_queue)} run in {CAPPED}", kept=len(in_queue) <= CAP)
        if ctx.task.queue == KEYED and ctx.task.key is not None:
            self.expect(f"{len(of_key)} run of key {ctx.task.key}", kept=len(of_key) <= 1)


class Stage(Protocol):
    """What handlers know of their world."""

    @property
    def random(self) -> Random:
        """All chance."""
        ...

    def chance(self, probability: float) -> bool:
        """True that often."""
        ...

    def running_task(self, ctx: Context) -> AbstractContextManager[None]:
        """Note the start and the end of an attempt, and check what must hold."""
        ...


def make_queue(world: Stage) -> TaskQueue:
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
            await set_up(server)
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
        fields = {"id": f"{name}-{number}", **choose_task(world, server)}
        for _ in range(1 + world.chance(0.1)):
            try:
                world.acknowledged.add(await submit(server, **fields))
            except TqError:
                continue
        if world.acknowledged and world.chance(0.5):
            await look(world, server, choose_known(world))
        if world.acknowledged and world.chance(0.1):
            await cancel(world, server, choose_known(world))
        await trio.sleep(world.random.uniform(0, 2))


def choose_task(world: World, server: Server) -> dict[str, object]:
    """The fields of a submit, all but its id."""
    random = world.random
    fields: dict[str, object] = {
        "type": random.choice(["quick", "slow", "failing", "late", "snoozing"]),
        "priority": random.randint(-10, 10),
        "delay": random.choice([0, 0, 0, 0.5, 20]),
        "queue": random.choice(["default", "default", CAPPED, KEYED]),
    }
    if world.chance(0.5):
        fields["key"] = random.choice("abc")
    if world.chance(0.1):
        fields["unique"] = {
            "key": random.choice("xyz"),
            "while": random.choice(list(During)),
            "on_conflict": random.choice(list(OnConflict)),
        }
    if world.chance(0.1):
        instant = format_instant(server.clock.now_ms() + random.randint(0, 60_000))
        fields[random.choice(["deadline", "expires_at"])] = instant
    if world.acknowledged and world.chance(0.1):
        fields["parent_id"] = choose_known(world)
    if world.acknowledged and world.chance(0.2):
        fields["depends_on"] = [choose_known(world), choose_known(world)]
        fields["on_dependency_failure"] = random.choice(list(OnFailure))
    return fields


def choose_known(world: World) -> TaskId:
    """One of the tasks that were acknowledged."""
    return world.random.choice(sorted(world.acknowledged))


async def set_up(server: Server) -> None:
    """Give the queues their rules and the schedule its definition, however often the store fails."""
    request = ScheduleRequest(type="quick", every=7)
    while True:
        try:
            for op in QUEUES:
                await server.change(op)
            await server.put_schedule(SCHEDULE, request)
            return
        except StorageUnavailable:
            await trio.sleep(0.5)


async def cancel(world: World, server: Server, task_id: TaskId) -> None:
    """Cancel a task; once that is acknowledged it must not start again, and must end as cancelled."""
    try:
        await server.change(Cancel(task_id, cascade=world.chance(0.7)))
    except TqError:
        return
    world.cancelled.add(task_id)


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
            await server.change(DeleteSchedule(SCHEDULE))
            for task_id in sorted(world.acknowledged):
                task = await server.wait_final(task_id, timeout_s=HEAL_S)
                assert task is not None, f"{task_id} was acknowledged and is lost"
                assert task.state in FINAL, f"{task_id} is still {task.state}"
            while await count_open(server) or store.unsettled:  # noqa: ASYNC110  # nothing tells of all ends
                await trio.sleep(1)


async def count_open(server: Server) -> int:
    """How many tasks have not ended, those of the schedule included."""
    stats = await server.stats()
    return sum(stats.count(state) for state in State if state not in FINAL)


def check(world: World, store: Store) -> None:
    """What must hold at the end."""
    assert not world.broken, "; ".join(world.broken[:10])
    snapshot = store.snapshot()
    counted = Counter((task.queue, task.type, task.state) for task in snapshot.tasks)
    lanes = tuple(sorted(LaneCount(*lane, count) for lane, count in counted.items()))
    assert snapshot.stats.lanes == lanes, "the counters differ from the tasks"
    assert snapshot.stats.submitted == len(snapshot.tasks), "a task was counted twice, or not at all"
    tasks = {task.id: task for task in snapshot.tasks}
    assert world.acknowledged <= tasks.keys(), "an acknowledged task is lost"
    assert snapshot.unsettled == (), "somebody was never told of an end"
    assert snapshot.holders == (), "a unique key is taken by a task that has ended"
    for task_id in world.cancelled:
        assert tasks[task_id].state is State.CANCELLED, (
            f"{task_id} was cancelled, and is {tasks[task_id].state}"
        )
    for task in tasks.values():
        if task.state is State.SUCCEEDED and task.options.on_dependency_failure is OnFailure.CANCEL:
            for before in task.options.depends_on:
                assert tasks[before].state is State.SUCCEEDED, (
                    f"{task.id} ran though {before} had not succeeded"
                )


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
    seed_trio(seed)
    with tempfile.TemporaryDirectory() as folder:
        return trio.run(simulate, seed, Path(folder), clock=trio.testing.MockClock(autojump_threshold=0))


def seed_trio(seed: int) -> None:
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
