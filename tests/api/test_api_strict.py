"""What JSON is taken: none on which programs disagree, on any route."""

from __future__ import annotations

import json

import pytest
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from raw_http import JSON_TYPE, NDJSON_TYPE, lines, open_api

from tq.api.http import JSON
from tq.api.route import Route
from tq.api.routes import ROUTES
from tq.core import wire
from tq.core.errors import InvalidInput
from tq.core.wire import SHORT_TEXT_MAX, check_json_text, decode_batch
from tq.handlers import TaskQueue

Clock = trio.testing.MockClock

BROKEN = {
    "nothing but space": b"  ",
    "cut off": b'{"a":1',
    "more than one": b"{} {}",
    "a comment": b"{/* */}",
    "a comma too many": b'{"a":1,}',
    "single quotes": b"{'a':1}",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "half a surrogate pair": b'{"a":"\\ud800"}',
    "the other half": b'{"a":"\\udc00x"}',
    "NUL as it is": b'{"a":"\x00"}',
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":Infinity}',
    "minus Infinity": b'{"a":-Infinity}',
}
"""No JSON at all: 400, unless what is read before the fault is refused already, by field."""

STRANGE = {
    "not UTF-8": b'{"a":"\xff"}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "a surrogate in UTF-8": b'{"a":"\xed\xa0\x80"}',
    "NUL": b'{"a":"\\u0000"}',
    "an integer past 64 bits": b'{"a":18446744073709551616}',
    "past 64 bits below": b'{"a":-9223372036854775809}',
    "five thousand digits": b'{"a":' + b"9" * 3_000 + b"}",
    "a number past a float": b'{"a":1e999}',
    "too deep": b'{"a":' + b"[" * 70 + b"]" * 70 + b"}",
    "much too deep": b"[" * 4_000,
    "a key twice": b'{"a":1,"a":1}',
    "a key twice, written in two ways": b'{"a":1,"\\u0061":2}',
    "a key twice, deep inside": b'{"x":[{"y":{"a":1,"b":2,"a":3}}]}',
}
"""Programs disagree on these: 400 wherever JSON is read. None is over the least limit of a body."""

TAKES_JSON = [route for route in ROUTES if JSON in route.bodies]


def path_of(route: Route) -> str:
    return (
        route.path.replace("{id*}", "x").replace("{id}", "x").replace("{name}", "x").replace("{queue}", "x")
    )


