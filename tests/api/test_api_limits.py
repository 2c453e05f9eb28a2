"""How often somebody may ask, and how that is told."""

from __future__ import annotations

import pytest

from tq.api.limits import Limiter
from tq.core.limits import Rate

RATE = Rate(limit=2, period_ms=1_000, burst=2)
NOW = 1_700_000_000_000


def test_what_is_left_is_told_and_what_is_refused_costs_nothing() -> None:
    limiter = Limiter()
    rooms = [limiter.take("key", "a", RATE, NOW) for _ in range(4)]
    assert [(room.left, room.retry_after_ms) for room in rooms] == [(1, None), (0, None), (0, 500), (0, 500)]
    assert rooms[0].headers() == (("ratelimit-policy", '"key";q=2;w=1'), ("ratelimit", '"key";r=1;t=1'))
    assert rooms[2].refusal().fields == {
        "retry_after_ms": 500,
        "policy": "key",
        "quota": 2,
        "window": 1,
        "reset": 1,
    }
    assert limiter.take("key", "a", RATE, NOW + 499).retry_after_ms == 1
    assert limiter.take("key", "a", RATE, NOW + 500).retry_after_ms is None


def test_callers_and_policies_are_counted_apart() -> None:
    limiter = Limiter()
    for _ in range(2):
        limiter.take("key", "a", RATE, NOW)
    assert limiter.take("key", "b", RATE, NOW).retry_after_ms is None
    assert limiter.take("address", "a", RATE, NOW).retry_after_ms is None


def test_the_table_is_bounded_and_forgets_who_asked_longest_ago() -> None:
    limiter = Limiter(size=2)
    for who in ("a", "a", "b", "b", "a", "c"):
        limiter.take("key", who, RATE, NOW)
    assert len(limiter) == 2
    assert limiter.take("key", "b", RATE, NOW).retry_after_ms == 500
    assert limiter.take("key", "a", RATE, NOW).retry_after_ms is None


@pytest.mark.parametrize("back_ms", [1_000, 3_600_000])
def test_a_clock_that_is_set_back_locks_nobody_out(back_ms: int) -> None:
    limiter = Limiter()
    for _ in range(2):
        limiter.take("key", "a", RATE, NOW)
    assert limiter.take("key", "a", RATE, NOW - back_ms).retry_after_ms == 500
