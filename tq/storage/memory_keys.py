"""The keys of the reference model: a dict, and the rules by which it stays bounded."""

from __future__ import annotations

from msgspec.structs import replace

from tq.core import ops, refusals
from tq.core.keys import KEYS_MAX, Key, KeyId


class Keys:
    """Keys by id."""

    def __init__(self) -> None:
        self._known: dict[KeyId, Key] = {}

    def listed(self) -> tuple[Key, ...]:
        """All of them, the oldest first, then by id."""
        return tuple(sorted(self._known.values(), key=lambda key: (key.created_at, key.id)))

    def put(self, op: ops.PutKey, now: int) -> Key:
        """See PutKey."""
        if op.key_id in self._known:
            raise refusals.key_is_taken(op.key_id)
        if len(self._known) >= KEYS_MAX:
            revoked = [key for key in self._known.values() if key.revoked_at is not None]
            if not revoked:
                raise refusals.too_many("keys", KEYS_MAX)
            del self._known[min(revoked, key=lambda key: (key.revoked_at or 0, key.id)).id]
        self._known[op.key_id] = key = ops.key_of(op, now)
        return key

    def revoke(self, op: ops.RevokeKey, now: int) -> Key:
        """See RevokeKey."""
        known = self._known.get(op.key_id)
        if known is None:
            raise refusals.no_such_key(op.key_id)
        if known.revoked_at is None:
            self._known[op.key_id] = known = replace(known, revoked_at=now)
        return known
