"""What tests of every kind share."""

from __future__ import annotations

import pytest

from tq.core.events import Event
from tq.handlers import TaskQueue


@pytest.fixture
def queue() -> TaskQueue:
    return TaskQueue()


@pytest.fixture
def seen() -> list[Event]:
    """Events that a server emitted, if it was opened with ``emit=seen.append``."""
    return []
