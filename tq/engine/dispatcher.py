"""Claims for free workers and hands the leases over through the memory channel.

The channel is a hand-over, not the queue: no more is claimed than the workers are free for or will get
through in about 50 ms (`Pool.room_for`), so that a late task of high priority never waits behind a
hundred slow ones. What a wrong guess left lying is recalled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio

from tq.clock import Clock
from tq.core.errors import StorageUnavailable
from tq.core.ops import BATCH_MAX, CLAIM_LIMIT_MAX, AnyOp, Claim, Claimed, Release
from tq.core.task import Lease, ServerId
from tq.engine.backoff import Backoff
from tq.engine.bell import Bell
from tq.engine.ledger import Ledger
from tq.engine.pool import RECALL_MS, Pool

POLL_S: Final = 1.0
"""A claim is tried this often even if no bell rang: bells save time, they are not needed for liveness.

In a store that is shared, the news are asked for as often instead: one question for all that may be new.
"""
LOOK_EVERY_S: Final = 0.003
LOOK_FOR_S: Final = 0.05
"""While others ring, a claim is tried again this often, for so long after the last that found something.

Servers that submit one task after another ring for few of them (see `tq.engine.ears`).
"""


class Dispatcher:
    """Claims tasks of *types* for *server* and puts them into the hand-over channel.

    ``inbox`` is the far end of that channel, by which what lies in it can be taken back.

    Args:
        others_ring: Whether another server has rung lately.
    """

    def __init__(
        self,
        ledger: Ledger,
        pool: Pool,
        *,
        pending: Bell,
        server: ServerId,
        types: tuple[str, ...] | None,
        hand_over: trio.MemorySendChannel[Lease],
        inbox: trio.MemoryReceiveChannel[Lease],
        clock: Clock,
        backoff: Backoff,
        poll_s: float = POLL_S,
        others_ring: Callable[[], bool] = lambda: False,
    ) -> None:
        self._ledger = ledger
        self._pool = pool
        self._pending = pending
        self._server = server
        self._types = types
        self._hand_over = hand_over
        self._inbox = inbox
        self._clock = clock
        self._backoff = backoff
        self._poll_s = poll_s
        self._others_ring = others_ring
        self._found_at = -math.inf
        self._recalled: list[Lease] = []

    async def run(self) -> None:
        """Keep the workers busy, for ever. Ends only by cancellation; no lease is lost by that."""
        while True:
            try:
                # What a recall could not give back, because the store went away, nobody else would.
                await self._give_back()
                if not self._pool.is_worth_claiming():
                    await self._wait_rung(self._pool.room)
                    continue
                self._pending.silence()
                asked = min(self._pool.room_for(), CLAIM_LIMIT_MAX)
                claimed = await self.dispatch_once(asked)
                if len(claimed.leases) < asked:
                    await self._wait_rung(self._pending, patience_s=self._patience_s(claimed))
                self._backoff.reset()
            except StorageUnavailable:
                await self._backoff.wait()

    def _patience_s(self, claimed: Claimed) -> float:
        """How long to wait for a bell: a rate lets the next task through without one, others may not ring."""
        patience_s = self._poll_s
        if claimed.again_at is not None:
            patience_s = min(patience_s, max(0, claimed.again_at - self._clock.now_ms()) / 1000)
        if trio.current_time() - self._found_at < LOOK_FOR_S and self._others_ring():
            patience_s = min(patience_s, LOOK_EVERY_S)
        return patience_s

    async def dispatch_once(self, limit: int) -> Claimed:
        """Claim up to *limit* tasks and hand them over; what the claim was answered."""
        claimed = await self._ledger.ask(Claim(server=self._server, types=self._types, limit=limit))
        for lease in claimed.leases:
            self._hand_over.send_nowait(lease)
        self._pool.handed_over(len(claimed.leases))
        if claimed.leases:
            self._found_at = trio.current_time()
        return claimed

    async def _wait_rung(self, bell: Bell, *, patience_s: float = math.inf) -> None:
        """Return when *bell* rings, after *patience_s*, or after recalling what lay too long."""
        handed = self._pool.handed
        recall_at = handed[0] + RECALL_MS / 1000 if handed else math.inf
        with trio.move_on_at(min(recall_at, trio.current_time() + patience_s)):
            await bell.wait_rung()
            return
        # Workers take the oldest first: what is oldest now may be younger than what we waited for.
        if handed and handed[0] + RECALL_MS / 1000 <= trio.current_time():
            await self.recall()

    async def recall(self) -> int:
        """Give back the leases that lie in the channel, with no attempt burnt; how many it were.

        If the store is away, what was not given back is by the next call, or by `run`.

        Raises:
            StorageUnavailable: Safe to repeat.
        """
        before = len(self._recalled)
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                self._recalled.append(self._inbox.receive_nowait())
        self._pool.recalled(self._recalled[before:])
        return await self._give_back()

    async def _give_back(self) -> int:
        """Give back what was recalled and has not been; how many it were. Raises StorageUnavailable."""
        count = 0
        while part := self._recalled[:BATCH_MAX]:
            releases: list[AnyOp] = [Release(lease.task_id, lease.generation) for lease in part]
            await self._ledger.ask_each(releases)
            del self._recalled[: len(part)]
            count += len(part)
        return count
