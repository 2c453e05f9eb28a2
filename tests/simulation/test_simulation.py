"""Seeded worlds hold their promises; `just sim` runs more of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tq.testing.simulation import run

SEEDS = [int(line) for line in (Path(__file__).parent / "seeds.txt").read_text().split()]
"""Every seed that ever failed, and a few that never did."""


@pytest.mark.parametrize("seed", SEEDS)
def test_world_keeps_its_promises(seed: int) -> None:
    world = run(seed)
    assert len(world.acknowledged) > 20


def test_same_seed_is_the_same_world() -> None:
    one, other = run(1), run(1)
    assert (one.generations, one.acknowledged, one.ended) == (
        other.generations,
        other.acknowledged,
        other.ended,
    )
