"""When schedules fire, written out: fields, changes of the clock, whole years, missed ticks, refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime

import msgspec
import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st
from tiers import slow

from tq.core import schedule
from tq.core.errors import InvalidInput
from tq.core.schedule import (
    LAST_AT,
    SKIPPED_MAX,
    Cron,
    Due,
    Every,
    Timing,
    count_ticks,
    due,
    last_tick,
    next_tick,
    next_ticks,
    read_timing,
)

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def shown(ticks: list[int]) -> list[str]:
    """UTC, to the minute, or to the second where one is not on the minute."""
    texts = [datetime.fromtimestamp(tick / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S") for tick in ticks]
    return [text.removesuffix(":00") for text in texts]


NOW = at("2026-03-20T12:00")

# Plain ticks


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("* * * * *", ["2026-03-20T12:01", "2026-03-20T12:02", "2026-03-20T12:03"]),
        ("*/20 * * * *", ["2026-03-20T12:20", "2026-03-20T12:40", "2026-03-20T13:00"]),
        ("@hourly", ["2026-03-20T13:00", "2026-03-20T14:00", "2026-03-20T15:00"]),
        ("0 3 * * *", ["2026-03-21T03:00", "2026-03-22T03:00", "2026-03-23T03:00"]),
        ("@daily", ["2026-03-21T00:00", "2026-03-22T00:00", "2026-03-23T00:00"]),
        ("@midnight", ["2026-03-21T00:00", "2026-03-22T00:00", "2026-03-23T00:00"]),
        ("@weekly", ["2026-03-22T00:00", "2026-03-29T00:00", "2026-04-05T00:00"]),
        ("@monthly", ["2026-04-01T00:00", "2026-05-01T00:00", "2026-06-01T00:00"]),
        ("@yearly", ["2027-01-01T00:00", "2028-01-01T00:00", "2029-01-01T00:00"]),
        ("@annually", ["2027-01-01T00:00", "2028-01-01T00:00", "2029-01-01T00:00"]),
        ("30 9 * * mon-fri", ["2026-03-23T09:30", "2026-03-24T09:30", "2026-03-25T09:30"]),
        ("0 0 * * 7", ["2026-03-22T00:00", "2026-03-29T00:00", "2026-04-05T00:00"]),
        ("0 12 L * *", ["2026-03-31T12:00", "2026-04-30T12:00", "2026-05-31T12:00"]),
        ("0 12 LW * *", ["2026-03-31T12:00", "2026-04-30T12:00", "2026-05-29T12:00"]),
        ("0 12 * * 5L", ["2026-03-27T12:00", "2026-04-24T12:00", "2026-05-29T12:00"]),
        ("0 12 * * MON#1", ["2026-04-06T12:00", "2026-05-04T12:00", "2026-06-01T12:00"]),
        ("0 0 29 2 *", ["2028-02-29T00:00", "2032-02-29T00:00", "2036-02-29T00:00"]),
        # Either day will do, unless one of the fields starts with a star.
        ("0 0 24 * FRI", ["2026-03-24T00:00", "2026-03-27T00:00", "2026-04-03T00:00"]),
        ("0 0 13 * */5", ["2026-09-13T00:00", "2026-11-13T00:00", "2026-12-13T00:00"]),
    ],
)
def test_expression_fires_when_it_says(expression: str, expected: list[str]) -> None:
    timing = read_timing(cron=expression, tz=None, every=None, now=NOW)

    assert shown(next_ticks(timing, NOW, 3)) == expected


def test_next_tick_is_strictly_after_and_last_tick_may_be_at_the_end() -> None:
    daily, noon = Cron("0 12 * * *"), NOW

    assert next_tick(daily, noon - 1) == noon
    assert next_tick(daily, noon) == noon + DAY_MS
    assert last_tick(daily, noon - 1, noon) == noon
    assert last_tick(daily, noon, noon + DAY_MS - 1) is None
    assert last_tick(daily, noon, noon) is None
    assert last_tick(daily, noon, noon - DAY_MS) is None
    assert last_tick(daily, noon - 1, noon + 999) == noon
    assert last_tick(daily, noon - 10 * DAY_MS, noon - 1) == noon - DAY_MS


def test_interval_fires_one_interval_after_its_anchor() -> None:
    timing = Every(every_ms=1_500, anchor_at=10_000)

    assert next_ticks(timing, 10_000, 3) == [11_500, 13_000, 14_500]
    assert next_tick(timing, -5) == 11_500
    assert next_tick(timing, 11_499) == 11_500
    assert next_tick(timing, 11_500) == 13_000
    assert last_tick(timing, 0, 11_499) is None
    assert last_tick(timing, 0, 11_500) == 11_500
    assert last_tick(timing, 11_500, 12_999) is None
    assert last_tick(timing, 0, 14_499) == 13_000
    assert count_ticks(timing, 10_000, 25_000) == 10


def test_no_tick_is_past_the_end_of_the_calendar() -> None:
    for zone in ("UTC", "Pacific/Kiritimati", "Pacific/Niue"):
        timing = Cron("* * * * *", zone)
        assert next_ticks(timing, LAST_AT - 60_001, 5) == [LAST_AT - 60_000, LAST_AT]
        assert last_tick(timing, 0, LAST_AT + 10**15) == LAST_AT
    assert next_tick(Cron("0 0 29 2 *"), at("9996-03-01")) is None
    assert next_tick(Every(60_000, 0), LAST_AT - 1) == LAST_AT
    assert next_tick(Every(60_000, 0), LAST_AT) is None
    assert last_tick(Every(60_000, 0), 0, 10**17) == LAST_AT


# Changes of the clock


@pytest.mark.parametrize(
    ("zone", "expression", "after", "expected"),
    [
        # 02:00 to 03:00 does not exist: the first moment after the gap is 01:00 UTC.
        (
            "Europe/Madrid",
            "30 2 * * *",
            "2026-03-28",
            ["2026-03-28T01:30", "2026-03-29T01:00", "2026-03-30T00:30"],
        ),
        ("Europe/Madrid", "15 2 * * *", "2026-03-29", ["2026-03-29T01:00", "2026-03-30T00:15"]),
        ("Europe/Madrid", "30 2 * * SUN", "2026-03-29", ["2026-03-29T01:00", "2026-04-05T00:30"]),
        ("Europe/Madrid", "0 3 * * *", "2026-03-29", ["2026-03-29T01:00", "2026-03-30T01:00"]),
        ("Europe/Madrid", "0 2,3 * * *", "2026-03-29", ["2026-03-29T01:00", "2026-03-30T00:00"]),
        ("Europe/Madrid", "*/20 2 * * *", "2026-03-29", ["2026-03-29T01:00", "2026-03-30T00:00"]),
        ("Europe/Madrid", "0 */2 * * *", "2026-03-28T23:00", ["2026-03-29T01:00", "2026-03-29T02:00"]),
        ("Europe/Madrid", "30 * * * *", "2026-03-29", ["2026-03-29T00:30", "2026-03-29T01:30"]),
        (
            "Europe/Madrid",
            "*/30 * * * *",
            "2026-03-29T00:00",
            ["2026-03-29T00:30", "2026-03-29T01:00", "2026-03-29T01:30"],
        ),
        # 02:00 to 03:00 happens twice, from 00:00 and from 01:00 UTC.
        (
            "Europe/Madrid",
            "30 2 * * *",
            "2026-10-24",
            ["2026-10-24T00:30", "2026-10-25T00:30", "2026-10-26T01:30"],
        ),
        (
            "Europe/Madrid",
            "*/30 2-3 * * *",
            "2026-10-24T23:00",
            ["2026-10-25T00:00", "2026-10-25T00:30", "2026-10-25T02:00", "2026-10-25T02:30"],
        ),
        (
            "Europe/Madrid",
            "*/30 * * * *",
            "2026-10-24T23:30",
            [
                "2026-10-25T00:00",
                "2026-10-25T00:30",
                "2026-10-25T01:00",
                "2026-10-25T01:30",
                "2026-10-25T02:00",
            ],
        ),
        (
            "Europe/Madrid",
            "30 0-23 * * *",
            "2026-10-25",
            ["2026-10-25T00:30", "2026-10-25T01:30", "2026-10-25T02:30"],
        ),
        # In the second pass.
        ("Europe/Madrid", "30 2 * * *", "2026-10-25T01:15", ["2026-10-26T01:30"]),
        ("Europe/Madrid", "30 * * * *", "2026-10-25T01:15", ["2026-10-25T01:30"]),
        # By half an hour.
        (
            "Australia/Lord_Howe",
            "15 2 * * *",
            "2026-10-02",
            ["2026-10-02T15:45", "2026-10-03T15:30", "2026-10-04T15:15"],
        ),
        (
            "Australia/Lord_Howe",
            "45 1 * * *",
            "2026-04-03",
            ["2026-04-03T14:45", "2026-04-04T14:45", "2026-04-05T15:15"],
        ),
        ("Australia/Lord_Howe", "45 * * * *", "2026-04-04T14:00", ["2026-04-04T14:45", "2026-04-04T15:15"]),
        # A day that does not exist.
        (
            "Pacific/Apia",
            "0 12 * * *",
            "2011-12-29T12:00",
            ["2011-12-29T22:00", "2011-12-30T10:00", "2011-12-30T22:00"],
        ),
        ("Pacific/Apia", "0 12 30 12 *", "2011-12-01", ["2011-12-30T10:00", "2012-12-29T22:00"]),
        ("Pacific/Apia", "30 * * * *", "2011-12-30T09:00", ["2011-12-30T09:30", "2011-12-30T10:30"]),
        (
            "Pacific/Kwajalein",
            "0 9 * * *",
            "1993-08-20T12:00",
            ["1993-08-20T21:00", "1993-08-21T12:00", "1993-08-21T21:00"],
        ),
        # Winter time is the one that is saved.
        (
            "Europe/Dublin",
            "30 1 * * *",
            "2026-03-28",
            ["2026-03-28T01:30", "2026-03-29T01:00", "2026-03-30T00:30"],
        ),
        (
            "Europe/Dublin",
            "30 1 * * *",
            "2026-10-24",
            ["2026-10-24T00:30", "2026-10-25T00:30", "2026-10-26T01:30"],
        ),
        # At midnight.
        (
            "America/Sao_Paulo",
            "0 0 * * *",
            "2018-11-03",
            ["2018-11-03T03:00", "2018-11-04T03:00", "2018-11-05T02:00"],
        ),
        (
            "America/Sao_Paulo",
            "30 23 * * *",
            "2018-02-17",
            ["2018-02-17T01:30", "2018-02-18T01:30", "2018-02-19T02:30"],
        ),
        (
            "Asia/Beirut",
            "@daily",
            "2022-03-25",
            ["2022-03-25T22:00", "2022-03-26T22:00", "2022-03-27T21:00"],
        ),
        # Back for Ramadan.
        (
            "Africa/Casablanca",
            "30 2 * * *",
            "2025-02-22",
            ["2025-02-22T01:30", "2025-02-23T01:30", "2025-02-24T02:30"],
        ),
        (
            "Africa/Casablanca",
            "30 2 * * *",
            "2025-04-05",
            ["2025-04-05T02:30", "2025-04-06T02:00", "2025-04-07T01:30"],
        ),
        # By two hours.
        ("Antarctica/Troll", "30 1,2 * * *", "2025-03-30", ["2025-03-30T01:00", "2025-03-30T23:30"]),
        # An offset with seconds.
        ("Africa/Monrovia", "0 12 * * *", "1971-06-01", ["1971-06-01T12:44:30", "1971-06-02T12:44:30"]),
    ],
)
def test_local_time_fires_once_or_at_the_end_of_the_gap(
    zone: str, expression: str, after: str, expected: list[str]
) -> None:
    timing = Cron(expression, zone)
    ticks = next_ticks(timing, at(after), len(expected))

    assert shown(ticks) == expected
    assert [last_tick(timing, at(after), tick) for tick in ticks] == ticks
    before = [None, *ticks[:-1]]
    assert [last_tick(timing, at(after), tick - 1) for tick in ticks] == before


def test_two_daily_schedules_in_one_gap_both_fire() -> None:
    after = at("2026-03-28T12:00")
    expressions = ("0 2 * * *", "1 2 * * *", "30 2 * * *", "59 2 * * *", "0 3 * * *")
    ticks = [next_tick(Cron(each, "Europe/Madrid"), after) for each in expressions]

    assert ticks == [at("2026-03-29T01:00")] * 5


# Whole years


@pytest.mark.parametrize(
    ("zone", "expression", "expected"),
    [
        ("Europe/Madrid", "0 3 * * *", 365),
        ("Europe/Madrid", "30 2 * * *", 365),
        ("Europe/Madrid", "0 2 * * *", 365),
        ("Europe/Madrid", "59 23 * * *", 365),
        ("Europe/Madrid", "@weekly", 52),
        ("Europe/Madrid", "30 2 * * SUN", 52),
        ("Europe/Madrid", "@monthly", 12),
        ("Europe/Madrid", "0 9 * * MON-FRI", 261),
        ("Europe/Madrid", "@hourly", 8_760),
        ("Europe/Madrid", "30 * * * *", 8_760),
        pytest.param("Europe/Madrid", "*/15 * * * *", 35_040, marks=slow),
        # 12 a day, none lost and none twice: that of 02:00 is at 03:00 on the day of the gap.
        ("Europe/Madrid", "0 */2 * * *", 4_380),
        # 4 a day; the four that fall in the gap are one.
        ("Europe/Madrid", "*/15 2 * * *", 1_457),
        # One of the 24 a day of each falls into the half hour that is skipped, or happens twice.
        ("Australia/Lord_Howe", "0 * * * *", 8_759),
        ("Australia/Lord_Howe", "45 * * * *", 8_761),
        ("Australia/Lord_Howe", "15 2 * * *", 365),
        ("UTC", "@hourly", 8_760),
        ("UTC", "0 3 * * *", 365),
    ],
)
def test_year_of_2026_has_as_many_ticks_as_it_should(zone: str, expression: str, expected: int) -> None:
    start, end = (_local_midnight(zone, year) for year in (2026, 2027))

    assert count_ticks(Cron(expression, zone), start - 1, end - 1, limit=100_000) == expected


def _local_midnight(zone: str, year: int) -> int:
    tick = next_tick(Cron("@yearly", zone), at(f"{year - 1}-06-01"))
    assert tick is not None
    return tick


def test_a_day_that_does_not_exist_still_has_its_tick() -> None:
    start, end = (_local_midnight("Pacific/Apia", year) for year in (2011, 2012))

    assert count_ticks(Cron("0 12 * * *", "Pacific/Apia"), start - 1, end - 1) == 365
    assert count_ticks(Cron("@hourly", "Pacific/Apia"), start - 1, end - 1, limit=10_000) == 8_736


# Forwards and backwards


@given(
    expression=st.sampled_from(["* * * * *", "*/7 * * * *", "30 2 * * *", "*/20 1-3 * * *", "0 0 1 * SUN"]),
    zone=st.sampled_from(["UTC", "Europe/Madrid", "Australia/Lord_Howe", "Pacific/Apia", "America/St_Johns"]),
    after=st.integers(at("2005-01-01"), at("2040-01-01")),
)
def test_last_tick_and_count_agree_with_next_tick(expression: str, zone: str, after: int) -> None:
    timing = Cron(expression, zone)
    first, second = next_ticks(timing, after, 2)

    assert after < first < second
    assert last_tick(timing, after, first - 1) is None
    assert last_tick(timing, after, first) == first
    assert last_tick(timing, after, second - 1) == first
    assert last_tick(timing, 0, second) == second
    assert [count_ticks(timing, after, until) for until in (first - 1, first, second)] == [0, 1, 2]


@pytest.mark.parametrize("expression", ["* * * * *", "30 2 * * *", "0 9 * * MON-FRI"])
def test_cost_of_last_tick_does_not_grow_with_the_gap(
    expression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches = []

    def counted(*args: object, **options: object) -> CronSim:
        searches.append(args)
        return CronSim(*args, **options)  # type: ignore[arg-type]

    timing = Cron(expression, "Europe/Madrid")
    expected = last_tick(timing, NOW - 7 * DAY_MS, NOW)
    monkeypatch.setattr(schedule, "CronSim", counted)

    assert last_tick(timing, NOW - 50 * 366 * DAY_MS, NOW) == expected
    assert len(searches) <= 2


def test_count_stops_at_its_limit() -> None:
    assert count_ticks(Cron("* * * * *"), NOW, NOW + DAY_MS) == 1_000
    assert count_ticks(Cron("* * * * *"), NOW, NOW + DAY_MS, limit=2_000) == 1_440


# Missed ticks

NOON = NOW
NOON_DAILY = Cron("0 12 * * *")


@pytest.mark.parametrize(
    ("last", "now", "expected"),
    [
        (NOON - 5_000, NOON - 1, Due(fire_at=None, skipped=0, seen_until=NOON - 1)),
        (NOON - 5_000, NOON, Due(fire_at=NOON, skipped=0, seen_until=NOON)),
        (NOON - 5_000, NOON + 40, Due(fire_at=NOON, skipped=0, seen_until=NOON + 40)),
        (NOON, NOON + 40, Due(fire_at=None, skipped=0, seen_until=NOON + 40)),
        # Within the grace of an hour, and one millisecond past it.
        (NOON - 1, NOON + HOUR_MS, Due(fire_at=NOON, skipped=0, seen_until=NOON + HOUR_MS)),
        (NOON - 1, NOON + HOUR_MS + 1, Due(fire_at=None, skipped=1, seen_until=NOON + HOUR_MS + 1)),
        # Three were missed: the last fires, or none.
        (NOON - 2 * DAY_MS - 1, NOON + 9, Due(fire_at=NOON, skipped=2, seen_until=NOON + 9)),
        (
            NOON - 2 * DAY_MS - 1,
            NOON + 2 * HOUR_MS,
            Due(fire_at=None, skipped=3, seen_until=NOON + 2 * HOUR_MS),
        ),
        # The clock has gone back.
        (NOON + 10, NOON - 20, Due(fire_at=None, skipped=0, seen_until=NOON + 10)),
    ],
)
def test_missed_ticks_become_the_last_one_within_the_grace(last: int, now: int, expected: Due) -> None:
    assert due(NOON_DAILY, last=last, now=now, misfire_grace_ms=HOUR_MS) == expected


def test_without_grace_a_tick_fires_only_on_the_millisecond() -> None:
    assert due(NOON_DAILY, last=NOON - 1, now=NOON, misfire_grace_ms=0).fire_at == NOON
    assert due(NOON_DAILY, last=NOON - 1, now=NOON + 1, misfire_grace_ms=0).skipped == 1


@pytest.mark.parametrize("timing", [Cron("* * * * *", "Europe/Madrid"), Every(60_000, 0)])
def test_a_year_of_missed_minutes_fires_once_and_counts_to_its_bound(timing: Timing) -> None:
    now = NOW + 30_000

    assert due(timing, last=now - 365 * DAY_MS, now=now, misfire_grace_ms=HOUR_MS) == Due(
        fire_at=NOW, skipped=SKIPPED_MAX, seen_until=now
    )
    assert due(timing, last=now - 365 * DAY_MS, now=now, misfire_grace_ms=1_000) == Due(
        fire_at=None, skipped=SKIPPED_MAX, seen_until=now
    )


def test_passes_however_spaced_fire_each_tick_once() -> None:
    timing = Cron("*/10 2 * * *", "Europe/Madrid")
    start, end = at("2026-10-23T12:00"), at("2026-10-26T12:00")
    fired, last = [], start
    for now in range(start, end, 97_000):
        made = due(timing, last=last, now=now, misfire_grace_ms=HOUR_MS)
        assert made.skipped == 0
        fired += [made.fire_at] if made.fire_at is not None else []
        last = made.seen_until

    assert len(fired) == 18
    assert fired == next_ticks(timing, start, 18)


# What a user gives


def read(cron: str | None = None, tz: str | None = None, every: float | None = None) -> Timing:
    return read_timing(cron=cron, tz=tz, every=every, now=NOW)


def test_timing_is_read_as_given_with_defaults() -> None:
    assert read("0 3 * * *") == Cron("0 3 * * *", "UTC")
    assert read("  0  3 * *\tMon ", "Europe/Madrid") == Cron("0 3 * * Mon", "Europe/Madrid")
    assert read("@Daily", "America/Argentina/Buenos_Aires") == Cron(
        "@daily", "America/Argentina/Buenos_Aires"
    )
    assert read("0 3 * * *", "Etc/GMT+5") == Cron("0 3 * * *", "Etc/GMT+5")
    assert read(every=1) == Every(every_ms=1_000, anchor_at=NOW)
    assert read(every=90.5) == Every(every_ms=90_500, anchor_at=NOW)
    assert read(every=366 * 24 * 3600) == Every(every_ms=31_622_400_000, anchor_at=NOW)


@pytest.mark.parametrize(
    ("timing", "text"),
    [
        (Cron("@daily", "Asia/Tokyo"), b'{"kind":"cron","expression":"@daily","tz":"Asia/Tokyo"}'),
        (Every(1_500, 7), b'{"kind":"every","every_ms":1500,"anchor_at":7}'),
    ],
)
def test_timing_is_stored_as_json_and_comes_back(timing: Timing, text: bytes) -> None:
    assert msgspec.json.encode(timing) == text
    assert msgspec.json.decode(text, type=Timing) == timing


@pytest.mark.parametrize(
    ("cron", "fault"),
    [
        ("", "five fields"),
        ("* * * *", "five fields"),
        ("* * * * * *", "no field for seconds: for less than a minute use every"),
        ("0 0 3 * * *", "no field for seconds"),
        ("* * * * * * *", "five fields"),
        ("60 * * * *", "minute takes 0-59"),
        ("*/0 * * * *", "minute takes 0-59"),
        ("-5 * * * *", "minute takes 0-59"),
        ("5- * * * *", "minute takes 0-59"),
        ("1,,2 * * * *", "minute takes 0-59"),
        ("0 24 * * *", "hour takes 0-23"),
        ("0 9-5 * * *", "hour takes 0-23"),
        ("0 0 32 * *", "day-of-month takes 1-31"),
        ("0 0 0 * *", "day-of-month takes 1-31"),
        ("0 0 32 2 *", "day-of-month takes 1-31"),
        ("0 0 * 13 *", "month takes 1-12 or JAN-DEC"),
        ("0 0 * * 8", "day-of-week takes 0-7 or SUN-SAT"),
        ("0 0 * * MON#6", "day-of-week takes 0-7 or SUN-SAT"),
        ("0 0 * * ?", "five fields"),
        ("0 0 * * ſun", "five fields"),
        ("0 0 * * ٣", "five fields"),
        ("@reboot", "@hourly @daily"),
        ("@every 5m", "@hourly @daily"),
        ("@", "@hourly @daily"),
        ("* " * 51, "at most 100 characters, this has 102"),
    ],
)
def test_faulty_expression_is_refused_with_the_allowed_form(cron: str, fault: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(cron)

    assert caught.value.fields == {"field": "cron"}
    assert caught.value.message.startswith("cron: ")
    assert fault in caught.value.message


@pytest.mark.parametrize("cron", ["0 0 30 2 *", "0 0 31 2,4,6,9,11 *", "0 0 */15 * MON#2", "0 0 31 4 */2"])
def test_expression_that_never_fires_is_refused(cron: str) -> None:
    with pytest.raises(InvalidInput, match="never fires: no such day comes within 50 years") as caught:
        read(cron)

    assert caught.value.fields == {"field": "cron"}


@pytest.mark.parametrize(
    "tz",
    [
        "",
        "Mars/Olympus",
        "europe/madrid",
        "Europe",
        "Europe/",
        "../x",
        "Europe/../Europe/Madrid",
        "/etc/localtime",
        "localtime",
        "Factory",
        "posix/UTC",
        "right/UTC",
        "tzdata.zi",
        "UTC\0",
        " UTC",
        "+02:00",
        "x" * 10_000,
    ],
)
def test_what_is_no_zone_is_refused(tz: str) -> None:
    with pytest.raises(InvalidInput, match="IANA time zone, such as Europe/Madrid") as caught:
        read("0 3 * * *", tz)

    assert caught.value.fields == {"field": "tz"}
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("every", [0, -1, 0.9996, 366 * 24 * 3600 + 1, 1e308, float("inf"), float("nan")])
def test_interval_out_of_bounds_is_refused(every: float) -> None:
    with pytest.raises(InvalidInput, match="1 to 31622400 seconds") as caught:
        read(every=every)

    assert caught.value.fields == {"field": "every"}


@pytest.mark.parametrize(
    ("cron", "tz", "every", "field"),
    [
        (None, None, None, "cron"),
        (None, "UTC", None, "cron"),
        ("0 3 * * *", None, 60, "every"),
        (None, "UTC", 60, "tz"),
    ],
)
def test_exactly_one_of_cron_and_every_is_given(
    cron: str | None, tz: str | None, every: float | None, field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(cron, tz, every)

    assert caught.value.fields == {"field": field}


def test_zones_are_there_on_a_machine_without_any() -> None:
    program = (
        "from tq.core.schedule import next_tick, read_timing;"
        "print([next_tick(read_timing(cron='0 3 * * *', tz=tz, every=None, now=0), 0)"
        " for tz in ('UTC', 'US/Eastern', 'Europe/Madrid')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONTZPATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "[10800000, 28800000, 7200000]\n"
