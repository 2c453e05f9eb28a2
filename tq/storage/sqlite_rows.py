"""Rows of tasks that one batch moves: read once, changed in order, written once.

The twin of `tq.storage.memory_rows`: the few ways in which a row changes, and what must change with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

import apsw
import msgspec

from tq.core import refusals
from tq.core.ops import Note, Update
from tq.core.task import (
    HISTORY_MAX,
    LOG_LINES_MAX,
    AttemptError,
    Json,
    Options,
    Reason,
    State,
    TaskId,
    fingerprint,
    keep_until,
)
from tq.storage import sqlite_sql as sql
from tq.storage.sqlite_book import Book
from tq.storage.sqlite_sql import REASON_CODE, RUNNING, STATE_CODE, STATE_OF, STORE_LANE, Row, to_json
from tq.storage.sqlite_unique import Holders, name_of

TEXTS_AT_ONCE: Final = 100
"""Entries of histories, or lines of logs, that one statement takes: they are long, and memory is bounded."""

INSERT_ERRORS: Final = f"""
INSERT OR REPLACE INTO errors (seq, slot, n, entry)
SELECT value ->> 0, (value ->> 1) % {HISTORY_MAX}, value ->> 1, value ->> 2
FROM jsonb_each(?1)
"""
INSERT_LOGS: Final = f"""
INSERT OR REPLACE INTO logs (seq, slot, n, line)
SELECT value ->> 0, (value ->> 1) % {LOG_LINES_MAX}, value ->> 1, value ->> 2
FROM jsonb_each(?1)
"""
UPDATE_FINGERPRINTS: Final = """
UPDATE tasks SET fingerprint = value ->> 1
FROM jsonb_each(?1) AS changed
WHERE tasks.seq = changed.value ->> 0
"""
UPDATE_BLOCKERS: Final = """
UPDATE tasks SET blockers = value ->> 1
FROM jsonb_each(?1) AS changed
WHERE tasks.seq = changed.value ->> 0
"""
UPDATE_OPTIONS: Final = """
UPDATE tasks SET options = value ->> 1, stop_at = value ->> 2
FROM jsonb_each(?1) AS changed
WHERE tasks.seq = changed.value ->> 0
"""
VALUES: Final = ("priority", "timeout_ms", "max_attempts", "result_ttl_ms")
"""What Update sets beside the columns of a Row."""
# What is null stays as it is.
UPDATE_VALUES: Final = """
UPDATE tasks SET
    priority = ifnull(value ->> 1, priority), timeout_ms = ifnull(value ->> 2, timeout_ms),
    max_attempts = ifnull(value ->> 3, max_attempts), result_ttl_ms = ifnull(value ->> 4, result_ttl_ms)
