"""Rings for the other servers, and hears them ring. It saves the wait for the next question for news."""

from __future__ import annotations

from typing import Final

import trio

from tq.clock import RunSync
from tq.core.errors import StorageUnavailable
from tq.core.task import ServerId
from tq.engine.backoff import Backoff
from tq.engine.fleet import Fleet
from tq.storage.store import Store, Wake

RING_GAP_S: Final = 0.05
"""A server rings at most 20 times a second."""
PING_S: Final = 5.0
"""Who has heard nothing for so long rings for itself alone, to hear that."""
DEAF_S: Final = 4.5
"""Who has not heard its own ring for so long is deaf: known within 10 s, and mended by listening anew."""


async def run_ears(
    store: Store, server: ServerId, fleet: Fleet, *, run_sync: RunSync, backoff: Backoff
) -> None:
    """Hear and ring, for ever; at once over where the store has no way to. Else ends only by cancellation."""
    while True:
        try:
            wake = await run_sync(lambda: store.open_wake(server))
        except StorageUnavailable:
            await backoff.wait()
            continue
        if wake is None:
            return
        ears = Ears(wake, fleet, run_sync)
        try:
            await ears.run()
        except* StorageUnavailable:
            pass
        finally:
            wake.close()
        if ears.has_heard:
            backoff.reset()
        await backoff.wait()


class Ears:
    """What is heard by *wake* until it is lost."""

    def __init__(self, wake: Wake, fleet: Fleet, run_sync: RunSync) -> None:
        self.has_heard = False
        self._wake = wake
        self._fleet = fleet
        self._run_sync = run_sync
        self._heard_at = trio.current_time()
        self._unheard_since: float | None = None

    async def run(self) -> None:
        """Hear and ring until the wake is lost. Raises a group of StorageUnavailable."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear)
            nursery.start_soon(self._ring)

    async def _hear(self) -> None:
        # What was rung before this one listened, it did not hear.
        self._fleet.heard()
        while True:
            by_another = await self._wake.wait()
            self.has_heard = True
            self._heard_at, self._unheard_since = trio.current_time(), None
            if by_another:
                self._fleet.heard()

    async def _ring(self) -> None:
        while True:
            is_asked = False
            with trio.move_on_at(self._heard_at + PING_S if self._unheard_since is None else self._deaf_at):
                await self._fleet.rung.wait_rung()
                is_asked = True
            if trio.current_time() >= self._deaf_at:
                raise StorageUnavailable("nothing was heard of what was rung")
            if is_asked or self._is_quiet:
                if self._unheard_since is None:
                    self._unheard_since = trio.current_time()
                await self._run_sync(self._wake.ring if is_asked else self._wake.ping)
                await trio.sleep(RING_GAP_S)

    @property
    def _is_quiet(self) -> bool:
        return self._unheard_since is None and trio.current_time() >= self._heard_at + PING_S

    @property
    def _deaf_at(self) -> float:
        return float("inf") if self._unheard_since is None else self._unheard_since + DEAF_S
