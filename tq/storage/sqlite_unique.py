"""Who has which unique key in the SQLite store.

The rule is `Rows.hold` of the model: a key that is free goes to the first task that moves while it may have
it. So it is decided in the order of the moves, in Python, and then written.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import apsw

from tq.core.task import Options, State, TaskId, holds_unique, unique_name
from tq.storage.sqlite_sql import STATE_OF, options_of, to_json

SELECT_HOLDERS: Final = """
SELECT holders.name, task_id FROM json_each(?1) AS wanted CROSS JOIN holders ON holders.name = wanted.value
"""
DELETE_HOLDERS: Final = "DELETE FROM holders WHERE name IN (SELECT value FROM json_each(?1))"
INSERT_HOLDERS: Final = (
    "INSERT INTO holders (name, task_id) SELECT value ->> 0, value ->> 1 FROM jsonb_each(?1)"
)
SELECT_MOVED: Final = """
SELECT tasks.id, lanes.type, options, state
FROM json_each(?1) AS moved
CROSS JOIN tasks ON tasks.seq = moved.value
CROSS JOIN lanes ON lanes.id = tasks.lane
ORDER BY moved.key
"""


def name_of(type: str, options: Options) -> str | None:
    """The unique name that a task of *type* with *options* wants, if any."""
    return None if options.unique is None else unique_name(type, options.unique)


class Holders:
    """The holders of some unique names, and how they change."""

    def __init__(self, db: apsw.Connection, names: Iterable[str]) -> None:
        self._db = db
        self._before: dict[str, TaskId] = dict(db.execute(SELECT_HOLDERS, (to_json(list(names)),)))
        self._now = dict(self._before)

    def get(self, name: str) -> TaskId | None:
        """The task that has *name*."""
        return self._now.get(name)

    def hold(self, task_id: TaskId, type: str, options: Options, state: State) -> None:
        """Take the unique key if it is free and the task in *state* keeps others out; else let it go."""
        if options.unique is None:
            return
        name = unique_name(type, options.unique)
        if holds_unique(state, options.unique):
            self._now.setdefault(name, task_id)
        elif self._now.get(name) == task_id:
            del self._now[name]

    def write(self) -> None:
        """Write what has changed: first what was let go, then what was taken."""
        gone, taken = self._before.items() - self._now.items(), self._now.items() - self._before.items()
        if gone:
            self._db.execute(DELETE_HOLDERS, (to_json([name for name, _ in gone]),))
        if taken:
            self._db.execute(INSERT_HOLDERS, (to_json(list(taken)),))


def hold_unique(db: apsw.Connection, seqs: list[int]) -> None:
    """Let the tasks *seqs*, in this order, take or let go their unique keys as their states now say."""
    moved = [
        (task_id, type, options_of(options), STATE_OF[state])
        for task_id, type, options, state in db.execute(SELECT_MOVED, (to_json(seqs),))
    ]
    names = {name_of(type, options) for _, type, options, _ in moved}
    holders = Holders(db, [name for name in names if name is not None])
    for task_id, type, options, state in moved:
        holders.hold(task_id, type, options, state)
    holders.write()
