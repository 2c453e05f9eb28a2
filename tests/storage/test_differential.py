"""Random batches to the model and to each other store alike: equal replies, equal snapshots, at every step.

To replay one run: ``pytest "tests/storage/test_differential.py" -k "[SEED]"``; any seed works, see SEEDS.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from chooser import Chooser
from tiers import slow, tiered

from tq.core import ops
from tq.core.errors import TqError
from tq.core.ops import AnyOp, Letter, Reply
from tq.storage.memory import MemoryStore
from tq.storage.postgres import PostgresStore
from tq.storage.sqlite import SqliteStore
from tq.storage.store import Store, WriteLetter

pytest_plugins = ("postgres_kit",)

SEEDS = (5, 26, 37, 57, 59, 101)
"""Of the first eighty these meet all of ALL_SEEN at least twice."""
QUICK_SEED = 4
BATCHES = 400

LEASE = ("NotFound", "LeaseLost")
REFUSED = {
    "Submit": ("DuplicateTask", "IdempotencyKeyReused", "InvalidInput", "Conflict", "NotFound"),
    "SubmitMany": ("DuplicateTask", "InvalidInput", "Conflict"),
    "Finish": (*LEASE, "IllegalTransition"),
    "Crash": LEASE,
    "Release": LEASE,
    "Note": LEASE,
    "Cancel": ("NotFound", "IllegalTransition"),
    "Retry": ("NotFound", "IllegalTransition", "DuplicateTask"),
    "Update": ("NotFound", "IllegalTransition"),
    "Delete": ("NotFound", "IllegalTransition", "Conflict"),
    "DeleteSchedule": ("NotFound",),
    "PauseSchedule": ("NotFound", "Conflict"),
    "Fire": ("NotFound", "Conflict", "InvalidInput"),
    "PutKey": ("Conflict",),
    "RevokeKey": ("NotFound",),
}
SWEEP = ("done", "nothing", "more")
"""Nothing: a duplicate, an empty claim or sweep."""
DONE = {
    "Submit": ("done", "nothing", "replaced", "blocked", "scheduled", "pending", "cancelled"),
    "SubmitMany": ("done", "nothing"),
    "Claim": ("done", "nothing", "capped", "rated"),
    "Finish": ("succeeded", "failed", "cancelled", "retrying", "scheduled"),
    "Crash": ("pending", "failed", "cancelled"),
    "Release": ("pending", "cancelled"),
    "Note": ("done",),
    "Cancel": ("running", "cancelled"),
    "Retry": ("done",),
    "Update": ("blocked", "scheduled", "pending", "retrying"),
    "Delete": ("done",),
    "Promote": SWEEP,
    "Expire": (*SWEEP, "failed", "cancelled"),
    "Settle": (*SWEEP, "pending", "scheduled", "running", "cancelled"),
    "Recover": (*SWEEP, "failed", "cancelled"),
    "Prune": SWEEP,
    "Beat": ("done", "nothing"),
    "Lead": ("done", "nothing"),
    "PruneLetters": SWEEP,
    "SetQueue": ("done",),
    "PauseQueue": ("done",),
    "PutSchedule": ("done",),
    "DeleteSchedule": ("done",),
    "PauseSchedule": ("done",),
    "Fire": ("done", "nothing"),
    "PutKey": ("done",),
    "RevokeKey": ("done",),
}
ALL_SEEN = {f"{op} {how}" for table in (REFUSED, DONE) for op, hows in table.items() for how in hows}
"""What the runs must have met between them."""


def outcomes(op: AnyOp, answer: Reply | TqError) -> set[str]:
    """What is to be ticked off in ALL_SEEN."""
    found: set[str]
    match answer:
        case TqError():
            found = {type(answer).__name__}
        case ops.Submitted():
            found = {"nothing" if answer.duplicate else "done", answer.state.value}
            found |= {"replaced"} if answer.replaced is not None else set()
        case ops.Claimed():
            found = {"done" if answer.leases else "nothing"}
            found |= {"capped"} if answer.is_capped else set()
            found |= {"rated"} if answer.again_at is not None else set()
        case ops.Finished() | ops.Released() | ops.CancelReply() | ops.Updated():
            found = {answer.state.value}
        case ops.Swept():
            found = swept(answer.count, answer.more)
        case ops.Changed():
            found = swept(len(answer.changes), answer.more) | {each.state.value for each in answer.changes}
        case ops.Recovered():
            found = swept(answer.pending, answer.more)
            found |= {name for name in ("failed", "cancelled") if getattr(answer, name)}
        case ops.Beaten(known=False):
            found = {"done" if answer.known else "nothing"}
        case ops.Led():
            found = {"done" if answer.is_leader else "nothing"}
        case ops.Fired():
            found = {"nothing" if answer.submitted is None else "done"}
        case _:
            found = {"nothing" if answer == () else "done"}
    return {f"{type(op).__name__} {how}" for how in found}


def swept(count: int, more: bool) -> set[str]:
    return {"done" if count else "nothing"} | ({"more"} if more else set())


def writes(letter: Letter | None, heard: list[Sequence[Reply | TqError]]) -> WriteLetter:
    """Writes *letter*, whatever it has *heard*."""

    def write(replies: Sequence[Reply | TqError]) -> Letter | None:
        heard.append(list(replies))
        return letter

    return write


def run(seed: int, model: Store, open_store: Callable[[], Store]) -> Counter[str]:
    """Drive both stores through BATCHES; what was seen."""
    chooser, seen = Chooser(seed, model), Counter[str]()
    store = open_store()
    try:
        for step in range(BATCHES):
            batch = chooser.batch()
            where = f"seed {seed}, step {step}: {batch}"
            letter = chooser.letter()
            heard: list[Sequence[Reply | TqError]] = []
            expected = model.apply(batch, chooser.now, news=writes(letter, heard))
            assert store.apply(batch, chooser.now, news=writes(letter, heard)) == expected, where
            assert heard == [expected, expected], where
            assert store.unsettled or not model.unsettled, where
            if step % 40 == 17:
                store.close()
                store = open_store()
            assert store.snapshot() == model.snapshot(), where
            for query in chooser.questions():
                assert store.read(query) == model.read(query), f"{query} after {where}"
            for op, answer in zip(batch, expected, strict=True):
                seen.update(outcomes(op, answer))
                if isinstance(answer, ops.Claimed):
                    chooser.leases += answer.leases
    finally:
        store.close()
    return seen


@pytest.fixture(scope="module")
def seen() -> Counter[str]:
    return Counter()


@pytest.mark.parametrize("seed", tiered((QUICK_SEED, *SEEDS)))
def test_sqlite_does_what_the_model_does(seed: int, tmp_path: Path, seen: Counter[str]) -> None:
    seen.update(run(seed, MemoryStore(), lambda: SqliteStore(tmp_path / "tq.db")))


@slow
@pytest.mark.parametrize("seed", [QUICK_SEED, *SEEDS])
def test_postgres_does_what_the_model_does(
    seed: int, open_empty_postgres: Callable[[], Store], seen: Counter[str]
) -> None:
    seen.update(run(seed, MemoryStore(), open_empty_postgres))


@slow
@pytest.mark.parametrize("seed", [QUICK_SEED, *SEEDS[:2]])
def test_postgres_does_so_where_it_looks_for_what_others_hold(
    seed: int, open_empty_postgres: Callable[[], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PostgresStore, "_names_held", lambda self, batch: True)
    run(seed, MemoryStore(), open_empty_postgres)


@slow
def test_the_runs_met_everything_there_is(seen: Counter[str]) -> None:
    if len(seen) > 0:  # not where only one seed was chosen to run
        assert ALL_SEEN - set(seen) == set()
