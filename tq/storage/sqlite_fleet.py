"""Servers in the SQLite store: who lives, who leads, what they tell each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import apsw
import msgspec

from tq.core import ops
from tq.core.ops import LEAD_MS, LETTER_KEPT_MS, Letter
from tq.core.queries import LETTERS_MAX, SERVERS_MAX, GetNews, Held, News, Seat, ServerRow, Sweeper
from tq.core.task import Json, ServerId
from tq.storage import sqlite_sql as sql
from tq.storage.records import PENDING, RUNNING, to_json

UPSERT_SERVER: Final = """
INSERT INTO servers (server, seen_at, said, edition) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT DO UPDATE SET seen_at = max(seen_at, excluded.seen_at), said = coalesce(excluded.said, said),
    edition = iif(excluded.said IS NULL, edition, excluded.edition)
"""
SELECT_SEEN: Final = "SELECT seen_at FROM servers WHERE server = ?1"
SELECT_SERVER_ROWS: Final = (
    f"SELECT server, seen_at, said, edition FROM servers ORDER BY server LIMIT {SERVERS_MAX}"
)
SELECT_SEATS: Final = f"""
SELECT server, edition, coalesce((SELECT max(number) FROM letters WHERE letters.server = servers.server), 0)
FROM servers ORDER BY server LIMIT {SERVERS_MAX}
"""

UPSERT_LEADER: Final = """
INSERT INTO leader (one, server, expires_at) VALUES (1, ?1, ?2)
ON CONFLICT DO UPDATE SET server = excluded.server, expires_at = excluded.expires_at
"""
SELECT_LEADER: Final = "SELECT server, expires_at FROM leader"
DELETE_LEADER: Final = "DELETE FROM leader"

INSERT_LETTER: Final = "INSERT INTO letters (server, number, at, body) VALUES (?1, ?2, ?3, ?4)"
SELECT_LETTERS: Final = f"""
SELECT letters.server, letters.number, letters.body
FROM json_each(?1) AS read
JOIN letters ON letters.server = read.value ->> 0 AND letters.number > read.value ->> 1
ORDER BY letters.ordinal LIMIT {LETTERS_MAX}
"""
SELECT_LETTER_NUMBERS: Final = "SELECT server, number FROM letters ORDER BY server, number"
SELECT_OLD_LETTERS: Final = """
SELECT ordinal FROM letters INDEXED BY letters_old WHERE at <= ?1 ORDER BY at, server, number LIMIT ?2
"""
DELETE_LETTERS: Final = "DELETE FROM letters WHERE ordinal IN (SELECT value FROM json_each(?1))"

HAS_PENDING: Final = f"""
SELECT EXISTS (SELECT 1 FROM counters JOIN lanes ON lanes.id = counters.lane
    WHERE state = {PENDING} AND count > 0 AND (?1 IS NULL OR type IN (SELECT value FROM json_each(?1))))
"""
IS_TO_RECOVER: Final = f"""
SELECT EXISTS (SELECT 1 FROM unsettled)
    OR EXISTS (SELECT 1 FROM servers WHERE server <> ?1 AND seen_at < ?2)
    OR EXISTS (SELECT 1 FROM tasks INDEXED BY tasks_running WHERE state = {RUNNING} AND server <> ?1
        AND NOT EXISTS (SELECT 1 FROM servers WHERE servers.server = tasks.server AND seen_at >= ?2))
"""
IS_TO_PRUNE: Final = """
SELECT EXISTS (SELECT 1 FROM tasks INDEXED BY tasks_kept WHERE keep_until IS NOT NULL AND keep_until <= ?1)
    OR EXISTS (SELECT 1 FROM requests WHERE until <= ?1)
    OR EXISTS (SELECT 1 FROM letters INDEXED BY letters_old WHERE at <= ?2)
