"""The modules of the dashboard that only reckon, in the browser that runs them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from browser import Desk, sit_down
from playwright.sync_api import BrowserContext
from process import Server
from tiers import slow

from tq.dashboard.files import dashboard

pytestmark = slow

pytest_plugins = ("browser_fixture",)


class Modules:
    """Functions of the modules, called by name."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def call(self, module: str, function: str, *given: Any) -> Any:
        address = f"{self._desk.base}dashboard/{dashboard().version}/{module}.js"
        return self._desk.page.evaluate(
            """async ([address, name, given]) => {
              const found = (await import(address))[name](...given);
              return found instanceof Map ? Object.fromEntries(found) : found;
            }""",
            [address, function, list(given)],
        )


@pytest.fixture(scope="module")
def modules(profile: BrowserContext, shop: Server) -> Iterator[Modules]:
    with sit_down(profile, f"http://127.0.0.1:{shop.port}/") as desk:
        desk.open()
        yield Modules(desk)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ({"every": 90}, "every 1 min 30 s"),
        ({"every": 86400}, "every 1 d"),
        ({"cron": "* * * * *", "tz": "UTC"}, "every minute UTC"),
        ({"cron": "*/15 * * * *", "tz": "UTC"}, "every 15 minutes UTC"),
        ({"cron": "0 * * * *", "tz": "UTC"}, "every hour UTC"),
        ({"cron": "5,35 * * * *", "tz": "UTC"}, "every hour at :05 and :35 UTC"),
        ({"cron": "0 3 * * *", "tz": "Europe/Madrid"}, "at 03:00, Europe/Madrid time"),
        (
            {"cron": "0 3 * * *", "tz": "America/New_York"},
            "at 03:00, America/New York time",
        ),
        ({"cron": "30 7,19 * * MON-FRI", "tz": "UTC"}, "at 07:30 and 19:30 Monday to Friday UTC"),
        ({"cron": "0 0 * * 7", "tz": "UTC"}, "at 00:00 on Sunday UTC"),
        ({"cron": "0 0 * * SUN,WED", "tz": "UTC"}, "at 00:00 on Sunday and Wednesday UTC"),
        ({"cron": "0 6 1,15 * *", "tz": "UTC"}, "at 06:00 on the 1st and 15th of the month UTC"),
        ({"cron": "0 6 22 * 1", "tz": "UTC"}, "at 06:00 on the 22nd of the month and on Monday UTC"),
        ({"cron": "0 6 L * *", "tz": "UTC"}, "at 06:00 on the last day of the month UTC"),
        ({"cron": "0 0 11 3 *", "tz": "UTC"}, "at 00:00 on the 11th of the month in March UTC"),
        (
            {"cron": "0 0 1 JAN,JUL *", "tz": "UTC"},
            "at 00:00 on the 1st of the month in January and July UTC",
        ),
        ({"cron": "*/10 9-17 * * *", "tz": "UTC"}, "every 10 minutes from 09:00 to 17:59 UTC"),
        ({"cron": "0 9-17 * * *", "tz": "UTC"}, "every hour from 09:00 to 17:00 UTC"),
        ({"cron": "@daily", "tz": "UTC"}, "at 00:00 UTC"),
        ({"cron": "1-59/7 2 * * 5#2", "tz": "UTC"}, "at 1-59/7 2 * * 5#2 UTC"),
        ({"cron": "0 0 * * 1-3", "tz": "UTC"}, "at 0 0 * * 1-3 UTC"),
    ],
)
def test_a_schedule_is_told_in_words(modules: Modules, schedule: dict[str, object], words: str) -> None:
    assert modules.call("words", "inWords", schedule) == words


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 ms"),
        (0.4, "0.4 ms"),
        (999, "999 ms"),
        (1500, "1.5 s"),
        (59_900, "59.9 s"),
        (60_000, "1 min"),
        (3_600_000 - 1, "59 min 59 s"),
        (90 * 60_000, "1 h 30 min"),
        (36 * 3_600_000, "1 d 12 h"),
    ],
)
def test_a_duration_is_short(modules: Modules, ms: float, text: str) -> None:
    assert modules.call("text", "duration", ms) == text


def test_json_keeps_every_digit_and_every_letter(modules: Modules) -> None:
    text = (
        '{"a": [1e400, 0.10, {"b\\u0041": "x,}]\\"{"}], "payload":{"n":12345678901234567890},"e":{}, "f":[] }'
    )
    assert modules.call("text", "members", text) == {
        "a": '[1e400, 0.10, {"b\\u0041": "x,}]\\"{"}]',
        "payload": '{"n":12345678901234567890}',
        "e": "{}",
        "f": "[]",
    }
    assert modules.call("text", "pretty", '{"a":[1e400,{"b\\u0041":"x,}]"}],"e":{},"f":[]}') == (
        '{\n  "a": [\n    1e400,\n    {\n      "b\\u0041": "x,}]"\n    }\n  ],\n  "e": {},\n  "f": []\n}'
    )
    assert modules.call("text", "pretty", "null") == "null"


NOW = 1_700_000_000_000


@pytest.mark.parametrize(
    ("text", "filter", "id"),
    [
        ("", {}, None),
        ("state:failed state:retrying", {"state": "failed,retrying"}, None),
        ('queue:mail error:"timed \\"out\\""', {"queue": "mail", "error": 'timed "out"'}, None),
        ("payload.user.id:42", {"where": "payload.user.id:42"}, None),
        ('payload.name:"a b"', {"where": "payload.name:a b"}, None),
        ("created:2h", {"created_after": "2023-11-14T20:13:20.000Z"}, None),
        ("created:>2026-01-31T00:00Z", {"created_after": "2026-01-31T00:00:00.000Z"}, None),
        ("parent:import-7 tag:a", {"parent_id": "import-7", "tag": "a"}, None),
        ("task-1", {}, "task-1"),
        ("id:a:b", {}, "a:b"),
    ],
)
def test_a_search_is_read(modules: Modules, text: str, filter: dict[str, str], id: str | None) -> None:
    assert modules.call("search", "parse", text, NOW) == {"filter": filter, "id": id, "faults": []}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("colour:red", "There is no qualifier colour"),
        ("queue:a queue:b", "queue is given twice"),
        ("created:soon", "created: say"),
        ("a b", "Only one id"),
        ("a queue:b", "An id says all"),
    ],
)
def test_a_fault_in_a_search_is_told(modules: Modules, text: str, fault: str) -> None:
    (told,) = modules.call("search", "parse", text, NOW)["faults"]
    assert told.startswith(fault)


def test_a_word_of_a_shell_is_one_whatever_is_in_it(modules: Modules) -> None:
    assert modules.call("text", "shellWord", 'a\'b $x\n"c"') == "'a'\\''b $x\n\"c\"'"


def test_a_percentile_is_by_the_nearest_rank(modules: Modules) -> None:
    values = list(range(1, 101))
    assert [modules.call("history", "percentile", values, n) for n in (50, 95, 99)] == [50, 95, 99]
    assert modules.call("history", "percentile", [7], 99) == 7
    assert modules.call("history", "percentile", [], 99) is None
