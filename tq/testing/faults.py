"""Faults on demand, around a real store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from tq.core.errors import StorageFull, StorageUnavailable, TqError
from tq.core.ops import AnyOp, Reply
from tq.core.queries import Query
from tq.core.task import ServerId
from tq.storage.store import Snapshot, Store, Wake, WriteLetter

R = TypeVar("R")


class FaultyStore:
    """*store*, whose batches and questions fail as long as ``failing`` is set; it counts what it applies."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.exclusive = store.exclusive
        self.failing: type[StorageUnavailable] | None = None
        self.batches: list[list[AnyOp]] = []
        self.refused = 0

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
