"""What can be sent, and what is refused before anything is."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from tq.core.errors import InvalidInput
from tq.core.sendable import header_text, json_bytes, path_text, utf8_text


def test_a_header_is_stripped_of_what_a_file_ends_with() -> None:
    assert header_text("tq_secret\r\n", "key") == "tq_secret"
    assert header_text(" \n", "key") == ""


@pytest.mark.parametrize("text", ["sec\nret", "sec ret", "sécret", "sec\x7fret", "k\u00e9", "sec\ud800"])
def test_a_header_that_http_cannot_hold_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^key: it has spaces or characters") as caught:
        header_text(text, "key")
    assert "sec" not in caught.value.message


def test_a_part_of_a_path_is_something_and_utf8() -> None:
    assert path_text("é", "id") == "é"
    with pytest.raises(InvalidInput, match=r"^id: it is empty$"):
        path_text("", "id")
    with pytest.raises(InvalidInput, match=r"^id: 'a\\udcff' is not UTF-8$"):
        path_text("a\udcff", "id")
    with pytest.raises(InvalidInput):
        utf8_text("\ud800", "filter")


@pytest.mark.parametrize(
    "value",
    [object(), "\ud800", {"a": "\udcff"}, {(1, 2): 3}, {"a": [None, float("nan")]}, -float("inf")],
)
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput, match=r"^payload: "):
        json_bytes(value, "payload")


def test_a_value_that_holds_itself_is_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(InvalidInput):
        json_bytes(endless, "payload")


def test_what_json_can_hold_is_written() -> None:
    assert json_bytes({1: (None, 1.5)}, "payload") == b'{"1":[null,1.5]}'
    assert json_bytes({"at": datetime(2026, 11, 24, tzinfo=UTC), "no": None}, "x") == (
        b'{"at":"2026-11-24T00:00:00Z","no":null}'
    )
    assert json_bytes({"payload": msgspec.Raw(b"null")}, "x") == b'{"payload":null}'
