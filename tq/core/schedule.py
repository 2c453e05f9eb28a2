"""When a schedule fires: cron expression and time zone, or an interval, to ticks. Pure arithmetic.

Knows no clock: every instant is an argument. The tables of the time zones are the one thing it reads from
the machine. cronsim says which local times an expression matches; it is only ever asked about clocks
without a zone, and what a change of the local clock means is decided here:

- An expression whose hour field allows every hour (``*/15 * * * *``, ``@hourly``) is an interval. It fires
  whenever the local clock shows a matching time: in both passes of an hour that happens twice, and not for
  one that is skipped, so that ticks stay as far apart as always.
- Any other (``30 2 * * *``, ``*/15 9-17 * * *``, ``0 */2 * * *``) fires once for each matching local time,
  at the first moment when the local clock has reached it: in the first pass of an hour that happens twice,
  and at the first moment after the gap if it is skipped. All that falls in one gap is one tick.

Debian's cron goes by the spelling instead: any hour or minute field that starts with a star is an interval.
By that rule ``*/15 2 * * *`` would not fire at all on a day without that hour.

In one offset of the zone local and UTC time run in step, so between two instants with no change of offset
a local time is found by adding. `_first_change` finds the changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from itertools import islice, takewhile
from typing import Final, assert_never
from zoneinfo import ZoneInfo, available_timezones

import msgspec
from cronsim import CronSim, CronSimError

from tq.core.errors import InvalidInput

CRON_LENGTH_MAX: Final = 100
"""Characters of a cron expression."""
EVERY_MIN_MS: Final = 1_000
EVERY_MAX_MS: Final = 366 * 24 * 3600 * 1000
SKIPPED_MAX: Final = 1_000
"""Ticks that are counted as skipped at one time; more are told as this many."""
LAST_AT: Final = 253_370_678_400_000
"""Midnight UTC before 9998-12-31: no tick is later. Past it, local times would run out of calendar."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)
_CHANGE_STEP_S: Final = 24 * 3600
"""No zone has changed its offset and back again within a day."""
_YEAR_MAX: Final = 9998
_EVERY_HOUR: Final = frozenset(range(24))
_CRON_TEXT: Final = re.compile(r"[0-9A-Za-z*/,# -]+")
_NICKNAMES: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_FIELDS: Final = {
    "minute": "0-59",
    "hour": "0-23",
    "day-of-month": "1-31, L for the last day or LW for the last weekday",
    "month": "1-12 or JAN-DEC",
    "day-of-week": "0-7 or SUN-SAT, 5L for the last Friday or 5#2 for the second",
}
_FORM: Final = "five fields, minute hour day-of-month month day-of-week, or one of " + " ".join(_NICKNAMES)
_NOT_ZONES: Final = frozenset({"localtime", "Factory"})
"""Files among the zones that are none: what they mean depends on the machine, or is nothing."""


class Cron(msgspec.Struct, frozen=True, tag_field="kind", tag="cron"):
    """Fires when the local clock of *tz* matches *expression*. Made and checked by `read_timing`.

    expression: five fields, or a nickname such as ``@daily``. If day-of-month and day-of-week both say
    something (neither starts with a star), a day that matches either will do, as in every cron.
    """

    expression: str
    tz: str = "UTC"


class Every(msgspec.Struct, frozen=True, tag_field="kind", tag="every"):
    """Fires at anchor_at + k·every_ms for k = 1, 2, 3 …: first one interval after the anchor."""

    every_ms: int
    anchor_at: int


Timing = Cron | Every


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """What to do now about the ticks of a schedule.

    fire_at: The tick to fire; None: none. skipped: How many missed ticks will never fire, at most
    SKIPPED_MAX. seen_until: Up to here every tick is dealt with: the ``last`` of the next time.
    """

    fire_at: int | None
    skipped: int
    seen_until: int


def due(timing: Timing, *, last: int, now: int, misfire_grace_ms: int) -> Due:
    """What of the ticks in (last, now] to fire: the last of them, if it is at most the grace late.

    The others are skipped. If the clock has gone back behind *last*, nothing fires a second time.
    The cost does not grow with the time that has passed.
    """
    tick = last_tick(timing, last, now)
    fires = tick is not None and now - tick <= misfire_grace_ms
    fired = 1 if fires else 0
    return Due(
        fire_at=tick if fires else None,
        skipped=count_ticks(timing, last, now, limit=SKIPPED_MAX + fired) - fired,
        seen_until=max(last, now),
    )


