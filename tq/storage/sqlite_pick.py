"""The pending tasks of the SQLite store, as far as `tq.storage.pick` asks for them."""

from __future__ import annotations

from typing import Final

import apsw
import msgspec

from tq.core.limits import Order
from tq.storage.pick import Found, Stream
from tq.storage.records import PENDING, to_json

HIGHEST: Final = 1_000
"""Above every priority."""

_FIRST_OF_LANE = f"""
FROM tasks INDEXED BY tasks_pending
WHERE lane = {{lane}} AND state = {PENDING} ORDER BY priority DESC, run_at, seq LIMIT {{limit}}
"""
_FIRST_OF_PRIORITY = f"""
FROM tasks INDEXED BY tasks_pending
WHERE lane = {{lane}} AND priority = {{priority}} AND state = {PENDING} ORDER BY run_at, seq LIMIT {{limit}}
"""
_ROW = "json_array(lane, priority, run_at, seq)"
_ROWS = f"(SELECT json_group_array({_ROW}) FROM (SELECT lane, priority, run_at, seq {{}}))"

SELECT_HEADS: Final = f"""
SELECT json_group_array(json((SELECT {_ROW} {_FIRST_OF_LANE.format(lane="value", limit=1)})))
FROM json_each(?1)
"""

# Skips from priority to priority of each lane, and reads one row of each.
_LEVEL = _FIRST_OF_PRIORITY.format(lane="levels.lane", priority="levels.priority", limit=1)
SELECT_AGING_HEADS: Final = f"""
WITH RECURSIVE levels (lane, priority) AS (
    SELECT value, {HIGHEST} FROM json_each(?1)
    UNION ALL
    SELECT lane, (
        SELECT tasks.priority FROM tasks INDEXED BY tasks_pending
        WHERE tasks.lane = levels.lane AND tasks.state = {PENDING} AND tasks.priority < levels.priority
        ORDER BY tasks.priority DESC LIMIT 1
    )
    FROM levels WHERE priority IS NOT NULL
)
SELECT json_group_array(json((SELECT {_ROW} {_LEVEL})))
FROM levels WHERE priority < {HIGHEST}
"""

_OF_LANE = _ROWS.format(_FIRST_OF_LANE.format(lane="value ->> 0", limit="?2"))
_OF_PRIORITY = _ROWS.format(_FIRST_OF_PRIORITY.format(lane="value ->> 0", priority="value ->> 1", limit="?2"))
# Of each stream [lane, priority or null] of ?1, in their order, the first ?2 tasks.
SELECT_STREAMS: Final = f"""
SELECT json_group_array(json(CASE WHEN value ->> 1 IS NULL THEN {_OF_LANE} ELSE {_OF_PRIORITY} END))
FROM jsonb_each(?1)
"""

_heads_decoder: Final = msgspec.json.Decoder(list[Found])
_streams_decoder: Final = msgspec.json.Decoder(list[list[Found]])


class Heads:
    """Reads from *db* what a Picker asks."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def heads(self, order: Order, lanes: list[int]) -> list[Found]:
        """See PendingTasks."""
        statement = SELECT_AGING_HEADS if order is Order.AGING else SELECT_HEADS
        return _heads_decoder.decode(self._db.execute(statement, (to_json(lanes),)).get)

    def streams(self, streams: list[Stream], limit: int) -> list[list[Found]]:
        """See PendingTasks."""
        return _streams_decoder.decode(self._db.execute(SELECT_STREAMS, (to_json(streams), limit)).get)
