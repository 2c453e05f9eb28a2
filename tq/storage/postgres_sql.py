"""What the PostgreSQL store says to PostgreSQL: many rows at a time, as one array per column.

A statement takes its rows through ``unnest``. The arrays are written here as PostgreSQL reads them, which
costs a tenth of what a driver's general way does. Joins are written in the order in which they are to be
done: the connections are told to keep to it, and to use the indexes, however small a table looked when it was
planned.

A task is in two tables: ``tasks`` has what never changes, ``lives`` what does. Only rows of ``lives`` are
locked, and what is read of a locked row is what it is now, while all that is joined to it cannot have
changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

from tq.core.task import HISTORY_MAX, LOG_LINES_MAX
from tq.storage.records import PENDING, RUNNING

Parameter: TypeAlias = str | int | bool | bytes | None


def numbers(values: Iterable[int | None]) -> str:
    """An array of numbers, or of booleans."""
    return "{" + str(list(values))[1:-1].replace("None", "NULL") + "}"


def texts(values: Iterable[str | None]) -> str:
    """An array of texts."""
    return "{" + ",".join(["NULL" if value is None else _quoted(value) for value in values]) + "}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# Time and writers

NOW: Final = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
CLOCK: Final = f"SELECT {NOW}"

INSERT_WRITER: Final = (
    f"INSERT INTO writers (batch, seen_at) VALUES (0, coalesce($1, {NOW})) RETURNING writer"
)
# One that has been silent for long may have been forgotten.
UPSERT_WRITER: Final = """
INSERT INTO writers (writer, batch, seen_at) OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3)
ON CONFLICT (writer) DO UPDATE SET batch = excluded.batch, seen_at = excluded.seen_at
"""
END_BACKEND: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid = $1 AND application_name = $2 AND usename = current_user AND datname = current_database()
"""
# Waits for the transaction of a connection that is lost, if the server has not noticed that yet.
SELECT_WRITER: Final = "SELECT batch FROM writers WHERE writer = $1 FOR UPDATE"
DELETE_WRITER: Final = "DELETE FROM writers WHERE writer = $1"

# Locks: of the whole fleet, until the end of the transaction

LOCK_SPACE: Final = 0x7471
"""'tq': what our advisory locks have in common."""
LOCK: Final = f"SELECT pg_advisory_xact_lock({LOCK_SPACE}, $1::integer)"
LOCKS: Final = f"""
SELECT pg_advisory_xact_lock({LOCK_SPACE}, bucket)
FROM (SELECT bucket FROM unnest($1::integer[]) AS wanted (bucket) ORDER BY bucket) AS sorted
"""
SCHEDULES_LOCK: Final = 1_000
RULES_LOCK: Final = 1_001
KEYS_LOCK: Final = 1_003
QUEUE_LOCKS: Final = 256
"""Queues share so many locks, those below this number: the server has room for a few thousand in all."""

# Lanes

# Held until the end, so that nobody forgets an empty lane while a task comes into it.
SELECT_LANES: Final = """
SELECT lanes.id, lanes.queue, lanes.type, lanes.key
FROM unnest($1::text[], $2::text[], $3::text[]) AS wanted (queue, type, key)
JOIN lanes ON lanes.queue = wanted.queue AND lanes.type = wanted.type
    AND coalesce(lanes.key, '') = coalesce(wanted.key, '') AND (lanes.key IS NULL) = (wanted.key IS NULL)
ORDER BY lanes.id
FOR KEY SHARE OF lanes
"""
INSERT_LANES: Final = """
INSERT INTO lanes (queue, type, key)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
RETURNING id
"""
LOCK_EMPTIED_LANES: Final = """
SELECT id FROM lanes WHERE id = ANY ($1::bigint[]) ORDER BY id FOR UPDATE SKIP LOCKED
"""
DELETE_EMPTY_LANES: Final = """
DELETE FROM lanes
WHERE id = ANY ($1::bigint[]) AND NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.lane = lanes.id)
RETURNING id
"""
DELETE_COUNTS: Final = "DELETE FROM counters WHERE lane = ANY ($1::bigint[])"

