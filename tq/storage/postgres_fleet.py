"""Servers in the PostgreSQL store: who lives, who leads, what they tell each other, how they wake each other.

The twin of `tq.storage.memory_fleet`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final
from zlib import crc32

import psycopg
import trio

from tq.core import ops
from tq.core.errors import StorageUnavailable
from tq.core.ops import LEAD_MS, LETTER_KEPT_MS, Letter
from tq.core.queries import LETTERS_MAX, SERVERS_MAX, GetNews, Held, News, Seat, ServerRow
from tq.core.task import Json, Newcomer, ServerId
from tq.storage.postgres_link import Connection, Row, Talk, Target, close_quietly, told_as_ours
from tq.storage.postgres_lists import SELECT_NEXT_DUE
from tq.storage.postgres_sql import DELETE_SERVER, LEADER_LOCK, LOCK, numbers, texts
from tq.storage.postgres_work import Work
from tq.storage.records import PENDING, RUNNING, STATE_OF

UPSERT_SERVER: Final = """
WITH before AS (SELECT FROM servers WHERE server = $1)
INSERT INTO servers AS known (server, seen_at, said, edition) VALUES ($1, $2, $3, $4)
ON CONFLICT (server) DO UPDATE SET seen_at = greatest(known.seen_at, excluded.seen_at),
    said = coalesce(excluded.said, known.said),
    edition = CASE WHEN excluded.said IS NULL THEN known.edition ELSE excluded.edition END
RETURNING EXISTS (SELECT FROM before)
"""
# What servers say of their types outlives them: who submits in SQL may do so while none is there.
UPSERT_TYPES: Final = """
INSERT INTO types (type, defaults, said_at)
SELECT key, value::text, $2 FROM jsonb_each(
    CASE jsonb_typeof($1::jsonb -> 'types')
        WHEN 'object' THEN $1::jsonb -> 'types' WHEN 'null' THEN '{"*": {}}'::jsonb ELSE '{}'::jsonb
    END)
ON CONFLICT (type) DO UPDATE SET defaults = excluded.defaults, said_at = excluded.said_at
WHERE types.defaults <> excluded.defaults OR types.said_at < excluded.said_at - 86400000
"""
DELETE_SERVER_KNOWN: Final = DELETE_SERVER + " RETURNING true"
SELECT_SERVER_ROWS: Final = (
    f"SELECT server, seen_at, said, edition FROM servers ORDER BY server LIMIT {SERVERS_MAX}"
)
SELECT_SEATS: Final = f"""
SELECT server, edition, coalesce((SELECT max(number) FROM letters WHERE letters.server = servers.server), 0)
FROM servers ORDER BY server LIMIT {SERVERS_MAX}
"""

UPSERT_LEADER: Final = """
INSERT INTO leader (one, server, expires_at) VALUES (1, $1, $2)
ON CONFLICT (one) DO UPDATE SET server = excluded.server, expires_at = excluded.expires_at
"""
SELECT_LEADER: Final = "SELECT server, expires_at FROM leader"
DELETE_LEADER: Final = "DELETE FROM leader"

INSERT_LETTER: Final = "INSERT INTO letters (server, number, at, body) VALUES ($1, $2, $3, $4)"
SELECT_LETTERS: Final = f"""
SELECT letters.server, letters.number, letters.body
FROM unnest($1::text[], $2::bigint[]) AS read (server, number)
JOIN letters ON letters.server = read.server AND letters.number > read.number
ORDER BY letters.ordinal LIMIT {LETTERS_MAX}
"""
SELECT_LETTER_NUMBERS: Final = "SELECT server, number FROM letters ORDER BY server, number"
SELECT_OLD_LETTERS: Final = """
SELECT ordinal FROM letters WHERE at <= $1 ORDER BY at, server, number LIMIT $2 FOR UPDATE SKIP LOCKED
"""
DELETE_LETTERS: Final = "DELETE FROM letters WHERE ordinal = ANY ($1::bigint[])"

SELECT_UNANNOUNCED: Final = """
SELECT seq, state, task_id, type, queue, trace_id FROM unannounced
ORDER BY seq LIMIT $1 FOR UPDATE SKIP LOCKED
"""
DELETE_UNANNOUNCED: Final = "DELETE FROM unannounced WHERE seq = ANY ($1::bigint[])"
# Who folds the same meanwhile is not waited for.
TAKE_COUNTS: Final = """
DELETE FROM counters WHERE (writer, lane, state) IN (
    SELECT writer, lane, state FROM counters WHERE writer = ANY ($1::bigint[]) FOR UPDATE SKIP LOCKED
)
RETURNING lane, state, count
"""

HAS_PENDING: Final = f"""
SELECT EXISTS (SELECT FROM lanes
    WHERE ($1::text[] IS NULL OR type = ANY ($1::text[]))
        AND EXISTS (SELECT FROM lives WHERE lives.lane = lanes.id AND lives.state = {PENDING})),
    EXISTS (SELECT FROM unannounced)
