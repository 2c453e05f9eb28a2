"""What clients say that they take and have: the tables of RFC 9110, written out."""

from __future__ import annotations

import gzip

import pytest

from tq.api.http import Response, tag_of
from tq.api.negotiate import accepts, has_tag, negotiated, takes_gzip
from tq.clock import RunSync

JSON = "application/json"


@pytest.mark.parametrize(
    ("accept", "is_accepted"),
    [
        ("application/json", True),
        ("*/*", True),
        ("application/*", True),
        ("APPLICATION/JSON; charset=utf-8", True),
        ("text/html, application/xml;q=0.9, */*;q=0.8", True),
        ("text/html", False),
        ("text/*", False),
        ("application/problem+json", False),
        ("application/json;q=0", False),
        ("application/json;q=0.000, */*", False),
        ("application/*;q=0, */*", False),
        ("application/json, application/*;q=0", True),
        ("*/*;q=0", False),
        ("application/json;q=0.001", True),
        ("application/json; Q = 0", False),
        # What makes no sense says nothing.
        ("", True),
        ("json", True),
        ("application/json;q=7", True),
        (", ,", True),
    ],
)
def test_the_narrowest_range_of_accept_says_whether_json_is_taken(accept: str, is_accepted: bool) -> None:
    assert accepts(accept, JSON) is is_accepted


def test_the_parameters_of_the_answer_do_not_count() -> None:
    assert accepts("text/html", "text/html; charset=utf-8")


@pytest.mark.parametrize(
    ("accept_encoding", "is_taken"),
    [
        ("gzip", True),
        ("gzip, deflate, br, zstd", True),
        ("x-gzip", True),
        ("GZIP;q=0.5", True),
        ("*", True),
        ("", False),
        ("identity", False),
        ("br", False),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("*;q=0", False),
    ],
)
def test_gzip_is_taken_if_it_is_asked_for(accept_encoding: str, is_taken: bool) -> None:
    assert takes_gzip(accept_encoding) is is_taken


@pytest.mark.parametrize(
    ("if_none_match", "is_there"),
    [
        ('"a1"', True),
        ('W/"a1"', True),
        ('"a1-gzip"', True),
        ('"b2", "a1"', True),
        ("*", True),
        ('"a"', False),
        ('"a12"', False),
        ("a1", False),
        ("", False),
    ],
)
def test_a_tag_is_found_among_those_that_the_client_has(if_none_match: str, is_there: bool) -> None:
    assert has_tag(if_none_match, "a1") is is_there


def test_a_tag_stands_for_the_bytes() -> None:
    assert tag_of(b"a") == tag_of(b"a") != tag_of(b"b")
    assert len(tag_of(b"")) == 16


def noting(sizes: list[str]) -> RunSync:
    async def run_sync(function):  # type: ignore[no-untyped-def]
        sizes.append("in a thread")
        return function()

    return run_sync


@pytest.mark.parametrize(
    ("size", "is_compressed", "where"),
    [
        (1_023, False, []),
        (1_024, True, []),
        (65_536, True, []),
        (65_537, True, ["in a thread"]),
        (8_388_608, True, ["in a thread"]),
        (8_388_609, False, []),
    ],
)
async def test_bodies_from_1_kib_to_8_mib_are_compressed_and_large_ones_in_a_thread(
    size: int, is_compressed: bool, where: list[str]
) -> None:
    told: list[str] = []
    body = b"x" * size
    answer = await negotiated(Response(200, body), {"accept-encoding": "gzip"}, noting(told))
    assert isinstance(answer.body, bytes)
    assert told == where
    if is_compressed:
        assert gzip.decompress(answer.body) == body
        assert answer.headers == (("vary", "accept-encoding"), ("content-encoding", "gzip"))
    else:
        assert (answer.body, answer.headers) == (body, ())


async def test_equal_bodies_are_compressed_to_equal_bytes() -> None:
    asked = {"accept-encoding": "gzip"}
    first = await negotiated(Response(200, b"x" * 2000), asked, noting([]))
    assert isinstance(first.body, bytes)
    assert first.body[4:8] == bytes(4), "no time in it"
    assert (await negotiated(Response(200, b"x" * 2000), asked, noting([]))).body == first.body


@pytest.mark.parametrize("status", [201, 204, 404])
async def test_other_answers_than_200_stay_as_they_are(status: int) -> None:
    answer = Response(status, b"x" * 2000, tag="t")
    assert await negotiated(answer, {"accept-encoding": "gzip", "if-none-match": "*"}, noting([])) is answer
