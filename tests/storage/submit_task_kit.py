"""What the tests of `submit_task` say in one word."""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg.types.json import Jsonb
from storage_kit import NOW, do

from tq.core import ops
from tq.core.servers import ServerInfo, server_text
from tq.core.task import ServerId
from tq.core.wire import TypeDefaults
from tq.handlers import TaskQueue
from tq.storage.postgres import PostgresStore

US = ServerId("us")
JSON_FIELDS = ("payload", "retry")
TRACEPARENT: Final = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def declare(store: PostgresStore, types: dict[str, TypeDefaults] | None, *, now: int = NOW) -> None:
    """Let a server say that it handles *types*."""
    info = ServerInfo(host="h", pid=1, version="1", started_at=0, types=types, workers=1, busy=0)
    do(store, ops.Beat(US, said=server_text(info), edition=1), now)


def forms(queue: TaskQueue) -> dict[str, TypeDefaults]:
    declared = queue.defaults(timeout_ms=7_000)
    assert declared is not None
    return declared


def call(db: psycopg.Connection, type: str, **said: Any) -> str:
    """Submit in SQL what an HTTP submit would have said."""
    values = {name: Jsonb(value) if name in JSON_FIELDS else value for name, value in said.items()}
    arguments = "".join(f", {name} => %({name})s" for name in values)
    row = db.execute(f"SELECT submit_task(%(type)s{arguments})".encode(), {"type": type, **values}).fetchone()
    assert row is not None
    assert isinstance(row[0], str)
    return row[0]
