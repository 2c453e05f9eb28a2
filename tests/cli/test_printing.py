"""What commands print, for a person and for a program."""

from __future__ import annotations

import json

import pytest

from tq.cli.printing import At, ago, cell, columns_of, cut, fitted, json_text, print_fields, table_lines

NOON = 1_767_268_800.0
"""2026-01-01T12:00:00Z."""


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""),
        (True, "yes"),
        (0.25, "0.25"),
        ("red\x1b[31m", r"red\x1b[31m"),
        ("a\tb\nc", r"a\tb\nc"),
        ("\u202eevil\x85\x7f", r"\u202eevil\x85\x7f"),
        (["a", 1], "a,1"),
        ({"a": "\x1b"}, '{"a":"\\u001b"}'),
    ],
)
def test_a_cell_is_one_line_without_anything_a_terminal_obeys(value: object, shown: str) -> None:
    assert cell(value) == shown


def test_json_is_the_same_value_without_anything_a_terminal_obeys() -> None:
    value = {"é": "\x1b[31m\x7f\x9b\u202e\U000e0001 ünï\n"}
    text = json_text(value)
    assert text == r'{"é":"\u001b[31m\u007f\u009b\u202e\udb40\udc01 ünï\n"}'
    assert json.loads(text) == value


def test_a_table_is_aligned_and_no_wider_than_the_screen() -> None:
    rows = [("a", None, At("2026-01-01T11:55:00.000Z")), ("long" * 10, 7, At("2026-01-01T14:00:00.000Z"))]
    assert table_lines(("id", "n", "when"), rows, width=80, now=NOON) == [
        "ID                                        N  WHEN",
        "a                                            5m",
        "longlonglonglonglonglonglonglonglonglong  7  in 2h",
    ]
    assert table_lines(("id", "n", "when"), rows, width=20, now=NOON) == [
        "ID          N  WHEN",
        "a              5m",
        "longlongl…  7  in 2h",
    ]


def test_the_widest_column_gives_first_and_keeps_a_few() -> None:
    assert fitted([40, 10, 3], 30) == [17, 10, 3]
    assert fitted([40, 40, 3], 10) == [6, 6, 3]


def test_wide_characters_take_two_columns_and_accents_none() -> None:
    assert columns_of("日本") == 4
    assert columns_of("e\u0301") == 1
    assert cut("日本語", 5) == "日本…"
    assert cut("日本語", 6) == "日本語"
    assert table_lines(("a", "b"), [("日本", 1), ("xx", 2)], width=80, now=NOON) == [
        "A     B",
        "日本  1",
        "xx    2",
    ]


@pytest.mark.parametrize(
    ("at", "shown"),
    [
        ("2026-01-01T12:00:00.400Z", "0s"),
        ("2026-01-01T11:59:59.000Z", "1s"),
        ("2026-01-01T11:00:01.000Z", "59m"),
        ("2026-01-01T11:00:00.000Z", "1h"),
        ("2025-12-30T11:00:00.000Z", "2d"),
        ("2026-01-01T12:00:30.000Z", "in 30s"),
    ],
)
def test_an_instant_is_shown_as_how_long_ago_it_is(at: str, shown: str) -> None:
    assert ago(at, NOON) == shown


def test_the_fields_of_a_thing_are_lines_and_its_records_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    error = {"attempt": 1, "message": "no luck\x1b", "traceback": "File a\n  \x1b[2Jx\nE: y\n"}
    print_fields({"id": "a", "payload": {"k": [1]}, "result": None, "errors": [error]})
    assert capsys.readouterr().out == (
        "id\ta\n"
        'payload\t{"k":[1]}\n'
        "result\t\n"
        "errors\t1\n"
        '  attempt=1 message="no luck\\x1b"\n'
        "    File a\n"
        "      \\x1b[2Jx\n"
        "    E: y\n"
    )
