"""What docs/how-to/sql.md shows is run, on a real database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from pages import blocks
from postgres_server import execute
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from tq.core import ops
from tq.core.servers import ServerInfo, server_text
from tq.core.task import ServerId, Task
from tq.storage.postgres import PostgresStore

pytest_plugins = ("postgres_fixtures",)

PAGE = blocks((Path(__file__).parents[2] / "docs/how-to/sql.md").read_text())


@pytest.fixture
def store(postgres_url: str) -> Iterator[PostgresStore]:
    """That of a server which takes any type, beside the tables of a shop and its role."""
    with closing(PostgresStore(postgres_url)) as opened:
        info = ServerInfo(host="h", pid=1, version="1", started_at=0, types=None, workers=1, busy=0)
        opened.apply([ops.Beat(ServerId("us"), said=server_text(info))], 0)
        execute(postgres_url, "CREATE ROLE shop LOGIN")
        try:
            execute(postgres_url, "CREATE TABLE public.orders (number integer PRIMARY KEY, customer text)")
            execute(postgres_url, "GRANT ALL ON public.orders TO shop")
            for block in PAGE:
                if block.language == "sql" and "GRANT" in block.text:
                    execute(postgres_url, block.text)
            yield opened
        finally:
            execute(postgres_url, "DROP OWNED BY shop; DROP ROLE shop")


@pytest.fixture
def shop(store: PostgresStore, postgres_url: str) -> str:
    """The URL of the database, as the application connects to it."""
    url = urlsplit(postgres_url)
    return url._replace(netloc=f"shop@{url.netloc.rpartition('@')[2]}").geturl()


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """The functions of the page."""
    names: dict[str, Any] = {"__name__": "page"}
    for block in PAGE:
        if block.language == "python":
            exec(compile(block.text, f"sql.md:{block.line}", "exec", dont_inherit=True), names)
    return names


def tasks(store: PostgresStore) -> list[Task]:
    return list(store.snapshot().tasks)


def test_the_transaction_that_is_shown_stores_both(store: PostgresStore, shop: str) -> None:
    [shown] = [block.text for block in PAGE if block.language == "sql" and "BEGIN" in block.text]
    with psycopg.connect(shop, autocommit=True) as db:
        db.execute(shown.encode())
        assert db.execute("SELECT * FROM orders").fetchall() == [(7, "ada@example.org")]
    [task] = tasks(store)
    assert (task.type, task.payload) == ("invoice", '{"order": 7}')


def test_the_function_for_psycopg_stores_both_or_neither(
    store: PostgresStore, shop: str, shown: dict[str, Any]
) -> None:
    with psycopg.connect(shop) as db:
        task_id = shown["place_order"](db, 8, "bob")
        with pytest.raises(psycopg.errors.UniqueViolation):
            shown["place_order"](db, 8, "bob")
    [task] = tasks(store)
    assert (task.id, task.key, task.payload) == (task_id, "bob", '{"order": 8}')
    assert task.run_at - task.created_at == 60_000


def test_the_functions_for_sqlalchemy_go_with_their_session(
    store: PostgresStore, shop: str, shown: dict[str, Any]
) -> None:
    engine = create_engine(urlsplit(shop)._replace(scheme="postgresql+psycopg").geturl())
    with Session(engine) as session:
        shown["submit"](session, "invoice", {"order": 9})
        session.rollback()
        task_id = shown["submit"](session, "invoice", {"order": 10})
        assert shown["remind_later"](session, 10) == "reminder-10"
        session.commit()
    engine.dispose()
    assert [(each.id, each.type, each.payload) for each in tasks(store)] == [
        (task_id, "invoice", '{"order": 10}'),
        ("reminder-10", "reminder", '{"order": 10}'),
    ]
