"""Leasing pending tasks of the SQLite store. Which task is the next is what `tq.storage.memory_lanes` says.

Where no queue that is asked for has rules and no key waits in it, one statement merges the lanes. Else
`tq.storage.sqlite_pick` picks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import apsw
import msgspec

from tq.core import ops
from tq.core.task import NO_OPTIONS, Json, Lease, TaskId
from tq.storage import sqlite_sql as sql
from tq.storage.book import Book, Group
from tq.storage.pick import Picker
from tq.storage.records import PENDING, RUNNING, STORE_LANE, options_of, policy_of, to_json
from tq.storage.room import Room, rates_of
from tq.storage.sqlite_book import write_rates
from tq.storage.sqlite_pick import Heads
from tq.storage.sqlite_unique import hold_unique

LANES_MERGED_MAX: Final = 128
"""Lanes whose pending tasks one statement merges; a power of two, under SQLite's 500 parts of a UNION."""

# The heads of the lanes decide: no more lanes than the claim's limit can have a task among its first.
SELECT_FIRST_LANES: Final = f"""
SELECT json_group_array(lane) FROM (
    SELECT tasks.lane
    FROM json_each(?1) AS wanted
    CROSS JOIN tasks ON tasks.seq = (
        SELECT seq FROM tasks
        WHERE lane = wanted.value AND state = {PENDING}
        ORDER BY priority DESC, run_at, seq LIMIT 1
    )
    ORDER BY tasks.priority DESC, tasks.run_at, tasks.seq
    LIMIT ?2
)
"""

_WAITING_COLUMNS = """json_group_array(json_array(
    tasks.seq, tasks.lane, tasks.id, tasks.generation, tasks.attempt, tasks.max_attempts, tasks.timeout_ms,
    tasks.retry, tasks.result_ttl_ms, tasks.created_at, tasks.run_at, tasks.payload, tasks.options))"""


@lru_cache(maxsize=16)
def select_waiting(lanes: int) -> str:
    """The first ?1 pending tasks of the lanes ?2, ?3 …, in the order of claims.

    Each branch comes sorted from the index, and SQLite merges them as far as the limit and no further.
    """
    branch = (
        "SELECT seq, priority, run_at FROM tasks INDEXED BY tasks_pending"
        f" WHERE lane = ?{{}} AND state = {PENDING}"
    )
    merged = " UNION ALL ".join(branch.format(index + 2) for index in range(lanes))
    return f"""
SELECT {_WAITING_COLUMNS}
FROM ({merged} ORDER BY priority DESC, run_at, seq LIMIT ?1) AS first
CROSS JOIN tasks ON tasks.seq = first.seq
"""


SELECT_PICKED: Final = f"""
SELECT {_WAITING_COLUMNS}
FROM json_each(?1) AS picked
CROSS JOIN tasks ON tasks.seq = picked.value
"""

UPDATE_CLAIMED: Final = f"""
UPDATE tasks SET
    state = {RUNNING}, attempt = attempt + 1, generation = generation + 1, started_at = ?2, server = ?3
WHERE seq IN (SELECT value FROM json_each(?1))
"""

UPDATE_SERVED: Final = """
UPDATE lanes SET served = value ->> 1 FROM jsonb_each(?1) AS changed WHERE lanes.id = changed.value ->> 0
"""


class Waiting(msgspec.Struct, array_like=True, frozen=True):
    """What of a pending task its lease needs. ``payload`` is None where it is in ``texts``."""

    seq: int
    lane: int
    id: TaskId
    generation: int
    attempt: int
    max_attempts: int
    timeout_ms: int
    retry: str
    result_ttl_ms: int | None
    created_at: int
    run_at: int
    payload: str | None
    options: str | None


_waiting_decoder: Final = msgspec.json.Decoder(list[Waiting])
_lanes_decoder: Final = msgspec.json.Decoder(list[int])


