"""Several servers on one PostgreSQL database at the same time: what each op does to what the others do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event
from typing import TypeVar

import psycopg
import pytest
from chooser import Chooser
from postgres_place import Schema
from storage_kit import HERE, NOW, claim, do, finish, new, recount, settle, submit, task
from tiers import slow, tiered

from tq.core import ops, queries
from tq.core.errors import DuplicateTask, TqError
from tq.core.limits import Limits, Rate
from tq.core.ops import AnyOp, Reply
from tq.core.task import Json, OnConflict, OnFailure, ServerId, State, TaskId, Unique
from tq.storage.postgres import PostgresStore
from tq.storage.postgres_sql import LOCK_SPACE

pytest_plugins = ("postgres_kit",)

T = TypeVar("T")
THERE = ServerId("there")


@pytest.fixture
def stores(open_empty_postgres: Callable[[], PostgresStore]) -> Iterator[list[PostgresStore]]:
    """Two servers' stores. Whatever they did, the counters must equal a recount of the tasks."""
    opened = [open_empty_postgres() for _ in range(2)]
    try:
        yield opened
        assert recount(opened[0]) == opened[1].read(queries.GetStats()).lanes
    finally:
        for store in opened:
            store.close()


def at_once(stores: list[PostgresStore], work: Callable[[PostgresStore, int], T]) -> list[T]:
    """What *work* gives for each of the stores and its number, all begun at the same moment."""
    barrier = Barrier(len(stores))

    def begin(store: PostgresStore, number: int) -> T:
        barrier.wait()
        return work(store, number)

    with ThreadPoolExecutor(len(stores)) as pool:
        return list(pool.map(begin, stores, range(len(stores))))


def fill(store: PostgresStore, count: int, **given: object) -> None:
    tasks = [new(f"task-{n}", type=f"t{n % 3}", **given) for n in range(count)]  # type: ignore[arg-type]
    for at in range(0, count, 1_000):
        do(store, ops.SubmitMany(tuple(tasks[at : at + 1_000])))


def drain(store: PostgresStore, number: int, *, limit: int = 7) -> list[str]:
    """Claim until nothing is left; all that was claimed."""
    got: list[str] = []
    nothing = 0
    while nothing < 20:
        leases = claim(store, limit, by=f"server-{number}")
        got += [lease.task_id for lease in leases]
        nothing = 0 if leases else nothing + 1
    return got


@pytest.mark.parametrize("keys", [(None,), ("k1", "k2", None)], ids=["plain", "keyed"])
def test_no_task_is_leased_by_two(stores: list[PostgresStore], keys: tuple[str | None, ...]) -> None:
    tasks = tuple(new(f"task-{n}", type=f"t{n % 3}", key=keys[n % len(keys)]) for n in range(600))
    do(stores[0], ops.SubmitMany(tasks))
    got = at_once(stores, drain)
    assert sorted(got[0] + got[1]) == sorted(each.id for each in tasks)
    assert min(len(each) for each in got) > 0


def test_cap_of_a_queue_holds_over_all(stores: list[PostgresStore]) -> None:
    do(stores[0], ops.SetQueue(queue="default", limits=Limits(concurrency=5)))
    fill(stores[0], 200)

    def run(store: PostgresStore, number: int) -> int:
        most = ended = 0
        while ended < 60:
            leases = claim(store, 4, by=f"server-{number}")
            most = max(most, store.read(queries.GetStats()).count(State.RUNNING))
            for lease in leases:
                do(store, finish(lease))
                ended += 1
        return most

    assert max(at_once(stores, run)) <= 5


def test_cap_of_a_key_holds_over_all(stores: list[PostgresStore]) -> None:
    do(stores[0], ops.SetQueue(queue="default", per_key=Limits(concurrency=2)))
    tasks = tuple(new(f"task-{n}", key=f"k{n % 4}") for n in range(200))
    do(stores[0], ops.SubmitMany(tasks))
    got = at_once(stores, drain)
    assert len(got[0] + got[1]) == 8
    assert Counter(task(stores[0], each).key for each in got[0] + got[1]) == {
        "k0": 2,
        "k1": 2,
        "k2": 2,
        "k3": 2,
    }


