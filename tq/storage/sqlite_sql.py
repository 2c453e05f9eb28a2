"""What the SQLite store says to SQLite: its statements, its numbers, its records.

A batch must cost few steps, because each step gives the GIL away and has to win it back. So statements
take many rows as one JSON array (``jsonb_each``, which parses it once, or ``json_each`` where it is flat)
and give many rows as one (``json_group_array``). CROSS JOIN keeps SQLite from turning a join around.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec

from tq.core.retry import RetryPolicy
from tq.core.task import HISTORY_MAX, AttemptError, Reason, ServerId, State, TaskId

STATE_CODE: Final = {
    State.BLOCKED: 0,
    State.SCHEDULED: 1,
    State.PENDING: 2,
    State.RUNNING: 3,
    State.RETRYING: 4,
    State.SUCCEEDED: 5,
    State.FAILED: 6,
    State.CANCELLED: 7,
}
STATE_OF: Final = {code: state for state, code in STATE_CODE.items()}
REASON_CODE: Final = {
    Reason.OK: 0,
    Reason.ERROR: 1,
    Reason.TIMEOUT: 2,
    Reason.DEADLINE: 3,
    Reason.EXPIRED: 4,
    Reason.USER: 5,
    Reason.PARENT: 6,
    Reason.POISON: 7,
    Reason.INTERRUPTED: 8,
}
REASON_OF: Final = {code: reason for reason, code in REASON_CODE.items()}
PENDING: Final = 2
RUNNING: Final = 3

STORE_LANE: Final = 0
"""The counters of this lane are the totals of the whole store."""
SUBMITTED: Final = 100
"""The total of tasks ever submitted, among the counters of STORE_LANE."""

PAYLOAD: Final = 0
RESULT: Final = 1
"""Parts of a task that the table ``texts`` may hold."""
INLINE_MAX: Final = 1_000
"""Characters of a payload or result that are kept in the row itself."""


class Row(msgspec.Struct, array_like=True):
    """What of a task its moves read and write. ``result`` is not read: a move sets it or clears it."""

    id: TaskId
    seq: int
    lane: int
    state: int
    generation: int
    attempt: int
    crashes: int
    failures: int
    result_ttl_ms: int | None
    run_at: int
    reason: int | None
    started_at: int | None
    finished_at: int | None
    worker: int | None
    server: ServerId | None
    cancel_reason: int | None
    keep_until: int | None = None
    result: str | None = None


class Waiting(msgspec.Struct, array_like=True, frozen=True):
    """What of a pending task its lease needs. ``payload`` is None where it is in ``texts``."""

    seq: int
    lane: int
    id: TaskId
    generation: int
    attempt: int
    max_attempts: int
    timeout_ms: int
    retry: str
    result_ttl_ms: int | None
    created_at: int
    run_at: int
    payload: str | None


rows_decoder: Final = msgspec.json.Decoder(list[Row])
waiting_decoder: Final = msgspec.json.Decoder(list[Waiting])
history_decoder: Final = msgspec.json.Decoder(tuple[AttemptError, ...])
counts_decoder: Final = msgspec.json.Decoder(list[tuple[str | None, str | None, int, int]])
_policy_decoder: Final = msgspec.json.Decoder(RetryPolicy)
_encoder: Final = msgspec.json.Encoder()


def to_json(value: object) -> str:
    """*value* as JSON text, the form in which statements take many rows."""
    return _encoder.encode(value).decode()


# Tasks submitted together mostly share one policy; the bound is there for those that do not.
@lru_cache(maxsize=256)
def policy_text(policy: RetryPolicy) -> str:
    """*policy* as a row keeps it."""
    return to_json(policy)


@lru_cache(maxsize=256)
def policy_of(text: str) -> RetryPolicy:
    """The policy that a row keeps as *text*."""
    return _policy_decoder.decode(text)


# Opening

SCHEMA_SIZE: Final = "SELECT count(*) FROM sqlite_schema"
LOAD_LANES: Final = "SELECT id, queue, type FROM lanes"
LOAD_WAITING: Final = f"SELECT lane, count FROM counters WHERE state = {PENDING} AND lane > 0 AND count > 0"
LOAD_ARRIVED: Final = "SELECT ifnull(max(seq), 0) FROM tasks"

# Submitting

INSERT_LANE: Final = "INSERT INTO lanes (id, queue, type) VALUES (?1, ?2, ?3)"

INSERT_TASKS: Final = """
INSERT INTO tasks (seq, id, lane, state, priority, run_at, max_attempts, timeout_ms, result_ttl_ms,
                   created_at, retry, payload)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
       value ->> 8, ?2, value ->> 9, value ->> 10
