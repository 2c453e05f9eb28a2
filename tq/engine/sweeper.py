"""Takes back what dead servers ran, and deletes what has been kept long enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tq.core.errors import StorageUnavailable
from tq.core.ops import AnyOp, Prune, PruneLetters, Recover, Recovered, Swept
from tq.core.task import ServerId
from tq.engine.backoff import Backoff
from tq.engine.ledger import Ledger


class Sweeps(Protocol):
    """Who sweeps, and whether it may say of others that they are dead."""

    @property
    def leads(self) -> bool:
        """Whether this server sweeps."""
        ...

    def dead_before(self) -> int | None:
        """Servers not seen since then are dead; None: that cannot be said now."""
        ...

    async def wait_to_sweep(self) -> None:
        """Return when there may be something to sweep, or it is time to look."""
        ...


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
    ledger: Ledger, server: ServerId, *, fleet: Sweeps, shared: bool, backoff: Backoff
) -> None:
    """Prune and, in a *shared* store, recover, while this server leads. Ends only by cancellation."""
    while True:
        try:
            while fleet.leads and await sweep_once(ledger, _sweep(server, fleet, shared=shared)):
                pass
            backoff.reset()
        except StorageUnavailable:
            await backoff.wait()
            continue
        await fleet.wait_to_sweep()


def _sweep(server: ServerId, fleet: Sweeps, *, shared: bool) -> list[AnyOp]:
    if not shared:
        return [Prune()]
    dead_before = fleet.dead_before()
    recover: list[AnyOp] = [] if dead_before is None else [Recover(server, dead_before)]
    return [*recover, Prune(), PruneLetters()]


async def sweep_once(ledger: Ledger, ops: Sequence[AnyOp]) -> bool:
    """One batch of each of *ops*; whether there is more."""
    replies = await ledger.ask_each(ops)
    return any(isinstance(reply, Swept | Recovered) and reply.more for reply in replies)
