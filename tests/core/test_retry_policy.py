"""How long a failed task waits: single steps, and the whole window, because unit slips hide in steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tq.core.retry import DEFAULT_RETRY, DELAY_CAP_MAX_MS, RetryKind, RetryPolicy

FIXED, EXPONENTIAL, POLYNOMIAL = RetryKind.FIXED, RetryKind.EXPONENTIAL, RetryKind.POLYNOMIAL


def waits(policy: RetryPolicy, attempts: int, *, chance: float = 0.5) -> list[int]:
    """What the policy waits after each attempt but the last."""
    return [policy.delay_ms(attempt, chance) for attempt in range(1, attempts)]


def test_default_policy_is_as_the_design_says() -> None:
    assert RetryPolicy(kind=EXPONENTIAL, base_ms=1_000, cap_ms=3_600_000, jitter=0.5) == DEFAULT_RETRY


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (FIXED, [250, 250, 250, 250, 250, 250]),
        (EXPONENTIAL, [250, 500, 1_000, 2_000, 4_000, 5_000]),
        (POLYNOMIAL, [250, 4_000, 5_000, 5_000, 5_000, 5_000]),
    ],
)
def test_wait_grows_by_its_kind_up_to_the_cap(kind: RetryKind, expected: list[int]) -> None:
    assert waits(RetryPolicy(kind=kind, base_ms=250, cap_ms=5_000), 7) == expected


def test_polynomial_wait_is_the_fourth_power() -> None:
    policy = RetryPolicy(kind=POLYNOMIAL, base_ms=10, cap_ms=DELAY_CAP_MAX_MS)

    assert waits(policy, 6) == [10, 160, 810, 2_560, 6_250]


def test_whole_window_of_twenty_attempts_is_about_eight_hours() -> None:
    # 1 s + 2 s + … + 2048 s, then seven times an hour: 4,095 s + 25,200 s.
    assert sum(waits(DEFAULT_RETRY, 20)) == 29_295_000
    assert sum(waits(DEFAULT_RETRY, 20, chance=0.0)) == 14_647_500
    assert sum(waits(DEFAULT_RETRY, 20, chance=1.0)) == 43_942_500
    assert len(waits(DEFAULT_RETRY, 20)) == 19


@pytest.mark.parametrize(("chance", "expected"), [(0.0, 500), (0.25, 750), (0.5, 1_000), (0.999, 1_499)])
def test_jitter_spreads_evenly_around_the_wait(chance: float, expected: int) -> None:
    assert DEFAULT_RETRY.delay_ms(1, chance) == expected


def test_without_jitter_chance_does_not_matter() -> None:
    policy = RetryPolicy(jitter=0.0)

    assert {policy.delay_ms(3, chance) for chance in (0.0, 0.3, 0.999)} == {4_000}


def test_no_wait_is_longer_than_thirty_days() -> None:
    policy = RetryPolicy(cap_ms=DELAY_CAP_MAX_MS, jitter=1.0)

    assert policy.delay_ms(1_000, 0.999) == 2_592_000_000


def test_zero_base_does_not_wait() -> None:
    assert waits(RetryPolicy(base_ms=0), 4) == [0, 0, 0]


@given(
    policy=st.builds(
        RetryPolicy,
        kind=st.sampled_from(RetryKind),
        base_ms=st.integers(0, DELAY_CAP_MAX_MS),
        cap_ms=st.integers(0, DELAY_CAP_MAX_MS),
        jitter=st.floats(0, 1),
    ),
    attempt=st.integers(1, 1_000),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_wait_is_within_its_bounds_and_never_shrinks(
    policy: RetryPolicy, attempt: int, chance: float
) -> None:
    wait = policy.delay_ms(attempt, chance)

    assert 0 <= wait <= min(2 * policy.cap_ms, DELAY_CAP_MAX_MS)
    assert policy.delay_ms(attempt + 1, chance) >= wait
