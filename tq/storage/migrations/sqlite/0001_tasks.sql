-- Tasks, their history, their counters. The numbers of states, reasons and parts are in sqlite_sql.py.

-- A lane is a queue and a type: what a claim chooses among. Lane 0 is not here; it means the whole store.
CREATE TABLE lanes (
    id INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    type TEXT NOT NULL,
    UNIQUE (queue, type)
) STRICT;

-- seq is the order of arrival. What changes often is before the texts, so that it is read without them.
CREATE TABLE tasks (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    lane INTEGER NOT NULL,
    state INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    run_at INTEGER NOT NULL,
    generation INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    max_attempts INTEGER NOT NULL,
    timeout_ms INTEGER NOT NULL,
    result_ttl_ms INTEGER,
    created_at INTEGER NOT NULL,
    reason INTEGER,
    started_at INTEGER,
    finished_at INTEGER,
    keep_until INTEGER,
    worker INTEGER,
    server TEXT,
    cancel_reason INTEGER,
    retry TEXT NOT NULL,
    payload TEXT,
    result TEXT
) STRICT;

-- Each index holds only the rows that one kind of search looks for; none grows with finished tasks but the last.
CREATE INDEX tasks_pending ON tasks (lane, priority DESC, run_at) WHERE state = 2;
CREATE INDEX tasks_timed ON tasks (run_at) WHERE state IN (1, 4);
CREATE INDEX tasks_running ON tasks (seq) WHERE state = 3;
CREATE INDEX tasks_kept ON tasks (keep_until) WHERE keep_until IS NOT NULL;

-- Payloads and results too long for the row, so that moving a task does not write them again.
CREATE TABLE texts (
    seq INTEGER NOT NULL,
    part INTEGER NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (seq, part)
) STRICT, WITHOUT ROWID;

-- The history of a task: a ring, in which failure n takes the place of failure n - 20.
CREATE TABLE errors (
    seq INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    n INTEGER NOT NULL,
    entry TEXT NOT NULL,
    PRIMARY KEY (seq, slot)
) STRICT, WITHOUT ROWID;

-- How many tasks of a lane are in a state; in lane 0 the totals, which only grow.
CREATE TABLE counters (
    lane INTEGER NOT NULL,
    state INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (lane, state)
) STRICT, WITHOUT ROWID;

CREATE TABLE servers (
    server TEXT PRIMARY KEY,
    seen_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
