"""Many servers on one store: who lives, who leads, who hears of what, and when. Virtual times are exact."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio
from fleet_kit import Deaf, Freezer, crashing, open_fleet, shared
from lease import run_of
from trio.testing import MockClock

from tq.context import Context
from tq.core.errors import PayloadInvalid, StorageUnavailable, TqError, UnknownType
from tq.core.events import Event, LeaderElected, LeaseExpired, LeaseRefused, ServerRejoined
from tq.core.limits import Limits
from tq.core.ops import Cancel, Claimed, PauseQueue, Reply, SetQueue
from tq.core.queries import GetSchedule
from tq.core.requests import ScheduleRequest
from tq.core.task import State, Task, TaskId
from tq.engine.pool import Pool
from tq.engine.server import Server, Settings
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore
from tq.testing.faults import FaultyStore
from tq.testing.kit import EPOCH_MS, VirtualClock, finished, open_server, submit


class Seen:
    """Which attempts began, at which virtual second, by whom; and which of them were cancelled, when."""

    def __init__(self) -> None:
        self.began: list[tuple[float, str, int]] = []
        self.cut: list[tuple[float, str, int]] = []

    def queue(self, *types: str, max_attempts: int = 3) -> TaskQueue:
        """A queue whose types nap as long as they are told to."""
        queue = TaskQueue()

        async def nap(ctx: Context, seconds: float = 1) -> str:
            name = (str(ctx.task_id), ctx.task.generation)
            self.began.append((trio.current_time(), *name))
            try:
                await trio.sleep(seconds)
            except trio.Cancelled:
                self.cut.append((trio.current_time(), *name))
                raise
            return "slept"

        for type in types or ("nap",):
            queue.task(type, max_attempts=max_attempts, timeout=600)(nap)
        return queue


@pytest.fixture
def naps() -> Seen:
    return Seen()


async def until(what: float) -> None:
    await trio.sleep_until(what)


async def task_of(server: Server, id: TaskId) -> Task:
    found = await server.find(id)
    assert found is not None
    return found


# Who is there


async def test_servers_know_each_other_and_what_each_says(naps: Seen, autojump_clock: MockClock) -> None:
    async with open_fleet(shared(), naps.queue(), naps.queue("other")) as (first, second):
        await until(1)
        [here, there] = sorted(await second.servers(), key=lambda each: each[1].pid)
    assert (here[0].server, there[0].server) == (first.id, second.id)
    # The first says anew, and at once, whom it hears.
    assert (here[0].seen_at, there[0].seen_at) == (EPOCH_MS + 20, EPOCH_MS + 1_000)
    assert (here[1].host, here[1].pid, here[1].workers, here[1].leads) == ("host-1", 1, 5, True)
    assert (there[1].host, there[1].leads, there[1].draining) == ("host-2", False, False)
    assert [list(info.types or {}) for _, info in (here, there)] == [["nap"], ["other"]]
    assert here[1].hears == {second.id: 1}
    assert there[1].hears == {first.id: 1}


async def test_a_server_that_stops_is_gone_at_once_and_another_leads(
    naps: Seen, seen: list[Event], autojump_clock: MockClock
) -> None:
    store = shared()
    async with open_server(naps.queue(), store=store, seed=2, emit=seen.append) as second:
        async with open_server(naps.queue(), store=store, seed=1, emit=seen.append) as first:
            await until(3)
            first, second = second, first
        stopped_at = trio.current_time()
        assert list(second.fleet.others) == [first.id]
        await until(4.5)
        assert (first.fleet.others, first.fleet.leads) == ({}, True)
        assert [row.server for row, _ in await first.servers()] == [first.id]
    assert stopped_at == 3
    assert [each.server for each in seen if isinstance(each, LeaderElected)] == [first.id]
    assert store.snapshot().servers == ()
    assert store.snapshot().leader is None


# Who dies


async def test_what_a_dead_server_ran_is_run_by_another_within_20_s(
    naps: Seen, seen: list[Event], autojump_clock: MockClock
) -> None:
    store = shared()
    async with open_server(naps.queue(), store=store, emit=seen.append) as other:
        other.resize_workers(minimum=1, maximum=1)
        await submit(other, type="nap", id="mine", payload={"seconds": 25})
        await until(1)
        async with crashing(naps.queue(), store) as dying:
            await submit(dying, type="nap", id="theirs", payload={"seconds": 25})
            await until(12)
        # Its last heartbeats were at 1, 6 and 11: it is dead at 26.
        task = await finished(other, TaskId("theirs"))
    assert naps.began == [(0, "mine", 1), (1, "theirs", 1), (pytest.approx(26.05), "theirs", 2)]
    assert (task.state, task.crashes, task.attempt) == (State.SUCCEEDED, 1, 1)
    [recovered] = [each for each in seen if isinstance(each, LeaseExpired)]
    assert recovered.at - EPOCH_MS == pytest.approx(26_050, abs=1)
    assert recovered.pending == 1


async def test_a_leader_that_dies_is_replaced_within_15_s(
    naps: Seen, seen: list[Event], autojump_clock: MockClock
) -> None:
    store = shared()
    async with trio.open_nursery() as nursery:
        ready = trio.Event()

        async def lead() -> None:
            async with crashing(naps.queue(), store) as dying:
                await dying.put_schedule("often", ScheduleRequest(type="nap", every=1))
                ready.set()
                await until(10.5)

        nursery.start_soon(lead)
        await ready.wait()
        async with open_server(naps.queue(), store=store, emit=seen.append) as heir:
            await until(10.4)
            assert not heir.fleet.leads
            # The leader said so at 0.02, 5.02 and 10.02, each time for 12 s.
            await until(22.5)
            assert heir.fleet.leads
            ticked = await heir.read(GetSchedule("often"))
    assert [each.at - EPOCH_MS for each in seen if isinstance(each, LeaderElected)] == [22_020]
    assert ticked is not None
    assert (ticked.ticks[-1].at - EPOCH_MS, ticked.ticks[-1].skipped) == (22_000, 11)


async def test_after_an_outage_of_the_store_nobody_is_taken_for_dead(
    naps: Seen, seen: list[Event], autojump_clock: MockClock
) -> None:
    base = shared()
    near, far = FaultyStore(base), FaultyStore(base)
    async with (
        open_server(naps.queue(), store=near, seed=1, emit=seen.append) as one,
        open_server(naps.queue(), store=far, seed=2, emit=seen.append) as other,
    ):
        one.resize_workers(minimum=1, maximum=1)
        other.resize_workers(minimum=1, maximum=1)
        for _ in range(2):
            await submit(one, type="nap", payload={"seconds": 100})
        await until(5)
        near.failing = far.failing = StorageUnavailable
        await until(65)
        near.failing = None
        await until(68)
        far.failing = None
        await until(110)
    assert [each for each in seen if isinstance(each, LeaseExpired | ServerRejoined)] == []
    assert [began for began, _, _ in naps.began] == [0, 0.02]
    assert naps.cut == []


# Who comes back


async def test_a_server_that_was_frozen_past_its_lease_gives_up_what_it_ran(
    naps: Seen, seen: list[Event], autojump_clock: MockClock
) -> None:
    store, freezer = shared(), Freezer()
    async with trio.open_nursery() as nursery:
        leave = trio.Event()
        frozen: list[Server] = []

        async def live() -> None:
            settings = Settings(workers=1)
            async with open_server(
                naps.queue(),
                store=store,
                seed=1,
                emit=seen.append,
                settings=settings,
                run_sync=freezer.run_sync,
            ) as server:
                frozen.append(server)
                await submit(server, type="nap", id="long", payload={"seconds": 60})
                await submit(server, type="nap", id="late", payload={"seconds": 27})
                await leave.wait()

        nursery.start_soon(live)
        await until(1)
        async with open_server(naps.queue(), store=store, seed=2, emit=seen.append) as other:
            await until(2)
            freezer.freeze()
            # Not while the other one looks for who is dead: the heartbeat that comes loose is an old one.
            await until(40.5)
            assert (await task_of(other, TaskId("long"))).server == other.id
            freezer.thaw()
            await until(42)
            # It learned so from its first question, and had its session counted anew.
            assert naps.cut == [(40.5, "long", 1)]
            assert frozen[0].fleet.session == 2
            await until(43)
            assert {row.server for row, _ in await other.servers()} == {other.id, frozen[0].id}
            assert other.fleet.others[frozen[0].id].hears == {other.id: 1}
            assert frozen[0].fleet.others[other.id].hears == {frozen[0].id: 2}
            task = await finished(other, TaskId("long"))
        leave.set()
    assert (task.state, task.generation, task.crashes) == (State.SUCCEEDED, 2, 1)
    assert [each.task_id for each in seen if isinstance(each, LeaseRefused)] == ["long"]
    assert [each.server for each in seen if isinstance(each, ServerRejoined)] == [frozen[0].id]


async def test_nothing_that_was_claimed_before_a_lease_ran_out_begins_after_it(
    naps: Seen, seen: list[Event], autojump_clock: MockClock
) -> None:
    """Frozen between a commit of its claim and the answer: when that comes, another runs the task."""
    base, freezer = shared(), Freezer()

    class FreezesAtClaim(FaultyStore):
        def apply(self, *batch: Any, **more: Any) -> list[Reply | TqError]:
            replies = super().apply(*batch, **more)
            if any(isinstance(reply, Claimed) and reply.leases for reply in replies):
                freezer.freeze()
            return replies

    async with open_server(TaskQueue(), store=base, seed=2) as other:
        await until(1)
        async with open_server(
            naps.queue(), store=FreezesAtClaim(base), seed=1, emit=seen.append, run_sync=freezer.run_sync
        ) as frozen:
            await until(3)
            await submit(other, type="nap", id="t", payload={"seconds": 60})
            await until(4)
            assert (await task_of(other, TaskId("t"))).server == frozen.id
            async with open_server(naps.queue(), store=base, seed=3) as heir:
                await until(30)
                assert (await task_of(other, TaskId("t"))).server == heir.id
                freezer.thaw()
                await until(60)
                assert frozen.fleet.session == 2
                assert frozen.pool.is_leased
                assert (await finished(other, TaskId("t"))).state is State.SUCCEEDED
    assert [(name, generation) for _, name, generation in naps.began] == [("t", 2)]
    assert naps.cut == []


def test_what_is_on_its_way_under_a_lost_lease_is_refused() -> None:
    pool = Pool(1, 1, buffer=10, clock=VirtualClock())
    lease = run_of("nap").lease
    pool.expect([lease])
    assert pool.is_wanted(lease)
    pool.expect([lease])
    pool.refuse_all()
    assert not pool.is_wanted(lease)


def test_a_claim_knows_better_than_an_older_word_that_a_queue_is_paused() -> None:
    pool = Pool(1, 1, buffer=10, clock=VirtualClock())
    lease = run_of("nap").lease
    pool.expect([lease])
    pool.pause(lease.queue, paused=True)
    assert not pool.is_wanted(lease)
    pool.expect([lease])
    assert pool.is_wanted(lease)


# Who hears of what


@pytest.mark.parametrize("deaf", [False, True])
async def test_a_cancel_reaches_a_task_that_runs_elsewhere_within_a_second(
    naps: Seen, autojump_clock: MockClock, *, deaf: bool
) -> None:
    base = shared()
    far = Deaf(base) if deaf else FaultyStore(base)
    async with (
        open_server(naps.queue("there"), store=far, seed=1) as there,
        open_server(naps.queue("here"), store=base, seed=2) as here,
    ):
        await until(2.3)
        id = await submit(here, type="there", payload={"seconds": 60})
        await until(5.05)
        assert [began <= 3.3 for began, _, _ in naps.began] == [True]
        await here.change(Cancel(id))
        task = await finished(here, id, within_s=2)
        [(cut_at, _, _)] = naps.cut
        assert cut_at - 5.05 <= (1.0 if deaf else 0.05)
        assert (task.state, task.server) == (State.CANCELLED, there.id)


@pytest.mark.parametrize("deaf", [False, True])
async def test_whoever_waits_hears_of_an_end_elsewhere(
    naps: Seen, autojump_clock: MockClock, *, deaf: bool
) -> None:
    base = shared()
    async with (
        open_server(naps.queue("there"), store=base, seed=1),
        open_server(naps.queue("here"), store=Deaf(base) if deaf else base, seed=2) as here,
    ):
        await until(2)
        id = await submit(here, type="there", payload={"seconds": 3})
        task = await here.wait_final(id, timeout_s=30)
        assert task is not None
        assert task.state is State.SUCCEEDED
        assert task.finished_at is not None
        ended = (task.finished_at - EPOCH_MS) / 1000
        assert trio.current_time() - ended <= (1.0 if deaf else 0.1)


async def test_who_does_not_lead_retries_and_promotes_what_it_put_off_itself_at_once(
    naps: Seen, autojump_clock: MockClock
) -> None:
    async with open_fleet(shared(), naps.queue("a"), naps.queue("b")) as (leader, other):
        await until(2)
        assert (leader.fleet.leads, other.fleet.leads) == (True, False)
        await submit(other, type="b", delay=0.3)
        await until(3)
        await submit(leader, type="b", delay=5)
        await until(9)
    assert [began for began, _, _ in naps.began] == [2.3, pytest.approx(8.0, abs=0.06)]


async def test_the_leader_promotes_what_a_server_put_off_that_is_gone(
    naps: Seen, autojump_clock: MockClock
) -> None:
    store = shared()
    async with open_server(naps.queue(), store=store) as leader:
        async with crashing(naps.queue(), store) as dying:
            await until(1.5)
            await submit(dying, type="nap", id="later", delay=4)
        assert (await finished(leader, TaskId("later"))).state is State.SUCCEEDED
    assert naps.began == [(5.5, "later", 1)]


async def test_a_pause_elsewhere_and_its_end_are_heard(naps: Seen, autojump_clock: MockClock) -> None:
    async with open_fleet(shared(), naps.queue(), TaskQueue()) as (works, other):
        await until(2)
        await other.change(PauseQueue("default", paused=True))
        await until(3)
        assert "default" in works.pool._paused
        await submit(works, type="nap", id="waits")
        await until(10)
        assert naps.began == []
        await other.change(PauseQueue("default", paused=False))
        await finished(works, TaskId("waits"))
    assert naps.began == [(10, "waits", 1)]


# Types


async def test_a_type_that_another_handles_is_taken_with_its_defaults_and_others_are_not(
    autojump_clock: MockClock,
) -> None:
    there, here = TaskQueue(), TaskQueue()

    @there.task("mail", queue="post", timeout=7, max_attempts=2)
    async def mail(to: str) -> None:
        pass

    @here.task("other")
    async def other() -> None:
        pass

    store = shared()
    async with open_server(here, store=store, seed=1) as first:
        with pytest.raises(UnknownType):
            await submit(first, type="mail", payload={"to": "x"})
        async with open_server(there, store=store, seed=2) as second:
            # The first has not heard of the second yet: it asks before it refuses.
            task = await finished(first, await submit(first, type="mail", payload={"to": "x"}))
            assert (task.queue, task.timeout_ms, task.max_attempts, task.server) == (
                "post",
                7_000,
                2,
                second.id,
            )
            with pytest.raises(UnknownType) as refused:
                await submit(first, type="fax")
            assert refused.value.fields["known"] == ["mail", "other"]
            # Its payload is checked where it runs.
            task = await finished(first, await submit(first, type="mail", payload={"for": "x"}))
            assert (task.state, task.errors[-1].type) == (State.FAILED, "PayloadInvalid")
            with pytest.raises(PayloadInvalid):
                await submit(second, type="mail", payload={"for": "x"})


async def test_each_server_runs_its_own_types_only(naps: Seen, autojump_clock: MockClock) -> None:
    async with open_fleet(shared(), naps.queue("a"), naps.queue("b")) as (first, second):
        await until(2)
        ids = {type: [await submit(first, type=type) for _ in range(20)] for type in "ab"}
        ran = {type: {(await finished(second, id)).server for id in ids[type]} for type in "ab"}
    assert ran == {"a": {first.id}, "b": {second.id}}


# What holds across servers


async def test_limits_of_a_queue_hold_across_servers(autojump_clock: MockClock) -> None:
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()

    def queue() -> TaskQueue:
        queue = TaskQueue()

        @queue.task("nap")
        async def nap(ctx: Context) -> None:
            for name in ("all", ctx.task.key or "none"):
                running[name] += 1
                most[name] = max(most[name], running[name])
            await trio.sleep(0.5)
            for name in ("all", ctx.task.key or "none"):
                running[name] -= 1

        return queue

    async with open_fleet(shared(), queue(), queue(), queue()) as servers:
        await servers[0].change(
            SetQueue(queue="default", limits=Limits(concurrency=4), per_key=Limits(concurrency=2))
        )
        ids = [await submit(servers[n % 3], type="nap", key="abc"[n % 3]) for n in range(60)]
        ran = {(await finished(servers[1], id)).server for id in ids}
    assert (most["all"], most["a"], most["b"], most["c"]) == (4, 2, 2, 2)
    assert len(ran) > 1


async def test_one_task_at_a_time_has_a_unique_key_whoever_is_asked(
    naps: Seen, autojump_clock: MockClock
) -> None:
    async with open_fleet(shared(), naps.queue(), naps.queue()) as servers:
        unique = {"key": "k", "while": "active", "on_conflict": "existing"}
        ids = {await submit(servers[n % 2], type="nap", unique=unique) for n in range(10)}
    assert len(ids) == 1


async def test_a_tick_makes_one_task_even_where_two_believe_to_lead(
    naps: Seen, autojump_clock: MockClock
) -> None:
    store = shared()
    async with open_fleet(store, naps.queue(), naps.queue()) as (one, other):
        await one.put_schedule("often", ScheduleRequest(type="nap", every=1))
        other.fleet._leads_until = 1e9
        other.feed.note_due(0)
        await until(10.5)
    made = [task.id for task in store.snapshot().tasks]
    assert len(made) == len(set(made)) == 10


# What it costs


async def idle_cost(store: FaultyStore, queue: TaskQueue, *, seed: int) -> tuple[Counter[str], Counter[str]]:
    """The ops and the questions of a minute in which nothing happens."""
    questions: Counter[str] = Counter()
    read = store.read

    def count(query: object) -> object:
        questions[type(query).__name__] += 1
        return read(query)  # type: ignore[arg-type]

    async with open_server(queue, store=store, seed=seed):
        await trio.sleep(5.5)
        store.batches.clear()
        store.read = count  # type: ignore[method-assign, assignment]
        await trio.sleep(60)
        batches = Counter("+".join(sorted({type(op).__name__ for op in batch})) for batch in store.batches)
    return batches, questions


async def test_an_idle_server_alone_on_its_store_asks_for_no_news(
    naps: Seen, autojump_clock: MockClock
) -> None:
    batches, questions = await idle_cost(FaultyStore(MemoryStore()), naps.queue(), seed=1)
    assert batches == {"Claim+Prune": 60}
    assert questions == {}


async def test_idle_servers_of_a_fleet_ask_little(naps: Seen, autojump_clock: MockClock) -> None:
    """At most three questions and batches a second, and no letters."""
    base = shared()
    async with open_server(naps.queue(), store=base, seed=1):
        batches, questions = await idle_cost(FaultyStore(base), naps.queue(), seed=2)
        assert batches == {"Beat+Lead": 12}
        assert questions == {"GetNews": 60, "GetKeys": 20}
    async with trio.open_nursery() as nursery:

        async def follow() -> None:
            with trio.move_on_after(70):
                async with open_server(naps.queue(), store=base, seed=3):
                    await trio.sleep_forever()

        nursery.start_soon(follow)
        batches, questions = await idle_cost(FaultyStore(base), naps.queue(), seed=4)
    assert batches == {"Beat+Lead": 11, "Beat+Lead+Prune+PruneLetters+Recover": 1}
    assert questions == {"GetNews": 60, "GetKeys": 20}
    assert base.snapshot().letters == ()
