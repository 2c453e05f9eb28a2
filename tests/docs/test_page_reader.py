"""The reader of pages is itself tested: what a page gets wrong is found."""

from __future__ import annotations

from typing import Any

import pytest
from pages import (
    Answered,
    Asked,
    Block,
    Mismatch,
    NotRunnable,
    check,
    commands,
    compare,
    nap,
    read_shown,
    request,
    steps,
)

PAGE = """# A page

```sh
# a comment
curl http://127.0.0.1:8080/a
sleep 2
curl http://127.0.0.1:8080/b \\
     -d '{"x":
          1}'
```

```json
{"b": 1}
```

```sh
tq serve
```

```sh
curl http://127.0.0.1:8080/c
```

Words between.

```json
{"c": 1}
```
"""


def test_commands_and_their_answers_are_read() -> None:
    first, second, third, fourth = steps(PAGE)
    assert (first.line, first.command, first.answer) == (3, "curl http://127.0.0.1:8080/a\n", None)
    assert (second.command, nap(second.command)) == ("sleep 2\n", 2)
    assert third.answer == Block(12, "json", '{"b": 1}\n')
    assert request(third.command).body == b'{"x":\n          1}'
    assert fourth.answer is None, "words are between"


@pytest.mark.parametrize("text", ["curl 'http://127.0.0.1:8080/", "echo 1 |\n"])
def test_a_command_without_an_end_is_found(text: str) -> None:
    with pytest.raises(NotRunnable):
        list(commands(text))


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        ("curl http://127.0.0.1:8080/x?a=1", Asked("GET", "/x?a=1")),
        ("curl -i -X PUT http://127.0.0.1:8080/x", Asked("PUT", "/x")),
        ("curl -G http://127.0.0.1:8080/x --data-urlencode 'a=b c'", Asked("GET", "/x?a=b+c")),
        (
            "curl http://127.0.0.1:8080/x -H 'A: b' -d 1",
            Asked("POST", "/x", {"a": "b", "content-type": "application/x-www-form-urlencoded"}, b"1"),
        ),
        (
            "printf '%s\\n' a b | curl http://127.0.0.1:8080/x -H 'content-type: t' --data-binary @-",
            Asked("POST", "/x", {"content-type": "t"}, b"a\nb\n"),
        ),
    ],
)
def test_a_curl_is_read_as_its_request(command: str, asked: Asked) -> None:
    assert request(command) == asked


@pytest.mark.parametrize(
    "command",
    [
        "wget http://127.0.0.1:8080/x",
        "curl http://example.org/x",
        "curl --insecure http://127.0.0.1:8080/x",
        "rm -r / | curl http://127.0.0.1:8080/x",
        "for i in 1 2; do curl http://127.0.0.1:8080/x; done",
    ],
)
def test_what_cannot_be_run_is_found(command: str) -> None:
    with pytest.raises(NotRunnable):
        request(command)


def test_an_ellipsis_is_read_wherever_it_may_stand() -> None:
    assert read_shown('{"a": …, "b": [1, …], "c": {…}, "d": "x…", …}\n{"e": …}') == [
        {"a": "…", "b": [1, "…"], "c": {}, "d": "x…"},
        {"e": "…"},
    ]


@pytest.mark.parametrize(
    ("shown", "given"),
    [
        ({}, {"a": 1}),
        ({"a": "…"}, {"a": None}),
        ({"a": "x…z"}, {"a": "xyz"}),
        ([1, "…"], [1, 2, 3]),
        ([1, "…"], [1]),
        (5, 5.0),
    ],
)
def test_what_is_shown_is_what_is_answered(shown: Any, given: Any) -> None:
    compare(shown, given, "it")


@pytest.mark.parametrize(
    ("shown", "given", "where"),
    [
        ({"a": 1}, {}, "it has no a"),
        ({"a": 1}, {"a": 2}, "it.a"),
        ({"a": True}, {"a": 1}, "it.a"),
        ({"a": "x…z"}, {"a": "xy"}, "it.a"),
        ([1], [1, 2], "it"),
        ([1, 2], [1, 3], r"it\[1\]"),
        ([1, 2, "…"], [1], "it"),
        (None, {}, "it"),
    ],
)
def test_a_wrong_answer_is_found(shown: Any, given: Any, where: str) -> None:
    with pytest.raises(Mismatch, match=where):
        compare(shown, given, "it")


def shown(text: str, language: str = "json") -> Block:
    return Block(1, language, text)


def test_an_answer_with_its_head_is_checked() -> None:
    answered = Answered(201, {"location": "/v1/tasks/a"}, b'{"id": "a"}')
    check(shown('HTTP/1.1 201\nLocation: /v1/tasks/…\n\n{"id": "a"}', "http"), answered)
    for wrong in ("HTTP/1.1 200\n\n{}", "HTTP/1.1 201\nLocation: /x\n\n{}", "HTTP/1.1 201\nX: y\n\n{}"):
        with pytest.raises(Mismatch):
            check(shown(wrong, "http"), answered)


def test_lines_of_json_are_compared_one_by_one() -> None:
    answered = Answered(200, {"content-type": "application/x-ndjson"}, b'{"id": "a"}\n{"id": "b"}\n')
    check(shown('{"id": "a"}\n{"id": "b"}\n'), answered)
    for wrong in ('{"id": "a"}\n', '{"id": "a"}\n{"id": "c"}\n'):
        with pytest.raises(Mismatch):
            check(shown(wrong), answered)


def test_an_error_that_the_page_does_not_show_is_found() -> None:
    problem = Answered(409, {}, b'{"status": 409, "code": "conflict"}')
    check(shown('{"status": 409, "code": "conflict"}'), problem)
    for wrong in (None, shown("{}")):
        with pytest.raises(Mismatch, match="409"):
            check(wrong, problem)