# Submitting

SELECT_KNOWN: Final = """
SELECT tasks.id, lives.state, lanes.type, tasks.payload
FROM unnest($1::text[]) AS wanted (id)
JOIN tasks ON tasks.id = wanted.id
JOIN lives ON lives.seq = tasks.seq
JOIN lanes ON lanes.id = tasks.lane
"""
SELECT_REQUESTS: Final = """
SELECT requests.key, requests.digest, requests.task_id, lives.state
FROM unnest($1::text[]) AS wanted (key)
JOIN requests ON requests.key = wanted.key
LEFT JOIN tasks ON tasks.id = requests.task_id
LEFT JOIN lives ON lives.seq = tasks.seq
WHERE requests.until > $2
"""
DELETE_PAST_REQUESTS: Final = "DELETE FROM requests WHERE key = ANY ($1::text[]) AND until <= $2"
INSERT_REQUESTS: Final = """
INSERT INTO requests (key, digest, task_id, until)
SELECT key, digest, task_id, $4 FROM unnest($1::text[], $2::text[], $3::text[]) AS fresh (key, digest,
task_id)
"""
DRAW_SEQS: Final = "SELECT nextval('arrivals') FROM generate_series(1, $1)"
INSERT_TASKS: Final = """
INSERT INTO tasks (seq, lane, id, retry, parent_id, schedule, payload, created_at)
SELECT fresh.*, $8
FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[]) AS fresh
"""
INSERT_LIVES: Final = """
INSERT INTO lives (seq, lane, state, urgency, run_at, max_attempts, timeout_ms, result_ttl_ms)
SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::smallint[], $4::smallint[], $5::bigint[], $6::bigint[],
                     $7::bigint[], $8::bigint[])
"""
# Of those tasks that have any, after they are inserted.
SET_OPTIONS: Final = """
UPDATE lives SET options = fresh.options, stop_at = fresh.stop_at, unique_name = fresh.unique_name,
    blockers = fresh.blockers, reason = fresh.reason, finished_at = fresh.finished_at,
    keep_until = fresh.keep_until
FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::integer[], $6::smallint[], $7::bigint[],
            $8::bigint[])
    AS fresh (seq, options, stop_at, unique_name, blockers, reason, finished_at, keep_until)
WHERE lives.seq = fresh.seq
"""
INSERT_TAGS: Final = """
INSERT INTO tags (tag, seq) SELECT * FROM unnest($1::text[], $2::bigint[]) ON CONFLICT DO NOTHING
"""
INSERT_DEPENDENCIES: Final = """
INSERT INTO dependencies (dependency, dependent) SELECT * FROM unnest($1::bigint[], $2::bigint[])
"""
UPDATE_WATCHED: Final = "UPDATE lives SET watched = true WHERE seq = ANY ($1::bigint[])"

# Who holds which unique key

SELECT_HOLDERS: Final = """
SELECT lives.unique_name, tasks.id
FROM unnest($1::text[]) AS wanted (name)
JOIN lives ON lives.unique_name = wanted.name AND lives.holds
JOIN tasks ON tasks.seq = lives.seq
"""
LET_GO: Final = "UPDATE lives SET holds = false WHERE holds AND unique_name = ANY ($1::text[])"
TAKE: Final = """
UPDATE lives SET holds = true
FROM unnest($1::text[]) AS wanted (id) JOIN tasks ON tasks.id = wanted.id
WHERE lives.seq = tasks.seq
"""

# Rows

_LIVE = """seq, lane, state, generation, attempt, crashes, failures, result_ttl_ms, run_at, reason,
started_at,finished_at, worker, server, cancel_reason, options, watched, blockers, logged"""
# What a Row is made of, and beside it the type.
_ROW = "tasks.id, " + ", ".join(f"lives.{name.strip()}" for name in _LIVE.split(",")) + ", lanes.type"
_OF_TASK = "JOIN tasks ON tasks.seq = lives.seq JOIN lanes ON lanes.id = tasks.lane"

