"""Which tests are slow: those that `just test` leaves to `just test-slow`.

A slow test looks at more of what quick ones look at: more seeds, each byte, a real browser, a fault for each
kind of way. A promise of tq has a quick test where it can. Slow is what is marked so, and

- of a test with many cases, where a case costs something, all but a few of them;
- of the contract of stores on PostgreSQL, all but each seventh test, apart from the files on claims and their
  ends. In memory and on SQLite each of its tests is quick.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

import pytest

slow = pytest.mark.slow
whole = pytest.mark.whole
"""Of this test each case is quick."""

COSTLY: Final = ("tests/api/", "tests/storage/")
"""Where a case has a server or a store of its own."""
CASES_QUICK: Final = 3
CONTRACT: Final = "tests/storage/test_contract_"
CONTRACT_WHOLE: Final = ("claim", "fleet", "moves", "sweep")
"""Claims, leases and their ends, on PostgreSQL too."""
CONTRACT_STEP: Final = 7
LONGEST_FIRST: Final = ("tests/e2e/", "tests/engine/", "tests/cli/", "tests/storage/", "tests/api/")


def tiered(cases: Iterable[Any], *, quick: int = 1) -> list[Any]:
    """*cases* for ``parametrize``, of which all but the first *quick* are slow. A tuple is for many names."""
    each = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*case, marks=slow if n >= quick else ()) for n, case in enumerate(each)]


def mark_slow(items: Iterable[pytest.Item]) -> None:
    """Mark those of *items* that are slow by the rules above."""
    files: dict[str, dict[tuple[str, str], list[pytest.Item]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        if item.nodeid.startswith(COSTLY) and not {"slow", "whole"} & {
            mark.name for mark in item.iter_markers()
        }:
            path, _, test = item.nodeid.partition("::")
            files[path][store_of(item), test.partition("[")[0]].append(item)
    for path, tests in files.items():
        on_postgres = [cases for (store, _), cases in tests.items() if store == "postgres"]
        for cases in tests.values():
            mark_but(cases, CASES_QUICK)
        if path.startswith(CONTRACT) and not path.removeprefix(CONTRACT).startswith(CONTRACT_WHOLE):
            for n, cases in enumerate(on_postgres):
                mark_but(cases, 0 if n % CONTRACT_STEP else 1)


def store_of(item: pytest.Item) -> str:
    """Which store the test is on, if it is one of each store."""
    callspec = getattr(item, "callspec", None)
    return "" if callspec is None else str(callspec.params.get("store", ""))


def mark_but(cases: list[pytest.Item], quick: int) -> None:
    """Mark all of *cases* but *quick*, which are spread evenly over them."""
    kept = {len(cases) * n // quick for n in range(quick)}
    for n, case in enumerate(cases):
        if n not in kept:
            case.add_marker(slow)


def longest_first(items: list[pytest.Item]) -> None:
    """Have the longest files begin first: who begins one at the end lets the others wait."""
    items.sort(key=lambda item: [not item.nodeid.startswith(folder) for folder in LONGEST_FIRST])
