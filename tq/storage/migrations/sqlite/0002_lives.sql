-- The whole life of a task: options, dependencies, children, unique keys, progress, requests, schedules.

-- options is an Options as JSON, null where a task has none; stop_at and parent_id are from it. watched: others
-- ever depended on the task or had it for a parent. A plain task has the default everywhere.
ALTER TABLE tasks ADD COLUMN options TEXT;
ALTER TABLE tasks ADD COLUMN stop_at INTEGER;
ALTER TABLE tasks ADD COLUMN parent_id TEXT;
ALTER TABLE tasks ADD COLUMN watched INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN blockers INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN logged INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN fingerprint TEXT;
ALTER TABLE tasks ADD COLUMN progress TEXT;

CREATE INDEX tasks_stopping ON tasks (stop_at) WHERE stop_at IS NOT NULL AND state IN (0, 1, 2, 4);
CREATE INDEX tasks_by_parent ON tasks (parent_id) WHERE parent_id IS NOT NULL;

CREATE TABLE tags (
    tag TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (tag, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX tags_by_task ON tags (seq);

-- Who waits for whom: only what Settle has not told yet.
CREATE TABLE dependencies (
    dependency INTEGER NOT NULL,
    dependent INTEGER NOT NULL,
    PRIMARY KEY (dependency, dependent)
) STRICT, WITHOUT ROWID;
CREATE INDEX dependencies_by_dependent ON dependencies (dependent);

-- The tasks for Settle, and whether their children are concerned.
CREATE TABLE unsettled (
    seq INTEGER PRIMARY KEY,
    cascade INTEGER NOT NULL
) STRICT;

-- Each unique name that is taken, and the task that has it.
CREATE TABLE holders (
    name TEXT PRIMARY KEY,
    task_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Idempotency-Keys, and the task that each made.
CREATE TABLE requests (
    key TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    task_id TEXT NOT NULL,
    until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX requests_by_age ON requests (until);

-- What handlers logged: a ring, in which line n takes the place of line n - 200.
CREATE TABLE logs (
    seq INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    n INTEGER NOT NULL,
    line TEXT NOT NULL,
    PRIMARY KEY (seq, slot)
) STRICT, WITHOUT ROWID;

-- ticks has the last ones, as JSON.
CREATE TABLE schedules (
    name TEXT PRIMARY KEY,
    spec TEXT NOT NULL,
    version INTEGER NOT NULL,
    paused INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    seen_until INTEGER NOT NULL,
    next_at INTEGER,
    last_task_id TEXT,
    ticks TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX schedules_due ON schedules (next_at, name) WHERE next_at IS NOT NULL;
