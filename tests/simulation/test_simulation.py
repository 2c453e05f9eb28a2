"""Seeded worlds hold their promises; `just sim` runs more of them."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from tiers import slow, tiered

from tq.clock import SystemClock
from tq.context import Context
from tq.core.retry import DEFAULT_RETRY
from tq.core.task import Json, Lease, TaskId
from tq.storage.memory import MemoryStore
from tq.testing.simulation import CAPPED, World, check, run

SEEDS = [int(line) for line in (Path(__file__).parent / "seeds.txt").read_text().split()]
"""Every seed that ever failed, and a few that never did."""


@pytest.mark.parametrize("seed", tiered(SEEDS))
def test_world_keeps_its_promises(seed: int) -> None:
    world = run(seed)
    assert len(world.acknowledged) > 20


def test_a_broken_promise_in_a_handler_ends_the_world() -> None:
    world = World(Random(0))
    lease = Lease(
        task_id=TaskId("t"),
        generation=1,
        type="quick",
        queue=CAPPED,
        payload=Json("null"),
        attempt=1,
        max_attempts=1,
        timeout_ms=1,
        retry=DEFAULT_RETRY,
        result_ttl_ms=None,
        created_at=0,
        run_at=0,
        claimed_at=0,
    )
    context = Context(task=lease, worker=1, deadline_at=1, clock=SystemClock())
    with world.running_task(context), world.running_task(context):
        pass
    assert world.broken == ["t started again as 1", "t runs twice at the same time"]
    with pytest.raises(AssertionError, match="t started again as 1"):
        check(world, MemoryStore())


@slow
def test_same_seed_is_the_same_world() -> None:
    one, other = run(1), run(1)
    assert (one.generations, one.acknowledged, one.ended) == (
        other.generations,
        other.acknowledged,
        other.ended,
    )
