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

pytest_plugins = ("postgres_kit",)


def _in_folder(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue("tmp_path")
    return folder


STORES: dict[str, Callable[[pytest.FixtureRequest], Store]] = {
    "memory": lambda request: MemoryStore(),
    "sqlite": lambda request: SqliteStore(_in_folder(request) / "tq.db"),
    # Its server is started where it is first asked for, and not where only others are tested.
    "postgres": lambda request: request.getfixturevalue("open_empty_postgres")(),
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Whatever the test did with it, its counters must equal a recount of its tasks."""
    opened = STORES[request.param](request)
    try:
        yield opened
        assert recount(opened) == opened.read(GetStats()).lanes
    finally:
        opened.close()
