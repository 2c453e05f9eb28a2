"""How a service waits while the store is away: longer each time, never long, never in step."""

from __future__ import annotations

from random import Random
from typing import Final

import trio

FIRST_S: Final = 0.05
CAP_S: Final = 2.0
"""So that everything is resumed within 5 s of the store's return."""


class Backoff:
    """Waits FIRST_S, then twice that, up to CAP_S, each spread by ±50 %."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._next_s = FIRST_S

    async def wait(self) -> None:
        """Wait the next, longer, while."""
        spread = 0.5 + self._random.random()
        await trio.sleep(min(self._next_s * spread, CAP_S))
        self._next_s = min(self._next_s * 2, CAP_S)

    def reset(self) -> None:
        """It worked: begin anew next time."""
        self._next_s = FIRST_S
