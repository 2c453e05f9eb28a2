"""Who has which unique key in the SQLite store: the tables of `tq.storage.holders`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw

from tq.core.task import TaskId
from tq.storage.holders import Holders, name_of
from tq.storage.records import STATE_OF, options_of, to_json

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


def load_holders(db: apsw.Connection, names: Sequence[str]) -> dict[str, TaskId]:
    """The holders of those of *names* that are taken."""
    return dict(db.execute(SELECT_HOLDERS, (to_json(names),)))


def write_holders(db: apsw.Connection, holders: Holders) -> None:
    """Write how *holders* have changed."""
    if holders.gone:
        db.execute(DELETE_HOLDERS, (to_json([name for name, _ in holders.gone]),))
    if holders.taken:
        db.execute(INSERT_HOLDERS, (to_json(holders.taken),))


def hold_unique(db: apsw.Connection, seqs: list[int]) -> None:
    """Let the tasks *seqs*, in this order, take or let go their unique keys as their states now say."""
    moved = [
        (task_id, type, options_of(options), STATE_OF[state])
        for task_id, type, options, state in db.execute(SELECT_MOVED, (to_json(seqs),))
    ]
    names = {name_of(type, options) for _, type, options, _ in moved}
    holders = Holders(load_holders(db, [name for name in names if name is not None]))
    for task_id, type, options, state in moved:
        holders.hold(task_id, type, options, state)
    write_holders(db, holders)
