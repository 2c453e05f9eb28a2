"""The fixture ``postgres_url``: a new, empty database for a test, on a server that the run shares.

A plugin that modules ask for by name: ``pytest_plugins = ("postgres_fixtures",)``. The first test that needs
the server starts it, for all processes of pytest-xdist; `postgres_server` tells how it ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from postgres_server import NoPostgres, new_database, shared_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of the server's own database. Without a server the tests fail: they are never skipped."""
    try:
        with shared_server(os.environ) as url:
            yield url
    except NoPostgres as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def postgres_url(postgres: str) -> Iterator[str]:
    with new_database(postgres) as url:
        yield url