FROM jsonb_each(?1)
"""

SELECT_KNOWN: Final = """
SELECT tasks.id, tasks.state, lanes.type,
       ifnull(payload, (SELECT text FROM texts WHERE texts.seq = tasks.seq AND part = 0))
FROM json_each(?1) AS wanted
CROSS JOIN tasks ON tasks.id = wanted.value
JOIN lanes ON lanes.id = tasks.lane
"""

INSERT_TEXT: Final = "INSERT OR REPLACE INTO texts (seq, part, text) VALUES (?1, ?2, ?3)"
DELETE_RESULTS: Final = "DELETE FROM texts WHERE part = 1 AND seq IN (SELECT value FROM json_each(?1))"
SELECT_TEXT: Final = "SELECT text FROM texts WHERE seq = ?1 AND part = ?2"

# Claiming

LANES_MERGED_MAX: Final = 128
"""Lanes whose pending tasks one statement merges; a power of two, under SQLite's 500 parts of a UNION."""

# The heads of the lanes decide: no more lanes than the claim's limit can have a task among its first.
SELECT_FIRST_LANES: Final = f"""
SELECT json_group_array(lane) FROM (
    SELECT tasks.lane
    FROM json_each(?1) AS wanted
    CROSS JOIN tasks ON tasks.seq = (
        SELECT seq FROM tasks
        WHERE lane = wanted.value AND state = {PENDING}
        ORDER BY priority DESC, run_at, seq LIMIT 1
    )
    ORDER BY tasks.priority DESC, tasks.run_at, tasks.seq
    LIMIT ?2
)
"""


@lru_cache(maxsize=16)
def select_waiting(lanes: int) -> str:
    """The first ?1 pending tasks of the lanes ?2, ?3 …, in the order of claims.

    Each branch comes sorted from the index, and SQLite merges them as far as the limit and no further.
    """
    branch = (
        "SELECT seq, priority, run_at FROM tasks INDEXED BY tasks_pending"
        f" WHERE lane = ?{{}} AND state = {PENDING}"
    )
    merged = " UNION ALL ".join(branch.format(index + 2) for index in range(lanes))
    return f"""
SELECT json_group_array(json_array(
    tasks.seq, tasks.lane, tasks.id, tasks.generation, tasks.attempt, tasks.max_attempts, tasks.timeout_ms,
    tasks.retry, tasks.result_ttl_ms, tasks.created_at, tasks.run_at, tasks.payload))
FROM ({merged} ORDER BY priority DESC, run_at, seq LIMIT ?1) AS first
CROSS JOIN tasks ON tasks.seq = first.seq
"""


UPDATE_CLAIMED: Final = f"""
UPDATE tasks SET
    state = {RUNNING}, attempt = attempt + 1, generation = generation + 1, started_at = ?2, server = ?3
WHERE seq IN (SELECT value FROM json_each(?1))
"""

# Moving tasks by their ids

SELECT_ROWS: Final = """
SELECT json_group_array(json_array(
    tasks.id, tasks.seq, tasks.lane, tasks.state, tasks.generation, tasks.attempt, tasks.crashes,
    tasks.failures, tasks.result_ttl_ms, tasks.run_at, tasks.reason, tasks.started_at, tasks.finished_at,
    tasks.worker, tasks.server, tasks.cancel_reason))
FROM json_each(?1) AS wanted
CROSS JOIN tasks ON tasks.id = wanted.value
"""

UPDATE_ROWS: Final = """
UPDATE tasks SET
    state = value ->> 3, attempt = value ->> 5, crashes = value ->> 6, failures = value ->> 7,
    run_at = value ->> 9, reason = value ->> 10, started_at = value ->> 11, finished_at = value ->> 12,
    worker = value ->> 13, server = value ->> 14, cancel_reason = value ->> 15, keep_until = value ->> 16,
    result = value ->> 17
FROM jsonb_each(?1) AS changed
WHERE tasks.seq = changed.value ->> 1
"""

