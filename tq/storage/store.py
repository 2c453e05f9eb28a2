"""The contract of a store, and how one is opened by its URL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from tq.core.errors import InvalidInput, TqError
from tq.core.keys import Key
from tq.core.limits import QueueRules
from tq.core.ops import AnyOp, Reply, Schedule
from tq.core.queries import Query, Stats
from tq.core.task import ServerId, Task, TaskId

R = TypeVar("R")


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All that a store knows, in arrival order: what two stores are compared by."""

    tasks: tuple[Task, ...]
    stats: Stats
    servers: tuple[tuple[ServerId, int], ...]
    """Each live server and when it was last seen, by id."""
    queues: tuple[tuple[str, QueueRules], ...]
    """Those with rules of their own, by name."""
    schedules: tuple[Schedule, ...]
    """By name."""
    holders: tuple[tuple[str, TaskId], ...]
    """Each unique name that is taken, by name, and the task that has it."""
    unsettled: tuple[TaskId, ...]
    """The tasks that Settle has not dealt with, by arrival."""
    keys: tuple[Key, ...]
    """The oldest first, then by id."""


class Store(Protocol):
    """Keeps tasks. Blocking: call it from a thread, or inline where time is virtual.

    `apply` is called by one caller at a time; `read` by any number, beside it.
    """

    exclusive: bool
    """Whether one process has this store to itself, so that every other server known to it is dead."""

    @property
    def unsettled(self) -> bool:
        """Whether there may be something for Settle. A hint: True where it is not known."""
        ...

    def apply(self, ops: Sequence[AnyOp], now: int) -> list[Reply | TqError]:
        """Apply *ops* in order in one transaction at the instant *now*; one reply or refusal for each.

        When this returns the changes are durable. A refused op changes nothing and does not disturb
        its neighbours.

        Args:
            ops: At most BATCH_MAX.
        Raises:
            StorageUnavailable: Nothing was applied; safe to repeat. StorageFull is one of these.
        """
        ...

    def read(self, query: Query[R]) -> R:
        """Answer *query* from what is committed.

        Raises:
            StorageUnavailable: Safe to repeat.
        """
        ...

    def snapshot(self) -> Snapshot:
        """Everything, at once. Unbounded: for tests and for copying, not for serving."""
        ...

    def close(self) -> None:
        """Let go of files and connections. Calling it twice does nothing."""
        ...


def open_store(url: str, *, durable: bool = True) -> Store:
    """Open the store that *url* names, making it if it is not there.

    Args:
        url: ``memory:``, ``sqlite:///relative/path``, ``sqlite:////absolute/path`` or ``postgresql://…``.
        durable: False lets the last changes be lost at a power cut, for speed.
    Raises:
        InvalidInput: Not such a URL.
        StorageInUse: Another process has it.
        SchemaMismatch: Not made by a version of tq that this one understands.
        StorageUnavailable: It cannot be opened or made.
    """
    if url == "memory:":
        from tq.storage.memory import MemoryStore

        return MemoryStore()
    scheme, separator, path = url.partition(":///")
    if scheme == "sqlite" and separator and path:
        from tq.storage.sqlite import SqliteStore

        return SqliteStore(Path(path), durable=durable)
    if url.partition("://")[0] in ("postgresql", "postgres"):
        try:
            from tq.storage.postgres import PostgresStore
        except ModuleNotFoundError as error:
            if error.name != "psycopg":
                raise
            raise InvalidInput(
                "a store on PostgreSQL needs psycopg: pip install 'tq[postgres]'", field="store"
            ) from None

        return PostgresStore(url, durable=durable)
    raise InvalidInput(
        f"cannot open store {url if '@' not in url else url.partition(':')[0]!r}: use sqlite:///./tq.db, sqlite:////var/lib/tq.db,"
        " postgresql://user@host/database or memory:",
        field="store",
    )
