"""Requests other than the submit: each fault names its field, the value's fault and what is allowed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tq.core.errors import InvalidInput
from tq.core.keys import KEY_CHANCE_BYTES, make_key
from tq.core.ops import Update
from tq.core.queries import PayloadMatch, TaskFilter
from tq.core.requests import (
    BulkRequest,
    CancelRequest,
    FilterRequest,
    check_nothing,
    read_bulk,
    read_cancel,
    read_filter,
    read_key,
    read_queue,
    read_schedule,
    read_update,
)
from tq.core.task import FINAL, WAITING, State, TaskId

NOW = 1_700_000_000_000
NAME = "1 to 64 of the characters A-Z a-z 0-9 _ . : ~ -"
INSTANT = "an instant as in 2026-01-31T12:00:00Z, with its offset"


def update(body: str) -> Update:
    return read_update(body.encode(), TaskId("t"), now=NOW)


# Changing a task


def test_full_update_is_taken_as_given() -> None:
    body = (
        '{"priority":"high","run_at":"2026-01-31T12:00:00Z","timeout":1.5,"max_attempts":3,"result_ttl":60,'
        '"deadline":"2026-01-31T13:00:00Z","expires_at":"2026-01-31T14:00:00Z"}'
    )
    assert update(body) == Update(
        task_id=TaskId("t"),
        priority=10,
        run_at=1_769_860_800_000,
        timeout_ms=1_500,
        max_attempts=3,
        result_ttl_ms=60_000,
        deadline_at=1_769_864_400_000,
        expires_at=1_769_868_000_000,
    )


def test_delay_counts_from_now() -> None:
    assert update('{"delay":1.25}') == Update(task_id=TaskId("t"), run_at=1_700_000_001_250)
    assert update('{"delay":0,"priority":null}') == Update(task_id=TaskId("t"), run_at=NOW)


@pytest.mark.parametrize("body", ["{}", '{"priority":null}'])
def test_update_of_nothing_is_refused_and_says_what_there_is(body: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        update(body)

    assert refused.value.message == (
        "nothing to change: name at least one of priority, delay, run_at, timeout, max_attempts, result_ttl,"
        " deadline, expires_at"
    )


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        (
            '{"priority":"urgent"}',
            "priority",
            "'urgent' is not allowed: low, normal, high, critical, or an integer",
        ),
        ('{"priority":101}', "priority", "101 is not allowed: an integer from -100 to 100"),
        ('{"priority":1.5}', "priority", "Expected `int | str | null`, got `float`"),
        ('{"delay":-1}', "delay", "-1.0 is not allowed: seconds from 0 to 158112000"),
        ('{"delay":"1"}', "delay", "Expected `float | null`, got `str`"),
        ('{"delay":1,"run_at":"2026-01-31T12:00:00Z"}', "delay", "give delay or run_at, not both"),
        ('{"run_at":"soon"}', "run_at", f"'soon' is not allowed: {INSTANT}"),
        ('{"run_at":5}', "run_at", "Expected `str | null`, got `int`"),
        ('{"timeout":0}', "timeout", "0.0 is not allowed: seconds from 0.001 to 604800"),
        ('{"timeout":604801}', "timeout", "604801.0 is not allowed: seconds from 0.001 to 604800"),
        ('{"max_attempts":0}', "max_attempts", "0 is not allowed: an integer from 1 to 1000"),
        ('{"max_attempts":1001}', "max_attempts", "1001 is not allowed: an integer from 1 to 1000"),
        ('{"result_ttl":-1}', "result_ttl", "-1.0 is not allowed: seconds from 0 to 31622400"),
        ('{"deadline":"soon"}', "deadline", f"'soon' is not allowed: {INSTANT}"),
        ('{"expires_at":"2026-01-31"}', "expires_at", f"'2026-01-31' is not allowed: {INSTANT}"),
        ('{"payload":1}', "payload", "there is no such field here"),
        ('{"type":"t"}', "type", "there is no such field here"),
        ('{"state":"pending"}', "state", "there is no such field here"),
    ],
)
def test_bad_update_names_its_field(body: str, field: str, message: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        update(body)

    assert refused.value.message == f"{field}: {message}"
    assert refused.value.fields == {"field": field}


# Cancelling


@pytest.mark.parametrize(
    ("body", "cascade"),
    [(b"", True), (b"{}", True), (b'{"cascade":true}', True), (b'{"cascade":false}', False)],
)
def test_cancel_takes_the_children_along_unless_told_otherwise(body: bytes, cascade: bool) -> None:
    assert read_cancel(body) == CancelRequest(cascade=cascade)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"cascade":0}', "cascade: Expected `bool`, got `int`"),
        (b'{"cascade":null}', "cascade: Expected `bool`, got `null`"),
        (b'{"reason":"x"}', "reason: there is no such field here"),
        (b"[]", "Expected `object`, got `array`"),
        (b" ", "the body is not JSON: Input data was truncated"),
    ],
)
def test_bad_cancel_says_so(body: bytes, message: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_cancel(body)

    assert refused.value.message == message


# Nothing


@pytest.mark.parametrize("body", [b"", b"{}", b" { } "])
def test_request_that_says_nothing_is_taken(body: bytes) -> None:
    check_nothing(body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"delay":5}', "delay: there is no such field here"),
        (b"[]", "Expected `object`, got `array`"),
        (b"x", "the body is not JSON: JSON is malformed: invalid character (byte 0)"),
    ],
)
def test_request_that_has_nothing_to_say_and_says_it_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_nothing(body)

    assert refused.value.message == message


# Filters


def test_empty_filter_means_all() -> None:
    assert read_filter(FilterRequest()) == TaskFilter()


def test_full_filter_is_taken_as_given() -> None:
    asked = FilterRequest(
        state="failed,pending",
        queue="q",
        type="t",
        key="a key",
        tag="x",
        parent_id="p",
        schedule="nightly",
        fingerprint="0123456789ab",
        created_after="2026-01-31T12:00:00Z",
        created_before="2026-01-31T13:00:00Z",
        error="no route",
        where="payload.a:1",
    )
    assert read_filter(asked) == TaskFilter(
        states=(State.PENDING, State.FAILED),
        queue="q",
        type="t",
        key="a key",
        tag="x",
        parent_id=TaskId("p"),
        schedule="nightly",
        fingerprint="0123456789ab",
        created_after=1_769_860_800_000,
        created_before=1_769_864_400_000,
        error="no route",
        payload=PayloadMatch(("a",), ("1", '"1"')),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("text", "states"),
    [
        ("failed", {State.FAILED}),
        ("failed,failed", {State.FAILED}),
        ("waiting", WAITING),
        ("ended", FINAL),
        ("waiting,running,ended", set(State)),
    ],
)
def test_states_are_named_alone_or_by_what_they_have_in_common(text: str, states: set[State]) -> None:
    found = read_filter(FilterRequest(state=text)).states
    assert (set(found), len(found)) == (states, len(states))


@pytest.mark.parametrize(
    ("where", "path", "values"),
    [
        ("payload.user.id:42", ("user", "id"), ("42", '"42"')),
        ("payload.a:x", ("a",), ('"x"',)),
        ('payload.a:"x"', ("a",), ('"x"', '"\\"x\\""')),
        ("payload.a:true", ("a",), ("true", '"true"')),
        ("payload.a:null", ("a",), ("null", '"null"')),
        ("payload.a:", ("a",), ('""',)),
        ("payload.a:b:c", ("a",), ('"b:c"',)),
        ("payload.a:[1, 2]", ("a",), ("[1,2]", '"[1, 2]"')),
        ("payload.a:1e999", ("a",), ('"1e999"',)),
        ("payload.a:99999999999999999999", ("a",), ('"99999999999999999999"',)),
    ],
)
def test_payload_is_asked_for_by_a_path_and_a_value(
    where: str, path: tuple[str, ...], values: tuple[str, ...]
) -> None:
    found = read_filter(FilterRequest(where=where)).payload
    assert found == PayloadMatch(path, values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        (
            "state",
            "dead",
            "one or more, with commas between them, of blocked, scheduled, pending, running, retrying,"
            " succeeded, failed, cancelled, waiting, ended",
        ),
        ("state", "", "one or more, with commas between them, of blocked"),
        ("queue", "a b", NAME),
        ("type", "", NAME),
        ("key", "", "1 to 128 printable characters"),
        ("tag", "a/b", NAME),
        ("parent_id", "a/b", "1 to 128 of the characters A-Z a-z 0-9 _ . : ~ -"),
        ("schedule", "a/b", NAME),
        ("fingerprint", "xyz", "12 hexadecimal digits, as the failures show them"),
        ("fingerprint", "0123456789AB", "12 hexadecimal digits, as the failures show them"),
        ("created_after", "soon", INSTANT),
        ("created_before", "2026-01-31", INSTANT),
        ("error", "", "1 to 200 characters"),
        ("error", "x" * 201, "1 to 200 characters"),
        ("where", "user.id:42", "payload.NAME.NAME:VALUE, as in payload.user.id:42"),
        ("where", "payload:42", "payload.NAME.NAME:VALUE, as in payload.user.id:42"),
        ("where", "payload.a", "payload.NAME.NAME:VALUE, as in payload.user.id:42"),
        ("where", "payload..a:1", "payload.NAME.NAME:VALUE, as in payload.user.id:42"),
        ("where", "payload" + ".a" * 17 + ":1", "payload.NAME.NAME:VALUE, as in payload.user.id:42"),
        ("where", "", "1 to 200 characters"),
    ],
)
def test_bad_filter_names_its_field(field: str, value: str, allowed: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_filter(FilterRequest(**{field: value}))

    assert refused.value.message.startswith(f"{field}: ")
    assert f" is not allowed: {allowed}" in refused.value.message
    assert refused.value.fields == {"field": field}


# Words


@pytest.mark.parametrize(
    ("read", "body", "field", "words"),
    [
        (lambda body: read_queue(body, "q"), b'{"order":"odd"}', "order", "strict, aging"),
        (read_schedule, b'{"type":"t","overlap":"odd"}', "overlap", "skip, allow"),
        (
            lambda body: read_key(body, make_key(bytes(KEY_CHANCE_BYTES)), is_first=False, now=0),
            b'{"scopes":["read","odd"]}',
            "scopes[1]",
            "submit, read, operate, admin, metrics",
        ),
    ],
    ids=["queue", "schedule", "key"],
)
def test_word_that_is_none_of_those_allowed_is_answered_with_those(
    read: Callable[[bytes], object], body: bytes, field: str, words: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        read(body)

    assert refused.value.message == f"{field}: 'odd' is not allowed: one of {words}"
    assert refused.value.fields == {"field": field}


# Bulk


def test_bulk_takes_a_filter_or_all() -> None:
    assert read_bulk(b'{"all":true}') == BulkRequest(all=True)
    assert read_bulk(b'{"filter":{"queue":"q"},"dry_run":true,"limit":5,"cascade":false}') == BulkRequest(
        filter=FilterRequest(queue="q"), dry_run=True, limit=5, cascade=False
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{}", "filter: it names nothing: say which tasks are meant, or all: true for all of them"),
        (
            b'{"filter":{},"dry_run":true}',
            "filter: it names nothing: say which tasks are meant, or all: true for all of them",
        ),
        (b'{"all":"yes"}', "all: Expected `bool`, got `str`"),
        (b'{"filter":{"zz":1}}', "filter.zz: there is no such field here"),
        (b'{"filter":{"state":1}}', "filter.state: Expected `str | null`, got `int`"),
        (b'{"all":true,"limit":0}', "limit: 0 is not allowed: an integer from 1 to 100000"),
        (b'{"all":true,"limit":100001}', "limit: 100001 is not allowed: an integer from 1 to 100000"),
        (b'{"all":true,"limit":null}', "limit: Expected `int`, got `null`"),
        (b'{"all":true,"states":[]}', "states: there is no such field here"),
        (b"", "the body is not JSON: Input data was truncated"),
    ],
)
def test_bad_bulk_request_says_so(body: bytes, message: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_bulk(body)

    assert refused.value.message == message
