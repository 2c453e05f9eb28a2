"""Who asks, and whether that caller may: the one gate before every route.

A server that never had a key asks nobody for one. As soon as there is one, every route but the open ones
does, for ever: also when every key has been revoked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tq.api.limits import Headers, Limiter, Room
from tq.api.tickets import Tickets
from tq.clock import Clock
from tq.core.errors import NotAllowed, Unauthorized
from tq.core.keys import ANONYMOUS, ANYBODY, Caller, Key, Scope, caller_of, is_text_of, parse_key
from tq.core.limits import Rate
from tq.engine.keyring import KeyRing

FAILURES: Final = Rate(limit=20, period_ms=60_000, burst=20)
"""How often one address may be refused for its key before it is told to wait."""
_BEARER: Final = "bearer "


def find_key(header: str | None, keys: KeyRing, now: int) -> Key:
    """The key in *header*, `Authorization: Bearer KEY`. Raises Unauthorized: there is none that is good."""
    if header is None:
        raise Unauthorized("this server asks for a key: send Authorization: Bearer and a key")
    text = header[len(_BEARER) :].strip()
    key_id = parse_key(text) if header[: len(_BEARER)].lower() == _BEARER else None
    if key_id is None:
        raise Unauthorized("Authorization: this is no key: send Bearer and a key, whole, as it was shown")
    key = keys.find(key_id)
    if key is None or not is_text_of(key, text):
        raise Unauthorized("Authorization: no such key here: ask for one that is good")
    return _good(key, now)


def find_ticket(ticket: str, tickets: Tickets, keys: KeyRing, now: int) -> Key | None:
    """The key that *ticket* stands for; None: it was given while none was asked for.

    Raises:
        NotAllowed: The ticket is not good. Unauthorized: Its key is not good any more.
    """
    name = tickets.redeem(ticket)
    if keys.is_empty:
        return None
    key = keys.find(name)
    if key is None:
        raise Unauthorized("ticket: there was no key behind it, and this server asks for one now")
    return _good(key, now)


def _good(key: Key, now: int) -> Key:
    fault = key.fault(now)
    if fault is not None:
        raise Unauthorized(f"the key {key.id} has {'been ' * (fault == 'revoked')}{fault}: get another")
    return key


@dataclass(frozen=True, slots=True)
class Admitted:
    """A caller that may go on. ``headers`` tell what its rate leaves; ``is_known`` by a key."""

    caller: Caller
    headers: Headers = ()

    @property
    def is_known(self) -> bool:
        """Whether there is a key, which may be revoked meanwhile."""
        return self.caller.name != ANONYMOUS

    @property
    def key_id(self) -> str | None:
        """The id of the key, for the access log."""
        return self.caller.name if self.is_known else None


_ANYBODY_ADMITTED: Final = Admitted(ANYBODY)


class Gate:
    """Lets callers in, or not. Keeps count of who asks, in this server alone.

    Args:
        address_rate: How often one address may ask; None: as often as it likes.
    """

    def __init__(
        self, keys: KeyRing, tickets: Tickets, clock: Clock, *, address_rate: Rate | None = None
    ) -> None:
        self.keys = keys
        self.tickets = tickets
        self._clock = clock
        self._address_rate = address_rate
        self._limiter = Limiter()
        self._failures = Limiter()

    @property
    def is_open(self) -> bool:
        """Whether nobody is asked for a key."""
        return self.keys.is_empty

    def admit(
        self, scope: Scope, headers: Mapping[str, str], query: dict[str, str], *, address: str
    ) -> Admitted:
        """Who asks, for what needs *scope*. A ticket is taken out of *query*.

        Args:
            address: From which it is asked; empty: from this machine, which has no rate of its own.
        Raises:
            Unauthorized: No key, or none that is good.
            NotAllowed: The key is not for this; or a ticket is not good.
            RateLimited: The key, or the address, has asked too often.
        """
        if scope is Scope.OPEN:
            return _ANYBODY_ADMITTED
        room = None
        if self._address_rate is not None and address:
            room = self._take("address", address, self._address_rate)
        ticket = query.pop("ticket", None)
        if self.keys.is_empty and ticket is None:
            return _ANYBODY_ADMITTED if room is None else Admitted(ANYBODY, room.headers())
        return self._admit_by_key(scope, headers.get("authorization"), ticket, address, room)

    def _admit_by_key(
        self, scope: Scope, header: str | None, ticket: str | None, address: str, room: Room | None
    ) -> Admitted:
        now = self._clock.now_ms()
        try:
            if ticket is not None:
                key = find_ticket(ticket, self.tickets, self.keys, now)
            else:
                key = find_key(header, self.keys, now)
        except NotAllowed:
            failed = self._failures.take("failures", address, FAILURES, now)
            if failed.retry_after_ms is not None:
                raise failed.refusal() from None
            raise
        caller = ANYBODY if key is None else caller_of(key)
        if caller.rate is not None:
            room = self._take("key", caller.name, caller.rate)
        caller.check_scope(scope)
        return Admitted(caller, () if room is None else room.headers())

    def _take(self, policy: str, who: str, rate: Rate) -> Room:
        room = self._limiter.take(policy, who, rate, self._clock.now_ms())
        if room.retry_after_ms is not None:
            raise room.refusal()
        return room
