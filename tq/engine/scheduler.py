"""Makes tasks whose time has come pending."""

from __future__ import annotations

from functools import partial
from typing import Final

import trio

from tq.clock import Clock, RunSync
from tq.core.errors import StorageUnavailable
from tq.core.ops import NextDue, Promote, Swept
from tq.engine.backoff import Backoff
from tq.engine.feed import Feed
from tq.engine.ledger import Ledger
from tq.storage.store import Store

WAKE_EVERY_S: Final = 60.0
"""The longest sleep: the machine's clock may be set while we sleep by the monotonic one."""


async def run_scheduler(
    ledger: Ledger, store: Store, feed: Feed, *, clock: Clock, run_sync: RunSync, backoff: Backoff
) -> None:
    """Promote what is due, then sleep until the next is, for ever. Ends only by cancellation."""
    while True:
        try:
            feed.due.silence()
            feed.next_due = None
            while (await promote_once(ledger)).more:
                pass
            stored = await run_sync(partial(store.read, NextDue()))
            backoff.reset()
        except StorageUnavailable:
            await backoff.wait()
            continue
        await _wait_due(feed, stored, clock)


async def promote_once(ledger: Ledger) -> Swept:
    """One batch of what is due."""
    return await ledger.ask(Promote())


async def _wait_due(feed: Feed, stored: int | None, clock: Clock) -> None:
    """Return when the earliest known instant has come; a bell means that an earlier one is known."""
    if stored is not None and (feed.next_due is None or stored < feed.next_due):
        feed.next_due = stored
    while True:
        wait_s = WAKE_EVERY_S
        if feed.next_due is not None:
            wait_s = min(wait_s, (feed.next_due - clock.now_ms()) / 1000)
        if wait_s <= 0:
            return
        with trio.move_on_after(wait_s):
            await feed.due.wait_rung()