FROM jsonb_each(?1) AS changed
WHERE tasks.seq = changed.value ->> 0
"""
UPDATE_NOTED: Final = """
UPDATE tasks SET logged = value ->> 1, progress = ifnull(value ->> 2, progress)
FROM jsonb_each(?1) AS changed
WHERE tasks.seq = changed.value ->> 0
"""
IS_UNSETTLED: Final = "SELECT EXISTS (SELECT 1 FROM unsettled WHERE seq = ?1)"
UPSERT_UNSETTLED: Final = """
INSERT INTO unsettled (seq, cascade)
SELECT value ->> 0, value ->> 1 FROM jsonb_each(?1) WHERE true
ON CONFLICT DO UPDATE SET cascade = max(cascade, excluded.cascade)
"""


class Rows:
    """The rows of *task_ids* in the transaction that is under way on *db*, at the instant *now*."""

    def __init__(self, db: apsw.Connection, book: Book, task_ids: Iterable[TaskId], now: int) -> None:
        self._db = db
        self._book = book
        self._now = now
        found = db.execute(sql.SELECT_ROWS, (to_json(list(task_ids)),)).get
        self.by_id: dict[TaskId, Row] = {row.id: row for row in sql.rows_decoder.decode(found)}
        self._counts: Counter[tuple[int, int]] = Counter()
        self._changed: dict[TaskId, Row] = {}
        self._errors: list[tuple[int, int, str]] = []
        self._logs: list[tuple[int, int, str]] = []
        self._progress: dict[int, tuple[int, str | None]] = {}
        self._long_results: dict[int, Json] = {}
        self._results_gone: list[int] = []
        self._fingerprints: dict[int, str | None] = {}
        self._blockers: dict[int, int] = {}
        self._options: dict[int, Options] = {}
        self._values: dict[int, dict[str, int]] = {}
        self._unsettled: dict[int, bool] = {}
        self._holders: Holders | None = None
        self._deleted: dict[int, int] = {}

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
        return self._options.get(row.seq) or sql.options_of(row.options)

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
        return row.seq not in self._unsettled and not self._db.execute(IS_UNSETTLED, (row.seq,)).get

    def _type(self, row: Row) -> str:
        return self._book.names[row.lane][1]

    def _unique_name(self, row: Row) -> str | None:
        return name_of(self._type(row), sql.options_of(row.options))

    def _loaded_holders(self) -> Holders:
        if self._holders is None:
            names = {self._unique_name(row) for row in self.by_id.values() if row.options is not None}
            self._holders = Holders(self._db, [name for name in names if name is not None])
        return self._holders

    # How they change

    def change(self, row: Row) -> None:
        """*row* has been changed: it takes its unique key or lets it go, and will be written."""
        self._changed[row.id] = row
        if row.options is not None:
            self._hold(row)

    def _hold(self, row: Row) -> None:
        options = sql.options_of(row.options)
        if options.unique is not None:
            self._loaded_holders().hold(row.id, self._type(row), options, STATE_OF[row.state])

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
        if result is not None and len(result) > sql.INLINE_MAX:
            self._long_results[row.seq] = result
            result = None
        row.result = result
        if state is State.FAILED and error is not None:
            self._fingerprints[row.seq] = fingerprint(self._type(row), error)
        self.move(row, state)
        self._counts[STORE_LANE, row.state] += 1
        if row.watched:
            self.unsettle(row, cascade=cascade and state is State.CANCELLED)

    def move(self, row: Row, state: State) -> None:
        """Put *row* into *state*, and count that."""
        self._counts[row.lane, row.state] -= 1
        row.state = STATE_CODE[state]
        self._counts[row.lane, row.state] += 1
        self._changed[row.id] = row
        if row.options is not None:
            self._hold(row)

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
            self._unsettled[row.seq] = cascade or self._unsettled.get(row.seq, False)

    def begin_anew(self, row: Row) -> None:
        """Make a final *row* as if it had not been tried, but for its history."""
        row.reason = None
        row.attempt = row.crashes = 0
        row.run_at = self._now
        self._results_gone.append(row.seq)
        self._long_results.pop(row.seq, None)
        if row.state == STATE_CODE[State.FAILED]:
            self._fingerprints[row.seq] = None
        if row.blockers:
            self.set_blockers(row, 0)
        if row.options is not None:
            options = self.options(row)
            if options.stop_at is not None:
                self.set_options(row, msgspec.structs.replace(options, deadline_at=None, expires_at=None))

    def set_blockers(self, row: Row, blockers: int) -> None:
        """*row* waits for so many tasks now."""
        row.blockers = self._blockers[row.seq] = blockers

    def set_options(self, row: Row, options: Options) -> None:
        """*row* has other times to stop at; nothing else of options ever changes."""
        self._options[row.seq] = options
        row.options = sql.options_text(options)

    def set_values(self, row: Row, op: Update) -> None:
        """*row* has the values that *op* names."""
        if op.run_at is not None:
            row.run_at = op.run_at
        if op.result_ttl_ms is not None:
            row.result_ttl_ms = op.result_ttl_ms
        given = {name: value for name in VALUES if (value := getattr(op, name)) is not None}
        self._values[row.seq] = self._values.get(row.seq, {}) | given

    def note(self, row: Row, op: Note) -> None:
        """*row* has the progress and the lines of *op*."""
        for n, line in enumerate(op.lines, row.logged):
            self._logs.append((row.seq, n, to_json(line)))
        row.logged += len(op.lines)
        progress = self._progress.get(row.seq, (0, None))[1] if op.progress is None else to_json(op.progress)
        self._progress[row.seq] = (row.logged, progress)

    def remember(self, row: Row, error: AttemptError) -> None:
        """*error* joins the history of *row*."""
        self._errors.append((row.seq, row.failures, to_json(error)))
        row.failures += 1

    def delete(self, row: Row) -> None:
        """*row* is gone."""
        self._counts[row.lane, row.state] -= 1
        self._deleted[row.seq] = row.lane
        del self.by_id[row.id]

    # Writing

    def write(self, count: Callable[[int, int, int], None]) -> set[int]:
        """Write what has changed, and *count* it; the lanes that tasks were deleted from."""
        db = self._db
        if self._changed:
            db.execute(sql.UPDATE_ROWS, (to_json(list(self._changed.values())),))
        self._write_texts(INSERT_ERRORS, self._errors)
        if self._fingerprints:
            db.execute(UPDATE_FINGERPRINTS, (to_json(list(self._fingerprints.items())),))
        if self._results_gone:
            db.execute(sql.DELETE_RESULTS, (to_json(self._results_gone),))
        for seq, result in self._long_results.items():
            db.execute(sql.INSERT_TEXT, (seq, sql.RESULT, result))
        self._write_rare()
        for (lane, state), change in self._counts.items():
            count(lane, state, change)
        if self._deleted:
            delete_tasks(db, list(self._deleted), list(self._deleted))
        return set(self._deleted.values())

    def _write_rare(self) -> None:
        """Write what plain tasks do not have."""
        db = self._db
        if self._progress:
            noted = [(seq, *noted) for seq, noted in self._progress.items()]
            db.execute(UPDATE_NOTED, (to_json(noted),))
            self._write_texts(INSERT_LOGS, self._logs)
        if self._blockers:
            db.execute(UPDATE_BLOCKERS, (to_json(list(self._blockers.items())),))
        if self._options:
            changed = [(seq, sql.options_text(each), each.stop_at) for seq, each in self._options.items()]
            db.execute(UPDATE_OPTIONS, (to_json(changed),))
        if self._values:
            values = [(seq, *map(given.get, VALUES)) for seq, given in self._values.items()]
            db.execute(UPDATE_VALUES, (to_json(values),))
        if self._unsettled:
            db.execute(UPSERT_UNSETTLED, (to_json([(s, int(c)) for s, c in self._unsettled.items()]),))
            self._book.unsettled = True
        if self._holders is not None:
            self._holders.write()

    def _write_texts(self, statement: str, entries: list[tuple[int, int, str]]) -> None:
        for start in range(0, len(entries), TEXTS_AT_ONCE):
            self._db.execute(statement, (to_json(entries[start : start + TEXTS_AT_ONCE]),))


def delete_tasks(db: apsw.Connection, seqs: list[int], not_plain: list[int]) -> None:
    """Delete the tasks *seqs* and all that is known of them; those that are *not_plain* may have more."""
    if not_plain:
        for statement in sql.DELETE_RARE:
            db.execute(statement, (to_json(not_plain),))
    gone = to_json(seqs)
    for statement in sql.DELETE_TASKS:
        db.execute(statement, (gone,))
