"""Fixtures for `submit_task`: a store in which types are declared, and an application's connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from postgres_place import Schema
from storage_kit import recount
from submit_task_kit import declare, forms

from tq.core import queries
from tq.core.wire import TypeDefaults
from tq.handlers import TaskQueue
from tq.storage.postgres import PostgresStore

pytest_plugins = ("postgres_kit",)


@pytest.fixture
def types(queue: TaskQueue) -> dict[str, TypeDefaults]:
    """What is declared: one type with no defaults of its own, one with all."""

    @queue.task("plain")
    async def plain(payload: object) -> None: ...

    @queue.task(
        "special",
        timeout=0.5,
        max_attempts=3,
        queue="other",
        priority="high",
        retry={"kind": "fixed", "base": 2, "jitter": 0},
        result_ttl=60,
        tags=("x", "y"),
    )
    async def special(payload: object) -> None: ...

    return forms(queue)


@pytest.fixture
def store(empty_schema: Schema, types: dict[str, TypeDefaults]) -> Iterator[PostgresStore]:
    with closing(PostgresStore(empty_schema.url, durable=False)) as opened:
        declare(opened, types)
        yield opened
        assert recount(opened) == opened.read(queries.GetStats()).lanes


@pytest.fixture
def db(empty_schema: Schema, store: PostgresStore) -> Iterator[psycopg.Connection]:
    """A connection of the application's, on which each statement commits by itself."""
    with psycopg.connect(empty_schema.server, autocommit=True) as connection:
        connection.execute(f"SET search_path = {empty_schema.name}")
        yield connection
