"""Does what its time has come for: promotes, expires, settles, fires schedules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import trio

from tq.clock import Clock, RunSync
from tq.core.errors import StorageUnavailable, TqError
from tq.core.ops import AnyOp, Changed, Expire, Promote, Reply, Settle, Swept
from tq.core.queries import DueSchedules, NextDue
from tq.engine.backoff import Backoff
from tq.engine.feed import Feed
from tq.engine.ledger import Ledger
from tq.engine.schedules import fire
from tq.storage.store import Store

WAKE_EVERY_S: Final = 60.0
"""The longest sleep: the machine's clock may be set while we sleep by the monotonic one."""
FIRE_MAX: Final = 100
"""Schedules fired in one transaction."""


async def run_scheduler(
    ledger: Ledger,
    store: Store,
    feed: Feed,
    *,
    clock: Clock,
    run_sync: RunSync,
    backoff: Backoff,
    leads: Callable[[], bool],
) -> None:
    """Do what is due, then sleep until the next thing is, for ever. Ends only by cancellation.

    A server that does not lead does what it has itself put off, as far as it knows; the leader does all.
    """
    while True:
        try:
            feed.due.silence()
            feed.next_due = None
            while await sweep_once(ledger):
                pass
            stored = None
            if leads():
                while await fire_once(ledger, store, now=clock.now_ms(), run_sync=run_sync):
                    pass
                stored = await run_sync(partial(store.read, NextDue()))
            backoff.reset()
        except StorageUnavailable:
            await backoff.wait()
            continue
        await _wait_due(feed, stored, clock)


async def sweep_once(ledger: Ledger) -> bool:
    """One batch of each of what is due; whether there is more."""
    return _has_more(await ledger.ask_each([Promote(), Expire(), Settle()]))


def _has_more(replies: Sequence[Reply | TqError]) -> bool:
    return any(isinstance(reply, Swept | Changed) and reply.more for reply in replies)


async def fire_once(ledger: Ledger, store: Store, *, now: int, run_sync: RunSync) -> bool:
    """Deal with the ticks of up to FIRE_MAX schedules; whether there may be more.

    A schedule that was changed meanwhile, or fired by another server, refuses: that is as it should be.
    """
    schedules = await run_sync(partial(store.read, DueSchedules(now, FIRE_MAX)))
    ops: list[AnyOp] = [fire(schedule, now=now) for schedule in schedules]
    if ops:
        await ledger.ask_each(ops)
    return len(ops) == FIRE_MAX


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
