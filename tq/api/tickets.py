"""Tickets: what a page of a browser shows in place of a key, once and soon.

Neither `EventSource` nor `WebSocket` lets a page send a header, and a key in a URL would end up in logs
and histories. Pure: chance and time are handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

import msgspec

from tq.core.errors import NotAllowed, Overloaded

TICKET_S: Final = 30
"""Seconds for which a ticket is good."""
TICKETS_MAX: Final = 10_000
"""Tickets that may be out at a time."""
_BITS: Final = 256


class Ticket(msgspec.Struct, frozen=True):
    """A ticket, and the seconds for which it is good."""

    ticket: str
    expires_in: int


class Tickets:
    """The tickets that are out, and whose each is.

    Args:
        random: Must not be foretold: whoever guesses a ticket is taken for its caller.
        monotonic: Seconds.
    """

    def __init__(self, random: Random, monotonic: Callable[[], float]) -> None:
        self._random = random
        self._monotonic = monotonic
        self._out: dict[str, tuple[float, str]] = {}
        """By ticket, the oldest first: when it ends, and its caller."""

    def issue(self, caller: str) -> Ticket:
        """A new ticket for *caller*. Raises Overloaded: TICKETS_MAX are out."""
        self._drop_expired()
        if len(self._out) >= TICKETS_MAX:
            raise Overloaded(f"{TICKETS_MAX} tickets are out: try again later", retry_after_ms=1_000)
        ticket = f"{self._random.getrandbits(_BITS):064x}"
        self._out[ticket] = (self._monotonic() + TICKET_S, caller)
        return Ticket(ticket, TICKET_S)

    def redeem(self, ticket: str) -> str:
        """The caller whose *ticket* it is; it is good no more. Raises NotAllowed: it is not, or was used."""
        self._drop_expired()
        found = self._out.pop(ticket, None)
        if found is None:
            raise NotAllowed(
                f"the ticket is not good: get one from POST /v1/tickets, and use it once, within {TICKET_S} s"
            )
        return found[1]

    def _drop_expired(self) -> None:
        now = self._monotonic()
        while self._out and (oldest := next(iter(self._out.items())))[1][0] <= now:
            del self._out[oldest[0]]
