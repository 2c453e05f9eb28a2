"""Seeded worlds of several servers hold their promises; `just sim-fleet` runs more of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiers import tiered

from tq.testing.fleet_simulation import run

SEEDS = [int(line) for line in (Path(__file__).parent / "fleet_seeds.txt").read_text().split()]
"""Every seed that ever failed, and one that never did."""


@pytest.mark.parametrize("seed", tiered(SEEDS))
def test_servers_of_a_fleet_keep_their_promises(seed: int) -> None:
    world, places = run(seed)
    assert len(world.acknowledged) > 100
    assert sum(place.lives for place in places) > len(places)
    assert sum(place.silences for place in places) > 3