"""
SELECT_HELD: Final = f"""
SELECT json_group_array(json_array(value ->> 0, value ->> 1, tasks.cancel_reason IS NOT NULL))
FROM json_each(?1) JOIN tasks ON tasks.id = value ->> 0
WHERE tasks.state = {RUNNING} AND tasks.generation = value ->> 1
"""
_held_decoder: Final = msgspec.json.Decoder(list[tuple[str, int, int]])


def beat(db: apsw.Connection, op: ops.Beat, now: int) -> ops.Beaten:
    """See ops.Beat."""
    known = db.execute(SELECT_SEEN, (op.server,)).get is not None
    if op.gone:
        db.execute(sql.DELETE_SERVER, (op.server,))
    else:
        edition = 0 if op.said is None else op.edition
        db.execute(UPSERT_SERVER, (op.server, now, op.said, edition))
    return ops.Beaten(known)


def lead(db: apsw.Connection, op: ops.Lead, now: int) -> ops.Led:
    """See ops.Lead."""
    found = leader(db)
    if found is not None and found[1] > now and found[0] != op.server:
        return ops.Led(is_leader=False, left_ms=found[1] - now)
    if op.gone:
        db.execute(DELETE_LEADER)
        return ops.Led(is_leader=False, left_ms=0)
    db.execute(UPSERT_LEADER, (op.server, now + LEAD_MS))
    return ops.Led(is_leader=True, left_ms=LEAD_MS)


def leader(db: apsw.Connection) -> tuple[ServerId, int] | None:
    """Who led last, and until when."""
    found: tuple[ServerId, int] | None = db.execute(SELECT_LEADER).get
    return found


def keep_letter(db: apsw.Connection, letter: Letter, now: int) -> None:
    """Keep a letter written *now*."""
    db.execute(INSERT_LETTER, (letter.server, letter.number, now, letter.body))


def letter_numbers(db: apsw.Connection) -> tuple[tuple[ServerId, int], ...]:
    """The server and the number of each letter, in that order."""
    return tuple(db.execute(SELECT_LETTER_NUMBERS))


def prune_letters(db: apsw.Connection, op: ops.PruneLetters, now: int) -> ops.Swept:
    """See ops.PruneLetters."""
    found = [row for (row,) in db.execute(SELECT_OLD_LETTERS, (now - LETTER_KEPT_MS, op.limit + 1))]
    old = found[: op.limit]
    if old:
        db.execute(DELETE_LETTERS, (to_json(old),))
    return ops.Swept(len(old), more=len(found) > op.limit)


def list_servers(db: apsw.Connection) -> tuple[ServerRow, ...]:
    """See queries.GetServers."""
    return tuple(
        ServerRow(server, seen_at, None if said is None else Json(said), edition)
        for server, seen_at, said, edition in db.execute(SELECT_SERVER_ROWS)
    )


def news(db: apsw.Connection, query: GetNews) -> News:
    """See queries.GetNews. The caller sees to it that all is of one moment."""
    types = None if query.types is None else to_json(query.types)
    held = _held_decoder.decode(
        db.execute(SELECT_HELD, (to_json([(each.task_id, each.generation) for each in query.held]),)).get
    )
    valid = {(task_id, generation): is_asked for task_id, generation, is_asked in held}
    return News(
        pending=bool(db.execute(HAS_PENDING, (types,)).get),
        stop=_those(query.held, lambda held: bool(valid.get((held.task_id, held.generation)))),
        lost=_those(query.held, lambda held: (held.task_id, held.generation) not in valid),
        next_due=db.execute(sql.SELECT_NEXT_DUE).get if query.due else None,
        seats=tuple(Seat(*row) for row in db.execute(SELECT_SEATS)),
        letters=tuple(Letter(*row) for row in db.execute(SELECT_LETTERS, (to_json(query.read),))),
        to_sweep=query.sweeper is not None and _is_to_sweep(db, query.sweeper),
    )


def _is_to_sweep(db: apsw.Connection, asker: Sweeper) -> bool:
    """See queries.News."""
    is_to_recover = asker.dead_before is not None and bool(
        db.execute(IS_TO_RECOVER, (asker.server, asker.dead_before)).get
    )
    return is_to_recover or bool(db.execute(IS_TO_PRUNE, (asker.now, asker.now - LETTER_KEPT_MS)).get)


def _those(held: tuple[Held, ...], are: Callable[[Held], bool]) -> tuple[Held, ...]:
    return tuple(each for each in held if are(each))
