"""Moves of tasks of the SQL stores: a row that is read, judged and changed.

A move checks before it changes, so that a refused one leaves its row as it was; and a row that is moved
twice is simply moved twice. Each rule here has its twin in `tq.storage.memory`.
"""

from __future__ import annotations

from typing import TypeAlias, assert_never

from msgspec.structs import replace

from tq.core import ops, refusals
from tq.core.ops import Change
from tq.core.task import (
    CRASHES_MAX,
    FINAL,
    AttemptError,
    Move,
    OnFailure,
    Reason,
    State,
    check_move,
    deadline_passed,
    expiry,
    initial_state,
    server_lost,
)
from tq.storage.records import BLOCKED, REASON_CODE, REASON_OF, RUNNING, STATE_OF, Row
from tq.storage.rows import Rows

ByIdOp: TypeAlias = (
    ops.Finish | ops.Crash | ops.Release | ops.Note | ops.Cancel | ops.Retry | ops.Update | ops.Delete
)
ByIdReply: TypeAlias = (
    ops.Finished | ops.Released | ops.Noted | ops.CancelReply | ops.Retried | ops.Updated | ops.Deleted
)


class Moves:
    """Moves on *rows* at the instant *now*."""

    def __init__(self, rows: Rows, now: int) -> None:
        self._rows = rows
        self._now = now

    def move(self, op: ByIdOp) -> ByIdReply:
        """Do *op*, or raise its refusal."""
        match op:
            case ops.Finish():
                return self._finish(op)
            case ops.Crash():
                row = self._rows.leased(op.task_id, op.generation)
                asked = row.cancel_reason
                return ops.Finished(self._crashed(row, op.error), _reason_of(asked))
            case ops.Release():
                row = self._rows.leased(op.task_id, op.generation)
                return ops.Released(self._give_back(row, Move.RELEASE))
            case ops.Note():
                return self._note(op)
            case ops.Cancel():
                return self._cancel(op)
            case ops.Retry():
                return self._retry(op)
            case ops.Update():
                return self._update(op)
            case ops.Delete():
                return self._delete(op)
            case _:
                assert_never(op)

    def recover(self, row: Row) -> State:
        """Take *row* from a server that is dead; the state it is in now."""
        return self._crashed(row, server_lost(row.attempt, self._now))

    def expire(self, row: Row) -> Change:
        """End *row*, which may not wait any more."""
        fate = expiry(self._rows.options(row), self._now)
        check_move(row.id, STATE_OF[row.state], Move.EXPIRE, fate.state)
        assert fate.reason is not None
        error = deadline_passed(row.attempt, self._now) if fate.state is State.FAILED else None
        if error is not None:
            self._rows.remember(row, error)
        self._rows.end(row, fate.state, REASON_CODE[fate.reason], error=error)
        return Change(row.id, fate.state)

    def end_waiting(self, row: Row, reason: Reason, *, cascade: bool = True) -> Change:
        """Cancel *row*, which waits. Raises IllegalTransition."""
        check_move(row.id, STATE_OF[row.state], Move.CANCEL, State.CANCELLED)
        self._rows.end(row, State.CANCELLED, REASON_CODE[reason], cascade=cascade)
        return Change(row.id, State.CANCELLED)

    def tell_child(self, row: Row) -> Change:
        """Its parent is cancelled, or asked to stop."""
        if row.state == RUNNING:
            self._rows.ask_to_stop(row, Reason.PARENT, cascade=True)
            return Change(row.id, State.RUNNING)
        return self.end_waiting(row, Reason.PARENT)

    def tell_dependent(self, row: Row, ended: State) -> list[Change]:
        """One that it depended on has ended as *ended*; what that changed."""
        if row.state != BLOCKED:
            return []
        on_failure = self._rows.options(row).on_dependency_failure
        if ended is not State.SUCCEEDED and on_failure is OnFailure.CANCEL:
            return [self.end_waiting(row, Reason.DEPENDENCY)]
        if row.blockers > 1:
            self._rows.set_blockers(row, row.blockers - 1)
            self._rows.change(row)
            return []
        state = initial_state(row.run_at, self._now)
        check_move(row.id, State.BLOCKED, Move.PROMOTE, state)
        self._rows.set_blockers(row, 0)
        self._rows.wait(row, state)
        return [Change(row.id, state)]

    def _finish(self, op: ops.Finish) -> ops.Finished:
        rows = self._rows
        row = rows.leased(op.task_id, op.generation)
        state, result = op.state, op.result
        reason = None if op.reason is None else REASON_CODE[op.reason]
        asked = row.cancel_reason
        if asked is not None:
            state, reason, result = State.CANCELLED, asked, None
        check_move(row.id, State.RUNNING, Move.FINISH, state)
        if op.error is not None:
            rows.remember(row, op.error)
        if not op.burns:
            row.attempt -= 1
        if state in FINAL:
            row.started_at = op.started_at
            row.worker = op.worker
            if op.started_at is None:
                row.server = None
            # Its children heard of it when it was asked, if they were to.
            rows.end(row, state, reason, result=result, error=op.error, cascade=asked is None)
        else:
            assert op.run_at is not None
            row.run_at = op.run_at
            row.reason = reason
            rows.wait(row, state)
        return ops.Finished(state, _reason_of(asked))

    def _give_back(self, row: Row, move: Move) -> State:
        """A running task that nobody runs any more: pending again, or cancelled if that was asked."""
        state = State.PENDING if row.cancel_reason is None else State.CANCELLED
        check_move(row.id, STATE_OF[row.state], move, state)
        row.attempt -= 1
        if state is State.CANCELLED:
            row.started_at = row.server = None
            self._rows.end(row, state, row.cancel_reason, cascade=False)
        else:
            self._rows.wait(row, state)
        return state

    def _crashed(self, row: Row, error: AttemptError) -> State:
        """The attempt at a running task died with what ran it."""
        is_poison = row.crashes + 1 >= CRASHES_MAX and row.cancel_reason is None
        if is_poison:
            check_move(row.id, STATE_OF[row.state], Move.RECOVER, State.FAILED)
        row.crashes += 1
        self._rows.remember(row, error)
        if not is_poison:
            return self._give_back(row, Move.RECOVER)
        row.attempt -= 1
        self._rows.end(row, State.FAILED, REASON_CODE[Reason.POISON], error=error)
        return State.FAILED

    def _note(self, op: ops.Note) -> ops.Noted:
        row = self._rows.leased(op.task_id, op.generation)
        self._rows.note(row, op)
        return ops.Noted()

    def _cancel(self, op: ops.Cancel) -> ops.CancelReply:
        row = self._rows.known(op.task_id)
        if row.state == RUNNING:
            self._rows.ask_to_stop(row, op.reason, cascade=op.cascade)
            return ops.CancelReply(State.RUNNING)
        return ops.CancelReply(self.end_waiting(row, op.reason, cascade=op.cascade).state)

    def _retry(self, op: ops.Retry) -> ops.Retried:
        row = self._rows.known(op.task_id)
        check_move(row.id, STATE_OF[row.state], Move.RETRY, State.PENDING)
        holder = self._rows.holder(row)
        if holder is not None:
            raise refusals.unique_taken_meanwhile(row.id, holder)
        self._rows.begin_anew(row)
        self._rows.wait(row, State.PENDING)
        return ops.Retried(State.PENDING)

    def _update(self, op: ops.Update) -> ops.Updated:
        row = self._rows.known(op.task_id)
        before = STATE_OF[row.state]
        is_put_off = before is State.PENDING and op.run_at is not None and op.run_at > self._now
        state = State.SCHEDULED if is_put_off else before
        check_move(row.id, before, Move.UPDATE, state)
        self._rows.set_values(row, op)
        options = self._rows.options(row)
        given = {"deadline_at": op.deadline_at, "expires_at": op.expires_at}
        times = {name: value for name, value in given.items() if value is not None}
        if times:
            options = replace(options, **times)
            self._rows.set_options(row, options)
        self._rows.move(row, state)
        return ops.Updated(state, row.run_at, options.stop_at)

    def _delete(self, op: ops.Delete) -> ops.Deleted:
        row = self._rows.known(op.task_id)
        refusals.check_deletable(row.id, STATE_OF[row.state], is_settled=self._rows.is_settled(row))
        self._rows.delete(row)
        return ops.Deleted()


def _reason_of(code: int | None) -> Reason | None:
    return None if code is None else REASON_OF[code]
