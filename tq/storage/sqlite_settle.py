"""Settle on the SQLite store: who is told of a task that ended or was asked to stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import apsw
import msgspec

from tq.core import ops
from tq.core.ops import Change
from tq.core.task import FINAL, State, TaskId
from tq.storage.book import Book
from tq.storage.moves import Moves
from tq.storage.records import STATE_OF, to_json
from tq.storage.rows import Rows
from tq.storage.sqlite_rows import load_rows, write_rows

SELECT_UNSETTLED: Final = """
SELECT unsettled.seq, tasks.id, tasks.state, cascade
FROM unsettled CROSS JOIN tasks ON tasks.seq = unsettled.seq
ORDER BY unsettled.seq LIMIT 1
"""
DELETE_UNSETTLED: Final = "DELETE FROM unsettled WHERE seq = ?1"
SELECT_DEPENDENTS: Final = """
SELECT json_group_array(id) FROM (
    SELECT tasks.id FROM dependencies CROSS JOIN tasks ON tasks.seq = dependent
    WHERE dependency = ?1 ORDER BY dependent LIMIT ?2
)
"""
DELETE_TOLD: Final = """
DELETE FROM dependencies WHERE dependency = ?1 AND dependent IN (SELECT value FROM json_each(?2))
"""
SELECT_CHILDREN: Final = """
SELECT json_group_array(id) FROM (
    SELECT id FROM tasks INDEXED BY tasks_by_parent
    WHERE parent_id = ?1 AND state < 5 AND cancel_reason IS NULL ORDER BY seq LIMIT ?2
)
"""

_ids_decoder = msgspec.json.Decoder(list[TaskId])


class Settling:
    """A Settle at *now* in the transaction that is under way on *db*; *count* keeps the counters."""

    def __init__(
        self, db: apsw.Connection, book: Book, now: int, count: Callable[[int, int, int], None]
    ) -> None:
        self._db = db
        self._book = book
        self._now = now
        self._count = count
        self._changes: list[Change] = []

    def settle(self, op: ops.Settle) -> ops.Changed:
        """See Settle."""
        room = op.limit
        while (found := self._db.execute(SELECT_UNSETTLED).get) is not None:
            seq, task_id, code, cascade = found
            if STATE_OF[code] in FINAL:
                room -= self._tell_dependents(seq, STATE_OF[code], room)
            if cascade:
                room -= self._tell_children(task_id, room)
            if not room:
                return ops.Changed(tuple(self._changes), more=True)
            self._db.execute(DELETE_UNSETTLED, (seq,))
        self._book.unsettled = False
        return ops.Changed(tuple(self._changes))

    def _tell_dependents(self, seq: int, ended: State, room: int) -> int:
        """Tell the first *room* that wait for task *seq*, which has *ended*; how many that were."""
        rows = self._rows(SELECT_DEPENDENTS, seq, room)
        if rows is None:
            return 0
        moves = Moves(rows, self._now)
        told = list(rows.by_id.values())
        for row in told:
            self._changes += moves.tell_dependent(row, ended)
        write_rows(self._db, self._book, rows, self._count)
        self._db.execute(DELETE_TOLD, (seq, to_json([row.seq for row in told])))
        return len(told)

    def _tell_children(self, task_id: TaskId, room: int) -> int:
        """Tell the first *room* children of *task_id* that are to stop; how many that were."""
        rows = self._rows(SELECT_CHILDREN, task_id, room)
        if rows is None:
            return 0
        moves = Moves(rows, self._now)
        self._changes += [moves.tell_child(row) for row in rows.by_id.values()]
        write_rows(self._db, self._book, rows, self._count)
        return len(rows.by_id)

    def _rows(self, statement: str, whose: int | TaskId, room: int) -> Rows | None:
        found = _ids_decoder.decode(self._db.execute(statement, (whose, room)).get)
        return load_rows(self._db, self._book, found, self._now) if found else None
