"""One batch of ops inside one SQLite transaction. What it does is what `tq.storage.memory` does.

Consecutive ops of a kind go together: a run of submits is one insert; a run of ops that name a task is one
select of their rows, moves made on those rows in order, and one update. A move checks before it changes, so
a refused op leaves its row as it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import assert_never

import apsw
import msgspec
from msgspec.structs import replace

from tq.core import ops
from tq.core.keys import Key
from tq.core.limits import DEFAULT_RULES, QueueRules
from tq.core.ops import AnyOp
from tq.core.task import State, TaskId
from tq.storage import sqlite_sql as sql
from tq.storage.book import Book
from tq.storage.moves import ByIdOp, Moves
from tq.storage.records import PENDING, to_json
from tq.storage.rows import Rows
from tq.storage.runs import Answer, Kind, ScheduleOp, reply_or_refusal, runs_of
from tq.storage.sqlite_book import drop_empty_lanes, drop_old_rates, set_rules
from tq.storage.sqlite_claim import Claiming
from tq.storage.sqlite_fleet import beat, lead, prune_letters
from tq.storage.sqlite_keys import put_key, revoke_key
from tq.storage.sqlite_rows import delete_tasks, load_rows, write_rows
from tq.storage.sqlite_schedules import delete_schedule, fire, pause_schedule, put_schedule
from tq.storage.sqlite_settle import Settling
from tq.storage.sqlite_submit import Submits
from tq.storage.sqlite_unique import hold_unique


class Swept(msgspec.Struct, array_like=True, frozen=True):
    """What of a task its sweeping needs.

    ``has_more`` is, of one to be promoted, that it wants a unique key; of one to be deleted, that it is not
    plain.
    """

    seq: int
    lane: int
    state: int
    has_more: int


_swept_decoder = msgspec.json.Decoder(list[Swept])
_ids_decoder = msgspec.json.Decoder(list[TaskId])


class Batch:
    """The ops of one transaction that is under way on *db*, at the instant *now*."""

    def __init__(self, db: apsw.Connection, book: Book, now: int) -> None:
        self._db = db
        self._book = book
        self._now = now
        self._counts: Counter[tuple[int, int]] = Counter()
        self._submits = Submits(db, book, now, self._count)

    def run(self, ops: Sequence[AnyOp]) -> list[Answer]:
        """Apply *ops* in order; one reply or refusal for each. Beginning and commit are the caller's."""
        answers: list[Answer] = []
        for kind, group in runs_of(ops):
            answers += self._run_of(kind, group)
        self._write_counts()
        return answers

    def _run_of(self, kind: Kind, group: list[AnyOp]) -> list[Answer]:
        match kind:
            case Kind.SUBMIT:
                return self._submits.run([op for op in group if isinstance(op, ops.Submit)])
            case Kind.BY_ID:
                return self._moves([op for op in group if isinstance(op, ByIdOp)])
            case Kind.OTHER:
                return [self._answer(op) for op in group]
            case _:
                assert_never(kind)

    def _answer(self, op: AnyOp) -> Answer:
        match op:
            case ops.SubmitMany():
                return self._submits.many(op)
            case ops.Claim():
                return Claiming(self._db, self._book, self._now, self._count).claim(op)
            case ops.Promote():
                return self._promote(op)
            case ops.Expire():
                return self._expire(op)
            case ops.Settle():
                return Settling(self._db, self._book, self._now, self._count).settle(op)
            case ops.Recover():
                return self._recover(op)
            case ops.Prune():
                return self._prune(op)
            case ops.Beat():
                return beat(self._db, op, self._now)
            case ops.Lead():
                return lead(self._db, op, self._now)
            case ops.PruneLetters():
                return prune_letters(self._db, op, self._now)
            case ops.Announce():
                return ops.Announced()
            case ops.SetQueue() | ops.PauseQueue():
                return reply_or_refusal(self._set_rules, op)
            case ops.PutSchedule() | ops.DeleteSchedule() | ops.PauseSchedule() | ops.Fire():
                return reply_or_refusal(self._schedule, op)
            case ops.PutKey() | ops.RevokeKey():
                return reply_or_refusal(self._key, op)
            case _:
                raise AssertionError(f"{op} goes in a run")

    def _schedule(self, op: ScheduleOp) -> ops.Schedule | ops.Deleted | ops.Fired:
        match op:
            case ops.PutSchedule():
                return put_schedule(self._db, op, self._now)
            case ops.DeleteSchedule(name=name):
                return delete_schedule(self._db, name)
            case ops.PauseSchedule():
                return pause_schedule(self._db, op, self._now)
            case ops.Fire():
                return fire(self._db, op, self._submits.one)
            case _:
                assert_never(op)

    def _key(self, op: ops.PutKey | ops.RevokeKey) -> Key:
        if isinstance(op, ops.PutKey):
            return put_key(self._db, op, self._now)
        return revoke_key(self._db, op, self._now)

    def _moves(self, group: list[ByIdOp]) -> list[Answer]:
        rows = self._rows({op.task_id for op in group})
        moves = Moves(rows, self._now)
        answers: list[Answer] = [reply_or_refusal(moves.move, op) for op in group]
        self._write(rows)
        return answers

    def _rows(self, task_ids: Iterable[TaskId]) -> Rows:
        return load_rows(self._db, self._book, task_ids, self._now)

    def _write(self, rows: Rows) -> None:
        thinned = write_rows(self._db, self._book, rows, self._count)
        if thinned:
            self._thin(thinned)

    def _count(self, lane: int, state: int, change: int) -> None:
        self._counts[lane, state] += change
        self._book.count(lane, state, change)

    def _write_counts(self) -> None:
        changes = [(lane, state, change) for (lane, state), change in self._counts.items() if change]
        if changes:
            self._db.execute(sql.ADD_COUNTS, (to_json(changes),))

    def _thin(self, lanes: set[int]) -> None:
        """Tasks of *lanes* have been deleted; a lane whose last one it was is forgotten with its turn."""
        empty = set(drop_empty_lanes(self._db, self._book, lanes))
        for name in [name for name in self._counts if name[0] in empty]:
            del self._counts[name]

    # Sweeping

    def _promote(self, op: ops.Promote) -> ops.Swept:
        due, more = self._select_swept(sql.SELECT_DUE, op.limit)
        if due:
            self._db.execute(sql.UPDATE_PROMOTED, (to_json([task.seq for task in due]),))
        for task in due:
            self._count(task.lane, task.state, -1)
            self._count(task.lane, PENDING, +1)
        unique = [task.seq for task in due if task.has_more]
        if unique:
            hold_unique(self._db, unique)
        return ops.Swept(len(due), more)

    def _expire(self, op: ops.Expire) -> ops.Changed:
        found = self._db.execute(sql.SELECT_STOPPED, (self._now, op.limit + 1)).get
        late = _ids_decoder.decode(found)
        rows = self._rows(late[: op.limit])
        moves = Moves(rows, self._now)
        changes = tuple([moves.expire(row) for row in rows.by_id.values()])
        self._write(rows)
        return ops.Changed(changes, more=len(late) > op.limit)

    def _prune(self, op: ops.Prune) -> ops.Swept:
        self._db.execute(sql.DELETE_OLD_REQUESTS, (self._now,))
        old, more = self._select_swept(sql.SELECT_OUTLIVED, op.limit)
        for task in old:
            self._count(task.lane, task.state, -1)
        if old:
            delete_tasks(self._db, [each.seq for each in old], [each.seq for each in old if each.has_more])
            self._thin({task.lane for task in old})
        drop_old_rates(self._db, self._book, self._now)
        return ops.Swept(len(old), more)

    def _select_swept(self, statement: str, limit: int) -> tuple[list[Swept], bool]:
        """At most *limit* rows that *statement* finds, and whether there are more."""
        found = _swept_decoder.decode(self._db.execute(statement, (self._now, limit + 1)).get)
        return found[:limit], len(found) > limit

    def _recover(self, op: ops.Recover) -> ops.Recovered:
        found = self._db.execute(sql.SELECT_LOST, (op.server, op.dead_before, op.limit + 1)).get
        lost = _ids_decoder.decode(found)
        more = len(lost) > op.limit
        rows = self._rows(lost[: op.limit])
        moves = Moves(rows, self._now)
        fates = Counter(moves.recover(row) for row in rows.by_id.values())
        self._write(rows)
        if not more:
            self._db.execute(sql.DELETE_DEAD_SERVERS, (op.server, op.dead_before))
        return ops.Recovered(
            pending=fates[State.PENDING],
            failed=fates[State.FAILED],
            cancelled=fates[State.CANCELLED],
            more=more,
        )

    def _set_rules(self, op: ops.SetQueue | ops.PauseQueue) -> QueueRules:
        before = self._book.rules.get(op.queue, DEFAULT_RULES)
        if isinstance(op, ops.PauseQueue):
            after = replace(before, paused=op.paused)
        else:
            after = replace(before, order=op.order, limits=op.limits, per_key=op.per_key)
        return set_rules(self._db, self._book, op.queue, after)
