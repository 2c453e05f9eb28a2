"""Which tests are slow: those that `just test` leaves to `just test-slow`.

A slow test looks at more of what quick ones look at: more seeds, each byte, a real browser, a fault for each
kind of way. A promise of tq has a quick test where it can.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

slow = pytest.mark.slow


def tiered(cases: Iterable[Any], *, quick: int = 1) -> list[Any]:
    """*cases* for ``parametrize``, of which all but the first *quick* are slow."""
    return [case if n < quick else pytest.param(case, marks=slow) for n, case in enumerate(cases)]
