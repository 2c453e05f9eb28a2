"""The fixture of the end-to-end tests. A plugin that modules ask for by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from process import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A folder for a store. Servers that a test leaves running are killed."""
    opened = Site(tmp_path)
    try:
        yield opened
    finally:
        opened.close()