def test_rate_of_a_queue_holds_over_all(stores: list[PostgresStore]) -> None:
    rate = Rate(limit=10, period_ms=1_000, burst=10)
    do(stores[0], ops.SetQueue(queue="default", limits=Limits(rate=rate)))
    fill(stores[0], 100)
    got = at_once(stores, drain)
    assert len(got[0] + got[1]) == 10


def test_keys_take_turns_over_all(stores: list[PostgresStore]) -> None:
    tasks = tuple(new(f"{key}-{n}", key=key) for key in ("a", "b", "c") for n in range(40))
    do(stores[0], ops.SubmitMany(tasks))

    def run(store: PostgresStore, number: int) -> list[str]:
        return [claim(store, by=f"server-{number}")[0].task_id for _ in range(30)]

    got = at_once(stores, run)
    assert Counter(each[0] for each in got[0] + got[1]) == {"a": 20, "b": 20, "c": 20}


def test_same_id_at_once_makes_one_task(stores: list[PostgresStore]) -> None:
    def run(store: PostgresStore, number: int) -> list[bool]:
        return [do(store, ops.Submit(new(f"task-{n}"))).duplicate for n in range(100)]

    duplicates = at_once(stores, run)
    assert [sorted(both) for both in zip(*duplicates, strict=True)] == [[False, True]] * 100


def test_same_request_at_once_makes_one_task(stores: list[PostgresStore]) -> None:
    def run(store: PostgresStore, number: int) -> list[ops.Submitted]:
        requests = [ops.RequestKey(f"r{n}", "same") for n in range(50)]
        tasks = [new(f"{number}-{n}") for n in range(50)]
        return [do(store, ops.Submit(*each)) for each in zip(tasks, requests, strict=True)]

    for one, other in zip(*at_once(stores, run), strict=True):
        assert one.task_id == other.task_id
        assert sorted((one.duplicate, other.duplicate)) == [False, True]


@pytest.mark.parametrize("on_conflict", OnConflict)
def test_unique_key_has_one_holder(stores: list[PostgresStore], on_conflict: OnConflict) -> None:
    unique = Unique("key", on_conflict=on_conflict)

    def run(store: PostgresStore, number: int) -> None:
        for n in range(50):
            [answer] = store.apply([ops.Submit(new(f"{number}-{n}", unique=unique))], NOW)
            assert isinstance(answer, ops.Submitted | DuplicateTask), answer

    at_once(stores, run)
    waiting = [each for each in stores[0].snapshot().tasks if each.state is State.PENDING]
    assert len(waiting) == 1
    assert stores[0].snapshot().holders == (("email/key", waiting[0].id),)


def test_end_and_dependent_at_once_never_miss_each_other(stores: list[PostgresStore]) -> None:
    names = [f"first-{n}" for n in range(60)]
    submit(stores[0], *names)
    leases = {lease.task_id: lease for lease in claim(stores[0], 100)}

    def run(store: PostgresStore, number: int) -> None:
        for name in names:
            if number == 0:
                do(store, finish(leases[TaskId(name)]))
            else:
                given = new(f"then-{name}", depends_on=(TaskId(name),), on_dependency_failure=OnFailure.RUN)
                do(store, ops.Submit(given))

    at_once(stores, run)
    settle(stores[1])
    assert [state(stores[0], f"then-{name}") for name in names] == [State.PENDING] * 60


def state(store: PostgresStore, name: str) -> State:
    return task(store, name).state


def test_cancel_and_child_at_once_never_miss_each_other(stores: list[PostgresStore]) -> None:
    names = [f"parent-{n}" for n in range(60)]
    submit(stores[0], *names)

    def run(store: PostgresStore, number: int) -> None:
        for name in names:
            op = (
                ops.Cancel(TaskId(name))
                if number
                else ops.Submit(new(f"child-{name}", parent_id=TaskId(name)))
            )
            store.apply([op], NOW)

    at_once(stores, run)
    settle(stores[0])
    states = {each.state for each in stores[0].snapshot().tasks}
    assert states == {State.CANCELLED}


def test_two_blockers_that_end_at_once_are_both_counted(stores: list[PostgresStore]) -> None:
    for n in range(40):
        submit(stores[0], f"a-{n}", f"b-{n}")
        do(stores[0], ops.Submit(new(f"c-{n}", depends_on=(TaskId(f"a-{n}"), TaskId(f"b-{n}")))))
    leases = {lease.task_id: lease for lease in claim(stores[0], 100)}

    def run(store: PostgresStore, number: int) -> None:
        for n in range(40):
            do(store, finish(leases[TaskId(f"{'ab'[number]}-{n}")]))
            do(store, ops.Settle())

    at_once(stores, run)
    settle(stores[0])
    assert [state(stores[0], f"c-{n}") for n in range(40)] == [State.PENDING] * 40


