"""Submitting in SQL: what `submit_task` stores is what a Submit would have stored, or nothing."""

from __future__ import annotations

import re
import unicodedata
from contextlib import closing
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from postgres_place import Schema
from psycopg import errors
from storage_kit import NOW, claim, do, finish, task
from submit_task_kit import TRACEPARENT, US, call, declare, forms

from tq.core import ops, queries
from tq.core.errors import InvalidInput
from tq.core.task import State, Task, TaskId
from tq.core.wire import PAYLOAD_MAX, TypeDefaults, decode_submit, new_task
from tq.handlers import TaskQueue
from tq.storage.memory import MemoryStore
from tq.storage.postgres import PostgresStore

pytest_plugins = ("submit_task_store",)


def by_http(
    store: MemoryStore, types: dict[str, TypeDefaults], type: str, **said: Any
) -> tuple[ops.Submitted, Task]:
    request = decode_submit(msgspec.json.encode({"type": type, **said}))
    new = new_task(request, types[type], new_id=TaskId(f"task-{len(store.snapshot().tasks)}"), now=NOW)
    submitted = do(store, ops.Submit(new))
    return submitted, task(store, submitted.task_id)


def without_times(task: Task, said: dict[str, Any]) -> Task:
    """*task* but for its id and what is counted from when it was submitted."""
    since = 0 if "run_at" in said else task.created_at
    return replace(
        task,
        id=TaskId(said.get("id", "task")),
        created_at=0,
        run_at=task.run_at - since,
        payload=msgspec.json.decode(task.payload),
    )


# What it stores

SAID: list[dict[str, Any]] = [
    {},
    {"payload": {"to": "ñ", "n": [1, 1.5, None, {"a": {}}]}},
    {"payload": [2**64 - 1, -(2**63), 1e15, 0.1]},
    {"payload": "x" * (PAYLOAD_MAX - 2)},
    {"id": "a.b:c~d-e_F"},
    {"queue": "urgent"},
    {"priority": 100},
    {"priority": -100},
    {"delay": 0},
    {"delay": 90.0625},
    {"run_at": "2001-02-03T04:05:06.789Z"},
    {"run_at": "2999-02-03T04:05:06+02:00"},
    {"timeout": 0.001},
    {"timeout": 604800},
    {"max_attempts": 1},
    {"max_attempts": 1000},
    {"retry": {}},
    {"retry": {"kind": "polynomial", "base": 0.25, "cap": 2592000, "jitter": 1}},
    {"result_ttl": 0},
    {"result_ttl": 31622400},
    {"key": "customer 7/ñ"},
    {"key": "k" * 128},
    {"tags": []},
    {"tags": ["b", "a", "b"]},
    {"tags": [f"t{n}" for n in range(16)]},
    {"deadline": "2998-01-01T00:00:00Z"},
    {"expires_at": "2997-01-01T00:00:00Z"},
    {"deadline": "2998-01-01T00:00:00Z", "expires_at": "2997-01-01T00:00:00Z", "tags": ["a"], "key": "k"},
    {"traceparent": TRACEPARENT},
]


@pytest.mark.parametrize("type", ["plain", "special"])
def test_a_task_submitted_in_sql_is_the_one_submitted_by_http(
    store: PostgresStore, db: psycopg.Connection, types: dict[str, TypeDefaults], type: str
) -> None:
    model = MemoryStore()
    for said in SAID:
        task_id = call(db, type, **said)
        _, expected = by_http(model, types, type, **said)
        assert without_times(task(store, task_id), said) == without_times(expected, said), said
        assert store.read(queries.GetStats()) == model.read(queries.GetStats())