SELECT_ROWS: Final = f"""
SELECT {_ROW}
FROM unnest($1::text[]) AS wanted (id)
JOIN tasks ON tasks.id = wanted.id
JOIN lives ON lives.seq = tasks.seq
JOIN lanes ON lanes.id = tasks.lane
ORDER BY lives.seq
FOR NO KEY UPDATE OF lives
"""
HAS_UNSETTLED: Final = "SELECT EXISTS (SELECT 1 FROM unsettled)"
IS_UNSETTLED: Final = "SELECT EXISTS (SELECT 1 FROM unsettled WHERE seq = $1)"

UPDATE_ROWS: Final = """
UPDATE lives SET
    state = changed.state, attempt = changed.attempt, crashes = changed.crashes, failures = changed.failures,
    run_at = changed.run_at, reason = changed.reason, started_at = changed.started_at,
    finished_at = changed.finished_at, worker = changed.worker, cancel_reason = changed.cancel_reason,
    keep_until = changed.keep_until, server = changed.server, result = changed.result
FROM unnest($1::bigint[], $2::smallint[], $3::integer[], $4::integer[], $5::integer[], $6::bigint[],
            $7::smallint[], $8::bigint[], $9::bigint[], $10::integer[], $11::smallint[], $12::bigint[],
            $13::text[], $14::text[])
    AS changed (seq, state, attempt, crashes, failures, run_at, reason, started_at, finished_at, worker,
                cancel_reason, keep_until, server, result)
WHERE lives.seq = changed.seq
"""
INSERT_ERRORS: Final = f"""
INSERT INTO errors (seq, slot, n, entry, told)
SELECT seq, n % {HISTORY_MAX}, n, entry, told
FROM unnest($1::bigint[], $2::integer[], $3::text[], $4::text[]) AS fresh (seq, n, entry, told)
ON CONFLICT (seq, slot) DO UPDATE SET n = excluded.n, entry = excluded.entry, told = excluded.told
"""
INSERT_LOGS: Final = f"""
INSERT INTO logs (seq, slot, n, line)
SELECT seq, n % {LOG_LINES_MAX}, n, line
FROM unnest($1::bigint[], $2::integer[], $3::text[]) AS fresh (seq, n, line)
ON CONFLICT (seq, slot) DO UPDATE SET n = excluded.n, line = excluded.line
"""
UPDATE_FINGERPRINTS: Final = """
UPDATE lives SET fingerprint = changed.fingerprint
FROM unnest($1::bigint[], $2::text[]) AS changed (seq, fingerprint)
WHERE lives.seq = changed.seq
"""
UPDATE_BLOCKERS: Final = """
UPDATE lives SET blockers = changed.blockers
FROM unnest($1::bigint[], $2::integer[]) AS changed (seq, blockers)
WHERE lives.seq = changed.seq
"""
UPDATE_OPTIONS: Final = """
UPDATE lives SET options = changed.options, stop_at = changed.stop_at
FROM unnest($1::bigint[], $2::text[], $3::bigint[]) AS changed (seq, options, stop_at)
WHERE lives.seq = changed.seq
"""
# What is null stays as it is.
UPDATE_VALUES: Final = """
UPDATE lives SET
    urgency = coalesce(changed.urgency, lives.urgency),
    timeout_ms = coalesce(changed.timeout_ms, lives.timeout_ms),
    max_attempts = coalesce(changed.max_attempts, lives.max_attempts),
    result_ttl_ms = coalesce(changed.result_ttl_ms, lives.result_ttl_ms)
FROM unnest($1::bigint[], $2::smallint[], $3::bigint[], $4::bigint[], $5::bigint[])
    AS changed (seq, urgency, timeout_ms, max_attempts, result_ttl_ms)
WHERE lives.seq = changed.seq
"""
UPDATE_NOTED: Final = """
UPDATE lives SET logged = changed.logged, progress = coalesce(changed.progress, lives.progress)
FROM unnest($1::bigint[], $2::integer[], $3::text[]) AS changed (seq, logged, progress)
WHERE lives.seq = changed.seq
"""
UPSERT_UNSETTLED: Final = """
INSERT INTO unsettled (seq, cascade)
SELECT * FROM unnest($1::bigint[], $2::boolean[])
ON CONFLICT (seq) DO UPDATE SET cascade = unsettled.cascade OR excluded.cascade
"""

