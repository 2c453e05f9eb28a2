"""What the rules of tests/tiers.py leave to the slow run, and that they leave something of everything."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tiers import longest_first, mark_but, mark_slow, slow, store_of, tiered, whole


@dataclass
class Test:
    """As much of a test of pytest as the rules look at."""

    __test__ = False

    nodeid: str
    store: str = ""
    marks: list[pytest.MarkDecorator] = field(default_factory=list)

    @property
    def callspec(self) -> SimpleNamespace:
        return SimpleNamespace(params={"store": self.store})

    def iter_markers(self) -> list[pytest.Mark]:
        return [mark.mark for mark in self.marks]

    def add_marker(self, mark: pytest.MarkDecorator) -> None:
        self.marks.append(mark)


def quick_of(*tests: Test) -> list[str]:
    """The tests of *tests* that are quick by the rules."""
    mark_slow(cast(Any, tests))
    return [test.nodeid for test in tests if slow not in test.marks]


def test_three_cases_over_all_are_quick() -> None:
    cases = [Test(f"tests/api/test_x.py::test_a[{n:02}]") for n in range(12)]
    assert quick_of(*cases, Test("tests/api/test_x.py::test_b")) == [
        *(f"tests/api/test_x.py::test_a[{n}]" for n in ("00", "04", "08")),
        "tests/api/test_x.py::test_b",
    ]


def test_what_is_whole_or_costs_nothing_is_quick() -> None:
    marked = [Test(f"tests/api/test_x.py::test_a[{n}]", marks=[whole]) for n in range(9)]
    cheap = [Test(f"tests/core/test_x.py::test_a[{n}]") for n in range(9)]
    assert len(quick_of(*marked, *cheap)) == 18


def test_some_of_each_file_of_the_contract_and_all_of_claims_are_quick_on_postgres() -> None:
    tests = [
        Test(f"tests/storage/test_contract_{file}.py::test_{n}[{store}-{case}]", store)
        for file in ("claim", "lists")
        for n in range(8)
        for store in ("sqlite", "postgres")
        for case in range(3)
    ]
    found: dict[str, int] = defaultdict(int)
    for name in quick_of(*tests):
        file, _, rest = name.removeprefix("tests/storage/test_contract_").partition(".py")
        found[f"{file} {'postgres' if 'postgres' in rest else 'sqlite'}"] += 1
    assert found == {"claim sqlite": 24, "claim postgres": 24, "lists sqlite": 24, "lists postgres": 2}


def test_a_test_of_no_store_is_of_none() -> None:
    assert store_of(cast(Any, object())) == ""


@pytest.mark.parametrize(("count", "kept"), [(3, [0, 1, 2]), (4, [0, 1, 2]), (7, [0, 2, 4])])
def test_kept_cases_are_spread(count: int, kept: list[int]) -> None:
    cases = [Test(str(n)) for n in range(count)]
    mark_but(cast(Any, cases), 3)
    assert [n for n, case in enumerate(cases) if not case.marks] == kept


def test_first_cases_of_tiered_are_quick() -> None:
    found = tiered([1, (2, "b"), 3])
    assert [(case.values, [mark.name for mark in case.marks]) for case in found] == [
        ((1,), []),
        ((2, "b"), ["slow"]),
        ((3,), ["slow"]),
    ]


def test_files_with_processes_begin_first_in_their_order() -> None:
    names = [
        "tests/api/test_b.py::t",
        "tests/core/test_a.py::t",
        "tests/e2e/test_z.py::t",
        "tests/e2e/test_z.py::u",
    ]
    items: list[Any] = [Test(name) for name in names]
    longest_first(items)
    assert [item.nodeid for item in items] == [names[2], names[3], names[0], names[1]]
