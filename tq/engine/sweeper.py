"""Takes back what dead servers ran, and deletes what has been kept long enough."""

from __future__ import annotations

from typing import Final

import trio

from tq.clock import Clock
from tq.core.errors import StorageUnavailable
from tq.core.ops import Beat, Prune, Recover, Recovered, Swept
from tq.core.task import ServerId
from tq.engine.backoff import Backoff
from tq.engine.ledger import Ledger

BEAT_EVERY_S: Final = 5.0
DEAD_AFTER_MS: Final = 15_000
SWEEP_EVERY_S: Final = 1.0


async def recover_all(ledger: Ledger, server: ServerId, *, dead_before: int) -> Recovered:
    """Take back everything that servers not seen since *dead_before* ran, in bounded batches."""
    total = Recovered()
    while True:
        part = await ledger.ask(Recover(server=server, dead_before=dead_before))
        total = Recovered(
            pending=total.pending + part.pending,
            failed=total.failed + part.failed,
            cancelled=total.cancelled + part.cancelled,
        )
        if not part.more:
            return total


async def run_sweeper(
    ledger: Ledger, server: ServerId, *, clock: Clock, shared: bool, backoff: Backoff
) -> None:
    """Prune and, in a *shared* store, recover, for ever. Ends only by cancellation."""
    while True:
        try:
            while (await prune_once(ledger)).more:
                pass
            if shared:
                await recover_all(ledger, server, dead_before=clock.now_ms() - DEAD_AFTER_MS)
            backoff.reset()
        except StorageUnavailable:
            await backoff.wait()
            continue
        await trio.sleep(SWEEP_EVERY_S)


async def prune_once(ledger: Ledger) -> Swept:
    """One batch of what is past its time."""
    return await ledger.ask(Prune())


async def run_heartbeat(ledger: Ledger, server: ServerId, *, backoff: Backoff) -> None:
    """Say that *server* lives, for ever. Ends only by cancellation."""
    while True:
        try:
            await ledger.ask(Beat(server))
            backoff.reset()
        except StorageUnavailable:
            await backoff.wait()
            continue
        await trio.sleep(BEAT_EVERY_S)