# Plain tasks have nothing there.
DELETE_RARE: Final = (
    "DELETE FROM logs WHERE seq = ANY ($1::bigint[])",
    "DELETE FROM tags WHERE seq = ANY ($1::bigint[])",
    "DELETE FROM dependencies WHERE dependency = ANY ($1::bigint[])",
    "DELETE FROM dependencies WHERE dependent = ANY ($1::bigint[])",
)
DELETE_ERRORS: Final = "DELETE FROM errors WHERE seq = ANY ($1::bigint[])"
DELETE_TASKS: Final = (
    "DELETE FROM lives WHERE seq = ANY ($1::bigint[])",
    "DELETE FROM tasks WHERE seq = ANY ($1::bigint[])",
)

# Sweeping. What another transaction has in hand is passed over: it or the next sweep deals with it.

_LOCKED = f"""
SELECT {_ROW}
FROM (SELECT * FROM lives WHERE {{}} ORDER BY {{}} LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED) AS lives
{_OF_TASK}
ORDER BY {{}}
"""
SELECT_DUE: Final = """
SELECT seq, lane, state, unique_name IS NOT NULL, false FROM lives
WHERE state IN (1, 4) AND run_at <= $1 ORDER BY run_at, seq LIMIT $2
FOR NO KEY UPDATE SKIP LOCKED
"""
UPDATE_PROMOTED: Final = f"UPDATE lives SET state = {PENDING} WHERE seq = ANY ($1::bigint[])"
SELECT_MOVED: Final = f"""
SELECT {_ROW}
FROM unnest($1::bigint[]) WITH ORDINALITY AS wanted (seq, place)
JOIN lives ON lives.seq = wanted.seq
{_OF_TASK}
ORDER BY wanted.place
"""
SELECT_STOPPED: Final = _LOCKED.format(
    "stop_at IS NOT NULL AND stop_at <= $2 AND state IN (0, 1, 2, 4)", "stop_at, seq", "stop_at, lives.seq"
)
SELECT_LOST: Final = _LOCKED.format(
    f"state = {RUNNING} AND server <> $2"
    " AND NOT EXISTS (SELECT 1 FROM servers"
    " WHERE servers.server = lives.server AND servers.server <> ALL ($3::text[]))",
    "seq",
    "lives.seq",
)
SELECT_DEAD_SERVERS: Final = """
SELECT server FROM servers WHERE server <> $1 AND seen_at < $2 FOR UPDATE SKIP LOCKED
"""
"""One that has its row in hand is about to say that it lives."""
DELETE_SERVERS: Final = "DELETE FROM servers WHERE server = ANY ($1::text[])"
SELECT_OUTLIVED: Final = """
SELECT seq, lane, state, options IS NOT NULL OR watched OR logged > 0, failures > 0 FROM lives
WHERE keep_until IS NOT NULL AND keep_until <= $1
    AND NOT EXISTS (SELECT 1 FROM unsettled WHERE unsettled.seq = lives.seq)
ORDER BY keep_until, seq LIMIT $2
FOR UPDATE SKIP LOCKED
"""
# What goes is chosen once: as a part of the join that deletes, it might be chosen again and again.
DELETE_OLD_REQUESTS: Final = """
WITH old AS MATERIALIZED (
    SELECT key FROM requests WHERE until <= $1 ORDER BY until LIMIT $2 FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM requests USING old WHERE requests.key = old.key
)
SELECT count(*) FROM old
"""
UPDATE_SERVER_SEEN: Final = f"""
UPDATE servers SET seen_at = greatest(seen_at, coalesce($2, {NOW})) WHERE server = $1 RETURNING true
"""
DELETE_SERVER: Final = "DELETE FROM servers WHERE server = $1"

NOTIFY: Final = "SELECT pg_notify($1, $2)"

