"""How much may run, and how often: the rules of a queue, and the arithmetic of rates.

A rate is the generic cell rate algorithm (ITU-T I.371, 1993, "virtual scheduling"): one number, the
theoretical arrival time (TAT), says all that is known of the past. Instants here are Unix microseconds
where their names end in ``_us``, because one interval may be less than a millisecond.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

RATE_LIMIT_MAX: Final = 100_000
"""Starts per period, and burst."""
RATE_PERIOD_MAX_MS: Final = 24 * 3600 * 1000
CONCURRENCY_MAX: Final = 100_000
AGING_MS: Final = 60_000
"""The head start that one point of priority is in a queue whose order is aging."""
QUEUES_MAX: Final = 1_000
"""Queues that may have rules of their own."""


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """At most *limit* starts in *period_ms* in the long run, and *burst* of them at once."""

    limit: int
    period_ms: int
    burst: int

    @property
    def interval_us(self) -> int:
        """The time between two starts, rounded up: rather one too few in a period than one too many."""
        return -(-self.period_ms * 1000 // self.limit)

    def allowance(self, tat_us: int, now: int) -> int:
        """How many may start at *now* (Unix milliseconds), given the *tat_us* of those before."""
        now_us = now * 1000
        room_us = now_us + self.burst * self.interval_us - max(tat_us, now_us)
        return max(0, room_us // self.interval_us)

    def after(self, tat_us: int, now: int, count: int) -> int:
        """The theoretical arrival time once *count* more have started at *now*."""
        return max(tat_us, now * 1000) + count * self.interval_us

    def allowed_at(self, tat_us: int) -> int:
        """The first instant, in Unix milliseconds, at which one may start."""
        return -((self.burst * self.interval_us - tat_us - self.interval_us) // 1000)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How many may run at a time, and how often one may start; None is no limit."""

    concurrency: int | None = None
    rate: Rate | None = None


NO_LIMITS: Final = Limits()


class Order(StrEnum):
    """Which waiting task of a queue is the next."""

    STRICT = "strict"
    """Priority; then run_at; then arrival."""
    AGING = "aging"
    """run_at less AGING_MS for each point of priority; then priority; then arrival. Nothing starves."""


class QueueRules(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of one queue. ``per_key`` holds for the tasks of each key by themselves."""

    order: Order = Order.STRICT
    limits: Limits = NO_LIMITS
    per_key: Limits = NO_LIMITS
    paused: bool = False


DEFAULT_RULES: Final = QueueRules()
"""The rules of a queue that has none of its own."""


def rank(order: Order, priority: int, run_at: int) -> tuple[int, int]:
    """What the waiting tasks of one key of a queue are sorted by, before arrival; least is next."""
    if order is Order.AGING:
        return (run_at - AGING_MS * priority, -priority)
    return (-priority, run_at)
