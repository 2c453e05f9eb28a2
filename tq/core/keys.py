"""Keys: what one looks like, what is kept of it, and what a caller may.

The text of a key is shown once, to whoever made it; kept is a digest, which gives no key away. Pure:
chance and time are handed in.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from hmac import compare_digest
from typing import Final, NewType

import msgspec

from tq.core.errors import NotAllowed
from tq.core.limits import Rate

KeyId = NewType("KeyId", str)

KEY_PREFIX: Final = "tq_"
_ID_BYTES: Final = 8
_SECRET_BYTES: Final = 32
KEY_CHANCE_BYTES: Final = _ID_BYTES + _SECRET_BYTES
"""Bytes of chance that a key is made of."""
KEYS_MAX: Final = 1_000
KEY_QUEUES_MAX: Final = 100
"""Queues that a key may be limited to."""
KEY_SCOPES_SAID_MAX: Final = 100
"""Scopes in one request for a key, of which some may be said twice."""
ANONYMOUS: Final = "anonymous"
"""Who asks a server that asks nobody for a key."""

_KEY: Final = re.compile(r"tq_(?P<id>[0-9a-f]{16})(?P<secret>[0-9a-f]{64})(?P<check>[0-9a-f]{8})")


class Scope(StrEnum):
    """What a caller must be allowed to do. None of them includes another."""

    OPEN = "open"
    """Nothing: no key is asked for."""
    ANY = "any"
    """Nothing but to be known: any key will do, whatever it is for."""
    SUBMIT = "submit"
    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"
    METRICS = "metrics"


KEY_SCOPES: Final = tuple(scope for scope in Scope if scope not in (Scope.OPEN, Scope.ANY))
"""What a key can be for."""


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is kept. ``digest`` is the SHA-256 of its text.

    ``queues`` are those that it is limited to; empty: it is not. ``rate`` None: it may ask as often as it
    likes. It is good until ``expires_at``, and until ``revoked_at``; None: for ever.
    """

    id: KeyId
    name: str
    digest: str
    scopes: tuple[Scope, ...]
    queues: tuple[str, ...] = ()
    rate: Rate | None = None
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None

    def fault(self, now: int) -> str | None:
        """Why it is good no more at *now*, or None."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else None


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made: its *text* is to be shown once, and kept nowhere."""

    id: KeyId
    text: str = field(repr=False)

    @property
    def digest(self) -> str:
        """What is kept of it."""
        return digest_of(self.text)


def make_key(chance: bytes) -> NewKey:
    """The key that KEY_CHANCE_BYTES of *chance* give; whoever can foretell them has the key."""
    assert len(chance) == KEY_CHANCE_BYTES
    body = chance.hex()
    return NewKey(KeyId(body[: 2 * _ID_BYTES]), f"{KEY_PREFIX}{body}{_check(body)}")


def parse_key(text: str) -> KeyId | None:
    """The id in the *text* of a key; None: it is none, or has a slip in it."""
    match = _KEY.fullmatch(text)
    if match is None or _check(match["id"] + match["secret"]) != match["check"]:
        return None
    return KeyId(match["id"])


def _check(body: str) -> str:
    """What tells a slip of whoever copied a key; it is no secret."""
    return f"{zlib.crc32(body.encode()):08x}"


def digest_of(text: str) -> str:
    """What is kept of the key *text*. Its secret is chance, so that it need not be slow to guess."""
    return sha256(text.encode()).hexdigest()


def is_text_of(key: Key, text: str) -> bool:
    """Whether *text* is that of *key*; takes as long whatever is wrong."""
    return compare_digest(key.digest, digest_of(text))


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and what that caller may. ``queues`` None: all of them."""

    name: str
    scopes: frozenset[Scope]
    queues: frozenset[str] | None = None
    rate: Rate | None = None

    def may_reach(self, queue: str) -> bool:
        """Whether tasks of *queue* are this caller's to see, make and change."""
        return self.queues is None or queue in self.queues

    def check_scope(self, scope: Scope) -> None:
        """Return if this caller may do what needs *scope*. Raises NotAllowed, which names it."""
        if scope in KEY_SCOPES and scope not in self.scopes:
            raise NotAllowed(f"this needs a key with the scope {scope.value}", scope=scope.value)

    def check_queue(self, queue: str) -> None:
        """Return if *queue* is this caller's. Raises NotAllowed, which names it."""
        if not self.may_reach(queue):
            raise NotAllowed(f"the key is not for queue {queue}: {self._own_queues()}", queue=queue)

    def check_unlimited(self) -> None:
        """Return if this caller may reach all queues. Raises NotAllowed."""
        if self.queues is not None:
            raise NotAllowed("this is of all queues: it needs a key that is not limited to some")

    def narrowed(self, queue: str | None) -> str | None:
        """The queue to look at where *queue* was asked for: None is all, or the only one of the caller.

        Raises:
            NotAllowed: It is not the caller's, or the caller has several and must name one.
        """
        if queue is not None:
            self.check_queue(queue)
        elif self.queues is not None:
            if len(self.queues) > 1:
                raise NotAllowed(f"name the queue: {self._own_queues()}")
            return min(self.queues)
        return queue

    def _own_queues(self) -> str:
        return f"the queues of the key are {', '.join(sorted(self.queues or ()))}"


ANYBODY: Final = Caller(ANONYMOUS, frozenset(KEY_SCOPES))
"""The caller of a server that has no keys."""


def caller_of(key: Key) -> Caller:
    """Who asks with *key*."""
    queues = frozenset(key.queues) if key.queues else None
    return Caller(key.id, frozenset(key.scopes), queues, key.rate)


def in_order(scopes: Iterable[Scope]) -> tuple[Scope, ...]:
    """*scopes*, each once, in the order of KEY_SCOPES."""
    wanted = set(scopes)
    return tuple(scope for scope in KEY_SCOPES if scope in wanted)