SELECT_UNSETTLED: Final = """
SELECT unsettled.seq, tasks.id, lives.state, unsettled.cascade
FROM unsettled
JOIN lives ON lives.seq = unsettled.seq
JOIN tasks ON tasks.seq = unsettled.seq
ORDER BY unsettled.seq LIMIT 1
FOR UPDATE OF unsettled, lives SKIP LOCKED
"""
DELETE_UNSETTLED: Final = "DELETE FROM unsettled WHERE seq = $1"
SELECT_DEPENDENTS: Final = f"""
SELECT {_ROW}
FROM (SELECT dependent FROM dependencies WHERE dependency = $1 ORDER BY dependent LIMIT $2) AS told
JOIN lives ON lives.seq = told.dependent
{_OF_TASK}
ORDER BY lives.seq
FOR NO KEY UPDATE OF lives
"""
DELETE_TOLD: Final = "DELETE FROM dependencies WHERE dependency = $1 AND dependent = ANY ($2::bigint[])"
SELECT_CHILDREN: Final = f"""
SELECT {_ROW}
FROM (
    SELECT tasks.seq FROM tasks JOIN lives ON lives.seq = tasks.seq
    WHERE tasks.parent_id = $1 AND lives.state < 5 AND lives.cancel_reason IS NULL
    ORDER BY tasks.seq LIMIT $2
) AS told
JOIN lives ON lives.seq = told.seq
{_OF_TASK}
WHERE lives.state < 5 AND lives.cancel_reason IS NULL
ORDER BY lives.seq
FOR NO KEY UPDATE OF lives
"""

# Counting

ADD_COUNTS: Final = """
INSERT INTO counters (writer, lane, state, count)
SELECT $1, added.* FROM unnest($2::bigint[], $3::smallint[], $4::bigint[]) AS added
ON CONFLICT (writer, lane, state) DO UPDATE SET count = counters.count + excluded.count
"""
# A sum is the same in whosever row it is. Those who have written lately keep theirs.
FOLD_COUNTS: Final = """
WITH old AS MATERIALIZED (
    SELECT writer, lane, state FROM counters
    WHERE writer <> $1 AND NOT EXISTS (
        SELECT 1 FROM writers WHERE writers.writer = counters.writer AND seen_at > $2
    )
    LIMIT $3 FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM counters USING old
    WHERE (counters.writer, counters.lane, counters.state) = (old.writer, old.lane, old.state)
    RETURNING counters.lane, counters.state, counters.count
), folded AS (
    INSERT INTO counters (writer, lane, state, count)
    SELECT $1, lane, state, sum(count) FROM gone GROUP BY lane, state ORDER BY lane, state
    ON CONFLICT (writer, lane, state) DO UPDATE SET count = counters.count + excluded.count
)
SELECT count(*) FROM gone
"""
DELETE_OLD_TYPES: Final = "DELETE FROM types WHERE said_at <= $1"
DELETE_OLD_WRITERS: Final = "DELETE FROM writers WHERE writer <> $1 AND seen_at <= $2"

# Claiming

# Skips from lane to lane, and reads the first row of each: costs what grows with the lanes in which tasks
# wait, and not with those that are kept for what has ended.
_NEXT_LANE = f"""
SELECT lane, urgency, run_at, seq FROM lives
WHERE state = {PENDING} AND lane > {{}} ORDER BY lane, urgency, run_at, seq LIMIT 1
"""
HEADS: Final = f"""
heads AS (
    ({_NEXT_LANE.format(0)})
    UNION ALL
    SELECT following.* FROM heads CROSS JOIN LATERAL ({_NEXT_LANE.format("heads.lane")}) AS following
)
"""
SELECT_HEADS: Final = f"""
WITH RECURSIVE {HEADS}
SELECT heads.lane, lanes.queue, lanes.type, lanes.key, lanes.served, heads.urgency, heads.run_at, heads.seq,
    queues.rules,
    EXISTS (SELECT 1 FROM lanes AS others WHERE others.queue = lanes.queue AND others.key IS NOT NULL)
FROM heads
JOIN lanes ON lanes.id = heads.lane
LEFT JOIN queues ON queues.queue = lanes.queue
"""

