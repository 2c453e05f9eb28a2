"""Random rules, keys and claims to the model and to each other store alike: equal replies at every step.

The twin of test_differential.py, in a world of few tasks and many rules, where most of what happens is that
something is held back. To replay one run: ``pytest tests/storage/test_differential_claims.py -k "[SEED]"``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from storage_kit import NOW, finish, new
from tiers import slow, tiered

from tq.core import ops, queries
from tq.core.errors import TqError
from tq.core.limits import Limits, Order, Rate
from tq.core.ops import AnyOp, Reply
from tq.core.task import Lease, ServerId, State, TaskId
from tq.storage.memory import MemoryStore
from tq.storage.sqlite import SqliteStore
from tq.storage.store import Store

pytest_plugins = ("postgres_kit",)

SEEDS = (1, 2, 3)
QUICK_SEED = 4
BATCHES = 150
QUEUES = ("q1", "q2", "q3")
TYPES = ("t1", "t2", "t3")
KEYS = (None, None, "k1", "k2", "k3", "k'\"4")

ALL_SEEN = {
    "leases of many",
    "again",
    "capped",
    "again and capped",
    "keys in turn",
    "aging",
    "rates",
    "dropped",
}
"""What the runs must have met between them."""


class Chooser:
    """Makes batches; it remembers the leases it was given."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = NOW
        self.leases: list[Lease] = []
        self.made = 0
        self.many = self.random.random() < 0.3

    def batch(self) -> list[AnyOp]:
        self.now += self.random.choice((0, 1, 20, 400, 3_000))
        batch: list[AnyOp] = []
        for _ in range(self.random.choice((1, 2, 6))):
            make = self.random.choices(self.makers, self.weights)[0]
            batch += [make(self) for _ in range(self.random.choice((1, 1, 4)))]
        return batch

    def submit(self) -> AnyOp:
        self.made += 1
        many = self.many and self.random.random() < 0.8
        return ops.Submit(
            new(
                f"task-{self.made}",
                type=self.random.choice(TYPES),
                queue=self.random.choice(QUEUES),
                priority=self.random.choice((0, 0, 0, 1, 2, -3)),
                run_at=self.now + self.random.choice((-90_000, -100, -1, 0, 0, 50)),
                result_ttl_ms=self.random.choice((0, 60, 5_000)),
                key=f"k{self.random.randrange(40)}" if many else self.random.choice(KEYS),
            )
        )

    def claim(self) -> AnyOp:
        types = self.random.choice((None, None, None, TYPES[:1], TYPES[1:], ("t9",)))
        return ops.Claim(ServerId("s"), types, self.random.choice((0, 1, 2, 5, 30)))

    def rate(self) -> Rate | None:
        if self.random.random() < 0.5:
            return None
        limit = self.random.choice((1, 3, 7))
        return Rate(
            limit=limit, period_ms=self.random.choice((1, 100, 3_000)), burst=self.random.choice((1, 4))
        )

    def limits(self) -> Limits:
        return Limits(concurrency=self.random.choice((None, None, 1, 3, 8)), rate=self.rate())

    def set_queue(self) -> AnyOp:
        return ops.SetQueue(
            queue=self.random.choice(QUEUES),
            order=self.random.choice((Order.STRICT, Order.STRICT, Order.AGING)),
            limits=self.limits() if self.random.random() < 0.6 else Limits(),
            per_key=self.limits() if self.random.random() < 0.5 else Limits(),
        )

    def reset_queue(self) -> AnyOp:
        return ops.SetQueue(queue=self.random.choice(QUEUES))

    def pause(self) -> AnyOp:
        return ops.PauseQueue(self.random.choice(QUEUES), self.random.random() < 0.4)

    def lease(self) -> Lease | None:
        if not self.leases:
            return None
        return self.leases.pop(self.random.randrange(len(self.leases)))

    def finish(self) -> AnyOp:
        lease = self.lease()
        return (
            self.submit()
            if lease is None
            else finish(lease, self.random.choice((State.SUCCEEDED, State.FAILED)))
        )

    def retrying(self) -> AnyOp:
        lease = self.lease()
        return self.submit() if lease is None else finish(lease, State.RETRYING, None, run_at=self.now + 5)

    def release(self) -> AnyOp:
        lease = self.lease()
        return self.submit() if lease is None else ops.Release(lease.task_id, lease.generation)

    def cancel(self) -> AnyOp:
        return ops.Cancel(self.task_id())

    def retry(self) -> AnyOp:
        return ops.Retry(self.task_id())

    def update(self) -> AnyOp:
        return ops.Update(task_id=self.task_id(), priority=self.random.choice((0, 2)), run_at=self.now - 7)

    def delete(self) -> AnyOp:
        return ops.Delete(self.task_id())

    def task_id(self) -> TaskId:
        return TaskId(f"task-{self.random.randrange(self.made + 1)}")

    def promote(self) -> AnyOp:
        return ops.Promote()

    def prune(self) -> AnyOp:
        return ops.Prune(self.random.choice((3, 1_000)))

    # fmt: off
    makers = (
        submit, claim, finish, retrying, release, cancel, retry, update, delete, promote, prune, set_queue,
        reset_queue, pause,
    )
    weights = (9, 9, 9, 1, 2, 1, 1, 1, 1, 2, 2, 1.5, 0.5, 1)
    # fmt: on


