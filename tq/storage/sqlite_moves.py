"""Moves of tasks that are named by their ids: their rows are read once, moved in order, written once.

A move checks before it changes, so that a refused one leaves its row as it was; and a row that is moved
twice is simply moved twice. Each rule here has its twin in `tq.storage.memory`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final, TypeAlias, assert_never

import apsw

from tq.core import ops
from tq.core.task import (
    CRASHES_MAX,
    FINAL,
    AttemptError,
    Json,
    Move,
    Reason,
    State,
    TaskId,
    check_move,
    keep_until,
    server_lost,
)
from tq.storage import sqlite_sql as sql
from tq.storage.sqlite_sql import REASON_CODE, RUNNING, STATE_CODE, STATE_OF, STORE_LANE, Row, to_json

ERRORS_AT_ONCE: Final = 100
"""Entries of histories that one statement takes: they are long, and memory is bounded."""

ByIdOp: TypeAlias = ops.Finish | ops.Release | ops.Cancel | ops.Retry
ByIdReply: TypeAlias = ops.Finished | ops.Released | ops.CancelReply | ops.Retried


class Moves:
    """The rows of the tasks *ids* at the instant *now*, and what is made of them. `write` ends it."""

    def __init__(self, db: apsw.Connection, ids: Iterable[TaskId], now: int) -> None:
        self._db = db
        self._now = now
        found = sql.rows_decoder.decode(db.execute(sql.SELECT_ROWS, (to_json(list(ids)),)).get)
        self.rows = {row.id: row for row in found}
        self.counts: Counter[tuple[int, int]] = Counter()
        """What the counters of (lane, state) change by."""
        self._changed: dict[TaskId, Row] = {}
        self._errors: list[tuple[int, int, str]] = []
        self._long_results: dict[int, Json] = {}
        self._results_gone: list[int] = []

    def move(self, op: ByIdOp) -> ByIdReply:
        """Do *op*, or raise its refusal."""
        match op:
            case ops.Finish():
                return self._finish(op)
            case ops.Release():
                row = self._leased(op.task_id, op.generation)
                return ops.Released(self._give_back(row, Move.RELEASE))
            case ops.Cancel():
                return self._cancel(op)
            case ops.Retry():
                return self._retry(op)
            case _:
                assert_never(op)

    def recover(self, row: Row) -> State:
        """Take *row* from a server that is dead."""
        poison = row.crashes + 1 >= CRASHES_MAX and row.cancel_reason is None
        if poison:
            check_move(row.id, STATE_OF[row.state], Move.RECOVER, State.FAILED)
        row.crashes += 1
        self._remember(row, server_lost(row.attempt, self._now))
        if not poison:
            return self._give_back(row, Move.RECOVER)
        row.attempt -= 1
        self._end(row, State.FAILED, REASON_CODE[Reason.POISON])
        return State.FAILED

    def _known(self, task_id: TaskId) -> Row:
        row = self.rows.get(task_id)
        if row is None:
            raise ops.no_such_task(task_id)
        return row

    def _leased(self, task_id: TaskId, generation: int) -> Row:
        row = self._known(task_id)
        if row.state != RUNNING or row.generation != generation:
            raise ops.lease_lost(task_id, generation)
        return row

    def _finish(self, op: ops.Finish) -> ops.Finished:
        row = self._leased(op.task_id, op.generation)
        state, result = op.state, op.result
        reason = None if op.reason is None else REASON_CODE[op.reason]
        if row.cancel_reason is not None:
            state, reason, result = State.CANCELLED, row.cancel_reason, None
        check_move(row.id, State.RUNNING, Move.FINISH, state)
        if op.error is not None:
            self._remember(row, op.error)
        if not op.burns:
            row.attempt -= 1
        if state in FINAL:
            row.started_at = op.started_at
            row.worker = op.worker
            self._end(row, state, reason, result)
        else:
            assert op.run_at is not None
            row.run_at = op.run_at
            row.reason = reason
            self._wait(row, state)
        return ops.Finished(state)

    def _give_back(self, row: Row, move: Move) -> State:
        """A running task that nobody runs any more: pending again, or cancelled if that was asked."""
        state = State.PENDING if row.cancel_reason is None else State.CANCELLED
        check_move(row.id, STATE_OF[row.state], move, state)
        row.attempt -= 1
        if state is State.CANCELLED:
            self._end(row, state, row.cancel_reason)
        else:
            self._wait(row, state)
        return state

    def _cancel(self, op: ops.Cancel) -> ops.CancelReply:
        row = self._known(op.task_id)
        if row.state == RUNNING:
            if row.cancel_reason is None:
                row.cancel_reason = REASON_CODE[op.reason]
                self._changed[row.id] = row
            return ops.CancelReply(State.RUNNING)
        check_move(row.id, STATE_OF[row.state], Move.CANCEL, State.CANCELLED)
        self._end(row, State.CANCELLED, REASON_CODE[op.reason])
        return ops.CancelReply(State.CANCELLED)

    def _retry(self, op: ops.Retry) -> ops.Retried:
        row = self._known(op.task_id)
        check_move(row.id, STATE_OF[row.state], Move.RETRY, State.PENDING)
        row.reason = None
        row.attempt = 0
        row.crashes = 0
        row.run_at = self._now
        self._results_gone.append(row.seq)
        self._long_results.pop(row.seq, None)
        self._wait(row, State.PENDING)
        return ops.Retried(State.PENDING)

    # Rows

    def _wait(self, row: Row, state: State) -> None:
        """Put *row* into a state that waits: nobody runs it."""
        row.started_at = row.finished_at = row.keep_until = None
        row.worker = row.server = row.cancel_reason = row.result = None
        self._to(row, state)

    def _end(self, row: Row, state: State, reason: int | None, result: Json | None = None) -> None:
        """Put *row* into a final state."""
        row.reason = reason
        row.finished_at = self._now
        row.keep_until = keep_until(state, row.result_ttl_ms, self._now)
        row.cancel_reason = None
        if result is not None and len(result) > sql.INLINE_MAX:
            self._long_results[row.seq] = result
            result = None
        row.result = result
        self._to(row, state)
        self.counts[STORE_LANE, row.state] += 1

    def _to(self, row: Row, state: State) -> None:
        self.counts[row.lane, row.state] -= 1
        row.state = STATE_CODE[state]
        self.counts[row.lane, row.state] += 1
        self._changed[row.id] = row

    def _remember(self, row: Row, error: AttemptError) -> None:
        self._errors.append((row.seq, row.failures, to_json(error)))
        row.failures += 1

    def write(self) -> None:
        """Write what has changed."""
        if self._changed:
            self._db.execute(sql.UPDATE_ROWS, (to_json(list(self._changed.values())),))
        for start in range(0, len(self._errors), ERRORS_AT_ONCE):
            entries = self._errors[start : start + ERRORS_AT_ONCE]
            self._db.execute(sql.INSERT_ERRORS, (to_json(entries),))
        if self._results_gone:
            self._db.execute(sql.DELETE_RESULTS, (to_json(self._results_gone),))
        for seq, result in self._long_results.items():
            self._db.execute(sql.INSERT_TEXT, (seq, sql.RESULT, result))
