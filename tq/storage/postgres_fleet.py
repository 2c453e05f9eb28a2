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
from tq.storage.postgres_sql import DELETE_SERVER, HEADS, NOW, numbers, texts
from tq.storage.postgres_work import Work
from tq.storage.records import RUNNING, STATE_OF

# What servers say of their types outlives them: who submits in SQL may do so while none is there.
# A new row has no xmax; one that was there before is locked by this. A look beside might still see a row that
# whoever held it has deleted meanwhile.
UPSERT_SERVER: Final = """
WITH told AS (
    INSERT INTO types (type, defaults, said_at)
    SELECT key, value::text, $2 FROM jsonb_each(
        CASE jsonb_typeof($3::text::jsonb -> 'types')
            WHEN 'object' THEN $3::text::jsonb -> 'types' WHEN 'null' THEN '{"*": {}}'::jsonb ELSE '{}'::jsonb
        END)
    ON CONFLICT (type) DO UPDATE SET defaults = excluded.defaults, said_at = excluded.said_at
    WHERE types.defaults <> excluded.defaults OR types.said_at < excluded.said_at - 86400000
)
INSERT INTO servers AS known (server, seen_at, said, edition) VALUES ($1, $2, $3, $4)
ON CONFLICT (server) DO UPDATE SET seen_at = greatest(known.seen_at, excluded.seen_at),
    said = coalesce(excluded.said, known.said),
    edition = CASE WHEN excluded.said IS NULL THEN known.edition ELSE excluded.edition END
RETURNING xmax <> 0
"""
DELETE_SERVER_KNOWN: Final = DELETE_SERVER + " RETURNING true"
SELECT_SERVER_ROWS: Final = (
    f"SELECT server, seen_at, said, edition FROM servers ORDER BY server LIMIT {SERVERS_MAX}"
)
# One at a time: whoever comes second waits for the row of the first.
UPSERT_LEADER: Final = """
INSERT INTO leader (one, server, expires_at) VALUES (1, $1, $2 + $3)
ON CONFLICT (one) DO UPDATE SET server = excluded.server, expires_at = excluded.expires_at
WHERE leader.server = excluded.server OR leader.expires_at <= $2
RETURNING true
"""
SELECT_LEADER: Final = "SELECT server, expires_at FROM leader"
DELETE_LEADER: Final = "DELETE FROM leader WHERE server = $1 OR expires_at <= $2"

INSERT_LETTER: Final = "INSERT INTO letters (server, number, at, body) VALUES ($1, $2, $3, $4)"
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

_CLOCK = f"(SELECT coalesce($4::bigint, {NOW}))"
"""The instant, which an index can be asked for since it is found first."""
_IS_TO_RECOVER = f"""
EXISTS (SELECT FROM unsettled)
    OR EXISTS (SELECT FROM servers WHERE server <> $3 AND seen_at < $6 - $5 + {_CLOCK})
    OR EXISTS (SELECT FROM lives WHERE state = {RUNNING} AND server <> $3
        AND NOT EXISTS (SELECT FROM servers
            WHERE servers.server = lives.server AND servers.seen_at >= $6 - $5 + {_CLOCK}))
"""
_IS_TO_PRUNE = f"""
(SELECT keep_until FROM lives WHERE keep_until IS NOT NULL ORDER BY keep_until, seq LIMIT 1) <= {_CLOCK}
    OR (SELECT until FROM requests ORDER BY until LIMIT 1) <= {_CLOCK}
    OR (SELECT at FROM letters ORDER BY at LIMIT 1) <= {_CLOCK} - {LETTER_KEPT_MS}
"""
_IS_PENDING = f"""
EXISTS (
    WITH RECURSIVE {HEADS}
    SELECT FROM heads JOIN lanes ON lanes.id = heads.lane
    WHERE $1::text[] IS NULL OR lanes.type = ANY ($1::text[])
)
"""
# One statement: it is asked every second for as long as a server runs, and all of it is of one moment.
SELECT_NEWS: Final = f"""
SELECT 'facts', NULL::text, CASE WHEN $2 THEN ({SELECT_NEXT_DUE}) END, NULL::bigint, NULL::bytea,
    {_IS_PENDING},
    EXISTS (SELECT FROM unannounced),
    CASE WHEN $3::text IS NULL THEN false
        WHEN $6::bigint IS NOT NULL AND ({_IS_TO_RECOVER}) THEN true
        ELSE coalesce({_IS_TO_PRUNE}, false) END
UNION ALL (
    SELECT 'seat', server, edition,
        coalesce((SELECT max(number) FROM letters WHERE letters.server = servers.server), 0),
        NULL, NULL, NULL, NULL
    FROM servers ORDER BY server LIMIT {SERVERS_MAX}
) UNION ALL (
    SELECT 'held', held.id, held.generation, (lives.cancel_reason IS NOT NULL)::integer,
        NULL, NULL, NULL, NULL
    FROM unnest($7::text[], $8::bigint[]) AS held (id, generation)
    JOIN tasks ON tasks.id = held.id
    JOIN lives ON lives.seq = tasks.seq
    WHERE lives.state = {RUNNING} AND lives.generation = held.generation
) UNION ALL (
    SELECT 'letter', letters.server, letters.number, letters.ordinal, letters.body, NULL, NULL, NULL
    FROM unnest($9::text[], $10::bigint[]) AS read (server, number)
    JOIN letters ON letters.server = read.server AND letters.number > read.number
    ORDER BY letters.ordinal LIMIT {LETTERS_MAX}
)
"""