class Claiming:
    """A claim at *now* in the transaction that is under way on *db*; *count* keeps the counters."""

    def __init__(
        self, db: apsw.Connection, book: Book, now: int, count: Callable[[int, int, int], None]
    ) -> None:
        self._db = db
        self._book = book
        self._now = now
        self._count = count

    def claim(self, op: ops.Claim) -> ops.Claimed:
        """See ops.Claim."""
        lanes = self._lanes_wanted(op.types)
        is_plain = self._is_plain(lanes)
        waiting: list[Waiting] = []
        if lanes and op.limit > 0:
            waiting = self._first(lanes, op.limit) if is_plain else self._picked(lanes, op.limit)
        if waiting:
            self._start(waiting, op)
        leases = tuple([self._lease(task) for task in waiting])
        if is_plain:
            return ops.Claimed(leases)
        return ops.Claimed(leases, *Room(self._book, self._now).held_back(lanes))

    def _lanes_wanted(self, types: tuple[str, ...] | None) -> list[int]:
        """The lanes of *types* in which tasks wait, but for those of paused queues."""
        names, waiting, rules = self._book.names, self._book.waiting, self._book.rules
        lanes = list(waiting)
        if types is not None:
            wanted = frozenset(types)
            lanes = [lane for lane in lanes if names[lane][1] in wanted]
        paused = {queue for queue, each in rules.items() if each.paused}
        if paused:
            lanes = [lane for lane in lanes if names[lane][0] not in paused]
        return lanes

    def _is_plain(self, lanes: list[int]) -> bool:
        """Whether neither rules nor turns have a say in the order of *lanes*."""
        names, rules = self._book.names, self._book.rules
        if any(names[lane][2] is not None for lane in lanes):
            return False
        return not rules or all(names[lane][0] not in rules for lane in lanes)

    def _first(self, lanes: list[int], limit: int) -> list[Waiting]:
        if len(lanes) > LANES_MERGED_MAX:
            assert limit <= LANES_MERGED_MAX
            lanes = _lanes_decoder.decode(self._db.execute(SELECT_FIRST_LANES, (to_json(lanes), limit)).get)
        # Padded, so that a few statements serve any number of lanes; lane 0 has no tasks.
        width = 1 << (len(lanes) - 1).bit_length()
        lanes = lanes + [STORE_LANE] * (width - len(lanes))
        return _waiting_decoder.decode(self._db.execute(select_waiting(width), (limit, *lanes)).get)

    def _picked(self, lanes: list[int], limit: int) -> list[Waiting]:
        seqs = Picker(Heads(self._db), self._book, self._now, lanes, limit).pick()
        if not seqs:
            return []
        return _waiting_decoder.decode(self._db.execute(SELECT_PICKED, (to_json(seqs),)).get)

    def _start(self, waiting: list[Waiting], op: ops.Claim) -> None:
        """Make the tasks *waiting* running, and keep up what follows from that."""
        seqs = to_json([task.seq for task in waiting])
        self._db.execute(UPDATE_CLAIMED, (seqs, self._now, op.server))
        lanes = [task.lane for task in waiting]
        for lane, started in Counter(lanes).items():
            self._count(lane, PENDING, -started)
            self._count(lane, RUNNING, +started)
        self._serve(lanes)
        self._hold(waiting)

    def _lease(self, task: Waiting) -> Lease:
        queue, type, key = self._book.names[task.lane]
        payload = task.payload
        if payload is None:
            payload = self._db.execute(sql.SELECT_TEXT, (task.seq, sql.PAYLOAD)).get
        return Lease(
            task.id,
            task.generation + 1,
            type,
            queue,
            Json(payload),
            task.attempt + 1,
            task.max_attempts,
            task.timeout_ms,
            policy_of(task.retry),
            task.result_ttl_ms,
            task.created_at,
            task.run_at,
            self._now,
            key,
            NO_OPTIONS if task.options is None else options_of(task.options),
        )

    def _hold(self, waiting: list[Waiting]) -> None:
        """Unique keys that keep others out only until now are free; others are taken, if they are free."""
        seqs = [
            task.seq
            for task in waiting
            if task.options is not None and options_of(task.options).unique is not None
        ]
        if seqs:
            hold_unique(self._db, seqs)

    # Turns and rates

    def _serve(self, lanes: list[int]) -> None:
        """Count the starts, one of each of *lanes*, in turns and rates."""
        book = self._book
        turns = dict(zip(lanes, range(book.turn + 1, book.turn + 1 + len(lanes)), strict=True))
        changed = [(lane, turn) for lane, turn in turns.items() if self._is_turn_kept(lane)]
        for lane, turn in turns.items():
            book.serve(lane, turn)
        book.turn += len(lanes)
        if changed:
            self._db.execute(UPDATE_SERVED, (to_json(changed),))
        if book.rules:
            self._use_rates(lanes)

    def _is_turn_kept(self, lane: int) -> bool:
        """Whether the turn must outlive a restart: where keys share the queue, and when it is the first.

        Only the order of the keys of one queue matters, and any turn is later than never. While a queue
        has one key all turns it is served at are alike; once it has another, all that is served is kept.
        """
        return lane not in self._book.served or len(self._book.keys[self._book.names[lane][0]]) > 1

    def _use_rates(self, lanes: list[int]) -> None:
        book = self._book
        changed: set[Group] = set()
        for lane in lanes:
            queue, _, key = book.names[lane]
            for name, rate in rates_of(book, (queue, key)):
                book.tats[name] = rate.after(book.tats.get(name, 0), self._now, 1)
                changed.add(name)
        write_rates(self._db, book, changed)
