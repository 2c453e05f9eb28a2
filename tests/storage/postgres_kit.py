"""PostgreSQL for the tests of stores: one schema for a whole run, emptied for each test.

A new database costs 50 ms, new tables 30 ms, and to empty the few that a test has written to 3 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from uuid import uuid4

import pytest
from postgres_place import Schema
from postgres_way import Way

from tq.storage.postgres import PostgresStore

pytest_plugins = ("postgres_fixtures",)


@pytest.fixture(scope="session")
def postgres_schema(postgres: str) -> Iterator[Schema]:
    """A schema of this run's own, with tables."""
    schema = Schema(postgres, f"tq_{uuid4().hex}")
    PostgresStore(schema.url).close()
    yield schema
    schema.execute("DROP SCHEMA {} CASCADE")


@pytest.fixture
def empty_schema(postgres_schema: Schema) -> Schema:
    """That schema, and nothing in it."""
    postgres_schema.empty()
    return postgres_schema


@pytest.fixture
def way(empty_schema: Schema) -> Iterator[Way]:
    """A way to that schema on which things go wrong."""
    with closing(Way(empty_schema.url)) as opened:
        yield opened


@pytest.fixture
def open_empty_postgres(empty_schema: Schema) -> Callable[[], PostgresStore]:
    """Opens a store in which nothing is at first, and that trusts the time it is told."""
    return partial(PostgresStore, empty_schema.url, durable=False, own_clock=False)
