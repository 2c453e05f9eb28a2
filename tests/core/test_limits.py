"""Rates and ranks: the arithmetic, against a bucket that is filled and emptied by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tq.core.limits import DEFAULT_RULES, Limits, Order, QueueRules, Rate, rank

NOW = 1_700_000_000_000

rates = st.builds(
    Rate,
    limit=st.integers(1, 100_000),
    period_ms=st.integers(1, 86_400_000),
    burst=st.integers(1, 1_000),
)
small_rates = st.builds(
    Rate, limit=st.integers(1, 50), period_ms=st.sampled_from([1, 7, 100, 1_000]), burst=st.integers(1, 9)
)


class Bucket:
    """The same rate told in another way: a bucket of burst × interval, that fills with time."""

    def __init__(self, rate: Rate) -> None:
        self.interval_us = rate.interval_us
        self.size = self.level = rate.burst * rate.interval_us
        self.seen_at = NOW

    def start(self, now: int, wanted: int) -> int:
        """How many of *wanted* start at *now*."""
        self.level = min(self.size, self.level + (now - self.seen_at) * 1000)
        self.seen_at = now
        count = min(wanted, self.level // self.interval_us)
        self.level -= count * self.interval_us
        return count


def starts(rate: Rate, instants: list[int]) -> list[int]:
    """The instants of all starts, if at each of *instants* as many start as may."""
    tat_us, found = 0, []
    for now in instants:
        count = rate.allowance(tat_us, now)
        tat_us = rate.after(tat_us, now, count)
        found += [now] * count
    return found


def instants(steps: list[int]) -> list[int]:
    found = [NOW]
    for step in steps:
        found.append(found[-1] + step)
    return found


steps = st.lists(st.integers(0, 400), max_size=40)


# Totals


@pytest.mark.parametrize(
    ("rate", "every_ms", "for_ms", "total"),
    [
        # 3 at once, then one each 100 ms: at 100, …, 4,900.
        (Rate(limit=10, period_ms=1_000, burst=3), 50, 5_000, 52),
        (Rate(limit=10, period_ms=1_000, burst=3), 1, 5_000, 52),
        # Asked each 150 ms, it finds the one or two that have come meanwhile: none is lost.
        (Rate(limit=10, period_ms=1_000, burst=3), 150, 5_000, 52),
        # Asked each 300 ms, all of the burst, 17 times.
        (Rate(limit=10, period_ms=1_000, burst=3), 300, 5_000, 51),
        # Asked each second, it has earned no more than the burst.
        (Rate(limit=10, period_ms=1_000, burst=3), 1_000, 5_000, 15),
        (Rate(limit=1, period_ms=60_000, burst=1), 1_000, 3_600_000, 60),
        (Rate(limit=1_000, period_ms=1_000, burst=1_000), 10, 2_000, 1_000 + 1_990),
        # One each 10 µs: ten in each millisecond, where the burst has room for them.
        (Rate(limit=100_000, period_ms=1_000, burst=100), 1, 10, 100 + 9 * 100),
        (Rate(limit=100_000, period_ms=1_000, burst=10), 1, 10, 100),
    ],
)
def test_starts_over_a_time(rate: Rate, every_ms: int, for_ms: int, total: int) -> None:
    assert len(starts(rate, list(range(NOW, NOW + for_ms, every_ms)))) == total


def test_starts_of_a_rate_are_where_they_should_be() -> None:
    rate = Rate(limit=4, period_ms=1_000, burst=2)

    found = starts(rate, list(range(NOW, NOW + 1_100, 50)))

    assert [at - NOW for at in found] == [0, 0, 250, 500, 750, 1_000]


def test_burst_is_there_at_the_beginning() -> None:
    assert Rate(limit=1, period_ms=1_000, burst=7).allowance(0, NOW) == 7


def test_intervals_are_in_microseconds() -> None:
    assert Rate(limit=10, period_ms=1_000, burst=1).interval_us == 100_000
    assert Rate(limit=1, period_ms=86_400_000, burst=1).interval_us == 86_400_000_000
    assert Rate(limit=100_000, period_ms=1_000, burst=1).interval_us == 10
    assert Rate(limit=100_000, period_ms=1, burst=1).interval_us == 1


def test_clock_that_goes_back_gives_nothing_away() -> None:
    rate = Rate(limit=1, period_ms=1_000, burst=1)
    tat_us = rate.after(0, NOW, 1)

    assert rate.allowance(tat_us, NOW - 500) == 0
    assert rate.allowance(tat_us, NOW + 999) == 0
    assert rate.allowance(tat_us, NOW + 1_000) == 1


# Properties


@given(rate=small_rates, steps=steps)
def test_never_more_start_than_burst_and_time_allow(rate: Rate, steps: list[int]) -> None:
    found = starts(rate, instants(steps))

    for first, at in enumerate(found[:40]):
        for last in range(first, len(found)):
            elapsed_us = (found[last] - at) * 1000
            assert last - first + 1 <= rate.burst + elapsed_us // rate.interval_us


@given(rate=rates, asked=st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 20)), max_size=40))
def test_rate_does_what_a_bucket_does(rate: Rate, asked: list[tuple[int, int]]) -> None:
    bucket, tat_us, now = Bucket(rate), 0, NOW
    for step, wanted in asked:
        now += step
        count = min(wanted, rate.allowance(tat_us, now))
        assert count == bucket.start(now, wanted)
        tat_us = rate.after(tat_us, now, count)


@given(rate=rates, count=st.integers(0, 1_000), later=st.integers(-5, 5))
def test_instant_told_is_the_first_at_which_one_may_start(rate: Rate, count: int, later: int) -> None:
    tat_us = rate.after(0, NOW, min(count, rate.burst))
    at = rate.allowed_at(tat_us)

    assert (rate.allowance(tat_us, at + later) >= 1) == (later >= 0)


@pytest.mark.parametrize(
    ("rate", "started", "expected"),
    [
        (Rate(limit=10, period_ms=1_000, burst=3), 3, 100),
        (Rate(limit=10, period_ms=1_000, burst=3), 2, 0),
        (Rate(limit=3, period_ms=1_000, burst=1), 1, 334),
        (Rate(limit=100_000, period_ms=1_000, burst=5), 5, 1),
        (Rate(limit=1, period_ms=86_400_000, burst=1), 1, 86_400_000),
    ],
)
def test_next_start_is_allowed_at(rate: Rate, started: int, expected: int) -> None:
    assert rate.allowed_at(rate.after(0, NOW, started)) == NOW + expected


# Ranks


def test_strict_rank_is_priority_then_time() -> None:
    assert rank(Order.STRICT, 5, NOW) == (-5, NOW)
    assert rank(Order.STRICT, 5, NOW) < rank(Order.STRICT, 5, NOW + 1) < rank(Order.STRICT, 4, 0)


def test_aging_rank_is_time_less_a_minute_for_each_point() -> None:
    assert rank(Order.AGING, 5, NOW) == (NOW - 300_000, -5)
    assert rank(Order.AGING, -10, NOW) == (NOW + 600_000, 10)
    assert rank(Order.AGING, 0, NOW + 600_000) < rank(Order.AGING, -10, NOW)
    assert rank(Order.AGING, -10, NOW) < rank(Order.AGING, 0, NOW + 600_001)


@given(a=st.integers(-100, 100), b=st.integers(-100, 100), wait=st.integers(0, 10**8))
def test_whoever_waits_long_enough_is_first(a: int, b: int, wait: int) -> None:
    # 200 points are 12,000,000 ms.
    assert rank(Order.AGING, a, NOW - 12_000_001 - wait) < rank(Order.AGING, b, NOW)


def test_queue_without_rules_is_strict_and_unlimited() -> None:
    unlimited = Limits(concurrency=None, rate=None)
    rules = QueueRules(order=Order.STRICT, limits=unlimited, per_key=unlimited, paused=False)
    assert rules == DEFAULT_RULES


def test_interval_is_rounded_up_so_that_the_long_run_keeps_to_the_limit() -> None:
    # 150,000 µs for 100,000 starts is 1.5 µs each: 2, since 1 would let half as many again through.
    assert Rate(limit=100_000, period_ms=150, burst=1).interval_us == 2
    assert Rate(limit=3, period_ms=1_000, burst=1).interval_us == 333_334
    assert Rate(limit=1, period_ms=1, burst=1).interval_us == 1_000
