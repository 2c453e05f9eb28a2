"""How long a failed task waits for its next attempt. Pure arithmetic; chance is an argument."""

from __future__ import annotations

from enum import StrEnum

import msgspec

DELAY_CAP_MAX_MS = 30 * 24 * 3600 * 1000
"""No wait is longer than 30 days, whatever the policy says."""


class RetryKind(StrEnum):
    """How the wait grows with the attempt."""

    FIXED = "fixed"
    EXPONENTIAL = "exponential"
    POLYNOMIAL = "polynomial"


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The wait after the n-th failed attempt, n from 1.

    fixed: base.  exponential: base · 2^(n−1).  polynomial: base · n^4.
    The wait is cut at the cap, then spread over ±jitter of itself, so that tasks that failed together
    do not come back together (the "equal jitter" of Brooker, "Exponential Backoff And Jitter", 2015).
    """

    kind: RetryKind = RetryKind.EXPONENTIAL
    base_ms: int = 1_000
    cap_ms: int = 3_600_000
    jitter: float = 0.5

    def delay_ms(self, attempt: int, chance: float) -> int:
        """The wait after failed *attempt* (from 1), for *chance* uniform in [0, 1)."""
        assert attempt >= 1
        spread = 1 + self.jitter * (2 * chance - 1)
        return min(round(self._plain_ms(attempt) * spread), DELAY_CAP_MAX_MS)

    def _plain_ms(self, attempt: int) -> int:
        match self.kind:
            case RetryKind.FIXED:
                plain = self.base_ms
            case RetryKind.EXPONENTIAL:
                # 2^40 is past every cap; larger powers would only make large integers.
                plain = self.base_ms << min(attempt - 1, 40)
            case RetryKind.POLYNOMIAL:
                plain = self.base_ms * attempt**4
        return min(plain, self.cap_ms)


DEFAULT_RETRY = RetryPolicy()
"""1 s, 2 s, 4 s … 1 h, each times a random factor from 0.5 to 1.5."""
