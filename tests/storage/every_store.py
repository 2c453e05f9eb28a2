"""The fixture of the contract: a new store of each kind. A new kind is added to STORES, and nowhere else.

A plugin that modules ask for by name, not a conftest.py: mypy cannot have two modules of that name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from storage_kit import recount

from tq.core.queries import GetStats
from tq.storage.memory import MemoryStore
from tq.storage.sqlite import SqliteStore
from tq.storage.store import Store

STORES: dict[str, Callable[[Path], Store]] = {
    "memory": lambda folder: MemoryStore(),
    "sqlite": lambda folder: SqliteStore(folder / "tq.db"),
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Whatever the test did with it, its counters must equal a recount of its tasks."""
    opened = STORES[request.param](tmp_path)
    try:
        yield opened
        assert recount(opened) == opened.read(GetStats()).lanes
    finally:
        opened.close()
