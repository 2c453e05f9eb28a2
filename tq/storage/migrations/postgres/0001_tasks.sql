-- Tasks and all that is kept of them. The numbers of states and reasons are in tq/storage/records.py.
--
-- Names are compared byte by byte, whatever the language of the database. Tables that are written all the time
-- are cleaned by what has been written, not by their size, and without pauses: see docs/how-to/operations.md.

-- The order of arrival. Two servers may commit in another order than they drew their numbers in.
CREATE SEQUENCE arrivals AS bigint;

-- A lane is a queue, a type and a key: what a claim chooses among. served is the turn at which it was last served.
CREATE TABLE lanes (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    key text COLLATE "C",
    served bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE UNIQUE INDEX lanes_by_name ON lanes (queue, type, coalesce(key, ''), (key IS NULL));
CREATE INDEX lanes_by_turn ON lanes (queue, served);
CREATE INDEX lanes_keyed ON lanes (queue, key, served) WHERE key IS NOT NULL;
CREATE INDEX lanes_unkeyed ON lanes (queue, served) WHERE key IS NULL;

-- What a task is: written once. What becomes of it is in lives, so that a move writes neither payload nor these
-- indexes again.
CREATE TABLE tasks (
    seq bigint PRIMARY KEY,
    lane bigint NOT NULL,
    created_at bigint NOT NULL,
    id text COLLATE "C" NOT NULL UNIQUE,
    retry text NOT NULL,
    parent_id text COLLATE "C",
    schedule text COLLATE "C",
    payload text NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX tasks_by_lane ON tasks (lane, seq);
CREATE INDEX tasks_by_parent ON tasks (parent_id, seq) WHERE parent_id IS NOT NULL;
CREATE INDEX tasks_by_schedule ON tasks (schedule, seq) WHERE schedule IS NOT NULL;

-- options is an Options as JSON, null where a task has none; stop_at is from it, and unique_name, which the task
-- has while it holds. urgency is the priority turned round, so that an index can be entered at a place in the
-- order of claims. watched: others ever depended on the task or had it for a parent.
CREATE TABLE lives (
    seq bigint PRIMARY KEY,
    lane bigint NOT NULL,
    run_at bigint NOT NULL,
    started_at bigint,
    finished_at bigint,
    keep_until bigint,
    stop_at bigint,
    result_ttl_ms bigint,
    timeout_ms bigint NOT NULL,
    max_attempts bigint NOT NULL,
    generation integer NOT NULL DEFAULT 0,
    attempt integer NOT NULL DEFAULT 0,
    crashes integer NOT NULL DEFAULT 0,
    failures integer NOT NULL DEFAULT 0,
    blockers integer NOT NULL DEFAULT 0,
    logged integer NOT NULL DEFAULT 0,
    worker integer,
    state smallint NOT NULL,
    urgency smallint NOT NULL,
    reason smallint,
    cancel_reason smallint,
    watched boolean NOT NULL DEFAULT false,
    holds boolean NOT NULL DEFAULT false,
    server text COLLATE "C",
    unique_name text COLLATE "C",
    fingerprint text COLLATE "C",
    progress text,
    options text,
    result text
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_cost_delay = 0);
-- Each index holds only the rows that one kind of search looks for; of a task that succeeded only the last has one.
CREATE INDEX lives_pending ON lives (lane, urgency, run_at, seq) WHERE state = 2;
CREATE INDEX lives_timed ON lives (run_at, seq) WHERE state IN (1, 4);
CREATE INDEX lives_waiting ON lives (seq) WHERE state IN (0, 1, 2, 4);
CREATE INDEX lives_stopping ON lives (stop_at, seq) WHERE stop_at IS NOT NULL AND state IN (0, 1, 2, 4);
CREATE INDEX lives_running ON lives (seq) WHERE state = 3;
CREATE INDEX lives_failed ON lives (seq) WHERE state = 6;
CREATE INDEX lives_cancelled ON lives (seq) WHERE state = 7;
CREATE INDEX lives_by_cause ON lives (fingerprint, seq) WHERE fingerprint IS NOT NULL;
CREATE UNIQUE INDEX lives_holding ON lives (unique_name) WHERE holds;
CREATE INDEX lives_kept ON lives (keep_until, seq) WHERE keep_until IS NOT NULL;

-- The history of a task: a ring, in which failure n takes the place of failure n - 20. told is what is searched.
CREATE TABLE errors (
    seq bigint NOT NULL,
    slot integer NOT NULL,
    n integer NOT NULL,
    entry text NOT NULL,
    told text NOT NULL,
    PRIMARY KEY (seq, slot)
);

-- What handlers logged: a ring, in which line n takes the place of line n - 200.
CREATE TABLE logs (
    seq bigint NOT NULL,
    slot integer NOT NULL,
    n integer NOT NULL,
    line text NOT NULL,
    PRIMARY KEY (seq, slot)
);

CREATE TABLE tags (
    tag text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (tag, seq)
);
CREATE INDEX tags_by_task ON tags (seq);

-- Who waits for whom: only what Settle has not told yet.
CREATE TABLE dependencies (
    dependency bigint NOT NULL,
    dependent bigint NOT NULL,
    PRIMARY KEY (dependency, dependent)
);
CREATE INDEX dependencies_by_dependent ON dependencies (dependent);

-- The tasks for Settle, and whether their children are concerned.
CREATE TABLE unsettled (
    seq bigint PRIMARY KEY,
    cascade boolean NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Idempotency-Keys, and the task that each made.
CREATE TABLE requests (
    key text COLLATE "C" PRIMARY KEY,
    digest text NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    until bigint NOT NULL
);
CREATE INDEX requests_by_age ON requests (until);

-- How many tasks of a lane are in a state; in lane 0 the totals, which only grow. Each writer adds to rows of its
-- own, so that none waits for another; what counts is their sum.
CREATE TABLE counters (
    writer bigint NOT NULL,
    lane bigint NOT NULL,
    state smallint NOT NULL,
    count bigint NOT NULL,
    PRIMARY KEY (writer, lane, state)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX counters_by_lane ON counters (lane);

-- Who writes, and the last batch that went in: how a writer whose connection broke learns what became of it.
CREATE TABLE writers (
    writer bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch bigint NOT NULL,
    seen_at bigint NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE TABLE servers (
    server text COLLATE "C" PRIMARY KEY,
    seen_at bigint NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100);

-- Queues that have rules of their own; rules is a QueueRules as JSON.
CREATE TABLE queues (
    queue text COLLATE "C" PRIMARY KEY,
    rules text NOT NULL
);

-- The theoretical arrival times of rates (see tq/core/limits.py): without a key it is the queue's own.
CREATE TABLE rates (
    queue text COLLATE "C" NOT NULL,
    is_key boolean NOT NULL,
    key text COLLATE "C" NOT NULL,
    tat_us bigint NOT NULL,
    PRIMARY KEY (queue, is_key, key)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- ticks has the last ones, as JSON.
CREATE TABLE schedules (
    name text COLLATE "C" PRIMARY KEY,
    spec text NOT NULL,
    version integer NOT NULL,
    paused boolean NOT NULL,
    created_at bigint NOT NULL,
    seen_until bigint NOT NULL,
    next_at bigint,
    last_task_id text COLLATE "C",
    ticks text NOT NULL
);
CREATE INDEX schedules_due ON schedules (next_at, name) WHERE next_at IS NOT NULL;
