"""What tests of every kind share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from tiers import longest_first, mark_slow

from tq.core.events import Event
from tq.handlers import TaskQueue


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Modules and tests stay to the end: not to look at them again and again for garbage saves a sixth."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_slow(items)
    longest_first(items)


@pytest.fixture
def queue() -> TaskQueue:
    return TaskQueue()


@pytest.fixture
def seen() -> list[Event]:
    """Events that a server emitted, if it was opened with ``emit=seen.append``."""
    return []