def beat(work: Work, op: ops.Beat) -> ops.Beaten:
    """See ops.Beat."""
    if op.gone:
        return ops.Beaten(bool(work.talk.change(DELETE_SERVER_KNOWN, op.server)))
    edition = 0 if op.said is None else op.edition
    [(known,)] = work.talk.change(UPSERT_SERVER, op.server, work.now, op.said, edition)
    return ops.Beaten(known)


def lead(work: Work, op: ops.Lead) -> ops.Led:
    """See ops.Lead."""
    if op.gone:
        work.talk.tell(DELETE_LEADER, (op.server, work.now))
    elif work.talk.change(UPSERT_LEADER, op.server, work.now, LEAD_MS):
        return ops.Led(is_leader=True, left_ms=LEAD_MS)
    found = leader(work.talk)
    return ops.Led(is_leader=False, left_ms=0 if found is None else max(0, found[1] - work.now))


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


def news(talk: Talk, query: GetNews, *, clock: int | None) -> News:
    """See queries.GetNews. *clock* is the instant, None for the database's own."""
    asker = query.sweeper
    found: dict[str, list[Row]] = {"facts": [], "seat": [], "held": [], "letter": []}
    for kind, *rest in talk.ask(
        SELECT_NEWS,
        None if query.types is None else texts(query.types),
        query.due,
        *((None, None, None, None) if asker is None else (asker.server, clock, asker.now, asker.dead_before)),
        texts(each.task_id for each in query.held),
        numbers(each.generation for each in query.held),
        texts(server for server, _ in query.read),
        numbers(number for _, number in query.read),
    ):
        found[kind].append(tuple(rest))
    [(_, next_due, _, _, pending, unannounced, to_sweep)] = found["facts"]
    valid = {(task_id, generation): is_asked for task_id, generation, is_asked, *_ in found["held"]}
    letters = sorted(found["letter"], key=lambda row: row[2])
    return News(
        pending=pending,
        stop=_those(query.held, lambda held: bool(valid.get((held.task_id, held.generation)))),
        lost=_those(query.held, lambda held: (held.task_id, held.generation) not in valid),
        next_due=next_due,
        seats=tuple(Seat(*row[:3]) for row in sorted(found["seat"], key=lambda row: row[0])),
        letters=tuple(Letter(server, number, bytes(body)) for server, number, _, body, *_ in letters),
        unannounced=unannounced,
        to_sweep=to_sweep,
    )


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
        self._own_channel = f"{self._channel}_{crc32(server.encode()):08x}"
        try:
            with told_as_ours(target):
                for channel in (self._channel, self._own_channel):
                    db.execute(f"LISTEN {channel}", prepare=False)
        except BaseException:
            close_quietly(db)
            raise

    def ring(self) -> None:
        self._ring(self._channel, self._server)

    def ping(self) -> None:
        self._ring(self._own_channel, self._server)

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
