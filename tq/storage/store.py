"""The contract of a store, and how one is opened by its URL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from tq.core.errors import InvalidInput, TqError
from tq.core.keys import Key
from tq.core.limits import QueueRules
from tq.core.ops import AnyOp, Letter, Reply, Schedule
from tq.core.queries import Query, Stats
from tq.core.task import ServerId, Task, TaskId

R = TypeVar("R")

WriteLetter = Callable[[Sequence[Reply | TqError]], Letter | None]
"""Makes of the replies to a batch what the other servers are told of it; None: nothing."""


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
    leader: tuple[ServerId, int] | None = None
    """Who led last, and until when."""
    letters: tuple[tuple[ServerId, int], ...] = ()
    """The server and the number of each, in that order."""


class Wake(Protocol):
    """Wakes the servers that share a store. It saves time; nothing depends on it.

    ``ring`` blocks, and is called like the methods of a store; ``wait`` is awaited on trio's loop.
    """

    def ring(self) -> None:
        """Wake everybody who waits, oneself too. Raises StorageUnavailable; safe to repeat."""
        ...

    def ping(self) -> None:
        """Wake oneself alone, the way that a ring goes. Raises StorageUnavailable; safe to repeat."""
        ...

    async def wait(self) -> bool:
        """Return when somebody has rung since the last return; whether another server has.

        Raises:
            StorageUnavailable: It will hear nothing any more: close it, and open another.
        """
        ...

    def close(self) -> None:
        """Hear nothing more. Calling it twice does nothing."""
        ...


class Store(Protocol):
    """Keeps tasks. Blocking: call it from a thread, or inline where time is virtual.

    `apply` is called by one caller at a time; `read` by any number, beside it.
    """

    exclusive: bool
    """Whether one process has this store to itself, so that every other server known to it is dead."""

    @property
    def judged_at(self) -> int | None:
        """What the clock that judges showed in the last batch; None where that is the *now* of the caller."""
        ...

    @property
    def unsettled(self) -> bool:
        """Whether there may be something for Settle. A hint: True where it is not known."""
        ...

    def apply(
        self, ops: Sequence[AnyOp], now: int, *, news: WriteLetter | None = None
    ) -> list[Reply | TqError]:
        """Apply *ops* in order in one transaction at the instant *now*; one reply or refusal for each.

        When this returns the changes are durable. A refused op changes nothing and does not disturb
        its neighbours.

        Args:
            ops: At most BATCH_MAX; without *news*, at least one is needed for anything to happen.
            news: Called with the replies before the commit; its letter is stored in the same transaction,
                which may be tried again, and it then called again.
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

    def beat(self, server: ServerId, now: int) -> bool:
        """Note that *server* lives, if it is known; whether it is. Beside `apply`, and waiting for no batch.

        It tells nothing but that. Of a store that one process has to itself nobody asks.

        Raises:
            StorageUnavailable: Safe to repeat.
        """
        ...

    def open_wake(self, server: ServerId) -> Wake | None:
        """A way for *server* to be woken by other servers, and to wake them; None if there is none. Blocking.

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


@contextmanager
def needs_psycopg(field: str) -> Iterator[None]:
    """Imports inside need psycopg. Raises InvalidInput if it is not there."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise
        raise InvalidInput(
            "a store on PostgreSQL needs psycopg: pip install 'tq[postgres]'", field=field
        ) from None


def place_of(url: str, *, field: str = "store") -> Path | str | None:
    """What *url* names: a file of SQLite, a URL of PostgreSQL, or None, the memory of this process.

    Raises:
        InvalidInput: None of these.
    """
    if url == "memory:":
        return None
    scheme, separator, path = url.partition(":///")
    if scheme == "sqlite" and separator and path:
        return Path(path)
    if url.partition("://")[0] in ("postgresql", "postgres"):
        return url
    # What has an @ may have a password.
    shown = url if "@" not in url else repr(url.partition(":")[0])
    raise InvalidInput(
        f"cannot open store {shown}: use sqlite:///./tq.db, sqlite:////var/lib/tq.db,"
        " postgresql://user@host/database or memory:",
        field=field,
    )


def open_store(url: str, *, durable: bool = True, name: str = "tq") -> Store:
    """Open the store that *url* names, making it if it is not there.

    Args:
        url: ``memory:``, ``sqlite:///relative/path``, ``sqlite:////absolute/path`` or ``postgresql://…``.
        durable: False lets the last changes be lost at a power cut, for speed.
        name: What a database shows as the name of whoever is connected.
    Raises:
        InvalidInput: Not such a URL.
        StorageInUse: Another process has it.
        SchemaMismatch: Not made by a version of tq that this one understands.
        StorageUnavailable: It cannot be opened or made.
    """
    match place_of(url):
        case None:
            from tq.storage.memory import MemoryStore

            return MemoryStore()
        case Path() as path:
            from tq.storage.sqlite import SqliteStore

            return SqliteStore(path, durable=durable)
        case str():
            with needs_psycopg("store"):
                from tq.storage.postgres import PostgresStore
            return PostgresStore(url, durable=durable, name=name)
