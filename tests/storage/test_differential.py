"""Random batches to the model and to SQLite alike: equal replies, equal snapshots, at every step.

To replay one run: ``pytest "tests/storage/test_differential.py" -k "[SEED]"``; any seed works, see SEEDS.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pytest
from storage_kit import NOW, new

from tq.core import ops
from tq.core.errors import TqError
from tq.core.ops import AnyOp, Reply
from tq.core.task import AttemptError, Json, Lease, NewTask, Reason, ServerId, State, TaskId
from tq.storage.memory import MemoryStore
from tq.storage.sqlite import SqliteStore
from tq.storage.store import Store

SEEDS = (1, 2, 3)
BATCHES = 250
TYPES = ("t1", "t2", "t3")
SERVERS = (ServerId("s1"), ServerId("s2"), ServerId("s3"))
TEXTS = ("1", '{"a":"ñ"}', '"' + "x" * 1_500 + '"', '[ 1, "\\u0000" ]')

ALL_SEEN = {
    f"{op} {how}"
    for op in ("Submit", "SubmitMany", "Finish", "Release", "Cancel", "Retry")
    for how in ("done", "refused")
} | {
    f"{op} {how}"
    for op in ("Submit", "SubmitMany", "Claim", "Promote", "Prune", "Recover", "Cancel")
    for how in ("done", "nothing")
} - {"Cancel nothing"}
"""What the runs must have met between them; nothing: a duplicate, an empty claim or sweep."""
ALL_SEEN |= {"Promote more", "Prune more", "Recover more", "Beat done", "Recover failed", "Recover cancelled"}
ALL_SEEN |= {f"Finish {state}" for state in ("succeeded", "failed", "cancelled", "retrying", "scheduled")}


class Chooser:
    """Makes batches that are likely to mean something: it remembers the leases it was given."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = NOW
        self.leases: list[Lease] = []

    def batch(self) -> list[AnyOp]:
        self.now += self.random.choice((0, 1, 20, 400))
        size = self.random.choice((1, 3, 12))
        batch: list[AnyOp] = []
        while len(batch) < size:
            # Runs of one kind are what a store takes together.
            make = self.random.choices(self.makers, self.weights)[0]
            batch += [make(self) for _ in range(self.random.choice((1, 1, 4)))]
        return batch

    def task_id(self) -> TaskId:
        return TaskId(f"task-{self.random.randrange(25)}")

    def new(self) -> NewTask:
        return new(
            self.task_id(),
            type=self.random.choice(TYPES),
            queue=self.random.choice(("q1", "q2")),
            payload=self.random.choice(TEXTS),
            priority=self.random.choice((0, 0, 5, -5)),
            run_at=self.now + self.random.choice((-100, 0, 0, 50)),
            result_ttl_ms=self.random.choice((None, 0, 60)),
        )

    def submit(self) -> AnyOp:
        return ops.Submit(self.new())

    def submit_many(self) -> AnyOp:
        return ops.SubmitMany(tuple(self.new() for _ in range(self.random.choice((0, 1, 1, 3)))))

    def claim(self) -> AnyOp:
        types = self.random.choice((None, None, (), TYPES[:1], TYPES[1:], ("t9",)))
        return ops.Claim(self.random.choice(SERVERS), types, self.random.choice((0, 1, 2, 10)))

    def lease(self) -> tuple[TaskId, int]:
        if self.leases and self.random.random() < 0.9:
            lease = self.random.choice(self.leases[-12:])
            return lease.task_id, lease.generation
        return self.task_id(), self.random.randrange(3)

    def finish(self) -> AnyOp:
        task_id, generation = self.lease()
        state = self.random.choice(
            (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.RETRYING, State.SCHEDULED, State.PENDING)
        )
        error = AttemptError(
            generation, self.now, Reason.ERROR, "E", self.random.choice(("no", "ñ\0", "x" * 999))
        )
        return ops.Finish(
            task_id=task_id,
            generation=generation,
            state=state,
            reason=self.random.choice((None, *Reason)),
            run_at=self.now + self.random.choice((0, 30)),
            result=self.random.choice((None, *(Json(text) for text in TEXTS))),
            error=self.random.choice((None, error)),
            started_at=self.now,
            worker=self.random.choice((None, 3)),
            burns=self.random.random() < 0.8,
        )

    def release(self) -> AnyOp:
        return ops.Release(*self.lease())

    def cancel(self) -> AnyOp:
        return ops.Cancel(self.task_id(), self.random.choice((Reason.USER, Reason.PARENT)))

    def retry(self) -> AnyOp:
        return ops.Retry(self.task_id())

    def limit(self) -> int:
        return self.random.choice((0, 1, 3, 100))

    def promote(self) -> AnyOp:
        return ops.Promote(self.limit())

    def recover(self) -> AnyOp:
        return ops.Recover(self.random.choice(SERVERS), self.now - self.random.choice((0, 100)), self.limit())

    def prune(self) -> AnyOp:
        return ops.Prune(self.limit())

    def beat(self) -> AnyOp:
        return ops.Beat(self.random.choice(SERVERS), gone=self.random.random() < 0.2)

    makers = (submit, submit_many, claim, finish, release, cancel, retry, promote, recover, prune, beat)
    weights = (5, 2, 6, 9, 2, 3, 3, 2, 2, 1, 2)


def outcomes(op: AnyOp, answer: Reply | TqError) -> list[str]:
    """What is to be ticked off in ALL_SEEN."""
    match answer:
        case TqError():
            found = ["refused"]
        case ops.Submitted():
            found = ["nothing" if answer.duplicate else "done"]
        case ops.Finished():
            found = ["done", answer.state.value]
        case ops.Swept():
            found = ["done" if answer.count else "nothing"] + ["more"] * answer.more
        case ops.Recovered():
            found = [name for name in ("failed", "cancelled") if getattr(answer, name)]
            found += ["more"] * answer.more + (["done"] if answer.pending else ["nothing"])
        case _:
            found = ["nothing" if answer == () else "done"]
    return [f"{type(op).__name__} {how}" for how in found]


def run(seed: int, model: Store, path: Path) -> Counter[str]:
    """Drive both stores through BATCHES; what was seen."""
    chooser, seen = Chooser(seed), Counter[str]()
    store = SqliteStore(path)
    try:
        for step in range(BATCHES):
            batch = chooser.batch()
            where = f"seed {seed}, step {step}: {batch}"
            expected = model.apply(batch, chooser.now)
            assert store.apply(batch, chooser.now) == expected, where
            if step % 40 == 17:
                store.close()
                store = SqliteStore(path)
            assert store.snapshot() == model.snapshot(), where
            assert store.read(ops.GetStats()) == model.read(ops.GetStats()), where
            assert store.read(ops.NextDue()) == model.read(ops.NextDue()), where
            for op, answer in zip(batch, expected, strict=True):
                seen.update(outcomes(op, answer))
                if isinstance(answer, tuple):
                    chooser.leases += [lease for lease in answer if isinstance(lease, Lease)]
    finally:
        store.close()
    return seen


@pytest.fixture(scope="module")
def seen() -> Counter[str]:
    return Counter()


@pytest.mark.parametrize("seed", SEEDS)
def test_sqlite_does_what_the_model_does(seed: int, tmp_path: Path, seen: Counter[str]) -> None:
    seen.update(run(seed, MemoryStore(), tmp_path / "tq.db"))


def test_the_runs_met_everything_there_is(seen: Counter[str]) -> None:
    if len(seen) > 0:  # not where only one seed was chosen to run
        assert ALL_SEEN - set(seen) == set()
