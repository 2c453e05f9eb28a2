-- Keys, the rules of queues, and what lists go by.

-- A lane is a queue, a type and a key now. served is the turn at which it was last served, 0 if never.
CREATE TABLE keyed_lanes (
    id INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    type TEXT NOT NULL,
    key TEXT,
    served INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO keyed_lanes (id, queue, type) SELECT id, queue, type FROM lanes;
DROP TABLE lanes;
ALTER TABLE keyed_lanes RENAME TO lanes;
-- No key and an empty key are two things; and two nulls would not be alike to UNIQUE.
CREATE UNIQUE INDEX lanes_by_name ON lanes (queue, type, ifnull(key, ''), key IS NULL);
CREATE INDEX lanes_by_key ON lanes (key) WHERE key IS NOT NULL;

-- Queues that have rules of their own; rules is a QueueRules as JSON.
CREATE TABLE queues (
    queue TEXT PRIMARY KEY,
    rules TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The theoretical arrival times of rates (see tq/core/limits.py): is_key 0 and an empty key is the queue's own.
CREATE TABLE rates (
    queue TEXT NOT NULL,
    is_key INTEGER NOT NULL,
    key TEXT NOT NULL,
    tat_us INTEGER NOT NULL,
    PRIMARY KEY (queue, is_key, key)
) STRICT, WITHOUT ROWID;

-- What lists go by. Each is in order of arrival, and none changes while a task moves from one state that is not
-- final to another.
CREATE INDEX tasks_by_lane ON tasks (lane);
CREATE INDEX tasks_open ON tasks (seq) WHERE state < 5;
CREATE INDEX tasks_failed ON tasks (seq) WHERE state = 6;
CREATE INDEX tasks_cancelled ON tasks (seq) WHERE state = 7;
CREATE INDEX tasks_by_schedule ON tasks (options ->> 'schedule') WHERE options ->> 'schedule' IS NOT NULL;
-- Failed tasks of one cause have one fingerprint; others have none.
CREATE INDEX tasks_by_cause ON tasks (fingerprint) WHERE fingerprint IS NOT NULL;

-- Tables with row ids, because a search in one without them reads whole texts, however long, on its way.
CREATE TABLE new_texts (
    seq INTEGER NOT NULL,
    part INTEGER NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (seq, part)
) STRICT;
INSERT INTO new_texts (seq, part, text) SELECT seq, part, text FROM texts ORDER BY seq, part;
DROP TABLE texts;
ALTER TABLE new_texts RENAME TO texts;
CREATE TABLE new_errors (
    seq INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    n INTEGER NOT NULL,
    entry TEXT NOT NULL,
    PRIMARY KEY (seq, slot)
) STRICT;
INSERT INTO new_errors (seq, slot, n, entry) SELECT seq, slot, n, entry FROM errors ORDER BY seq, slot;
DROP TABLE errors;
ALTER TABLE new_errors RENAME TO errors;
