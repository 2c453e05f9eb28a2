"""What tests of every kind share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

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


@pytest.fixture
def queue() -> TaskQueue:
    return TaskQueue()


@pytest.fixture
def seen() -> list[Event]:
    """Events that a server emitted, if it was opened with ``emit=seen.append``."""
    return []
