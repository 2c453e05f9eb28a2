"""Ticks against an oracle that walks the clock minute by minute: all zones, 200 expressions.

The oracle shares nothing with the code: it has its own reading of the fields, and it knows a gap or an hour
that happens twice only as the local clock jumping between two minutes.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache
from random import Random
from zoneinfo import ZoneInfo, available_timezones

import pytest
from tiers import slow, tiered

from tq.core.schedule import Cron, last_tick, next_tick

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
BEFORE = 6 * HOUR
AFTER = 30 * HOUR
"""The window of ticks around a change."""
WARM_UP_MINUTES = 4 * 60
"""More than any of these clocks is put back, so that the oracle knows how far the clock had come."""
EXPRESSIONS_PER_CHANGE = 2

# The oracle

NAMES = {name.upper(): nth for nth, name in enumerate(calendar.month_abbr) if nth}
NAMES |= {name: nth for nth, name in enumerate(["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"])}


def number(text: str) -> int:
    return NAMES[text] if text in NAMES else int(text)


def members(field: str, low: int, high: int) -> set[int]:
    """The numbers that a field allows."""
    found: set[int] = set()
    for term in field.split(","):
        span, _, step = term.partition("/")
        start, _, end = span.partition("-")
        first = low if start == "*" else number(start)
        last = high if start == "*" or (step and not end) else number(end or start)
        found |= set(range(first, last + 1, int(step or 1)))
    return found


class Rule:
    """One expression, as sets."""

    def __init__(self, expression: str) -> None:
        minute, hour, day, month, weekday = expression.split()
        self.minutes = members(minute, 0, 59)
        self.hours = members(hour, 0, 23)
        self.months = members(month, 1, 12)
        self.day = day
        self.weekday = weekday
        self.both = day[0] == "*" or weekday[0] == "*"
        self.is_interval = len(self.hours) == 24
        self.days: dict[date, bool] = {}

    def matches(self, wall: datetime) -> bool:
        if wall.minute not in self.minutes or wall.hour not in self.hours:
            return False
        day = wall.date()
        if day not in self.days:
            self.days[day] = self.matches_day(day)
        return self.days[day]

    def matches_day(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        last = calendar.monthrange(day.year, day.month)[1]
        first, second = self.matches_monthday(day, last), self.matches_weekday(day, last)
        return first and second if self.both else first or second

    def matches_monthday(self, day: date, last: int) -> bool:
        if self.day == "L":
            return day.day == last
        if self.day == "LW":
            return day.day == max(nth for nth in range(1, last + 1) if day.replace(day=nth).weekday() < 5)
        return day.day in members(self.day, 1, 31)

    def matches_weekday(self, day: date, last: int) -> bool:
        weekday = day.isoweekday() % 7
        if self.weekday.endswith("L"):
            return weekday == number(self.weekday[:-1]) % 7 and day.day + 7 > last
        name, _, nth = self.weekday.partition("#")
        if nth:
            return weekday == number(name) % 7 and (day.day - 1) // 7 + 1 == int(nth)
        return weekday in {each % 7 for each in members(self.weekday, 0, 7)}


class Walk:
    """What the clock of a zone shows at each minute of a window."""

    def __init__(self, zone: str, change: datetime) -> None:
        self.after, self.until = _unix(change - BEFORE), _unix(change + AFTER)
        seconds = range(self.after - WARM_UP_MINUTES * 60, self.until + 1, 60)
        local = ZoneInfo(zone)
        self.shown = [(at, datetime.fromtimestamp(at, local).replace(tzinfo=None, fold=0)) for at in seconds]

    def ticks(self, rule: Rule) -> list[int]:
        """The ticks in the window, by the rule in the docstring of tq.core.schedule."""
        found = self._shown(rule) if rule.is_interval else self._reached(rule)
        return [at * 1000 for at in found if at > self.after]

    def _shown(self, rule: Rule) -> list[int]:
        return [at for at, wall in self.shown if rule.matches(wall)]

    def _reached(self, rule: Rule) -> list[int]:
        found = []
        reached = self.shown[0][1] - MINUTE
        for at, wall in self.shown:
            fires = False
            while reached < wall:
                reached += MINUTE
                fires = rule.matches(reached) or fires
            if fires:
                found.append(at)
        return found


# Expressions and changes of the clock

BY_HAND = """
* * * * *|*/15 * * * *|0 * * * *|30 * * * *|45 0-23 * * *|5,35 */1 * * *|* 2 * * *|*/10 1-3 * * *|0 */2 * * *
0 0 * * *|30 0 * * *|0 1 * * *|30 1 * * *|59 1 * * *|0 2 * * *|15 2 * * *|30 2 * * *|45 2 * * *|0 3 * * *
30 3 * * *|0 4 * * *|0 12 * * *|59 23 * * *|30 23 * * *|0,30 2 * * *|15,45 1,2,3 * * *|0 0-3 * * *
0 2-23/3 * * *|30 2 * * 7|30 2 * * SUN|0 0 * * 0|0 2 * * 6-7|0 12 30 12 *|0 0 1 * *|30 2 L * *
0 3 LW * *|0 2 * * 5L
30 1 * * SUN#2|0 2 * * 0#5|0 2 29 3 *|30 2 25 10 *|0 2 1-7 * SUN|0 2 */2 * SUN|0 0 13 * FRI|30 * * * SUN
*/20 * * 3,10 *|0 2 * MAR,OCT *|1/7 2/5 * * *|* 0 * * *|*/30 23 * * *|0 9-17 * * MON-FRI
"""


def random_field(random: Random, low: int, high: int) -> str:
    first = random.randint(low, high)
    last = random.randint(first, high)
    step = random.randint(1, high // 2)
    return random.choice(
        [
            "*",
            f"*/{step}",
            str(first),
            str(first),
            f"{first}-{last}",
            f"{first},{last}",
            f"{low}-{last}/{step}",
        ]
    )


def random_expression(random: Random) -> str:
    minute, hour = random_field(random, 0, 59), random.choice([random_field(random, 0, 23), "2", "1-3", "*"])
    day, month = random.choice(["*", "*", random_field(random, 1, 31)]), random_field(random, 1, 12)
    weekday = random.choice(["*", "*", random_field(random, 0, 7)])
    return f"{minute} {hour} {day} {month if random.random() < 0.2 else '*'} {weekday}"


def expressions() -> list[str]:
    """200 of them, the same every time."""
    found = [each for line in BY_HAND.split("\n") if line for each in line.split("|")]
    random = Random(20260329)
    while len(found) < 200:
        each = random_expression(random)
        if each not in found:
            found.append(each)
    return found


SPECIAL = [
    ("Pacific/Apia", 2011),  # skips 30 December
    ("Pacific/Kwajalein", 1993),  # skips 21 August
    ("America/Sao_Paulo", 2018),  # changes at midnight
    ("Asia/Beirut", 2022),
    ("Africa/Casablanca", 2025),
    ("Antarctica/Troll", 2025),  # by two hours
    ("Asia/Pyongyang", 2015),  # by half an hour, for good
    ("Asia/Pyongyang", 2018),
    ("America/Caracas", 2007),
    ("Europe/Istanbul", 2016),
    ("Asia/Gaza", 2023),
    ("Antarctica/Casey", 2020),  # back by three hours
]
YEAR = 2026


def changes(zone: str, year: int) -> list[datetime]:
    """The hours of the year in which the offset changes."""
    local = ZoneInfo(zone)
    found = []
    day = datetime(year, 1, 1, tzinfo=UTC)
    while day.year == year:
        if _offset(local, day) != _offset(local, day + 24 * HOUR):
            hours = [day + nth * HOUR for nth in range(24)]
            found += [hour for hour in hours if _offset(local, hour) != _offset(local, hour + HOUR)]
        day += 24 * HOUR
    return found


def _unix(at: datetime) -> int:
    return int(at.timestamp())


def _offset(local: ZoneInfo, at: datetime) -> timedelta | None:
    return at.astimezone(local).utcoffset()


@cache
def windows() -> list[tuple[str, datetime]]:
    """A zone and an hour: each zone at each change of YEAR, or, if it has none, at the end of March."""
    still = datetime(YEAR, 3, 29, 1, tzinfo=UTC)
    zones = sorted(available_timezones() - {"localtime", "Factory"})
    found = [(zone, at) for zone in zones for at in changes(zone, YEAR) or [still]]
    return found + [(zone, at) for zone, year in SPECIAL for at in changes(zone, year)]


def chain(cron: Cron, after: int, until: int) -> Iterator[int]:
    tick = next_tick(cron, after)
    while tick is not None and tick <= until:
        yield tick
        tick = next_tick(cron, tick)


def compare(zone: str, change: datetime, rules: dict[str, Rule]) -> int:
    """Compare all ticks around *change*, forwards and backwards; how many there were."""
    walk = Walk(zone, change)
    after, until = walk.after * 1000, walk.until * 1000
    count = 0
    for expression, rule in rules.items():
        cron = Cron(expression, zone)
        expected = walk.ticks(rule)
        assert list(chain(cron, after, until)) == expected, (expression, zone, change)
        middle = (_unix(change) + 5_400) * 1000  # in the second pass of an hour that happens twice
        assert last_tick(cron, after, middle) == max((at for at in expected if at <= middle), default=None)
        assert last_tick(cron, after, until) == (expected[-1] if expected else None), (expression, zone)
        count += len(expected)
    return count


# The tests


def test_there_are_200_expressions_and_all_zones_and_each_change_is_seen() -> None:
    assert len(set(expressions())) == 200
    assert len({zone for zone, _ in windows()}) >= 590
    assert len(windows()) > 700
    assert all(changes(zone, year) for zone, year in SPECIAL)


@slow
@pytest.mark.parametrize("part", range(4))
def test_ticks_of_200_expressions_around_every_change_of_every_zone_are_as_the_oracle_says(part: int) -> None:
    rules = {each: Rule(each) for each in expressions()}
    names = list(rules)
    count = 0
    for nth, (zone, change) in list(enumerate(windows()))[part::4]:
        first = nth * EXPRESSIONS_PER_CHANGE
        chosen = [names[(first + each) % 200] for each in range(EXPRESSIONS_PER_CHANGE)]
        count += compare(zone, change, {name: rules[name] for name in chosen})
    assert count > 10_000


@pytest.mark.parametrize(
    ("zone", "change"),
    tiered(
        [
            ("Europe/Madrid", datetime(2026, 3, 29, 1, tzinfo=UTC)),
            ("Europe/Madrid", datetime(2026, 10, 25, 1, tzinfo=UTC)),
        ]
    ),
)
def test_all_200_expressions_are_right_at_both_changes_of_one_zone(zone: str, change: datetime) -> None:
    assert compare(zone, change, {each: Rule(each) for each in expressions()}) > 1_000
