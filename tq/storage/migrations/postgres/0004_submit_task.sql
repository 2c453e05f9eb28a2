-- Submitting in SQL: submit_task() stores a task in the caller's own transaction, as a Submit of a server does.
-- Its rules and words are those of tq/core/wire.py and tq/core/fields.py; docs/how-to/sql.md is for callers.
--
-- A caller's transaction may last, so it must stand in nobody's way: it locks no row that a server changes, counts
-- in rows of its own, and where a lane is missing makes one of its own.

-- A lane that is made in SQL has the transaction for its origin: a server that needs the same lane meanwhile does
-- not wait for it. So there may be several lanes of one name, each forgotten with its last task.
ALTER TABLE lanes ADD COLUMN origin bigint NOT NULL DEFAULT 0;
DROP INDEX lanes_by_name;
CREATE UNIQUE INDEX lanes_by_name ON lanes (queue, type, coalesce(key, ''), (key IS NULL), origin);

-- What a submit of each type means where it says nothing, as the last server said that handled it. The type '*' is
-- there if a server takes any type.
CREATE TABLE types (
    type text COLLATE "C" PRIMARY KEY,
    defaults text NOT NULL,
    said_at bigint NOT NULL
);

-- Tasks submitted in SQL that no server has told of yet. Until then each is counted by a writer -seq.
CREATE TABLE unannounced (
    seq bigint PRIMARY KEY,
    state smallint NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    queue text COLLATE "C" NOT NULL,
    trace_id text
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- What the functions below find, whoever calls them and whatever that one has set; pg_temp last, so that a
-- temporary table of the caller's is not taken for one of these.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- The channel on which the servers listen: see PostgresWake. The checksum is CRC-32 (ISO 3309).
CREATE FUNCTION wake_channel() RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    name bytea := convert_to(current_schema(), 'UTF8');
    crc bigint := x'ffffffff'::bigint;
BEGIN
    FOR place IN 0 .. length(name) - 1 LOOP
        crc := crc # get_byte(name, place);
        FOR bit IN 1 .. 8 LOOP
            crc := (crc >> 1) # (x'edb88320'::bigint * (crc & 1));
        END LOOP;
    END LOOP;
    RETURN 'tq_' || lpad(to_hex(crc # x'ffffffff'::bigint), 8, '0');
END
$$;

CREATE FUNCTION refuse_value(field text, value text, allowed text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%: % is not allowed', field, CASE WHEN length(value) <= 80 THEN value ELSE left(value, 79) || '…' END
        USING ERRCODE = 'invalid_parameter_value', COLUMN = field, HINT = 'Use ' || allowed || '.';
END
$$;

CREATE FUNCTION checked_name(field text, value text) RETURNS text LANGUAGE plpgsql STRICT AS $$
BEGIN
    IF value !~ '^[A-Za-z0-9_.:~-]{1,64}$' THEN
        PERFORM refuse_value(field, quote_literal(value), '1 to 64 of the characters A-Z a-z 0-9 _ . : ~ -');
    END IF;
    RETURN value;
END
$$;

-- Printable: no control, format, private or separating character but the space.
CREATE FUNCTION checked_key(value text) RETURNS text LANGUAGE plpgsql STRICT AS $$
BEGIN
    IF length(value) NOT BETWEEN 1 AND 128 OR value ~ ('[\u0001-\u001F\u007F-\u00A0\u00AD\u0600-\u0605\u061C\u06DD'
        '\u070F\u0890-\u0891\u08E2\u1680\u180E\u2000-\u200F\u2028-\u202F\u205F-\u2064\u2066-\u206F\u3000\uE000-\uF8FF'
        '\uFEFF\uFFF9-\uFFFB\U000110BD\U000110CD\U00013430-\U00013438\U0001BCA0-\U0001BCA3\U0001D173-\U0001D17A'
        '\U000E0001\U000E0020-\U000E007F\U000F0000-\U000FFFFD\U00100000-\U0010FFFD]')
    THEN
        PERFORM refuse_value('key', quote_literal(value), '1 to 128 printable characters');
    END IF;
    RETURN value;
END
$$;

CREATE FUNCTION checked_integer(field text, value bigint, low bigint, high bigint) RETURNS bigint LANGUAGE plpgsql STRICT AS $$
BEGIN
    IF value NOT BETWEEN low AND high THEN
        PERFORM refuse_value(field, value::text, format('an integer from %s to %s', low, high));
    END IF;
    RETURN value;
END
$$;

-- Seconds as milliseconds. NaN is greater than any high.
CREATE FUNCTION checked_ms(field text, seconds double precision, low double precision, high double precision)
RETURNS bigint LANGUAGE plpgsql STRICT AS $$
BEGIN
    IF seconds NOT BETWEEN low AND high THEN
        PERFORM refuse_value(field, seconds::text, format('seconds from %s to %s', low, high));
    END IF;
    RETURN round(seconds * 1000)::bigint;
END
$$;

CREATE FUNCTION checked_at(field text, value timestamptz) RETURNS bigint LANGUAGE plpgsql STRICT AS $$
BEGIN
    IF value < '1970-01-01 00:00:00+00' OR value >= '10000-01-01 00:00:00+00' THEN
        PERFORM refuse_value(field, value::text, 'an instant of the years 1970 to 9999');
    END IF;
    RETURN least(round(extract(epoch FROM value) * 1000), 253402300799999)::bigint;
END
$$;

-- A payload as text, without what programs disagree on. Containers are counted before jsonpath goes into them.
CREATE FUNCTION checked_payload(payload jsonb) RETURNS text LANGUAGE plpgsql STRICT AS $$
DECLARE
    written text := payload::text;
    number numeric;
BEGIN
    IF octet_length(written) > 1048576 THEN
        RAISE EXCEPTION 'payload: at most 1048576 bytes, this one has %', octet_length(written)
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'payload',
                HINT = 'Keep what is large elsewhere, and send where it is.';
    END IF;
    IF length(written) - length(translate(written, '[{', '')) > 64
        AND jsonb_path_exists(payload, 'strict $.**{64} ? (@.type() == "object" || @.type() == "array")')
    THEN
        RAISE EXCEPTION 'payload: nested deeper than 64'
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'payload', HINT = 'Send what is deeper as a string.';
    END IF;
    IF written ~ '[0-9]{19}' THEN
        FOR number IN
            SELECT (value #>> '{}')::numeric
            FROM jsonb_path_query(payload, 'strict $.** ? (@.type() == "number")') AS numbers (value)
        LOOP
            IF scale(number) = 0 AND number NOT BETWEEN -9223372036854775808 AND 18446744073709551615
                OR abs(number) > 1.7976931348623157e308
            THEN
                RAISE EXCEPTION 'payload: the number % is past 64 bits', left(number::text, 40)
                    USING ERRCODE = 'numeric_value_out_of_range', COLUMN = 'payload', HINT = 'Send it as a string.';
            END IF;
        END LOOP;
    END IF;
    RETURN written;
END
$$;

-- A retry policy as it is stored; what is not said is as in the default policy.
CREATE FUNCTION checked_retry(retry jsonb) RETURNS text LANGUAGE plpgsql STRICT AS $$
DECLARE
    said jsonb;
    field text;
BEGIN
    IF jsonb_typeof(retry) <> 'object' THEN
        PERFORM refuse_value('retry', retry::text, 'an object with kind, base, cap, jitter');
    END IF;
    said := '{"kind": "exponential", "base": 1, "cap": 3600, "jitter": 0.5}' || retry;
    FOR field IN SELECT jsonb_object_keys(said) LOOP
        IF field NOT IN ('kind', 'base', 'cap', 'jitter') THEN
            PERFORM refuse_value('retry', quote_literal(field), 'kind, base, cap, jitter');
        ELSIF field <> 'kind' AND jsonb_typeof(said -> field) <> 'number' THEN
            PERFORM refuse_value('retry.' || field, (said -> field)::text, 'a number');
        END IF;
    END LOOP;
    IF said -> 'kind' NOT IN ('"fixed"', '"exponential"', '"polynomial"') THEN
        PERFORM refuse_value('retry.kind', (said -> 'kind')::text, 'one of fixed, exponential, polynomial');
    END IF;
    IF (said ->> 'jitter')::numeric NOT BETWEEN 0 AND 1 THEN
        PERFORM refuse_value('retry.jitter', said ->> 'jitter', 'a number from 0 to 1');
    END IF;
    RETURN json_build_object(
        'kind', said -> 'kind',
        'base_ms', checked_ms('retry.base', (said ->> 'base')::double precision, 0, 2592000),
        'cap_ms', checked_ms('retry.cap', (said ->> 'cap')::double precision, 0, 2592000),
        'jitter', (said ->> 'jitter')::double precision
    );
END
$$;

-- Each tag once, in order.
CREATE FUNCTION checked_tags(tags text[]) RETURNS jsonb LANGUAGE plpgsql STRICT AS $$
BEGIN
    IF cardinality(tags) > 16 THEN
        RAISE EXCEPTION 'tags: at most 16, these are %', cardinality(tags)
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'tags', HINT = 'Leave some out.';
    END IF;
    IF array_position(tags, NULL) IS NOT NULL THEN
        PERFORM refuse_value('tags', 'NULL', 'texts');
    END IF;
    RETURN coalesce(
        (SELECT jsonb_agg(checked_name('tags', tag) ORDER BY place)
         FROM (SELECT tag, min(place) AS place FROM unnest(tags) WITH ORDINALITY AS said (tag, place) GROUP BY tag) AS once),
        '[]'
    );
END
$$;

-- What a submit of a type means where it says nothing.
CREATE FUNCTION defaults_of(wanted text, known boolean) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
DECLARE
    said jsonb := (SELECT defaults::jsonb FROM types WHERE type = wanted);
BEGIN
    IF said IS NULL AND known AND NOT EXISTS (SELECT FROM types WHERE type = '*') THEN
        RAISE EXCEPTION 'type: no server has said that it handles %', quote_literal(wanted)
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'type',
                HINT = 'Correct the type, start a server that handles it, or say known => false.';
    END IF;
    IF said #> '{options,unique}' IS NOT NULL THEN
        RAISE EXCEPTION 'type: tasks of % have a unique key, which submit_task does not know', quote_literal(wanted)
            USING ERRCODE = 'feature_not_supported', COLUMN = 'type', HINT = 'Submit it over HTTP.';
    END IF;
    RETURN '{"queue": "default", "priority": 0, "timeout_ms": 5000, "max_attempts": 20, "result_ttl_ms": null, "options": {},
             "retry": {"kind": "exponential", "base_ms": 1000, "cap_ms": 3600000, "jitter": 0.5}}' || coalesce(said, '{}');
END
$$;

-- Twelve digits of Unix milliseconds, four of microseconds, sixteen of chance: sorted by time, as a server's are.
CREATE FUNCTION new_task_id(now_us bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    chance text := replace(gen_random_uuid()::text, '-', '');
BEGIN
    RETURN 'task-' || lpad(to_hex(now_us / 1000), 12, '0') || lpad(to_hex(now_us % 1000), 4, '0')
        || left(chance, 12) || right(chance, 4);
END
$$;

-- The lane of a name, kept until the end of the transaction; made where there is none.
CREATE FUNCTION lane_of(its_queue text, its_type text, its_key text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    lane bigint;
BEGIN
    SELECT id INTO lane FROM lanes
    WHERE queue = its_queue AND type = its_type AND coalesce(key, '') = coalesce(its_key, '')
        AND (key IS NULL) = (its_key IS NULL)
    ORDER BY origin, id LIMIT 1
    FOR KEY SHARE;
    IF lane IS NULL THEN
        INSERT INTO lanes (queue, type, key, origin)
        VALUES (its_queue, its_type, its_key, pg_current_xact_id()::text::bigint)
        RETURNING id INTO lane;
    END IF;
    RETURN lane;
END
$$;

-- Whether there is a task of that id. Raises where it is another one.
CREATE FUNCTION is_known(its_id text, its_type text, its_payload text) RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    known record;
    difference text;
BEGIN
    SELECT lanes.type, tasks.payload INTO known
    FROM tasks JOIN lanes ON lanes.id = tasks.lane WHERE tasks.id = its_id;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- As texts of jsonb: the order of keys aside, 1 and 1.0 apart.
    BEGIN
        difference := CASE WHEN known.type <> its_type THEN 'type'
                           WHEN known.payload::jsonb::text <> its_payload THEN 'payload' END;
    EXCEPTION WHEN data_exception THEN
        -- JSON that a server takes and jsonb does not.
        difference := 'payload';
    END;
    IF difference IS NOT NULL THEN
        RAISE EXCEPTION 'id: task % exists with another %', its_id, difference
            USING ERRCODE = 'unique_violation', COLUMN = 'id', CONSTRAINT = 'tasks_id_key', TABLE = 'tasks',
                HINT = 'Choose another id, or submit the same type and payload again.';
    END IF;
    RETURN true;
END
$$;

-- Store a task: its id. One of that id and of equal type and payload is it already. What is null is not said; known
-- is false where the type may be one of which no server has said yet that it handles it.
CREATE FUNCTION submit_task(
    type text,
    payload jsonb DEFAULT 'null',
    id text DEFAULT NULL,
    queue text DEFAULT NULL,
    priority integer DEFAULT NULL,
    delay double precision DEFAULT NULL,
    run_at timestamptz DEFAULT NULL,
    timeout double precision DEFAULT NULL,
    max_attempts integer DEFAULT NULL,
    retry jsonb DEFAULT NULL,
    result_ttl double precision DEFAULT NULL,
    key text DEFAULT NULL,
    tags text[] DEFAULT NULL,
    deadline timestamptz DEFAULT NULL,
    expires_at timestamptz DEFAULT NULL,
    traceparent text DEFAULT NULL,
    known boolean DEFAULT true
) RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    now_us bigint := extract(epoch FROM clock_timestamp()) * 1000000;
    now_ms bigint := now_us / 1000;
    defaults jsonb;
    new_id text := submit_task.id;
    new_payload text;
    new_queue text;
    new_tags jsonb;
    new_options jsonb;
    new_lane bigint;
    new_seq bigint;
    new_state smallint;
    new_run_at bigint;
    new_urgency smallint;
    new_max_attempts bigint;
    new_timeout_ms bigint;
    new_result_ttl_ms bigint;
    new_retry text;
    deadline_ms bigint;
    expires_ms bigint;
BEGIN
    IF submit_task.type IS NULL THEN
        RAISE EXCEPTION 'type: this argument is required' USING ERRCODE = 'null_value_not_allowed', COLUMN = 'type';
    END IF;
    PERFORM checked_name('type', submit_task.type);
    IF new_id !~ '^[A-Za-z0-9_.:~-]{1,128}$' THEN
        PERFORM refuse_value('id', quote_literal(new_id), '1 to 128 of the characters A-Z a-z 0-9 _ . : ~ -');
    END IF;
    IF submit_task.delay IS NOT NULL AND submit_task.run_at IS NOT NULL THEN
        RAISE EXCEPTION 'delay: give delay or run_at, not both'
            USING ERRCODE = 'invalid_parameter_value', COLUMN = 'delay', HINT = 'Leave one of them out.';
    END IF;
    IF submit_task.traceparent !~ '^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$' THEN
        PERFORM refuse_value('traceparent', quote_literal(submit_task.traceparent),
                             'a form as in 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01');
    END IF;
    new_payload := checked_payload(coalesce(submit_task.payload, 'null'));
    defaults := defaults_of(submit_task.type, coalesce(submit_task.known, true));
    new_queue := coalesce(checked_name('queue', submit_task.queue), defaults ->> 'queue');
    new_urgency := -coalesce(checked_integer('priority', submit_task.priority, -100, 100), (defaults -> 'priority')::int);
    new_run_at := coalesce(checked_at('run_at', submit_task.run_at),
                           now_ms + checked_ms('delay', submit_task.delay, 0, 158112000), now_ms);
    new_timeout_ms := coalesce(checked_ms('timeout', submit_task.timeout, 0.001, 604800),
                               (defaults ->> 'timeout_ms')::bigint);
    new_max_attempts := coalesce(checked_integer('max_attempts', submit_task.max_attempts, 1, 1000),
                                 (defaults ->> 'max_attempts')::bigint);
    new_result_ttl_ms := coalesce(checked_ms('result_ttl', submit_task.result_ttl, 0, 31622400),
                                  (defaults ->> 'result_ttl_ms')::bigint);
    new_retry := coalesce(checked_retry(submit_task.retry), defaults ->> 'retry');
    new_tags := CASE WHEN submit_task.tags IS NULL THEN coalesce(defaults #> '{options,tags}', '[]')
                     ELSE checked_tags(submit_task.tags) END;
    deadline_ms := checked_at('deadline', submit_task.deadline);
    expires_ms := checked_at('expires_at', submit_task.expires_at);
    new_options := jsonb_strip_nulls(jsonb_build_object(
        'tags', nullif(new_tags, '[]'), 'deadline_at', deadline_ms, 'expires_at', expires_ms,
        'traceparent', submit_task.traceparent
    ));
    PERFORM checked_key(submit_task.key);

    new_seq := nextval('arrivals');
    LOOP
        IF new_id IS NOT NULL AND is_known(new_id, submit_task.type, new_payload) THEN
            RETURN new_id;
        END IF;
        new_lane := lane_of(new_queue, submit_task.type, submit_task.key);
        -- Another transaction may store the same id: it is waited for, and then is known or has not been.
        INSERT INTO tasks (seq, lane, id, retry, payload, created_at)
        VALUES (new_seq, new_lane, coalesce(new_id, new_task_id(now_us)), new_retry, new_payload, now_ms)
        ON CONFLICT (id) DO NOTHING
        RETURNING tasks.id INTO new_id;
        EXIT WHEN FOUND;
        new_id := submit_task.id;
    END LOOP;
    new_state := CASE WHEN new_run_at > now_ms THEN 1 ELSE 2 END;
    INSERT INTO lives (seq, lane, state, urgency, run_at, max_attempts, timeout_ms, result_ttl_ms, options, stop_at)
    VALUES (new_seq, new_lane, new_state, new_urgency, new_run_at, new_max_attempts, new_timeout_ms, new_result_ttl_ms,
            nullif(new_options, '{}')::text, least(deadline_ms, expires_ms));
    INSERT INTO tags (tag, seq) SELECT tag, new_seq FROM jsonb_array_elements_text(new_tags) AS said (tag);
    -- In rows of its own, which nobody else has; as lane 0 and state 100 all that was ever submitted is counted.
    INSERT INTO counters (writer, lane, state, count) VALUES (-new_seq, new_lane, new_state, 1), (-new_seq, 0, 100, 1);
    INSERT INTO unannounced (seq, state, task_id, type, queue, trace_id)
    VALUES (new_seq, new_state, new_id, submit_task.type, new_queue, split_part(submit_task.traceparent, '-', 2));
    PERFORM pg_notify(wake_channel(), 'sql');
    RETURN new_id;
END
$$;

-- Who may submit is for the owner to say: see docs/how-to/sql.md.
REVOKE ALL ON FUNCTION wake_channel, refuse_value, checked_name, checked_key, checked_integer, checked_ms, checked_at,
    checked_payload, checked_retry, checked_tags, defaults_of, new_task_id, lane_of, is_known, submit_task FROM PUBLIC;
