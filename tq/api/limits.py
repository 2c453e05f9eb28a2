"""How often somebody may ask: one number for each, for those who asked last. Pure: time is handed in."""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from tq.api.problems import rate_headers
from tq.core.errors import RateLimited
from tq.core.limits import Rate

LIMITED_MAX: Final = 10_000
"""Callers whose past is known; who asked longest ago is forgotten first, and begins anew."""

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Room:
    """What *policy* leaves to a caller: *left* requests now, all of them in *reset_s* seconds.

    ``retry_after_ms`` None: there was room for this request.
    """

    policy: str
    rate: Rate
    left: int
    reset_s: int
    retry_after_ms: int | None

    def headers(self) -> Headers:
        """The headers that tell it."""
        window_s = math.ceil(self.rate.period_ms / 1000)
        return rate_headers(self.policy, self.rate.burst, window_s, left=self.left, reset_s=self.reset_s)

    def refusal(self) -> RateLimited:
        """The refusal of a request that there was no room for."""
        assert self.retry_after_ms is not None
        return RateLimited(
            f"over {self.rate.limit} requests in {self.rate.period_ms / 1000:g} s ({self.policy}):"
            " wait for so long as Retry-After says",
            retry_after_ms=self.retry_after_ms,
            policy=self.policy,
            quota=self.rate.burst,
            window=math.ceil(self.rate.period_ms / 1000),
            reset=self.reset_s,
        )


class Limiter:
    """Who asked when, as the theoretical arrival time of each: see `tq.core.limits`."""

    def __init__(self, size: int = LIMITED_MAX) -> None:
        self._size = size
        self._tats: OrderedDict[tuple[str, str], int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tats)

    def take(self, policy: str, who: str, rate: Rate, now: int) -> Room:
        """Count a request of *who* at *now*, if there is room for it; one that is refused costs nothing."""
        name = (policy, who)
        # A clock that was set back must not lock anybody out for longer than the rate itself could.
        tat_us = min(self._tats.get(name, 0), now * 1000 + rate.burst * rate.interval_us)
        retry_after_ms = None
        if rate.allowance(tat_us, now) > 0:
            tat_us = rate.after(tat_us, now, 1)
            self._keep(name, tat_us)
        else:
            retry_after_ms = max(1, rate.allowed_at(tat_us) - now)
        reset_s = max(0, math.ceil((tat_us / 1000 - now) / 1000))
        return Room(policy, rate, rate.allowance(tat_us, now), reset_s, retry_after_ms)

    def _keep(self, name: tuple[str, str], tat_us: int) -> None:
        self._tats[name] = tat_us
        self._tats.move_to_end(name)
        if len(self._tats) > self._size:
            self._tats.popitem(last=False)


@lru_cache(maxsize=4096)
def address_group(host: str) -> str:
    """Whose address *host* is, as far as caps go: an IPv6 network of 64 bits is one client's. Empty: ours."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.is_loopback:
        return ""
    return host if address.version == 4 else address.exploded[:19]
