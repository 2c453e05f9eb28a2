"""Records to JSON and back: what is taken, what is refused and by which name, how things look outside."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tq.core.errors import InvalidInput, NotFound, PayloadTooLarge
from tq.core.fields import checked_id, parse_instant
from tq.core.retry import DEFAULT_RETRY, RetryKind, RetryPolicy
from tq.core.task import (
    Json,
    NewTask,
    Options,
    TaskId,
    same_json,
)
from tq.core.views import format_instant
from tq.core.wire import (
    SubmitRequest,
    TypeDefaults,
    at_index,
    check_json_text,
    decode_batch,
    decode_submit,
    new_task,
)

NOW = 1_700_000_000_000
DEFAULTS = TypeDefaults()


def asked(body: str | bytes, defaults: TypeDefaults = DEFAULTS) -> NewTask:
    """The task that the submit *body* asks for."""
    text = body.encode() if isinstance(body, str) else body
    return new_task(decode_submit(text), defaults, new_id=TaskId("made"), now=NOW)


def with_payload(payload: str) -> str:
    return f'{{"type":"t","payload":{payload}}}'


# Submitting


def test_least_submit_takes_every_default() -> None:
    assert asked('{"type":"email"}') == NewTask(
        id=TaskId("made"),
        type="email",
        payload=Json("null"),
        queue="default",
        priority=0,
        run_at=NOW,
        timeout_ms=5_000,
        max_attempts=20,
        retry=DEFAULT_RETRY,
        result_ttl_ms=None,
    )


FULL = """{"type": "email", "payload": { "to" : "ñ" }, "id": "a.b_c:d~e-1", "queue": "mail",
"priority": -100, "delay": 1.5, "timeout": 0.25, "max_attempts": 1000, "result_ttl": 0,
"retry": {"kind": "polynomial", "base": 0.5, "cap": 60, "jitter": 0}}"""


def test_full_submit_is_taken_as_given() -> None:
    assert asked(FULL) == NewTask(
        id=TaskId("a.b_c:d~e-1"),
        type="email",
        payload=Json('{ "to" : "ñ" }'),
        queue="mail",
        priority=-100,
        run_at=NOW + 1_500,
        timeout_ms=250,
        max_attempts=1_000,
        retry=RetryPolicy(kind=RetryKind.POLYNOMIAL, base_ms=500, cap_ms=60_000, jitter=0.0),
        result_ttl_ms=0,
    )


def test_defaults_of_the_type_fill_what_is_not_said() -> None:
    fixed = RetryPolicy(kind=RetryKind.FIXED, base_ms=7)
    defaults = TypeDefaults(
        queue="mail", priority=9, timeout_ms=3, max_attempts=2, retry=fixed, result_ttl_ms=4
    )

    new = asked('{"type":"t"}', defaults)

    assert (new.queue, new.priority, new.timeout_ms, new.max_attempts) == ("mail", 9, 3, 2)
    assert (new.retry, new.result_ttl_ms) == (fixed, 4)


def test_retry_fills_its_own_defaults_not_those_of_the_type() -> None:
    defaults = TypeDefaults(retry=RetryPolicy(kind=RetryKind.FIXED, base_ms=7, cap_ms=7, jitter=0.0))

    assert asked('{"type":"t","retry":{"base":2}}', defaults).retry == RetryPolicy(base_ms=2_000)


def test_empty_id_is_no_id() -> None:
    assert asked('{"type":"t","id":""}').id == "made"


@pytest.mark.parametrize(("name", "priority"), [("low", -10), ("normal", 0), ("high", 10), ("critical", 50)])
def test_priority_has_names(name: str, priority: int) -> None:
    assert asked(f'{{"type":"t","priority":"{name}"}}').priority == priority


def test_run_at_is_an_instant() -> None:
    assert asked('{"type":"t","run_at":"2026-01-31T12:00:00Z"}').run_at == 1_769_860_800_000


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("{}", "type"),
        ('{"type":1}', "type"),
        ('{"type":null}', "type"),
        ('{"type":""}', "type"),
        ('{"type":"a b"}', "type"),
        (f'{{"type":"{"t" * 65}"}}', "type"),
        ('{"type":"t","bogus":1}', "bogus"),
        ('{"type":"t","id":"a/b"}', "id"),
        ('{"type":"t","id":"a\\n"}', "id"),
        (f'{{"type":"t","id":"{"i" * 129}"}}', "id"),
        ('{"type":"t","id":7}', "id"),
        ('{"type":"t","queue":""}', "queue"),
        ('{"type":"t","queue":"é"}', "queue"),
        (f'{{"type":"t","queue":"{"q" * 65}"}}', "queue"),
        ('{"type":"t","priority":101}', "priority"),
        ('{"type":"t","priority":-101}', "priority"),
        ('{"type":"t","priority":1.5}', "priority"),
        ('{"type":"t","priority":true}', "priority"),
        ('{"type":"t","priority":"urgent"}', "priority"),
        ('{"type":"t","delay":-0.001}', "delay"),
        ('{"type":"t","delay":158112001}', "delay"),
        ('{"type":"t","delay":"5"}', "delay"),
        ('{"type":"t","delay":1,"run_at":"2026-01-31T12:00:00Z"}', "delay"),
        ('{"type":"t","run_at":5}', "run_at"),
        ('{"type":"t","run_at":"tomorrow"}', "run_at"),
        ('{"type":"t","timeout":0}', "timeout"),
        ('{"type":"t","timeout":604801}', "timeout"),
        ('{"type":"t","max_attempts":0}', "max_attempts"),
        ('{"type":"t","max_attempts":1001}', "max_attempts"),
        ('{"type":"t","max_attempts":1.5}', "max_attempts"),
        ('{"type":"t","result_ttl":-1}', "result_ttl"),
        ('{"type":"t","result_ttl":31622401}', "result_ttl"),
        ('{"type":"t","retry":5}', "retry"),
        ('{"type":"t","retry":{"kind":"linear"}}', "retry.kind"),
        ('{"type":"t","retry":{"base":-1}}', "retry.base"),
        ('{"type":"t","retry":{"base":2592001}}', "retry.base"),
        ('{"type":"t","retry":{"cap":2592001}}', "retry.cap"),
        ('{"type":"t","retry":{"jitter":1.01}}', "retry.jitter"),
        ('{"type":"t","retry":{"jitter":-0.01}}', "retry.jitter"),
        ('{"type":"t","retry":{"bogus":1}}', "retry.bogus"),
        ('{"type":"t","key":""}', "key"),
        ('{"type":"t","key":"a\\nb"}', "key"),
        (f'{{"type":"t","key":"{"k" * 129}"}}', "key"),
        ('{"type":"t","key":7}', "key"),
        ('{"type":"t","tags":"a"}', "tags"),
        ('{"type":"t","tags":["a b"]}', "tags"),
        ('{"type":"t","tags":[""]}', "tags"),
        ('{"type":"t","tags":[7]}', "tags[0]"),
        (f'{{"type":"t","tags":[{",".join(f"{n}".join(chr(34) * 2) for n in range(17))}]}}', "tags"),
        ('{"type":"t","unique":"k"}', "unique"),
        ('{"type":"t","unique":{}}', "unique.key"),
        ('{"type":"t","unique":{"key":""}}', "unique.key"),
        (f'{{"type":"t","unique":{{"key":"{"k" * 129}"}}}}', "unique.key"),
        ('{"type":"t","unique":{"key":"k","while":"always"}}', "unique.while"),
        ('{"type":"t","unique":{"key":"k","on_conflict":"fight"}}', "unique.on_conflict"),
        ('{"type":"t","unique":{"key":"k","bogus":1}}', "unique.bogus"),
        ('{"type":"t","parent_id":"a/b"}', "parent_id"),
        ('{"type":"t","parent_id":""}', "parent_id"),
        ('{"type":"t","parent_id":7}', "parent_id"),
        ('{"type":"t","depends_on":"a"}', "depends_on"),
        ('{"type":"t","depends_on":["a/b"]}', "depends_on"),
        ('{"type":"t","depends_on":[7]}', "depends_on[0]"),
        (
            f'{{"type":"t","depends_on":[{",".join(f"{n}".join(chr(34) * 2) for n in range(101))}]}}',
            "depends_on",
        ),
        ('{"type":"t","on_dependency_failure":"panic"}', "on_dependency_failure"),
        ('{"type":"t","deadline":"soon"}', "deadline"),
        ('{"type":"t","deadline":5}', "deadline"),
        ('{"type":"t","expires_at":"2026-01-31"}', "expires_at"),
        ('{"type":"t","expires_at":5}', "expires_at"),
        (f'{{"type":"t","{"b" * 1_000_000}":1}}', "b" * 80),
        (f'{{"type":"t","on_dependency_failure":"{"b" * 1_000_000}"}}', "on_dependency_failure"),
    ],
    ids=lambda text: text[:60],
)
def test_bad_field_is_named(body: str, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        asked(body)

    assert type(refused.value) is InvalidInput
    assert refused.value.fields == {"field": field}
    assert refused.value.message.startswith(f"{field}: ")
    assert len(refused.value.message) < 250


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is not JSON: Input data was truncated"),
        (b'{"type":"t"', "the body is not JSON: Input data was truncated"),
        (b"[]", "Expected `object`, got `array`"),
        (b"null", "Expected `object`, got `null`"),
        (
            b'{"type":"\xff"}',
            "the body is not JSON: 'utf-8' codec can't decode byte 0xff in position 9: invalid start byte",
        ),
    ],
)
def test_what_is_no_submit_at_all_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        decode_submit(body)

    assert (refused.value.message, refused.value.fields) == (message, {})


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ('"retry":{"kind":"linear"}', "'linear' is not allowed: one of fixed, exponential, polynomial"),
        ('"unique":{"key":"k","while":"always"}', "'always' is not allowed: one of queued, active"),
        (
            '"unique":{"key":"k","on_conflict":"fight"}',
            "'fight' is not allowed: one of existing, reject, replace",
        ),
        ('"on_dependency_failure":"panic"', "'panic' is not allowed: one of cancel, run"),
        ('"priority":"urgent"', "'urgent' is not allowed: low, normal, high, critical, or an integer"),
        ('"priority":101', "101 is not allowed: an integer from -100 to 100"),
        ('"priority":[]', "Expected `int | str | null`, got `array`"),
        ('"timeout":0', "0.0 is not allowed: seconds from 0.001 to 604800"),
        ('"delay":-1', "-1.0 is not allowed: seconds from 0 to 158112000"),
        ('"delay":1,"run_at":"2026-01-31T12:00:00Z"', "give delay or run_at, not both"),
        ('"max_attempts":0', "0 is not allowed: an integer from 1 to 1000"),
        (
            '"deadline":"soon"',
            "'soon' is not allowed: an instant as in 2026-01-31T12:00:00Z, with its offset",
        ),
        ('"key":""', "'' is not allowed: 1 to 128 printable characters"),
        ('"tags":["a b"]', "'a b' is not allowed: 1 to 64 of the characters A-Z a-z 0-9 _ . : ~ -"),
        (
            '"parent_id":"a/b"',
            "'a/b' is not allowed: 1 to 128 of the characters A-Z a-z 0-9 _ . : ~ -",
        ),
        ('"zz":1', "there is no such field here"),
    ],
)
def test_fault_says_what_is_allowed(field: str, message: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        asked(f'{{"type":"t",{field}}}')

    assert refused.value.message == f"{refused.value.fields['field']}: {message}"


def test_tags_and_dependencies_count_once_each() -> None:
    task = asked('{"type":"t","tags":["a","b","a"],"depends_on":["x","y","x"]}')

    assert (task.options.tags, task.options.depends_on) == (("a", "b"), ("x", "y"))


# Payloads


@pytest.mark.parametrize(
    "payload",
    [
        '"\\\\u0000"',
        "18446744073709551615",
        "-9223372036854775808",
        "12345678901234567890123.5",
        "1e308",
        '"1e999 and 99999999999999999999"',
        "[" * 63 + "]" * 63,
        '"' + "[{" * 100 + '"',
        '"' + "x" * (1_048_576 - 2) + '"',
    ],
    ids=lambda payload: payload[:20],
)
def test_payload_is_kept_to_the_character(payload: str) -> None:
    assert asked(with_payload(payload)).payload == payload


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ('"\\u0000"', "the body has a NUL character (\\u0000): leave it out"),
        ('{"a\\\\\\u0000":1}', "the body has a NUL character (\\u0000): leave it out"),
        (
            "18446744073709551616",
            "the integer 18446744073709551616 is past 64 bits: send it as a string",
        ),
        (
            "-9223372036854775809",
            "the integer -9223372036854775809 is past 64 bits: send it as a string",
        ),
        ("[1e400]", "the number 1e400 is past 64-bit floats: send it as a string"),
        ("-1E+999", "the number -1E+999 is past 64-bit floats: send it as a string"),
        ("[" * 65 + "]" * 65, "a payload is nested deeper than 64"),
        ("[" * 100_000, "a payload is nested deeper than 64"),
    ],
    ids=lambda text: text[:20],
)
def test_payload_on_which_programs_disagree_is_refused(payload: str, message: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        asked(with_payload(payload))

    assert refused.value.message == message


def test_payload_over_a_mebibyte_is_refused() -> None:
    with pytest.raises(PayloadTooLarge) as refused:
        asked(with_payload('"' + "x" * (1_048_576 - 1) + '"'))

    assert refused.value.message == "payload: at most 1048576 bytes, this one has 1048577"
    assert refused.value.fields == {"field": "payload"}


SCRAPS = [*'10-.eE{}[],:"\\ é\u2028', "+400", "\\ud800", "\\n", '"k":', "null", "true", "9" * 19]
JSON_SCRAPS = st.lists(st.sampled_from(SCRAPS), max_size=8).map("".join)


@given(payload=st.one_of(JSON_SCRAPS, JSON_SCRAPS.map('"{}"'.format), JSON_SCRAPS.map("[{}]".format)))
def test_payload_that_is_taken_can_always_be_read_and_compared(payload: str) -> None:
    try:
        kept = asked(with_payload(payload)).payload
    except InvalidInput:
        return
    msgspec.json.decode(kept)
    assert same_json(kept, Json(f" {kept}"))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=10,
    )
)
def test_any_json_goes_in_and_comes_out(value: object) -> None:
    text = msgspec.json.encode(value)
    if b"\\u0000" in text:
        return
    kept = asked(with_payload(text.decode())).payload

    assert kept == text.decode()
    assert same_json(kept, Json(msgspec.json.format(text).decode()))


# Batches


def test_batch_is_read_in_order() -> None:
    requests = decode_batch(b'[{"type":"a"}, {"type":"b","id":"x"}]')

    assert [(request.type, request.id) for request in requests] == [("a", None), ("b", "x")]
    assert decode_batch(b"[]") == []


def test_batch_names_its_first_bad_one() -> None:
    with pytest.raises(InvalidInput) as refused:
        decode_batch(b'[{"type":"a"},{"type":"b","bogus":1},{}]')

    assert refused.value.message == "task 1 of the batch: bogus: there is no such field here"
    assert refused.value.fields == {"field": "bogus", "index": 1}


def test_batch_has_a_limit() -> None:
    one = b'{"type":"a"}'
    assert len(decode_batch(b"[" + b",".join([one] * 1_000) + b"]")) == 1_000

    with pytest.raises(PayloadTooLarge, match=r"at most 1000 tasks, this one 1001: split it$"):
        decode_batch(b"[" + b",".join([one] * 1_001) + b"]")


def test_fault_of_one_becomes_the_fault_of_its_batch() -> None:
    assert at_index(NotFound("no", task_id="t"), 3) == NotFound(
        "task 3 of the batch: no", task_id="t", index=3
    )


def test_check_of_text_looks_beyond_the_first_fault_like_thing() -> None:
    check_json_text(b'{"a": "e1e999", "b": "\\\\u0000", "c": 1e-999}')


# Names and instants


@pytest.mark.parametrize("text", ["a", "A-Z.a_z:0~9", "x" * 128])
def test_id_is_taken(text: str) -> None:
    assert checked_id(text) == text


@pytest.mark.parametrize("text", ["", "x" * 129, "a b", "a\n", "é", "a/b", "a%20", "a\0"])
def test_other_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^id: "):
        checked_id(text)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-01-31T12:00:00Z", 1_769_860_800_000),
        ("2026-01-31T12:00:00.5Z", 1_769_860_800_500),
        ("2026-01-31T12:00:00.123456789Z", 1_769_860_800_123),
        ("2026-01-31T13:00:00+01:00", 1_769_860_800_000),
        ("2026-01-31 06:30:00-05:30", 1_769_860_800_000),
        ("2026-01-31t12:00:00z", 1_769_860_800_000),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
    ],
)
def test_instant_is_read(text: str, at: int) -> None:
    assert parse_instant("run_at", text) == at


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-01-31",
        "2026-01-31T12:00:00",
        "2026-01-31T12:00Z",
        "20260131T120000Z",
        "2026-W05-6T12:00:00Z",
        "2026-01-31T12:00:00,5Z",
        "2026-01-31T12:00:60Z",
        "2026-01-31T24:00:00Z",
        "2026-02-30T12:00:00Z",
        "2025-02-29T12:00:00Z",
        "0000-01-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-00:01",
        "9999-12-31T23:59:59.9996Z",
        "２026-01-31T12:00:00Z",
        " 2026-01-31T12:00:00Z",
        "1769860800",
    ],
)
def test_other_instant_is_refused_by_field(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_instant("run_at", text)

    assert refused.value.fields == {"field": "run_at"}
    assert refused.value.message.endswith(": an instant as in 2026-01-31T12:00:00Z, with its offset")


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_769_860_800_007, "2026-01-31T12:00:00.007Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_instant_is_written_to_the_millisecond(at: int, text: str) -> None:
    assert format_instant(at) == text


@given(st.integers(0, 253_402_300_799_999))
def test_written_instant_reads_as_itself(at: int) -> None:
    assert parse_instant("run_at", format_instant(at)) == at


def test_submit_has_a_default_for_every_field_it_leaves_out() -> None:
    # A field without a default in TypeDefaults would mean two things.
    fills = {"timeout": "timeout_ms", "result_ttl": "result_ttl_ms"}
    of_the_task = {"type", "payload", "id", "delay", "run_at", "key"}
    optional = {
        "tags": "tags",
        "unique": "unique",
        "parent_id": "parent_id",
        "depends_on": "depends_on",
        "on_dependency_failure": "on_dependency_failure",
        "deadline": "deadline_at",
        "expires_at": "expires_at",
        "traceparent": "traceparent",
    }
    fields = set(SubmitRequest.__struct_fields__) - of_the_task - set(optional)
    assert {fills.get(field, field) for field in fields} | {"options"} == set(TypeDefaults.__struct_fields__)
    assert set(optional.values()) | {"schedule"} == set(Options.__struct_fields__)