_LEASED = """lives.seq, lives.lane, tasks.id, lives.generation, lives.attempt, lives.max_attempts,
    lives.timeout_ms, tasks.retry, lives.result_ttl_ms, tasks.created_at, lives.run_at, tasks.payload,
    lives.options, lives.urgency"""
_START = f"""
UPDATE lives SET
    state = {RUNNING}, attempt = lives.attempt + 1, generation = lives.generation + 1, started_at = $3,
    server = $4
FROM picked JOIN tasks ON tasks.seq = picked.seq
WHERE lives.seq = picked.seq
RETURNING {_LEASED}
"""
# From the head that has been seen on: before it the index has what once was pending, until it is vacuumed.
_FIRST_OF = f"""
SELECT seq, urgency, run_at FROM lives
WHERE lane = {{}} AND state = {PENDING} AND (urgency, run_at, seq) >= ({{}}, {{}}, {{}})
ORDER BY urgency, run_at, seq LIMIT $2
"""
# No condition that an index has. While the table looks empty to the planner, as after a night of no work, it
# would find a row by its seq in the index of what is pending, all of which it would go through for each.
_IS_PENDING = f"lives.state + 0 = {PENDING}"
CLAIM_LANE: Final = f"""
WITH picked AS MATERIALIZED (
    {_FIRST_OF.format("$1", "$5::smallint", "$6", "$7")}
    FOR NO KEY UPDATE SKIP LOCKED
)
{_START}
"""
# The first $2 of all lanes are looked at, and $5 of them taken that nobody else has in hand.
CLAIM_LANES: Final = f"""
WITH first AS MATERIALIZED (
    SELECT heads.*
    FROM unnest($1::bigint[], $6::smallint[], $7::bigint[], $8::bigint[])
        AS wanted (lane, urgency, run_at, seq)
    CROSS JOIN LATERAL (
        {_FIRST_OF.format("wanted.lane", "wanted.urgency", "wanted.run_at", "wanted.seq")}
    ) AS heads
    ORDER BY heads.urgency, heads.run_at, heads.seq LIMIT $2
), picked AS MATERIALIZED (
    SELECT lives.seq FROM first JOIN lives ON lives.seq = first.seq
    WHERE {_IS_PENDING}
    ORDER BY first.urgency, first.run_at, first.seq LIMIT $5
    FOR NO KEY UPDATE OF lives SKIP LOCKED
)
{_START}, (SELECT count(*) FROM first)
"""
CLAIM_PICKED: Final = f"""
WITH picked AS MATERIALIZED (
    SELECT lives.seq FROM unnest($1::bigint[]) AS wanted (seq) JOIN lives ON lives.seq = wanted.seq
    WHERE {_IS_PENDING}
    ORDER BY lives.seq LIMIT $2
    FOR NO KEY UPDATE OF lives
)
{_START}
"""
SELECT_TURNS: Final = """
SELECT lanes.queue, lanes.key, max(lanes.served)
FROM unnest($1::text[], $2::text[]) AS wanted (queue, key)
JOIN lanes ON lanes.queue = wanted.queue AND lanes.key = wanted.key
WHERE lanes.key IS NOT NULL
GROUP BY lanes.queue, lanes.key
UNION ALL
SELECT lanes.queue, NULL, max(lanes.served)
FROM unnest($3::text[]) AS wanted (queue)
JOIN lanes ON lanes.queue = wanted.queue
WHERE lanes.key IS NULL
GROUP BY lanes.queue
"""
SELECT_LAST_TURN: Final = """
SELECT coalesce(max(last.served), 0) FROM unnest($1::text[]) AS wanted (queue)
CROSS JOIN LATERAL (
    SELECT served FROM lanes WHERE lanes.queue = wanted.queue ORDER BY served DESC LIMIT 1
) AS last
"""
# Those that run are few; the counters of all lanes of a queue may be many, as there is a lane for each key.
SELECT_RUNNING: Final = f"""
SELECT lanes.id, lanes.queue, lanes.type, lanes.key, count(*)
FROM lives JOIN lanes ON lanes.id = lives.lane
WHERE lives.state = {RUNNING} AND lanes.queue = ANY ($1::text[])
GROUP BY lanes.id
"""
SELECT_RATES: Final = "SELECT queue, is_key, key, tat_us FROM rates WHERE queue = ANY ($1::text[])"
UPDATE_SERVED: Final = """
UPDATE lanes SET served = changed.served
FROM unnest($1::bigint[], $2::bigint[]) AS changed (lane, served)
WHERE lanes.id = changed.lane
"""

