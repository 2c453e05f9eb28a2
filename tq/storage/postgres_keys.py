"""The keys of the PostgreSQL store. The twin of `tq.storage.memory_keys`.

Whoever makes or revokes one has them all to itself until the commit: that is rare, and keeps their number
bounded.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from tq.core import ops, refusals
from tq.core.keys import KEYS_MAX, Key
from tq.storage.postgres_link import Talk
from tq.storage.postgres_sql import KEYS_LOCK, LOCK
from tq.storage.postgres_work import Work
from tq.storage.records import KEY_COLUMNS, key_of_row, key_row

_SELECT: Final = f"SELECT {KEY_COLUMNS} FROM keys "
SELECT_KEY: Final = _SELECT + "WHERE id = $1"
SELECT_KEYS: Final = _SELECT + "ORDER BY created_at, id"
COUNT_KEYS: Final = "SELECT count(*) FROM keys"
PUT_KEY: Final = f"""
INSERT INTO keys ({KEY_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (id) DO UPDATE SET revoked_at = excluded.revoked_at
"""
SELECT_FIRST_REVOKED: Final = (
    "SELECT id FROM keys WHERE revoked_at IS NOT NULL ORDER BY revoked_at, id LIMIT 1"
)
DELETE_KEY: Final = "DELETE FROM keys WHERE id = $1"


def list_keys(talk: Talk) -> tuple[Key, ...]:
    """See GetKeys."""
    return tuple(map(key_of_row, talk.ask(SELECT_KEYS)))


def put_key(work: Work, op: ops.PutKey) -> Key:
    """See PutKey."""
    talk = work.talk
    talk.lock(LOCK, KEYS_LOCK)
    if talk.ask(SELECT_KEY, op.key_id):
        raise refusals.key_is_taken(op.key_id)
    if talk.ask(COUNT_KEYS)[0][0] >= KEYS_MAX:
        revoked = talk.ask(SELECT_FIRST_REVOKED)
        if not revoked:
            raise refusals.too_many("keys", KEYS_MAX)
        talk.tell(DELETE_KEY, revoked[0])
    return _keep(talk, ops.key_of(op, work.now))


def revoke_key(work: Work, op: ops.RevokeKey) -> Key:
    """See RevokeKey."""
    talk = work.talk
    talk.lock(LOCK, KEYS_LOCK)
    found = talk.ask(SELECT_KEY, op.key_id)
    if not found:
        raise refusals.no_such_key(op.key_id)
    known = key_of_row(found[0])
    return known if known.revoked_at is not None else _keep(talk, replace(known, revoked_at=work.now))


def _keep(talk: Talk, key: Key) -> Key:
    talk.tell(PUT_KEY, key_row(key))
    return key