@slow
def test_sweeps_beside_each_other_share_the_work(stores: list[PostgresStore]) -> None:
    fill(stores[0], 500, run_at=NOW + 10)

    def promote(store: PostgresStore, number: int) -> int:
        return sum(do(store, ops.Promote(50), NOW + 10).count for _ in range(20))

    assert sum(at_once(stores, promote)) == 500
    while claim(stores[0], 100, by="lost"):
        pass

    def recover(store: PostgresStore, number: int) -> int:
        asker = (HERE, THERE)[number]
        return sum(do(store, ops.Recover(asker, NOW, 50)).pending for _ in range(20))

    assert sum(at_once(stores, recover)) == 500
    while leases := claim(stores[0], 100):
        stores[0].apply([finish(lease) for lease in leases], NOW)

    def prune(store: PostgresStore, number: int) -> int:
        return sum(do(store, ops.Prune(50), NOW + 10**9).count for _ in range(20))

    assert sum(at_once(stores, prune)) == 500
    assert stores[0].read(queries.GetStats()).lanes == ()


def test_rows_in_another_order_are_locked_in_one(stores: list[PostgresStore]) -> None:
    fill(stores[0], 100)

    def cancel(store: PostgresStore, number: int) -> list[Reply | TqError]:
        names = [TaskId(f"task-{n}") for n in range(100)][:: 1 - 2 * number]
        return store.apply([ops.Cancel(name) for name in names], NOW)

    answers = at_once(stores, cancel)
    done = [sum(isinstance(answer, ops.CancelReply) for answer in each) for each in answers]
    assert sorted(done) == [0, 100]


def test_tick_is_dealt_with_once(stores: list[PostgresStore]) -> None:
    do(stores[0], ops.PutSchedule("nightly", Json("{}"), NOW))

    def fire(store: PostgresStore, number: int) -> list[bool]:
        fired = []
        for n in range(40):
            given = new(f"{number}-{n}")
            at = NOW + n + 1
            op = ops.Fire(
                name="nightly", version=1, tick_at=at, seen_until=at, next_at=None, task=given, overlap=True
            )
            fired.append(isinstance(store.apply([op], NOW)[0], ops.Fired))
        return fired

    at_once(stores, fire)
    schedule = stores[0].read(queries.GetSchedule("nightly"))
    assert schedule is not None
    made = [each.id for each in stores[0].snapshot().tasks]
    assert len(made) <= 40
    assert len({name.partition("-")[2] for name in made}) == len(made)


def test_heartbeat_beside_a_batch_is_for_those_who_are_known(stores: list[PostgresStore]) -> None:
    assert not stores[0].beat(HERE, NOW)
    assert stores[0].snapshot().servers == ()
    do(stores[0], ops.Beat(HERE))
    assert stores[1].beat(HERE, NOW + 5)
    assert stores[1].beat(HERE, NOW + 4)
    assert stores[0].snapshot().servers == ((HERE, NOW + 5),)


def test_who_has_its_own_row_in_hand_is_no_dead_server(
    stores: list[PostgresStore], empty_schema: Schema
) -> None:
    """Its heartbeat is in a batch that takes long: nobody waits for it, or takes back what it runs."""
    do(stores[0], ops.Beat(HERE))
    do(stores[0], ops.Beat(ServerId("dead")))
    submit(stores[0], "a", "b")
    claim(stores[0])
    claim(stores[0], by="dead")
    with psycopg.connect(empty_schema.server) as batch:
        batch.execute(f"UPDATE {empty_schema.name}.servers SET said = '1' WHERE server = %s", (HERE,))
        assert do(stores[1], ops.Recover(THERE, NOW + 1)) == ops.Recovered(pending=1)
        batch.rollback()
    assert stores[0].snapshot().servers == ((HERE, NOW),)
    assert task(stores[0], "a").state is State.RUNNING
    assert do(stores[1], ops.Recover(THERE, NOW + 1)) == ops.Recovered(pending=1)
    assert stores[0].snapshot().servers == ()


