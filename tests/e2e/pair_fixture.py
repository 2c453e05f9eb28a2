"""The fixture ``pair``: two servers with different handlers on one PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from process import Server, Site

pytest_plugins = ("site_fixture", "postgres_fixtures")


@pytest.fixture
def pair(site: Site, postgres_url: str) -> Iterator[tuple[Server, Server]]:
    """One that has the handlers of `work_app`, one that has those of `other_app`."""
    one, other = [site.spawn(app, store=postgres_url, grace=1) for app in ("work_app:app", "other_app:app")]
    one.wait_listening()
    other.wait_listening()
    yield one, other
    one.stop()
    other.stop()
