"""The keys of the SQLite store. The twin of `tq.storage.memory_keys`."""

from __future__ import annotations

from typing import Final

import apsw
from msgspec.structs import replace

from tq.core import ops, refusals
from tq.core.keys import KEYS_MAX, Key
from tq.storage.records import KEY_COLUMNS, key_of_row, key_row

_SELECT: Final = f"SELECT {KEY_COLUMNS} FROM keys "
SELECT_KEY: Final = _SELECT + "WHERE id = ?1"
SELECT_KEYS: Final = _SELECT + "ORDER BY created_at, id"
COUNT_KEYS: Final = "SELECT count(*) FROM keys"
PUT_KEY: Final = "INSERT OR REPLACE INTO keys VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
SELECT_FIRST_REVOKED: Final = (
    "SELECT id FROM keys WHERE revoked_at IS NOT NULL ORDER BY revoked_at, id LIMIT 1"
)
DELETE_KEY: Final = "DELETE FROM keys WHERE id = ?1"


def list_keys(db: apsw.Connection) -> tuple[Key, ...]:
    """See GetKeys."""
    return tuple(key_of_row(row) for row in db.execute(SELECT_KEYS))


def put_key(db: apsw.Connection, op: ops.PutKey, now: int) -> Key:
    """See PutKey."""
    if db.execute(SELECT_KEY, (op.key_id,)).get is not None:
        raise refusals.key_is_taken(op.key_id)
    if db.execute(COUNT_KEYS).get >= KEYS_MAX:
        revoked = db.execute(SELECT_FIRST_REVOKED).get
        if revoked is None:
            raise refusals.too_many("keys", KEYS_MAX)
        db.execute(DELETE_KEY, (revoked,))
    return _keep(db, ops.key_of(op, now))


def revoke_key(db: apsw.Connection, op: ops.RevokeKey, now: int) -> Key:
    """See RevokeKey."""
    row = db.execute(SELECT_KEY, (op.key_id,)).get
    if row is None:
        raise refusals.no_such_key(op.key_id)
    known = key_of_row(row)
    return known if known.revoked_at is not None else _keep(db, replace(known, revoked_at=now))


def _keep(db: apsw.Connection, key: Key) -> Key:
    db.execute(PUT_KEY, key_row(key))
    return key