OPTIONAL = {
    "queue": st.sampled_from(["q1", "q2"]),
    "priority": st.integers(-100, 100),
    "delay": st.integers(0, 10**8).map(lambda n: n / 1024),
    "timeout": st.integers(1, 10**5).map(lambda n: n / 128),
    "max_attempts": st.integers(1, 1000),
    "result_ttl": st.integers(0, 10**6).map(lambda n: n / 128),
    "key": st.sampled_from(["k1", "k 2"]),
    "tags": st.lists(st.sampled_from(["a", "b", "c"]), max_size=4),
    "deadline": st.sampled_from(["2998-01-01T00:00:00Z", "1999-01-01T00:00:00.001Z"]),
    "expires_at": st.sampled_from(["2998-01-01T00:00:00Z", "1999-01-01T00:00:00.001Z"]),
    "traceparent": st.just(TRACEPARENT),
    "retry": st.fixed_dictionaries(
        {}, optional={"kind": st.sampled_from(["fixed", "exponential"]), "jitter": st.sampled_from([0, 0.25])}
    ),
}
LETTERS = st.characters(codec="utf-8", exclude_characters="\0")
PAYLOADS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(LETTERS, max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(LETTERS, max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    type=st.sampled_from(["plain", "special"]),
    payload=PAYLOADS,
    said=st.fixed_dictionaries({}, optional=OPTIONAL),
)
def test_whatever_is_said_the_stores_agree(
    store: PostgresStore,
    db: psycopg.Connection,
    types: dict[str, TypeDefaults],
    type: str,
    payload: object,
    said: dict[str, Any],
) -> None:
    model = MemoryStore()
    before = store.read(queries.GetStats())
    task_id = call(db, type, payload=payload, **said)
    _, expected = by_http(model, types, type, payload=payload, **said)
    found = task(store, task_id)
    assert without_times(found, said) == without_times(expected, said)
    after = store.read(queries.GetStats())
    assert after.submitted == before.submitted + 1
    assert after.count(found.state) == before.count(found.state) + 1


def test_a_default_of_the_general_rules_is_that_of_the_server(
    store: PostgresStore, db: psycopg.Connection
) -> None:
    found = task(store, call(db, "nobody", known=False))
    general = TypeDefaults()
    assert (found.queue, found.priority, found.timeout_ms, found.max_attempts, found.retry) == (
        general.queue,
        general.priority,
        general.timeout_ms,
        general.max_attempts,
        general.retry,
    )
    assert (found.result_ttl_ms, found.options, found.payload) == (None, general.options, "null")


def test_what_is_null_is_not_said(store: PostgresStore, db: psycopg.Connection) -> None:
    names = (
        "id",
        "queue",
        "priority",
        "delay",
        "run_at",
        "timeout",
        "max_attempts",
        "result_ttl",
        "key",
        "tags",
    )
    others = ("deadline", "expires_at", "traceparent", "known")
    nulls = ", ".join(f"{name} => NULL" for name in (*names, *others, "payload", "retry"))
    [(task_id,)] = db.execute(f"SELECT submit_task('special', {nulls})".encode()).fetchall()
    expected = task(store, call(db, "special"))
    assert without_times(task(store, task_id), {}) == without_times(expected, {})


def test_ids_are_those_of_a_server_in_the_order_of_their_time(
    store: PostgresStore, db: psycopg.Connection
) -> None:
    [(ids,)] = db.execute("SELECT array_agg(submit_task('plain')) FROM generate_series(1, 50)").fetchall()
    assert all(re.fullmatch("task-[0-9a-f]{32}", each) for each in ids)
    assert ids == sorted(set(ids))
    assert [int(each[5:17], 16) for each in ids] == [task(store, each).created_at for each in ids]


def test_a_task_is_claimed_runs_and_is_pruned_as_any_other(
    store: PostgresStore, db: psycopg.Connection
) -> None:
    task_id = call(db, "plain", result_ttl=0, tags=["a"], key="k")
    [lease] = claim(store)
    assert (lease.task_id, lease.key, lease.timeout_ms) == (task_id, "k", 7_000)
    do(store, finish(lease))
    assert task(store, task_id).state is State.SUCCEEDED
    do(store, ops.Announce())
    assert do(store, ops.Prune()).count == 1
    stats = store.read(queries.GetStats())
    assert (stats.submitted, stats.succeeded, stats.lanes) == (1, 1, ())
    for table in ("tasks", "lives", "tags", "lanes", "unannounced"):
        assert db.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() == (0,), table


# What it refuses

DEEP: Any = []
for _ in range(63):
    DEEP = [DEEP]
BAD: list[tuple[str, dict[str, Any]]] = [
    ("type", {"type": "a b"}),
    ("type", {"type": ""}),
    ("type", {"type": "x" * 65}),
    ("id", {"id": "a/b"}),
    ("id", {"id": "x" * 129}),
    ("id", {"id": "a\n"}),
    ("queue", {"queue": "ñ"}),
    ("queue", {"queue": ""}),
    ("priority", {"priority": 101}),
    ("priority", {"priority": -101}),
    ("delay", {"delay": -0.001}),
    ("delay", {"delay": 158112000.01}),
    ("delay", {"delay": 1, "run_at": "2026-01-01T00:00:00Z"}),
    ("timeout", {"timeout": 0.0009}),
    ("timeout", {"timeout": 604800.01}),
    ("max_attempts", {"max_attempts": 0}),
    ("max_attempts", {"max_attempts": 1001}),
    ("retry.kind", {"retry": {"kind": "none"}}),
    ("retry.base", {"retry": {"base": -1}}),
    ("retry.cap", {"retry": {"cap": 2592000.01}}),
    ("retry.jitter", {"retry": {"jitter": 1.01}}),
    ("retry.jitter", {"retry": {"jitter": "0"}}),
    ("retry", {"retry": [1]}),
    ("result_ttl", {"result_ttl": -1}),
    ("result_ttl", {"result_ttl": 31622400.01}),
    ("key", {"key": ""}),
    ("key", {"key": "k" * 129}),
    ("key", {"key": "a\u200bb"}),
    ("tags", {"tags": ["a"] * 17}),
    ("tags", {"tags": ["a b"]}),
    ("traceparent", {"traceparent": TRACEPARENT + "-more"}),
    ("traceparent", {"traceparent": TRACEPARENT.replace("00f067aa0ba902b7", "0" * 16)}),
]
ONLY_SQL: list[tuple[str, dict[str, Any]]] = [
    ("delay", {"delay": float("nan")}),
    ("delay", {"delay": float("inf")}),
    ("run_at", {"run_at": "infinity"}),
    ("run_at", {"run_at": "1969-12-31T23:59:59Z"}),
    ("deadline", {"deadline": "10000-01-01T00:00:00Z"}),
    ("expires_at", {"expires_at": "-infinity"}),
    ("tags", {"tags": ["a", None]}),
    ("retry", {"retry": {"bsae": 1}}),
    ("payload", {"payload": "x" * (PAYLOAD_MAX - 1)}),
    ("payload", {"payload": [DEEP]}),
    ("payload", {"payload": {"n": 2**64}}),
    ("payload", {"payload": [-(2**63) - 1]}),
    ("payload", {"payload": 1e22}),
    ("type", {"type": None}),
    ("type", {"type": "unheard-of"}),
]


@pytest.mark.parametrize(("field", "said"), BAD + ONLY_SQL, ids=lambda each: str(each)[:40])
def test_what_is_not_allowed_is_refused_with_its_field_and_stores_nothing(
    store: PostgresStore,
    db: psycopg.Connection,
    types: dict[str, TypeDefaults],
    field: str,
    said: dict[str, Any],
) -> None:
    with pytest.raises(errors.DataError) as refused:
        call(db, **{"type": "plain", **said})
    diag = refused.value.diag
    assert diag.column_name == field
    assert diag.message_primary is not None
    assert diag.message_primary.startswith(f"{field}: ")
    assert diag.message_hint or said == {"type": None}
    assert store.snapshot().tasks == ()
    assert store.read(queries.GetStats()).submitted == 0
    if (field, said) in BAD:
        body = {"type": "plain", **said}
        with pytest.raises(InvalidInput) as fault:
            new_task(decode_submit(msgspec.json.encode(body)), types["plain"], new_id=TaskId("x"), now=NOW)
        assert fault.value.fields["field"] == field


@pytest.mark.parametrize("payload", [DEEP, {"n": 2**64 - 1}, -(2**63)], ids=["deep", "large", "small"])
def test_what_is_just_allowed_is_taken(store: PostgresStore, db: psycopg.Connection, payload: object) -> None:
    assert msgspec.json.decode(task(store, call(db, "plain", payload=payload)).payload) == payload


def test_a_text_of_many_digits_is_a_text(store: PostgresStore, db: psycopg.Connection) -> None:
    assert task(store, call(db, "plain", payload={"n": "9" * 40})).payload == f'{{"n": "{"9" * 40}"}}'


def test_keys_are_the_printable_ones(db: psycopg.Connection) -> None:
    """Of the characters that Unicode has given a meaning."""
    known = [chr(code) for code in range(1, 0x30000) if unicodedata.category(chr(code)) not in ("Cn", "Cs")]
    statement = """
        CREATE FUNCTION pg_temp.is_key(name text) RETURNS boolean LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM checked_key(name);
            RETURN true;
        EXCEPTION WHEN invalid_parameter_value THEN
            RETURN false;
        END $$
    """
    db.execute(statement)
    # One by one where they are refused; the others together, which is faster.
    odd = [each for each in known if not each.isprintable()]
    found = db.execute(
        "SELECT bool_or(pg_temp.is_key(each)) FROM unnest(%s::text[]) AS each", (odd,)
    ).fetchone()
    assert found == (False,)
    even = [each for each in known if each.isprintable()]
    parts = ["".join(even[at : at + 128]) for at in range(0, len(even), 128)]
    taken = db.execute(
        "SELECT bool_and(pg_temp.is_key(each)) FROM unnest(%s::text[]) AS each", (parts,)
    ).fetchone()
    assert taken == (True,)


def test_a_type_with_a_unique_key_is_refused(
    store: PostgresStore, db: psycopg.Connection, queue: TaskQueue
) -> None:
    @queue.task("once", unique={"key": "all"})
    async def once() -> None: ...

    declare(store, forms(queue))
    with pytest.raises(errors.FeatureNotSupported, match="unique key"):
        call(db, "once")
    assert store.snapshot().tasks == ()


# Types


def test_a_type_stays_known_when_its_server_has_gone(store: PostgresStore, db: psycopg.Connection) -> None:
    do(store, ops.Beat(US, gone=True))
    assert task(store, call(db, "special")).timeout_ms == 500


def test_a_type_means_what_was_said_of_it_last(store: PostgresStore, db: psycopg.Connection) -> None:
    declare(store, {"special": TypeDefaults(timeout_ms=9)})
    assert task(store, call(db, "special")).timeout_ms == 9
    assert task(store, call(db, "plain")).timeout_ms == 7_000


def test_any_type_is_taken_where_a_server_takes_any(store: PostgresStore, db: psycopg.Connection) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="no server has said that it handles 'any'"):
        call(db, "any")
    declare(store, None)
    assert task(store, call(db, "any")).timeout_ms == 5_000
    assert task(store, call(db, "special")).timeout_ms == 500


def test_a_type_that_nobody_handles_for_long_is_forgotten(
    empty_schema: Schema, types: dict[str, TypeDefaults]
) -> None:
    day = 86_400_000
    with closing(PostgresStore(empty_schema.url, durable=False, own_clock=False)) as store:
        declare(store, types)
        declare(store, {"plain": types["plain"]}, now=NOW + 2 * day)

        def known(now: int) -> list[str]:
            do(store, ops.Prune(), now)
            with psycopg.connect(empty_schema.server) as db:
                found = db.execute(f"SELECT type FROM {empty_schema.name}.types ORDER BY type".encode())
                return [type for (type,) in found]

        assert known(NOW + 90 * day - 1) == ["plain", "special"]
        assert known(NOW + 90 * day) == ["plain"]
        assert known(NOW + 92 * day) == []