"""
SELECT_HELD: Final = f"""
SELECT held.id, held.generation, lives.cancel_reason IS NOT NULL
FROM unnest($1::text[], $2::bigint[]) AS held (id, generation)
JOIN tasks ON tasks.id = held.id
JOIN lives ON lives.seq = tasks.seq
WHERE lives.state = {RUNNING} AND lives.generation = held.generation
"""


def beat(work: Work, op: ops.Beat) -> ops.Beaten:
    """See ops.Beat."""
    if op.gone:
        return ops.Beaten(bool(work.talk.change(DELETE_SERVER_KNOWN, op.server)))
    edition = 0 if op.said is None else op.edition
    if op.said is not None:
        work.talk.tell(UPSERT_TYPES, (op.said, work.now))
    [(known,)] = work.talk.change(UPSERT_SERVER, op.server, work.now, op.said, edition)
    return ops.Beaten(known)


def lead(work: Work, op: ops.Lead) -> ops.Led:
    """See ops.Lead."""
    # One at a time, because the first to lead has no row to lock.
    work.talk.lock(LOCK, LEADER_LOCK)
    found = leader(work.talk)
    if found is not None and found[1] > work.now and found[0] != op.server:
        return ops.Led(is_leader=False, left_ms=found[1] - work.now)
    if op.gone:
        work.talk.tell(DELETE_LEADER)
        return ops.Led(is_leader=False, left_ms=0)
    work.talk.tell(UPSERT_LEADER, (op.server, work.now + LEAD_MS))
    return ops.Led(is_leader=True, left_ms=LEAD_MS)


def leader(talk: Talk) -> tuple[ServerId, int] | None:
    """Who led last, and until when."""
    found = talk.ask(SELECT_LEADER)
    return (found[0][0], found[0][1]) if found else None


def keep_letter(work: Work, letter: Letter) -> None:
    """Keep a letter in the transaction of the batch that it tells of."""
    work.talk.tell(INSERT_LETTER, (letter.server, letter.number, work.now, letter.body))


def letter_numbers(talk: Talk) -> tuple[tuple[ServerId, int], ...]:
    """The server and the number of each letter, in that order."""
    return tuple((server, number) for server, number in talk.ask(SELECT_LETTER_NUMBERS))


def prune_letters(work: Work, op: ops.PruneLetters) -> ops.Swept:
    """See ops.PruneLetters."""
    found = [row for (row,) in work.talk.ask(SELECT_OLD_LETTERS, work.now - LETTER_KEPT_MS, op.limit + 1)]
    old = found[: op.limit]
    if old:
        work.talk.tell(DELETE_LETTERS, (numbers(old),))
    return ops.Swept(len(old), more=len(found) > op.limit)


def announce(work: Work, op: ops.Announce) -> ops.Announced:
    """See ops.Announce. The counters of who submitted those tasks become this writer's own."""
    found = work.talk.ask(SELECT_UNANNOUNCED, op.limit + 1)
    taken = found[: op.limit]
    if taken:
        work.talk.tell(DELETE_UNANNOUNCED, (numbers(seq for seq, *_ in taken),))
        for lane, state, count in work.talk.change(TAKE_COUNTS, numbers(-seq for seq, *_ in taken)):
            work.count(lane, state, count)
    tasks = tuple(
        Newcomer(task_id, type, queue, STATE_OF[state], trace_id)
        for _, state, task_id, type, queue, trace_id in taken
    )
    return ops.Announced(tasks, more=len(found) > op.limit)


