"""How many workers a server may have."""

from __future__ import annotations

from typing import Final

import msgspec

WORKERS_MAX: Final = 1_000


class WorkerRange(msgspec.Struct, frozen=True):
    """At least ``minimum`` workers and at most ``maximum``: 1 ≤ minimum ≤ maximum ≤ WORKERS_MAX."""

    minimum: int
    maximum: int

    @property
    def is_allowed(self) -> bool:
        """Whether the bounds are kept."""
        return 1 <= self.minimum <= self.maximum <= WORKERS_MAX

    def __str__(self) -> str:
        """As it is given on the command line."""
        return f"{self.minimum}" if self.minimum == self.maximum else f"{self.minimum}:{self.maximum}"
