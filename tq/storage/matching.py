"""What of a filter is looked at in a task itself: the same in every store."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tq.core.queries import PayloadMatch
from tq.core.task import AttemptError, Json

_ASCII_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def lowered(text: str) -> str:
    """*text* with its ASCII letters lower, and no others."""
    return text.translate(_ASCII_LOWER)


def is_told(text: str, errors: tuple[AttemptError, ...]) -> bool:
    """Whether the last of *errors* has *text* in its ``type: message``."""
    if not errors:
        return False
    return lowered(text) in lowered(f"{errors[-1].type}: {errors[-1].message}")


def is_in(wanted: PayloadMatch, payload: Json) -> bool:
    """Whether *payload* has what is *wanted*."""
    value: Any = msgspec.json.decode(payload)
    for name in wanted.path:
        if not isinstance(value, dict) or name not in value:
            return False
        value = value[name]
    # As text, so that 1 is not true and 1.0 is not 1.
    return msgspec.json.encode(value).decode() in wanted.values