def next_tick(timing: Timing, after: int) -> int | None:
    """The first tick strictly after *after*; None: there is none within 50 years, or before LAST_AT."""
    if after >= LAST_AT:
        return None
    match timing:
        case Every():
            nth = max(1, (after - timing.anchor_at) // timing.every_ms + 1)
            tick: int | None = timing.anchor_at + nth * timing.every_ms
        case Cron():
            tick = _in_ms(_nearest(timing, after // 1000 + 1, back=False))
        case _:
            assert_never(timing)
    return tick if tick is not None and tick <= LAST_AT else None


def next_ticks(timing: Timing, after: int, count: int) -> list[int]:
    """The first *count* ticks strictly after *after*, in order; fewer if there are fewer."""
    return list(islice(_ticks(timing, after), count))


def last_tick(timing: Timing, after: int, until: int) -> int | None:
    """The last tick in (after, until], or None. The cost does not grow with the distance between them."""
    if until <= after:
        return None
    until = min(until, LAST_AT)
    match timing:
        case Every():
            nth = (until - timing.anchor_at) // timing.every_ms
            tick = timing.anchor_at + nth * timing.every_ms if nth >= 1 else None
        case Cron():
            tick = _in_ms(_nearest(timing, until // 1000, back=True))
        case _:
            assert_never(timing)
    return tick if tick is not None and tick > after else None


def count_ticks(timing: Timing, after: int, until: int, limit: int = 1_000) -> int:
    """How many ticks there are in (after, until], counted up to *limit*."""
    return sum(1 for _ in islice(takewhile(lambda tick: tick <= until, _ticks(timing, after)), limit))


def _ticks(timing: Timing, after: int) -> Iterator[int]:
    tick = next_tick(timing, after)
    while tick is not None:
        yield tick
        tick = next_tick(timing, tick)


# Reading what a user gives


def read_timing(*, cron: str | None, tz: str | None, every: float | None, now: int) -> Timing:
    """The timing that a user asks for: *cron* with *tz* (UTC if None), or *every*, in seconds from *now*.

    Raises:
        InvalidInput: Neither or both; or a value is not allowed; or the expression never fires.
            ``field`` is ``cron``, ``tz`` or ``every``.
    """
    if every is None:
        if cron is None:
            raise InvalidInput("cron: give cron, such as '0 3 * * *', or every, in seconds", field="cron")
        return _read_cron(cron, "UTC" if tz is None else tz, now)
    if cron is not None:
        raise InvalidInput("every: cron is given too: give one of them", field="every")
    if tz is not None:
        raise InvalidInput("tz: goes with cron only: leave it out", field="tz")
    return _read_every(every, now)


def _read_every(every: float, now: int) -> Every:
    # Not a number compares as neither.
    if not EVERY_MIN_MS <= every * 1000 <= EVERY_MAX_MS:
        raise _bad("every", every, f"{EVERY_MIN_MS // 1000} to {EVERY_MAX_MS // 1000} seconds")
    return Every(every_ms=round(every * 1000), anchor_at=now)


def _read_cron(text: str, tz: str, now: int) -> Cron:
    if len(text) > CRON_LENGTH_MAX:
        raise _bad("cron", text, f"at most {CRON_LENGTH_MAX} characters, this has {len(text)}")
    if tz not in _zone_names():
        raise _bad("tz", tz, "the name of an IANA time zone, such as Europe/Madrid")
    timing = Cron(expression=" ".join(text.split()), tz=tz)
    if timing.expression.startswith("@"):
        timing = Cron(expression=_read_nickname(timing.expression), tz=tz)
    else:
        _check_expression(timing.expression)
    if next_tick(timing, now) is None:
        raise _never(text)
    return timing


def _read_nickname(text: str) -> str:
    if text.lower() not in _NICKNAMES:
        raise _bad("cron", text, _FORM)
    return text.lower()


def _check_expression(text: str) -> None:
    fields = text.split()
    if len(fields) == 6:
        raise _bad("cron", text, f"{_FORM}; there is no field for seconds: for less than a minute use every")
    if len(fields) != 5 or not _CRON_TEXT.fullmatch(text):
        raise _bad("cron", text, _FORM)
    fault = _fault(text)
    if fault == "day-of-month" and _fault(" ".join([*fields[:3], "*", fields[4]])) is None:
        # The day is one that some month has: cronsim sees at once that those asked for do not.
        raise _never(text)
    if fault is not None:
        raise _bad(
            "cron", text, f"{fault} takes {_FIELDS[fault]}; lists 1,2 ranges 1-5 and steps */2 of them"
        )


def _fault(text: str) -> str | None:
    """The name of the field that cronsim refuses."""
    try:
        CronSim(text, datetime.min)
    except CronSimError as error:
        return str(error).removeprefix("Bad ")
    return None


def _bad(field: str, value: object, allowed: str) -> InvalidInput:
    shown = repr(value)
    shown = shown if len(shown) <= CRON_LENGTH_MAX else shown[: CRON_LENGTH_MAX - 1] + "…"
    return InvalidInput(f"{field}: {shown} is not allowed: {allowed}", field=field)


def _never(cron: str) -> InvalidInput:
    return InvalidInput(f"cron: {cron!r} never fires: no such day comes within 50 years", field="cron")


# Local clocks. Here instants are Unix seconds: clocks change, and expressions match, at whole seconds.


@cache
def _zone_names() -> frozenset[str]:
    """Names rather than files that can be opened: "../x", "posix/UTC" and "Europe" are none."""
    return frozenset(available_timezones()) - _NOT_ZONES


@cache
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _nearest(cron: Cron, at: int, *, back: bool) -> int | None:
    """The tick nearest to *at*: at or after it, or, *back*, at or before it."""
    expression = _NICKNAMES.get(cron.expression, cron.expression)
    zone = _zone(cron.tz)
    if _is_interval(expression):
        return _nearest_shown(expression, zone, at, back=back)
    # What the clock has reached before *at* has had its tick.
    wall = _reached(zone, at) if back else _reached(zone, at - 1) + _SECOND
    wall_tick = _match(expression, wall, back=back)
    return None if wall_tick is None else _first_reached(zone, wall_tick)


@lru_cache(maxsize=1024)
def _is_interval(expression: str) -> bool:
    return CronSim(expression, datetime.min).hours == _EVERY_HOUR


def _nearest_shown(expression: str, zone: ZoneInfo, at: int, *, back: bool) -> int | None:
    """The second nearest to *at* at which the local clock shows a match."""
    while True:
        wall = _wall(zone, at)
        wall_tick = _match(expression, wall, back=back)
        if wall_tick is None:
            return None
        tick = at + _seconds(wall_tick - wall)
        change = _first_change(zone, at, tick)
        if change is None:
            return tick
        # On the way there the clock jumps: look again from the other side of the jump.
        at = change


def _match(expression: str, wall: datetime, *, back: bool) -> datetime | None:
    """The matching local time nearest to *wall*: at or after it, or, *back*, at or before it."""
    try:
        found = next(CronSim(expression, wall + (_SECOND if back else -_SECOND), reverse=back))
    except (StopIteration, OverflowError):
        # Nothing for 50 years, or the calendar is at its end.
        return None
    return found if found.year <= _YEAR_MAX else None


def _first_reached(zone: ZoneInfo, wall: datetime) -> int:
    """The first second at which the local clock shows *wall* or, if *wall* is skipped, a later time."""
    # PEP 495: of a skipped time, fold 0 is reckoned by the offset before the gap, so it is after it.
    first, second = (_seconds(wall.replace(tzinfo=zone, fold=fold) - _EPOCH) for fold in (0, 1))
    if first <= second:
        return first
    change = _first_change(zone, second, first)
    assert change is not None
    return change


def _reached(zone: ZoneInfo, at: int) -> datetime:
    """The latest local time that the clock has shown up to second *at*."""
    local = _local(zone, at)
    if local.fold == 0:
        return local.replace(tzinfo=None)
    # The second pass: the first one showed everything up to the change.
    change = _first_change(zone, at, _seconds(local.replace(fold=0) - _EPOCH))
    assert change is not None
    return _wall(zone, change)


def _first_change(zone: ZoneInfo, start: int, end: int) -> int | None:
    """The first second on the way from *start* to *end*, later or earlier, with another UTC offset."""
    offset = _local(zone, start).utcoffset()
    step = _CHANGE_STEP_S if start <= end else -_CHANGE_STEP_S
    same = start
    while same != end:
        other = same + step if abs(end - same) > _CHANGE_STEP_S else end
        if _local(zone, other).utcoffset() != offset:
            return _halve(zone, same, other)
        same = other
    return None


def _halve(zone: ZoneInfo, same: int, other: int) -> int:
    """The second next to the change between *same* and *other*, on the side of *other*."""
    offset = _local(zone, same).utcoffset()
    while abs(other - same) > 1:
        middle = (same + other) // 2
        if _local(zone, middle).utcoffset() == offset:
            same = middle
        else:
            other = middle
    return other


def _local(zone: ZoneInfo, at: int) -> datetime:
    return (_EPOCH + timedelta(seconds=at)).astimezone(zone)


def _wall(zone: ZoneInfo, at: int) -> datetime:
    return _local(zone, at).replace(tzinfo=None, fold=0)


def _seconds(length: timedelta) -> int:
    return length // _SECOND


def _in_ms(seconds: int | None) -> int | None:
    return None if seconds is None else seconds * 1000