def things_met(store: Store, answer: Reply | TqError) -> set[str]:
    """What is to be ticked off in ALL_SEEN, as far as SQLite shows it."""
    if not isinstance(answer, ops.Claimed) or not isinstance(store, SqliteStore):
        return set()
    book = store._book
    assert book is not None
    met = {
        "leases of many": len({(lease.queue, lease.key) for lease in answer.leases}) > 3,
        "again": answer.again_at is not None,
        "capped": answer.is_capped,
        "again and capped": answer.is_capped and answer.again_at is not None,
        "keys in turn": len({lease.key for lease in answer.leases}) > 1,
        "aging": any(
            book.rules[lease.queue].order is Order.AGING
            for lease in answer.leases
            if lease.queue in book.rules
        ),
        "rates": bool(book.tats),
        "dropped": book.next_lane > len(book.lanes) + 1,
    }
    return {name for name, is_met in met.items() if is_met}


def run(seed: int, model: Store, open_store: Callable[[], Store]) -> Counter[str]:
    """Drive both stores through BATCHES; what was met."""
    chooser, met = Chooser(seed), Counter[str]()
    store = open_store()
    try:
        for step in range(BATCHES):
            batch = chooser.batch()
            where = f"seed {seed}, step {step}: {batch}"
            expected = model.apply(batch, chooser.now)
            assert store.apply(batch, chooser.now) == expected, where
            for answer in expected:
                met.update(things_met(store, answer))
                if isinstance(answer, ops.Claimed):
                    chooser.leases += answer.leases
            if chooser.random.random() < 0.1:
                store.close()
                store = open_store()
            if step % 10 == 9:
                assert store.snapshot() == model.snapshot(), where
            assert store.read(queries.GetQueues()) == model.read(queries.GetQueues()), where
    finally:
        store.close()
    return met


@pytest.fixture(scope="module")
def met() -> Counter[str]:
    return Counter()


@pytest.mark.parametrize("seed", tiered((QUICK_SEED, *SEEDS)))
def test_sqlite_picks_what_the_model_picks(seed: int, tmp_path: Path, met: Counter[str]) -> None:
    path = tmp_path / "tq.db"
    met.update(run(seed, MemoryStore(), lambda: SqliteStore(path, durable=False)))


@pytest.mark.parametrize("seed", tiered((QUICK_SEED, *SEEDS)))
def test_postgres_picks_what_the_model_picks(seed: int, open_empty_postgres: Callable[[], Store]) -> None:
    run(seed, MemoryStore(), open_empty_postgres)


@slow
def test_the_runs_met_everything_there_is(met: Counter[str]) -> None:
    if len(met) > 0:  # not where only one seed was chosen to run
        assert ALL_SEEN - set(met) == set()