def test_who_beats_while_it_is_taken_for_dead_learns_that_it_was(stores: list[PostgresStore]) -> None:
    judge, late = stores
    do(late, ops.Beat(HERE))
    in_hand, go_on = Event(), Event()

    def hold(_: object) -> None:
        in_hand.set()
        go_on.wait(10)

    with ThreadPoolExecutor() as pool:
        judged = pool.submit(judge.apply, [ops.Recover(THERE, NOW + 1)], NOW + 2, news=hold)
        in_hand.wait(10)
        beaten = pool.submit(do, late, ops.Beat(HERE), NOW + 3)
        with pytest.raises(TimeoutError):
            beaten.result(0.2)
        go_on.set()
        judged.result(10)
        # What it ran was taken back: it must count its session anew.
        assert beaten.result(10) == ops.Beaten(known=False)
    assert do(late, ops.Beat(HERE), NOW + 4) == ops.Beaten(known=True)


def test_the_row_of_the_leader_is_locked_last(stores: list[PostgresStore], empty_schema: Schema) -> None:
    """Whatever the order in which a batch asks: or two of them would each hold what the other wants next."""
    do(stores[0], ops.Lead(HERE))
    do(stores[0], ops.SetQueue(queue="default", limits=Limits(concurrency=5)))
    submit(stores[0], "a")
    ours = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = %s"
    waits = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid = ANY (%s)"
    with (
        psycopg.connect(empty_schema.server) as other,
        psycopg.connect(empty_schema.server, autocommit=True) as look,
        ThreadPoolExecutor() as pool,
    ):
        other.execute(f"UPDATE {empty_schema.name}.leader SET expires_at = expires_at")
        asked = pool.submit(stores[0].apply, [ops.Lead(HERE), ops.Claim(HERE, None, 1)], NOW)
        while not asked.done():
            holders = [pid for (pid,) in look.execute(ours, (LOCK_SPACE,)).fetchall()]
            if look.execute(waits, (holders,)).fetchall():
                break
        assert not asked.done(), "it never waited for the leader's row with the lock of the queue in hand"
        other.rollback()
        led, claimed = asked.result(10)
    assert isinstance(led, ops.Led)
    assert isinstance(claimed, ops.Claimed)


@slow
@pytest.mark.parametrize("seed", tiered([1, 2, 3]))
def test_whatever_happens_at_once_the_tables_agree(stores: list[PostgresStore], seed: int) -> None:
    """Random batches to both. The model of each is the database itself: it only has to choose well."""

    def run(store: PostgresStore, number: int) -> Counter[str]:
        chooser, met = Chooser(100 * seed + number, store), Counter[str]()
        for _ in range(120):
            batch: list[AnyOp] = chooser.batch()
            for answer in store.apply(batch, chooser.now):
                met[type(answer).__name__] += 1
                if isinstance(answer, ops.Claimed):
                    chooser.leases += answer.leases
        return met

    met = sum(at_once(stores, run), Counter[str]())
    assert {"Submitted", "Finished", "LeaseLost", "Changed", "Recovered", "Swept"} <= set(met)
    later = NOW + 100 * 86_400_000
    settle(stores[0], now=later)
    everything = stores[0].snapshot()
    assert everything.unsettled == ()
    held = Counter(name for name, _ in everything.holders)
    assert max(held.values(), default=1) == 1
    by_id = {each.id: each for each in everything.tasks}
    for each in everything.tasks:
        if each.state is State.BLOCKED:
            # Nothing that has ended is still waited for.
            named = [by_id[name] for name in set(each.options.depends_on) if name in by_id]
            assert sum(one.finished_at is None for one in named) >= each.blockers > 0


def test_who_takes_back_what_the_dead_ran_knows_whether_they_left_anything_to_settle(
    stores: list[PostgresStore],
) -> None:
    here, there = stores
    settle(here)
    do(here, ops.Recover(ServerId(HERE), NOW))
    assert not here.unsettled, "and asks for nothing more, second after second"
    do(there, ops.Submit(new("first")))
    do(there, ops.Submit(new("then", depends_on=(TaskId("first"),))))
    [lease] = claim(there, by=THERE)
    do(there, finish(lease))
    assert not here.unsettled
    do(here, ops.Recover(ServerId(HERE), NOW))
    assert here.unsettled
    assert settle(here) == [("then", "pending")]
    assert not here.unsettled
