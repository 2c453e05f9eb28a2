"""Rows of tasks that one batch of an SQL store moves: read once, changed in order, written once.

The twin of `tq.storage.memory_rows`: the few ways in which a row changes, and what must change with it. Here
nothing is read or written: the stores do that, by what is in the attributes of Rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import msgspec

from tq.core import refusals
from tq.core.ops import Note, Update
from tq.core.task import (
    AttemptError,
    Json,
    LogLine,
    Options,
    Progress,
    Reason,
    State,
    TaskId,
    fingerprint,
    keep_until,
)
from tq.storage.holders import Holders, name_of
from tq.storage.records import (
    REASON_CODE,
    RUNNING,
    STATE_CODE,
    STATE_OF,
    STORE_LANE,
    Row,
    options_of,
    options_text,
)

VALUES: Final = ("priority", "timeout_ms", "max_attempts", "result_ttl_ms")
"""What Update sets beside the columns of a Row."""


class RowSource(Protocol):
    """What rows ask of the transaction that they are part of."""

    def type_of(self, lane: int) -> str:
        """The type of the tasks of a lane."""
        ...

    def holders_of(self, names: Sequence[str]) -> dict[str, TaskId]:
        """Those of the unique *names* that are taken, and by which tasks."""
        ...

    def is_unsettled(self, seq: int) -> bool:
        """Whether Settle has yet to deal with a task."""
        ...


class Rows:
    """The rows *found*, in order, at the instant *now*. What is to be written is in the attributes.

    ``noted`` has those whose log or progress has changed, and the progress, where that has; ``begun_anew``
    those whose result is gone. Whatever is not in ``changed`` has all columns of its Row as they were read.
    """

    def __init__(self, found: Iterable[Row], now: int, source: RowSource) -> None:
        self._source = source
        self._now = now
        self.by_id: dict[TaskId, Row] = {row.id: row for row in found}
        self.changed: dict[TaskId, Row] = {}
        self.deleted: list[Row] = []
        self.counts: Counter[tuple[int, int]] = Counter()
        self.errors: list[tuple[Row, int, AttemptError]] = []
        self.logs: list[tuple[Row, int, LogLine]] = []
        self.noted: dict[TaskId, tuple[Row, Progress | None]] = {}
        self.begun_anew: list[Row] = []
        self.fingerprints: dict[TaskId, tuple[Row, str | None]] = {}
        self.blockers: dict[TaskId, Row] = {}
        self.new_options: dict[TaskId, tuple[Row, Options]] = {}
        self.values: dict[TaskId, tuple[Row, dict[str, int]]] = {}
        self.unsettled: dict[TaskId, tuple[Row, bool]] = {}
        self.holders: Holders | None = None

    # What they say

    def known(self, task_id: TaskId) -> Row:
        """The row of this id. Raises NotFound."""
        row = self.by_id.get(task_id)
        if row is None:
            raise refusals.no_such_task(task_id)
        return row

    def leased(self, task_id: TaskId, generation: int) -> Row:
        """The row of this id, if that generation runs. Raises NotFound, LeaseLost."""
        row = self.known(task_id)
        if row.state != RUNNING or row.generation != generation:
            raise refusals.lease_lost(task_id, generation)
        return row

    def options(self, row: Row) -> Options:
        """The options that *row* has now."""
        changed = self.new_options.get(row.id)
        return options_of(row.options) if changed is None else changed[1]

    def holder(self, row: Row) -> TaskId | None:
        """The task that has the unique key that *row* wants, if it wants one and another has it."""
        if row.options is None:
            return None
        name = self._unique_name(row)
        return None if name is None else self._loaded_holders().get(name)

    def is_settled(self, row: Row) -> bool:
        """Whether nobody waits to hear of *row*."""
        if not row.watched:
            return True
        return row.id not in self.unsettled and not self._source.is_unsettled(row.seq)

    def _unique_name(self, row: Row) -> str | None:
        return name_of(self._source.type_of(row.lane), options_of(row.options))

    def _loaded_holders(self) -> Holders:
        if self.holders is None:
            names = {self._unique_name(row) for row in self.by_id.values() if row.options is not None}
            self.holders = Holders(self._source.holders_of([name for name in names if name is not None]))
        return self.holders

    # How they change

    def change(self, row: Row) -> None:
        """*row* has been changed: it takes its unique key or lets it go, and will be written."""
        self.changed[row.id] = row
        if row.options is not None:
            self._hold(row)

    def _hold(self, row: Row) -> None:
        options = options_of(row.options)
        if options.unique is not None:
            type = self._source.type_of(row.lane)
            self._loaded_holders().hold(row.id, type, options, STATE_OF[row.state])

    def wait(self, row: Row, state: State) -> None:
        """Put *row* into a state that waits: nobody runs it."""
        row.started_at = row.finished_at = row.keep_until = None
        row.worker = row.server = row.cancel_reason = row.result = None
        self.move(row, state)

    def end(
        self,
        row: Row,
        state: State,
        reason: int | None,
        *,
        result: Json | None = None,
        error: AttemptError | None = None,
        cascade: bool = True,
    ) -> None:
        """Put *row* into a final state; with *cascade*, its children hear if that is cancelled."""
        row.reason = reason
        row.finished_at = self._now
        row.keep_until = keep_until(state, row.result_ttl_ms, self._now)
        row.cancel_reason = None
        row.result = result
        if state is State.FAILED and error is not None:
            self.fingerprints[row.id] = (row, fingerprint(self._source.type_of(row.lane), error))
        self.move(row, state)
        self.counts[STORE_LANE, row.state] += 1
        if row.watched:
            self.unsettle(row, cascade=cascade and state is State.CANCELLED)

    def move(self, row: Row, state: State) -> None:
        """Put *row* into *state*, and count that."""
        self.counts[row.lane, row.state] -= 1
        row.state = STATE_CODE[state]
        self.counts[row.lane, row.state] += 1
        self.change(row)

    def ask_to_stop(self, row: Row, reason: Reason, *, cascade: bool) -> None:
        """Mark a running *row*; with *cascade*, its children will hear of it."""
        if row.cancel_reason is None:
            row.cancel_reason = REASON_CODE[reason]
            self.change(row)
        if cascade:
            self.unsettle(row, cascade=True)

    def unsettle(self, row: Row, *, cascade: bool) -> None:
        """Leave *row* to Settle, if others may have to hear of it."""
        if row.watched:
            before = self.unsettled.get(row.id)
            self.unsettled[row.id] = (row, cascade or (before is not None and before[1]))

    def begin_anew(self, row: Row) -> None:
        """Make a final *row* as if it had not been tried, but for its history."""
        row.reason = None
        row.attempt = row.crashes = 0
        row.run_at = self._now
        self.begun_anew.append(row)
        if row.state == STATE_CODE[State.FAILED]:
            self.fingerprints[row.id] = (row, None)
        if row.blockers:
            self.set_blockers(row, 0)
        if row.options is not None:
            options = self.options(row)
            if options.stop_at is not None:
                self.set_options(row, msgspec.structs.replace(options, deadline_at=None, expires_at=None))

    def set_blockers(self, row: Row, blockers: int) -> None:
        """*row* waits for so many tasks now."""
        row.blockers = blockers
        self.blockers[row.id] = row

    def set_options(self, row: Row, options: Options) -> None:
        """*row* has other times to stop at; nothing else of options ever changes."""
        self.new_options[row.id] = (row, options)
        row.options = options_text(options)

    def set_values(self, row: Row, op: Update) -> None:
        """*row* has the values that *op* names."""
        if op.run_at is not None:
            row.run_at = op.run_at
        if op.result_ttl_ms is not None:
            row.result_ttl_ms = op.result_ttl_ms
        given = {name: value for name in VALUES if (value := getattr(op, name)) is not None}
        before = self.values[row.id][1] if row.id in self.values else {}
        self.values[row.id] = (row, before | given)

    def note(self, row: Row, op: Note) -> None:
        """*row* has the progress and the lines of *op*."""
        self.logs += [(row, n, line) for n, line in enumerate(op.lines, row.logged)]
        row.logged += len(op.lines)
        before = self.noted[row.id][1] if row.id in self.noted else None
        self.noted[row.id] = (row, op.progress or before)

    def remember(self, row: Row, error: AttemptError) -> None:
        """*error* joins the history of *row*."""
        self.errors.append((row, row.failures, error))
        row.failures += 1

    def delete(self, row: Row) -> None:
        """*row* is gone."""
        self.counts[row.lane, row.state] -= 1
        self.deleted.append(row)
        del self.by_id[row.id]