# Of each lane, the first row of each urgency it has.
SELECT_AGING_HEADS: Final = f"""
WITH RECURSIVE levels (lane, urgency) AS (
    SELECT wanted.lane, first.urgency
    FROM unnest($1::bigint[]) AS wanted (lane)
    CROSS JOIN LATERAL (
        SELECT urgency FROM lives WHERE lane = wanted.lane AND state = {PENDING}
        ORDER BY urgency LIMIT 1
    ) AS first
    UNION ALL
    SELECT levels.lane, following.urgency
    FROM levels
    CROSS JOIN LATERAL (
        SELECT urgency FROM lives
        WHERE lives.lane = levels.lane AND state = {PENDING} AND lives.urgency > levels.urgency
        ORDER BY urgency LIMIT 1
    ) AS following
)
SELECT levels.lane, first.urgency, first.run_at, first.seq
FROM levels
CROSS JOIN LATERAL (
    SELECT urgency, run_at, seq FROM lives
    WHERE lives.lane = levels.lane AND lives.urgency = levels.urgency AND state = {PENDING}
    ORDER BY run_at, seq LIMIT 1
) AS first
"""
SELECT_LANE_HEADS: Final = f"""
SELECT wanted.lane, first.urgency, first.run_at, first.seq
FROM unnest($1::bigint[]) AS wanted (lane)
CROSS JOIN LATERAL (
    SELECT urgency, run_at, seq FROM lives
    WHERE lives.lane = wanted.lane AND state = {PENDING}
    ORDER BY urgency, run_at, seq LIMIT 1
) AS first
"""
# Of each stream, a lane and an urgency or null, in their order, the first $3 tasks.
SELECT_STREAMS: Final = f"""
SELECT wanted.place, wanted.lane, first.urgency, first.run_at, first.seq
FROM unnest($1::bigint[], $2::smallint[]) WITH ORDINALITY AS wanted (lane, urgency, place)
CROSS JOIN LATERAL (
    (SELECT urgency, run_at, seq FROM lives
     WHERE lives.lane = wanted.lane AND state = {PENDING} AND wanted.urgency IS NULL
     ORDER BY urgency, run_at, seq LIMIT $3)
    UNION ALL
    (SELECT urgency, run_at, seq FROM lives
     WHERE lives.lane = wanted.lane AND lives.urgency = wanted.urgency AND state = {PENDING}
     ORDER BY run_at, seq LIMIT $3)
) AS first
"""

# Rules of queues

SELECT_RULES: Final = "SELECT rules FROM queues WHERE queue = $1"
SELECT_ALL_RULES: Final = "SELECT queue, rules FROM queues ORDER BY queue"
COUNT_RULES: Final = "SELECT count(*) FROM queues"
UPSERT_RULES: Final = """
INSERT INTO queues (queue, rules) VALUES ($1, $2) ON CONFLICT (queue) DO UPDATE SET rules = excluded.rules
"""
DELETE_RULES: Final = "DELETE FROM queues WHERE queue = $1"
UPSERT_RATES: Final = """
INSERT INTO rates (queue, is_key, key, tat_us)
SELECT * FROM unnest($1::text[], $2::boolean[], $3::text[], $4::bigint[])
ON CONFLICT (queue, is_key, key) DO UPDATE SET tat_us = excluded.tat_us
"""
DELETE_RATES: Final = "DELETE FROM rates WHERE queue = $1 AND is_key = $2"
DELETE_OLD_RATES: Final = "DELETE FROM rates WHERE tat_us <= $1"
