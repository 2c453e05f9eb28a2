"""Faults on demand, around a real store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import trio

from tq.core.errors import StorageFull, StorageUnavailable, TqError
from tq.core.ops import AnyOp, Reply
from tq.core.queries import Query
from tq.core.task import ServerId
from tq.storage.store import Snapshot, Store, Wake, WriteLetter

R = TypeVar("R")
T = TypeVar("T")


class FaultyStore:
    """*store*, whose batches and questions fail as long as ``failing`` is set; it counts what it applies."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.exclusive = store.exclusive
        self.failing: type[StorageUnavailable] | None = None
        self.batches: list[list[AnyOp]] = []
        self.refused = 0

    @property
    def judged_at(self) -> int | None:
        """As the store."""
        return self.store.judged_at

    @property
    def unsettled(self) -> bool:
        """As the store."""
        return self.store.unsettled

    def apply(
        self, ops: Sequence[AnyOp], now: int, *, news: WriteLetter | None = None
    ) -> list[Reply | TqError]:
        """As the store, or the failure."""
        self._fail()
        self.batches.append(list(ops))
        return self.store.apply(ops, now, news=news)

    def read(self, query: Query[R]) -> R:
        """As the store, or the failure."""
        self._fail()
        return self.store.read(query)

    def beat(self, server: ServerId, now: int) -> bool:
        """As the store, or the failure."""
        self._fail()
        return self.store.beat(server, now)

    def open_wake(self, server: ServerId) -> Wake | None:
        """As the store, or the failure."""
        self._fail()
        return self.store.open_wake(server)

    def _fail(self) -> None:
        if self.failing is not None:
            self.refused += 1
            full = self.failing is StorageFull
            raise self.failing("no space left (injected)" if full else "out of reach (injected)")

    def snapshot(self) -> Snapshot:
        """As the store, failing or not: tests look at the truth."""
        return self.store.snapshot()

    def close(self) -> None:
        """As the store."""
        self.store.close()


class Freezer:
    """Runs what blocks, unless its server is frozen: then that waits, before or after it is done.

    So a server that was stopped by its machine looks to its store, and to the others.
    """

    def __init__(self) -> None:
        self._thawed = trio.Event()
        self._thawed.set()

    def freeze(self) -> None:
        """Let nothing happen from now on."""
        self._thawed = trio.Event()

    def thaw(self) -> None:
        """Let what waits happen, and what comes."""
        self._thawed.set()

    async def run_sync(self, function: Callable[[], T], /) -> T:
        """Run *function* here, not while frozen; what it gives waits too."""
        await trio.lowlevel.checkpoint()
        await self._thawed.wait()
        done = function()
        await self._thawed.wait()
        return done
