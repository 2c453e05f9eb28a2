"""The rules of single values: what a name, a priority, a duration, an instant may be, and how each reads.

Every fault names its field, shows the value and says what is allowed.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

from tq.core.errors import InvalidInput
from tq.core.task import (
    DEPENDENCIES_MAX,
    KEY_MAX,
    PRIORITIES,
    PRIORITY_MAX,
    PRIORITY_MIN,
    TAGS_MAX,
    TaskId,
)

ATTEMPTS_MAX: Final = 1_000
DELAY_MAX_S: Final = 5 * 366 * 24 * 3600.0
TIMEOUT_MAX_S: Final = 7 * 24 * 3600.0
TTL_MAX_S: Final = 366 * 24 * 3600.0

_ID = re.compile(r"[A-Za-z0-9_.:~-]{1,128}")
_NAME = re.compile(r"[A-Za-z0-9_.:~-]{1,64}")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)
_TRACEPARENT = re.compile(
    r"(?P<known>(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(?P<more>-.*)?"
)
_INSTANT_MAX: Final = 253_402_300_799_999
"""The last millisecond of the year 9999, past which RFC 3339 has no words."""


def bad(field: str, value: object, allowed: str) -> InvalidInput:
    """The fault of *value*; *allowed* says what would be none."""
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:77] + "…"
    return InvalidInput(f"{field}: {shown} is not allowed: {allowed}", field=field)


def checked_id(text: str, field: str = "id") -> TaskId:
    """*text* as a task id. Raises InvalidInput."""
    if not _ID.fullmatch(text):
        raise bad(field, text, "1 to 128 of the characters A-Z a-z 0-9 _ . : ~ -")
    return TaskId(text)


def check_name(field: str, text: str) -> str:
    """*text* as a name, such as of a type or queue. Raises InvalidInput, naming *field*."""
    if not _NAME.fullmatch(text):
        raise bad(field, text, "1 to 64 of the characters A-Z a-z 0-9 _ . : ~ -")
    return text


def check_key(field: str, text: str) -> str:
    """*text* as a key. Raises InvalidInput, naming *field*."""
    if not 1 <= len(text) <= KEY_MAX or not text.isprintable():
        raise bad(field, text, f"1 to {KEY_MAX} printable characters")
    return text


def check_tags(tags: tuple[str, ...]) -> tuple[str, ...]:
    """*tags*, each once, in order. Raises InvalidInput."""
    if len(tags) > TAGS_MAX:
        raise InvalidInput(f"tags: at most {TAGS_MAX}, these are {len(tags)}", field="tags")
    return tuple(dict.fromkeys(check_name("tags", tag) for tag in tags))


def check_dependencies(task_ids: tuple[str, ...]) -> tuple[TaskId, ...]:
    """*task_ids*, each once, in order. Raises InvalidInput."""
    if len(task_ids) > DEPENDENCIES_MAX:
        raise InvalidInput(
            f"depends_on: at most {DEPENDENCIES_MAX} tasks, these are {len(task_ids)}", field="depends_on"
        )
    return tuple(dict.fromkeys(checked_id(task_id, "depends_on") for task_id in task_ids))


def read_priority(value: int | str) -> int:
    """A priority by its name or number. Raises InvalidInput."""
    if isinstance(value, str):
        named = PRIORITIES.get(value)
        if named is None:
            raise bad("priority", value, f"{', '.join(PRIORITIES)}, or an integer")
        return named
    return check_integer("priority", value, PRIORITY_MIN, PRIORITY_MAX)


def check_integer(field: str, value: int, low: int, high: int) -> int:
    """*value*, if it is from *low* to *high*. Raises InvalidInput, naming *field*."""
    if not low <= value <= high:
        raise bad(field, value, f"an integer from {low} to {high}")
    return value


def read_ms(field: str, seconds: float, low: float, high: float) -> int:
    """*seconds*, if they are from *low* to *high*, in milliseconds. Raises InvalidInput, naming *field*."""
    if not low <= seconds <= high:
        raise bad(field, seconds, f"seconds from {low:g} to {high:.0f}")
    return round(seconds * 1000)


def parse_instant(field: str, text: str) -> int:
    """The instant that RFC 3339 *text* names, from 1970 to 9999. Raises InvalidInput, naming *field*."""
    try:
        # fromisoformat reads more than RFC 3339, such as weeks, and offsets that lead out of all years.
        if not _INSTANT.fullmatch(text.upper()):
            raise ValueError
        at = round(datetime.fromisoformat(text.upper()).timestamp() * 1000)
        if not 0 <= at <= _INSTANT_MAX:
            raise ValueError
        return at
    except (ValueError, OverflowError):
        raise bad(field, text, "an instant as in 2026-01-31T12:00:00Z, with its offset") from None


def read_traceparent(text: str) -> str | None:
    """The ``traceparent`` that *text* is (W3C Trace Context), as far as all versions know it, or None."""
    match = _TRACEPARENT.fullmatch(text)
    if match is None or (match["more"] and text.startswith("00-")):
        return None
    return match["known"]


def check_traceparent(text: str) -> str:
    """*text* as a ``traceparent``. Raises InvalidInput."""
    if read_traceparent(text) != text:
        raise bad("traceparent", text, "as in 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    return text