INSERT_ERRORS: Final = f"""
INSERT OR REPLACE INTO errors (seq, slot, n, entry)
SELECT value ->> 0, (value ->> 1) % {HISTORY_MAX}, value ->> 1, value ->> 2
FROM jsonb_each(?1)
"""

# Sweeping

SELECT_DUE: Final = """
SELECT json_group_array(json_array(seq, lane, state)) FROM (
    SELECT seq, lane, state FROM tasks INDEXED BY tasks_timed
    WHERE state IN (1, 4) AND run_at <= ?1
    ORDER BY run_at, seq LIMIT ?2
)
"""
UPDATE_PROMOTED: Final = f"UPDATE tasks SET state = {PENDING} WHERE seq IN (SELECT value FROM json_each(?1))"

SELECT_LOST: Final = f"""
SELECT json_group_array(id) FROM (
    SELECT id FROM tasks INDEXED BY tasks_running
    WHERE state = {RUNNING} AND server <> ?1
        AND NOT EXISTS (SELECT 1 FROM servers WHERE servers.server = tasks.server AND seen_at >= ?2)
    ORDER BY seq LIMIT ?3
)
"""
DELETE_DEAD_SERVERS: Final = "DELETE FROM servers WHERE server <> ?1 AND seen_at < ?2"

SELECT_OUTLIVED: Final = """
SELECT json_group_array(json_array(seq, lane, state)) FROM (
    SELECT seq, lane, state FROM tasks INDEXED BY tasks_kept
    WHERE keep_until IS NOT NULL AND keep_until <= ?1
    ORDER BY keep_until, seq LIMIT ?2
)
"""
DELETE_TASKS: Final = (
    "DELETE FROM errors WHERE seq IN (SELECT value FROM json_each(?1))",
    "DELETE FROM texts WHERE seq IN (SELECT value FROM json_each(?1))",
    "DELETE FROM tasks WHERE seq IN (SELECT value FROM json_each(?1))",
)

UPSERT_SERVER: Final = """
INSERT INTO servers (server, seen_at) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET seen_at = excluded.seen_at
"""
DELETE_SERVER: Final = "DELETE FROM servers WHERE server = ?1"

# Counting

ADD_COUNTS: Final = """
INSERT INTO counters (lane, state, count)
SELECT value ->> 0, value ->> 1, value ->> 2 FROM jsonb_each(?1) WHERE true
ON CONFLICT DO UPDATE SET count = count + excluded.count
"""

# A lane whose last task was pruned goes too: clients choose the names of queues, and may never come back.
DELETE_ZERO_COUNTS: Final = (
    "DELETE FROM counters WHERE count = 0 AND lane IN (SELECT value FROM json_each(?1))"
)
DELETE_EMPTY_LANES: Final = """
DELETE FROM lanes
WHERE id IN (SELECT value FROM json_each(?1))
    AND NOT EXISTS (SELECT 1 FROM counters WHERE counters.lane = lanes.id)
RETURNING id
"""

# Reading

_SELECT_TASKS: Final = """
SELECT tasks.id, lanes.type, lanes.queue, state, reason,
       ifnull(payload, (SELECT text FROM texts WHERE texts.seq = tasks.seq AND part = 0)),
       priority, attempt, max_attempts, crashes, generation, timeout_ms, retry, result_ttl_ms, created_at,
       run_at, started_at, finished_at, worker, server, cancel_reason,
       ifnull(result, (SELECT text FROM texts WHERE texts.seq = tasks.seq AND part = 1)),
       CASE WHEN failures > 0 THEN
           (SELECT json_group_array(json(entry) ORDER BY n) FROM errors WHERE errors.seq = tasks.seq) END
FROM tasks JOIN lanes ON lanes.id = tasks.lane
"""
SELECT_TASK: Final = _SELECT_TASKS + "WHERE tasks.id = ?1"
SELECT_ALL_TASKS: Final = _SELECT_TASKS + "ORDER BY tasks.seq"

# One statement, so that the totals and the rest are of one moment.
SELECT_COUNTS: Final = """
SELECT json_group_array(json_array(queue, type, state, count))
FROM counters LEFT JOIN lanes ON lanes.id = counters.lane
WHERE count > 0
"""
SELECT_NEXT_DUE: Final = """
SELECT run_at FROM tasks INDEXED BY tasks_timed WHERE state IN (1, 4) ORDER BY run_at LIMIT 1
"""
SELECT_SERVERS: Final = "SELECT server, seen_at FROM servers ORDER BY server"
