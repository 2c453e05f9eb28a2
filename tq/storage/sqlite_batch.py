"""One batch of ops inside one SQLite transaction. What it does is what `tq.storage.memory` does.

Consecutive ops of a kind go together: a run of submits is one insert; a run of ops that name a task is one
select of their rows, moves made on those rows in order, and one update. A move checks before it changes, so
a refused op leaves its row as it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto
from itertools import groupby
from typing import TypeAlias, TypeVar, assert_never

import apsw
import msgspec

from tq.core import ops
from tq.core.errors import DuplicateTask, TqError
from tq.core.ops import AnyOp, Reply
from tq.core.task import Json, Lease, NewTask, State, TaskId, initial_state
from tq.storage import sqlite_sql as sql
from tq.storage.sqlite_moves import ByIdOp, Moves
from tq.storage.sqlite_sql import PENDING, RUNNING, STATE_CODE, STATE_OF, to_json

LaneName: TypeAlias = tuple[str, str]
Answer: TypeAlias = Reply | TqError


class Book(msgspec.Struct):
    """What the one writer keeps in mind of the tables, to ask them less.

    A batch changes it as it goes; after a failed transaction it is thrown away.
    """

    lanes: dict[LaneName, int]
    names: dict[int, LaneName]
    waiting: dict[int, int]
    """How many pending tasks a lane has; only lanes that have any."""
    arrived: int
    """The seq of the last arrival."""
    next_lane: int


def load_book(db: apsw.Connection) -> Book:
    """The book as the tables have it."""
    names = {lane: (queue, type) for lane, queue, type in db.execute(sql.LOAD_LANES)}
    return Book(
        lanes={name: lane for lane, name in names.items()},
        names=names,
        waiting=dict(db.execute(sql.LOAD_WAITING)),
        arrived=db.execute(sql.LOAD_ARRIVED).get,
        next_lane=max(names, default=0) + 1,
    )


class Known(msgspec.Struct):
    """A stored task as far as a submit of its id is answered from it."""

    state: State
    type: str
    payload: Json

    def answer(self, new: NewTask) -> ops.Submitted:
        return ops.answer_known(self.state, self.type, self.payload, new)


class Kind(Enum):
    """How an op is done: in a run of submits, in a run of ops that name a task, or by itself."""

    SUBMIT = auto()
    BY_ID = auto()
    OTHER = auto()


def _kind(op: AnyOp) -> Kind:
    if isinstance(op, ops.Submit):
        return Kind.SUBMIT
    return Kind.BY_ID if isinstance(op, ByIdOp) else Kind.OTHER


A = TypeVar("A")


def _reply_or_refusal(do: Callable[[A], Reply], what: A) -> Answer:
    try:
        return do(what)
    except TqError as refusal:
        return refusal


class Batch:
    """The ops of one transaction that is under way on *db*, at the instant *now*."""

    def __init__(self, db: apsw.Connection, book: Book, now: int) -> None:
        self._db = db
        self._book = book
        self._now = now
        self._counts: Counter[tuple[int, int]] = Counter()
        self._thinned_lanes: set[int] = set()

    def run(self, ops: Sequence[AnyOp]) -> list[Answer]:
        """Apply *ops* in order; one reply or refusal for each. Beginning and commit are the caller's."""
        answers: list[Answer] = []
        for kind, group in groupby(ops, key=_kind):
            answers += self._run_of(kind, list(group))
        self._write_counts()
        if self._thinned_lanes:
            self._drop_empty_lanes()
        return answers

    def _run_of(self, kind: Kind, group: list[AnyOp]) -> list[Answer]:
        match kind:
            case Kind.SUBMIT:
                return self._submits([op.task for op in group if isinstance(op, ops.Submit)])
            case Kind.BY_ID:
                return self._moves([op for op in group if isinstance(op, ByIdOp)])
            case Kind.OTHER:
                return [self._answer(op) for op in group]
            case _:
                assert_never(kind)

    def _answer(self, op: AnyOp) -> Answer:
        match op:
            case ops.SubmitMany():
                return self._submit_many(op)
            case ops.Claim():
                return self._claim(op)
            case ops.Promote():
                return self._promote(op)
            case ops.Recover():
                return self._recover(op)
            case ops.Prune():
                return self._prune(op)
            case ops.Beat():
                return self._beat(op)
            case ops.Submit() | ops.Finish() | ops.Release() | ops.Cancel() | ops.Retry():
                raise AssertionError(f"{op} goes in a run")
            case _:
                assert_never(op)

    def _moves(self, group: list[ByIdOp]) -> list[Answer]:
        moves = Moves(self._db, {op.task_id for op in group}, self._now)
        answers: list[Answer] = [_reply_or_refusal(moves.move, op) for op in group]
        self._write_moves(moves)
        return answers

    def _write_moves(self, moves: Moves) -> None:
        moves.write()
        for (lane, state), change in moves.counts.items():
            self._count(lane, state, change)

    def _count(self, lane: int, state: int, change: int) -> None:
        self._counts[lane, state] += change
        if state == PENDING:
            waiting = self._book.waiting
            waiting[lane] = waiting.get(lane, 0) + change
            if not waiting[lane]:
                del waiting[lane]

    def _write_counts(self) -> None:
        changes = [(lane, state, change) for (lane, state), change in self._counts.items() if change]
        if changes:
            self._db.execute(sql.ADD_COUNTS, (to_json(changes),))

    def _drop_empty_lanes(self) -> None:
        """Forget the lanes that pruning took the last task of. The counts are written already."""
        thinned = to_json(list(self._thinned_lanes))
        self._db.execute(sql.DELETE_ZERO_COUNTS, (thinned,))
        for (lane,) in self._db.execute(sql.DELETE_EMPTY_LANES, (thinned,)):
            del self._book.lanes[self._book.names.pop(lane)]

    # Submitting

    def _submits(self, tasks: list[NewTask]) -> list[Answer]:
        """One select of those that are there, one insert of those that are not."""
        return self._store(tasks, self._known(tasks))

    def _submit_many(self, op: ops.SubmitMany) -> Answer:
        known = self._known(op.tasks)
        arriving: dict[TaskId, NewTask] = {}
        for index, new in enumerate(op.tasks):
            twin = known.get(new.id) or arriving.setdefault(new.id, new)
            if twin is not new:
                try:
                    ops.answer_known(State.PENDING, twin.type, twin.payload, new)
                except DuplicateTask as refusal:
                    return DuplicateTask(refusal.message, **refusal.fields, index=index)
        replies = self._store(op.tasks, known)
        return tuple(reply for reply in replies if isinstance(reply, ops.Submitted))

    def _known(self, tasks: Iterable[NewTask]) -> dict[TaskId, Known]:
        """Those of *tasks* whose id is taken, by whom."""
        ids = to_json([new.id for new in tasks])
        return {
            task_id: Known(STATE_OF[state], type, payload)
            for task_id, state, type, payload in self._db.execute(sql.SELECT_KNOWN, (ids,))
        }

    def _store(self, tasks: Iterable[NewTask], known: dict[TaskId, Known]) -> list[Answer]:
        """Insert the *tasks* that are not in *known*, and answer all."""
        fresh: list[tuple[NewTask, State]] = []
        answers: list[Answer] = []
        for new in tasks:
            twin = known.get(new.id)
            if twin is None:
                state = initial_state(new.run_at, self._now)
                known[new.id] = Known(state, new.type, new.payload)
                fresh.append((new, state))
                answers.append(ops.Submitted(new.id, state))
            else:
                answers.append(_reply_or_refusal(twin.answer, new))
        if fresh:
            self._insert(fresh)
        return answers

    def _insert(self, fresh: list[tuple[NewTask, State]]) -> None:
        rows = []
        seq = self._book.arrived
        for new, state in fresh:
            seq += 1
            lane = self._lane((new.queue, new.type))
            code = STATE_CODE[state]
            payload = self._inline(seq, sql.PAYLOAD, new.payload)
            rows.append(
                (
                    seq,
                    new.id,
                    lane,
                    code,
                    new.priority,
                    new.run_at,
                    new.max_attempts,
                    new.timeout_ms,
                    new.result_ttl_ms,
                    sql.policy_text(new.retry),
                    payload,
                )
            )
            self._count(lane, code, +1)
        self._book.arrived = seq
        self._counts[sql.STORE_LANE, sql.SUBMITTED] += len(fresh)
        self._db.execute(sql.INSERT_TASKS, (to_json(rows), self._now))

    def _lane(self, name: LaneName) -> int:
        book = self._book
        lane = book.lanes.get(name)
        if lane is None:
            lane, book.next_lane = book.next_lane, book.next_lane + 1
            self._db.execute(sql.INSERT_LANE, (lane, *name))
            book.lanes[name] = lane
            book.names[lane] = name
        return lane

    def _inline(self, seq: int, part: int, text: Json) -> Json | None:
        """*text* if it is short enough for the row; else None, and it is put beside it."""
        if len(text) <= sql.INLINE_MAX:
            return text
        self._db.execute(sql.INSERT_TEXT, (seq, part, text))
        return None

    # Claiming

    def _claim(self, op: ops.Claim) -> tuple[Lease, ...]:
        lanes = self._lanes_wanted(op)
        if not lanes or op.limit < 1:
            return ()
        # Padded, so that a few statements serve any number of lanes; lane 0 has no tasks.
        width = 1 << (len(lanes) - 1).bit_length()
        lanes += [sql.STORE_LANE] * (width - len(lanes))
        found = self._db.execute(sql.select_waiting(width), (op.limit, *lanes)).get
        waiting = sql.waiting_decoder.decode(found)
        self._db.execute(sql.UPDATE_CLAIMED, (to_json([task.seq for task in waiting]), self._now, op.server))
        return tuple(self._lease(task) for task in waiting)

    def _lanes_wanted(self, op: ops.Claim) -> list[int]:
        """The lanes that the first tasks of the claim are in."""
        names, waiting = self._book.names, self._book.waiting
        if op.types is None:
            lanes = list(waiting)
        else:
            types = frozenset(op.types)
            lanes = [lane for lane in waiting if names[lane][1] in types]
        if len(lanes) <= sql.LANES_MERGED_MAX:
            return lanes
        assert op.limit <= sql.LANES_MERGED_MAX
        found = self._db.execute(sql.SELECT_FIRST_LANES, (to_json(lanes), op.limit)).get
        return msgspec.json.decode(found, type=list[int])

    def _lease(self, task: sql.Waiting) -> Lease:
        self._count(task.lane, PENDING, -1)
        self._count(task.lane, RUNNING, +1)
        queue, type = self._book.names[task.lane]
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
            sql.policy_of(task.retry),
            task.result_ttl_ms,
            task.created_at,
            task.run_at,
            self._now,
        )

    # Sweeping

    def _promote(self, op: ops.Promote) -> ops.Swept:
        due, more = self._select_swept(sql.SELECT_DUE, op.limit)
        if due:
            self._db.execute(sql.UPDATE_PROMOTED, (to_json([seq for seq, _, _ in due]),))
        for _, lane, state in due:
            self._count(lane, state, -1)
            self._count(lane, PENDING, +1)
        return ops.Swept(len(due), more)

    def _prune(self, op: ops.Prune) -> ops.Swept:
        old, more = self._select_swept(sql.SELECT_OUTLIVED, op.limit)
        if old:
            seqs = to_json([seq for seq, _, _ in old])
            for statement in sql.DELETE_TASKS:
                self._db.execute(statement, (seqs,))
        for _, lane, state in old:
            self._count(lane, state, -1)
            self._thinned_lanes.add(lane)
        return ops.Swept(len(old), more)

    def _select_swept(self, statement: str, limit: int) -> tuple[list[tuple[int, int, int]], bool]:
        """Seq, lane and state of at most *limit* rows that *statement* finds, and whether there are more."""
        found = msgspec.json.decode(
            self._db.execute(statement, (self._now, limit + 1)).get, type=list[tuple[int, int, int]]
        )
        return found[:limit], len(found) > limit

    def _recover(self, op: ops.Recover) -> ops.Recovered:
        found = self._db.execute(sql.SELECT_LOST, (op.server, op.dead_before, op.limit + 1)).get
        lost = msgspec.json.decode(found, type=list[TaskId])
        more = len(lost) > op.limit
        moves = Moves(self._db, lost[: op.limit], self._now)
        fates = Counter(moves.recover(row) for row in moves.rows.values())
        self._write_moves(moves)
        if not more:
            self._db.execute(sql.DELETE_DEAD_SERVERS, (op.server, op.dead_before))
        return ops.Recovered(
            pending=fates[State.PENDING],
            failed=fates[State.FAILED],
            cancelled=fates[State.CANCELLED],
            more=more,
        )

    def _beat(self, op: ops.Beat) -> ops.Beaten:
        if op.gone:
            self._db.execute(sql.DELETE_SERVER, (op.server,))
        else:
            self._db.execute(sql.UPSERT_SERVER, (op.server, self._now))
        return ops.Beaten()
