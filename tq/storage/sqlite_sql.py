"""What the SQLite store says to SQLite: its statements, its numbers, its records.

A batch must cost few steps, because each step gives the GIL away and has to win it back. So statements
take many rows as one JSON array (``jsonb_each``, which parses it once, or ``json_each`` where it is flat)
and give many rows as one (``json_group_array``). CROSS JOIN keeps SQLite from turning a join around.
"""

from __future__ import annotations

from typing import Final

from tq.core.task import HISTORY_MAX
from tq.storage.records import PENDING, RUNNING, STORE_LANE, SUBMITTED

PAYLOAD: Final = 0
RESULT: Final = 1
"""Parts of a task that the table ``texts`` may hold."""
INLINE_MAX: Final = 1_000
"""Characters of a payload or result that are kept in the row itself."""

# Opening

SCHEMA_SIZE: Final = "SELECT count(*) FROM sqlite_schema"
LOAD_LANES: Final = "SELECT id, queue, type, key, served FROM lanes"
LOAD_BUSY: Final = f"""
SELECT lane, state, count FROM counters WHERE state IN ({PENDING}, {RUNNING}) AND lane > 0 AND count > 0
"""
LOAD_RULES: Final = "SELECT queue, rules FROM queues ORDER BY queue"
LOAD_RATES: Final = "SELECT queue, is_key, key, tat_us FROM rates"
# Not only by the tasks there are: the last one may have been deleted, and no seq comes twice.
LOAD_ARRIVED: Final = f"""
SELECT max(ifnull((SELECT max(seq) FROM tasks), 0),
           ifnull((SELECT count FROM counters WHERE lane = {STORE_LANE} AND state = {SUBMITTED}), 0))
"""
LOAD_UNSETTLED: Final = "SELECT EXISTS (SELECT 1 FROM unsettled)"

# Submitting

INSERT_LANE: Final = "INSERT INTO lanes (id, queue, type, key) VALUES (?1, ?2, ?3, ?4)"

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

# Moving tasks by their ids

SELECT_ROWS: Final = """
SELECT json_group_array(json_array(
    tasks.id, tasks.seq, tasks.lane, tasks.state, tasks.generation, tasks.attempt, tasks.crashes,
    tasks.failures, tasks.result_ttl_ms, tasks.run_at, tasks.reason, tasks.started_at, tasks.finished_at,
    tasks.worker, tasks.server, tasks.cancel_reason,
    tasks.options, tasks.watched, tasks.blockers, tasks.logged))
FROM json_each(?1) AS wanted
CROSS JOIN tasks ON tasks.id = wanted.value
"""

UPDATE_ROWS: Final = """
UPDATE tasks SET
    state = value ->> 3, attempt = value ->> 5, crashes = value ->> 6, failures = value ->> 7,
    run_at = value ->> 9, reason = value ->> 10, started_at = value ->> 11, finished_at = value ->> 12,
    worker = value ->> 13, server = value ->> 14, cancel_reason = value ->> 15, keep_until = value ->> 20,
    result = value ->> 21
FROM jsonb_each(?1) AS changed
WHERE tasks.seq = changed.value ->> 1
"""

# Sweeping

SELECT_DUE: Final = """
SELECT json_group_array(json_array(seq, lane, state, options ->> '$.unique' IS NOT NULL)) FROM (
    SELECT seq, lane, state, options FROM tasks INDEXED BY tasks_timed
    WHERE state IN (1, 4) AND run_at <= ?1
    ORDER BY run_at, seq LIMIT ?2
)
"""
UPDATE_PROMOTED: Final = f"UPDATE tasks SET state = {PENDING} WHERE seq IN (SELECT value FROM json_each(?1))"

SELECT_STOPPED: Final = """
SELECT json_group_array(id) FROM (
    SELECT id FROM tasks INDEXED BY tasks_stopping
    WHERE stop_at IS NOT NULL AND stop_at <= ?1 AND state IN (0, 1, 2, 4)
    ORDER BY stop_at, seq LIMIT ?2
)
"""

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
SELECT json_group_array(json_array(seq, lane, state, options IS NOT NULL OR watched OR logged > 0)) FROM (
    SELECT seq, lane, state, options, watched, logged FROM tasks INDEXED BY tasks_kept
    WHERE keep_until IS NOT NULL AND keep_until <= ?1
        AND NOT EXISTS (SELECT 1 FROM unsettled WHERE unsettled.seq = tasks.seq)
    ORDER BY keep_until, seq LIMIT ?2
)
"""
# Plain tasks have nothing there.
DELETE_RARE: Final = (
    "DELETE FROM logs WHERE seq IN (SELECT value FROM json_each(?1))",
    "DELETE FROM tags WHERE seq IN (SELECT value FROM json_each(?1))",
    "DELETE FROM dependencies WHERE dependency IN (SELECT value FROM json_each(?1))",
    "DELETE FROM dependencies WHERE dependent IN (SELECT value FROM json_each(?1))",
)
DELETE_TASKS: Final = (
    "DELETE FROM errors WHERE seq IN (SELECT value FROM json_each(?1))",
    "DELETE FROM texts WHERE seq IN (SELECT value FROM json_each(?1))",
    "DELETE FROM tasks WHERE seq IN (SELECT value FROM json_each(?1))",
)
DELETE_OLD_REQUESTS: Final = "DELETE FROM requests WHERE until <= ?1"

DELETE_SERVER: Final = "DELETE FROM servers WHERE server = ?1"

# Counting

ADD_COUNTS: Final = """
INSERT INTO counters (lane, state, count)
SELECT value ->> 0, value ->> 1, value ->> 2 FROM jsonb_each(?1) WHERE true
ON CONFLICT DO UPDATE SET count = count + excluded.count
"""

DELETE_COUNTS: Final = "DELETE FROM counters WHERE lane IN (SELECT value FROM json_each(?1))"
DELETE_EMPTY_LANES: Final = """
DELETE FROM lanes
WHERE id IN (SELECT value FROM json_each(?1))
    AND NOT EXISTS (SELECT 1 FROM tasks INDEXED BY tasks_by_lane WHERE tasks.lane = lanes.id)