def list_servers(talk: Talk) -> tuple[ServerRow, ...]:
    """See queries.GetServers."""
    return tuple(
        ServerRow(server, seen_at, None if said is None else Json(said), edition)
        for server, seen_at, said, edition in talk.ask(SELECT_SERVER_ROWS)
    )


def news(talk: Talk, query: GetNews) -> News:
    """See queries.GetNews. The caller sees to it that all is of one moment, and asked in one go."""
    pending = talk.later(HAS_PENDING, None if query.types is None else texts(query.types))
    seats = talk.later(SELECT_SEATS)
    held = letters = next_due = _nothing
    if query.held:
        ids, generations = [each.task_id for each in query.held], [each.generation for each in query.held]
        held = talk.later(SELECT_HELD, texts(ids), numbers(generations))
    if query.read:
        servers, read = [server for server, _ in query.read], [number for _, number in query.read]
        letters = talk.later(SELECT_LETTERS, texts(servers), numbers(read))
    if query.due:
        next_due = talk.later(SELECT_NEXT_DUE)
    valid = {(task_id, generation): is_asked for task_id, generation, is_asked in held()}
    [(is_pending, unannounced)] = pending()
    return News(
        pending=is_pending,
        stop=_those(query.held, lambda held: valid.get((held.task_id, held.generation), False)),
        lost=_those(query.held, lambda held: (held.task_id, held.generation) not in valid),
        next_due=next((at for (at,) in next_due()), None),
        seats=tuple(Seat(*row) for row in seats()),
        letters=tuple(Letter(server, number, bytes(body)) for server, number, body in letters()),
        unannounced=unannounced,
    )


def _nothing() -> list[Row]:
    return []


def _those(held: tuple[Held, ...], are: Callable[[Held], bool]) -> tuple[Held, ...]:
    return tuple(each for each in held if are(each))


class PostgresWake:
    """See Wake: NOTIFY and LISTEN on *db*, which it takes over, with *ring* by another connection.

    Args:
        ring: Has a server's name told on a channel.
    Raises:
        StorageUnavailable: It cannot listen.
    """

    def __init__(
        self, db: Connection, target: Target, server: ServerId, ring: Callable[[str, ServerId], None]
    ) -> None:
        self._db = db
        self._target = target
        self._server = server
        self._ring = ring
        self._channel = f"tq_{crc32(target.schema.encode()):08x}"
        try:
            with told_as_ours(target):
                db.execute(f"LISTEN {self._channel}", prepare=False)
        except BaseException:
            close_quietly(db)
            raise

    def ring(self) -> None:
        self._ring(self._channel, self._server)

    async def wait(self) -> bool:
        while True:
            rung = self._rung()
            if rung:
                return any(server != self._server for server in rung)
            try:
                await trio.lowlevel.wait_readable(self._db.pgconn.socket)
            except (OSError, trio.ClosedResourceError, psycopg.Error) as error:
                raise StorageUnavailable(f"{self._target.name}: listening ended") from error

    def _rung(self) -> list[str]:
        """Who has rung since the last time. Raises StorageUnavailable."""
        found = []
        with told_as_ours(self._target):
            self._db.pgconn.consume_input()
            while (notified := self._db.pgconn.notifies()) is not None:
                found.append(notified.extra.decode())
        return found

    def close(self) -> None:
        with suppress(psycopg.Error):
            self._db.close()