async def test_every_route_that_reads_json_refuses_what_programs_disagree_on(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    assert len(TAKES_JSON) >= 4
    async with open_api(queue) as api:
        for route in TAKES_JSON:
            assert "{" not in path_of(route)
            for name, text in (BROKEN | STRANGE).items():
                body = b"[" + text + b"]" if route.path == "/v1/tasks/batch" and text[:1] == b"{" else text
                answer = await api.ask(route.method, path_of(route), body, JSON_TYPE)
                assert answer.status in (400, 422 if name in BROKEN else 400), (route.path, name, answer)
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.json["code"] == "invalid_input"
                assert len(answer.json["detail"]) < 250


async def test_so_does_every_line_of_a_stream(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:
        answer = await api.ask("POST", "/v1/tasks/batch", b"\n".join(STRANGE.values()), NDJSON_TYPE)
        broken = [text for text in BROKEN.values() if not text.isspace()]
        worse = await api.ask("POST", "/v1/tasks/batch", b"\n".join(broken), NDJSON_TYPE)
    assert [each["error"]["status"] for each in lines(answer)] == [400] * len(STRANGE)
    assert {each["error"]["status"] for each in lines(worse)} == {400, 422}
    assert len(lines(worse)) == len(broken)


@pytest.mark.parametrize("text", [text for text in BROKEN.values() if text[:1] == b"{" and text[-1:] == b"}"])
async def test_a_payload_that_is_no_json_is_400(queue: TaskQueue, autojump_clock: Clock, text: bytes) -> None:
    async with open_api(queue) as api:
        for path in ("/v1/tasks", "/submit"):
            answer = await api.ask("POST", path, b'{"type":"t","payload":' + text + b"}", JSON_TYPE)
            assert (answer.status, answer.json["code"]) == (400, "invalid_input")


async def test_every_route_that_changes_something_wants_json_by_its_name(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        for route in TAKES_JSON:
            for media in (
                "text/plain",
                "application/x-www-form-urlencoded",
                "multipart/form-data; boundary=x",
            ):
                answer = await api.ask(route.method, path_of(route), b"{}", {"Content-Type": media})
                assert (answer.status, answer.json["code"]) == (415, "unsupported_media_type"), route.path


# Keys that are there twice


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (b'{"a":1,"a":1}', "a"),
        (b'{"a":1, "b":2, "a" : 3}', "a"),
        (b'{"":1,"":2}', ""),
        (b'[{"a":1},{"b":{"c":1,"c":2}}]', "c"),
        (b'{"a":1,"\\u0061":2}', "a"),
        (b'{"\\"":1,"\\u0022":2}', '"'),
        ('{"é":1,"\\u00e9":2}'.encode(), "é"),
        (b'{"a":"b",":foo":1,":foo":2}', ":foo"),
        (b'{"x":"' + b"y" * SHORT_TEXT_MAX + b'","k":1,"k":2}', "k"),
        (b'{"' + b"k" * 50 + b'":1,"' + b"k" * 50 + b'":2}', "k" * 40),
    ],
)
def test_a_key_that_is_twice_in_one_object_is_named(text: bytes, key: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_json_text(text)
    assert refused.value.message == f"the key {key!r} is twice in one object: give it once"
    assert refused.value.fields == {"key": key}


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":{"a":1},"b":[{"a":1},{"a":1}]}',
        b'{"a":"a","b":"a"}',
        b'{"a":"\\"a\\":1,\\"a\\":2"}',
        b'["a","a",{"a":1}]',
        b'{"a":1,"A":2,"a ":3}',
        b'{"x":["a","a"],"y":"' + b"z" * SHORT_TEXT_MAX + b'"}',
        b'{"a":1,"a":2',  # no JSON at all: that is said of it, not this
    ],
)
def test_what_is_twice_elsewhere_is_no_fault(text: bytes) -> None:
    check_json_text(text)


def repeats_a_key(text: bytes) -> bool:
    """What check_json_text is to find, in the slowest and plainest way."""
    found = []
    json.loads(
        text, object_pairs_hook=lambda pairs: found.append(len({key for key, _ in pairs}) < len(pairs))
    )
    return any(found)


KEYS = st.sampled_from(['"a"', '"b"', '"\\u0061"', '":"', '"a\\":"', '""', '"é"'])
VALUES = st.recursive(
    KEYS | st.sampled_from(["1", "null"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda parts: f"[{','.join(parts)}]")
        | st.lists(st.tuples(KEYS, inner).map(":".join), max_size=3).map(
            lambda parts: f"{{{','.join(parts)}}}"
        )
    ),
    max_leaves=8,
)


@given(VALUES)
def test_keys_are_found_twice_exactly_where_they_are(text: str) -> None:
    try:
        check_json_text(text.encode())
    except InvalidInput:
        assert repeats_a_key(text.encode())
    else:
        assert not repeats_a_key(text.encode())


def test_most_texts_are_seen_at_a_glance_to_have_no_key_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_check_keys", pytest.fail)
    check_json_text(b'{"type":"email","payload":{"to":"ada@example.org","n":[1,1]},"priority":"high"}')


# Batches, whose text is checked part by part


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b"[" * 3_000 + b"]" * 3_000,
        b'[{"type":"\xff"}]',
        b"\xff",
        b'{"type":"t"}',
        b"[{}",
        b"",
    ],
)
def test_a_batch_that_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode_batch(text)


@pytest.mark.parametrize(
    "text", [b'{"type":"t","type":"t"}', b'{"type":"t","payload":"\\u0000"}', b'{"type":"\xff"}']
)
def test_the_part_of_a_batch_that_is_refused_is_named(text: bytes) -> None:
    with pytest.raises(InvalidInput) as refused:
        decode_batch(b'[{"type":"t"},' + text + b"]")
    assert refused.value.fields["index"] == 1
    assert refused.value.message.startswith("task 1 of the batch: ")