RETURNING id
"""

# Rules of queues

UPSERT_RULES: Final = """
INSERT INTO queues (queue, rules) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET rules = excluded.rules
"""
DELETE_RULES: Final = "DELETE FROM queues WHERE queue = ?1"
UPSERT_RATES: Final = """
INSERT INTO rates (queue, is_key, key, tat_us)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM jsonb_each(?1) WHERE true
ON CONFLICT DO UPDATE SET tat_us = excluded.tat_us
"""
DELETE_RATES: Final = "DELETE FROM rates WHERE queue = ?1 AND is_key = ?2"
DELETE_OLD_RATES: Final = "DELETE FROM rates WHERE tat_us <= ?1"

# Reading

# A row of it is what sqlite_task.task_of reads.
LAST_ERROR: Final = f"errors.seq = tasks.seq AND errors.slot = (tasks.failures - 1) % {HISTORY_MAX}"
_SELECT_TASKS = """
SELECT tasks.id, lanes.type, lanes.queue, lanes.key, state, reason, {payload},
       priority, attempt, max_attempts, crashes, generation, timeout_ms, retry, result_ttl_ms, created_at,
       run_at, started_at, finished_at, worker, server, cancel_reason, {result},
       CASE WHEN failures > 0 THEN {errors} END,
       blockers, fingerprint, progress, {logs}, options
FROM tasks JOIN lanes ON lanes.id = tasks.lane
"""
SELECT_TASKS: Final = _SELECT_TASKS.format(
    payload="ifnull(payload, (SELECT text FROM texts WHERE texts.seq = tasks.seq AND part = 0))",
    result="ifnull(result, (SELECT text FROM texts WHERE texts.seq = tasks.seq AND part = 1))",
    errors="(SELECT json_group_array(json(entry) ORDER BY n) FROM errors WHERE errors.seq = tasks.seq)",
    logs="""
       CASE WHEN logged > 0 THEN
           (SELECT json_group_array(json(line) ORDER BY n) FROM logs WHERE logs.seq = tasks.seq) END""",
)
SELECT_BRIEFLY: Final = _SELECT_TASKS.format(
    payload="'null'",
    result="NULL",
    errors=f"(SELECT '[' || entry || ']' FROM errors WHERE {LAST_ERROR})",
    logs="NULL",
)
SELECT_TASK: Final = SELECT_TASKS + "WHERE tasks.id = ?1"
SELECT_ALL_TASKS: Final = SELECT_TASKS + "ORDER BY tasks.seq"
SELECT_ALL_HOLDERS: Final = "SELECT name, task_id FROM holders ORDER BY name"
SELECT_ALL_UNSETTLED: Final = """
SELECT tasks.id FROM unsettled CROSS JOIN tasks ON tasks.seq = unsettled.seq ORDER BY unsettled.seq
"""

# One statement, so that the totals and the rest are of one moment.
SELECT_COUNTS: Final = """
SELECT json_group_array(json_array(queue, type, state, count)) FROM (
    SELECT queue, type, state, sum(count) AS count
    FROM counters LEFT JOIN lanes ON lanes.id = counters.lane
    WHERE count > 0
    GROUP BY queue, type, state
)
"""
# Within a lane and a priority the index has the earliest first: two steps into it for each of these pairs.
SELECT_OLDEST_PENDING: Final = f"""
WITH RECURSIVE heads(lane, priority) AS (
    SELECT lane, (SELECT priority FROM tasks INDEXED BY tasks_pending
                  WHERE state = {PENDING} AND lane = counters.lane ORDER BY priority DESC LIMIT 1)
    FROM counters WHERE lane > 0 AND state = {PENDING} AND count > 0
    UNION ALL
    SELECT lane, (SELECT priority FROM tasks INDEXED BY tasks_pending
                  WHERE state = {PENDING} AND lane = heads.lane AND priority < heads.priority
                  ORDER BY priority DESC LIMIT 1)
    FROM heads WHERE priority IS NOT NULL
)
SELECT queue, min((SELECT run_at FROM tasks INDEXED BY tasks_pending
                   WHERE state = {PENDING} AND lane = heads.lane AND priority = heads.priority
                   ORDER BY run_at LIMIT 1))
FROM heads JOIN lanes ON lanes.id = heads.lane
WHERE priority IS NOT NULL
GROUP BY queue ORDER BY queue
"""
SELECT_NEXT_DUE: Final = """
SELECT min(due) FROM (
    SELECT * FROM (SELECT run_at AS due FROM tasks INDEXED BY tasks_timed
                   WHERE state IN (1, 4) ORDER BY run_at LIMIT 1)
    UNION ALL
    SELECT * FROM (SELECT stop_at FROM tasks INDEXED BY tasks_stopping
                   WHERE stop_at IS NOT NULL AND state IN (0, 1, 2, 4) ORDER BY stop_at LIMIT 1)
    UNION ALL
    SELECT * FROM (SELECT next_at FROM schedules WHERE next_at IS NOT NULL ORDER BY next_at LIMIT 1)
)
"""
SELECT_SERVERS: Final = "SELECT server, seen_at FROM servers ORDER BY server"
