"""The services of one server: the root nursery that starts each in order and stops them in order."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import trio

from tq.context import CLEANUP_S
from tq.core import ops
from tq.core.errors import StorageUnavailable
from tq.core.events import ServerDraining, ServerStarted, ServerStopped
from tq.core.ops import Submit
from tq.core.task import Lease, TaskId
from tq.core.wire import SubmitRequest
from tq.engine.backoff import Backoff
from tq.engine.collector import Collector
from tq.engine.dispatcher import POLL_S, Dispatcher
from tq.engine.ears import run_ears
from tq.engine.keyring import run_keyring
from tq.engine.links import Links
from tq.engine.loops import AsyncioLoop
from tq.engine.notes import run_notes
from tq.engine.pool import Result, Stop
from tq.engine.processes import Children
from tq.engine.pulse import run_pulse
from tq.engine.scheduler import run_scheduler
from tq.engine.server import Server
from tq.engine.sweeper import recover_all, run_sweeper
from tq.engine.worker import Workshop, run_overseer, run_workers

RESULTS_BUFFER: Final = 100
RECORD_S: Final = 2.0
"""Seconds that the last results have to reach the store at shutdown."""
LAST_S: Final = 4.5
"""Seconds after the grace at which this server ends even if its store does not answer."""

EXIT_ABORTED: Final = 130
"""The exit code after a third signal."""

FrontDoor = Callable[..., Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ExitReport:
    """How a shutdown went: *released* tasks went back to wait, *stuck* handlers never stopped."""

    released: int
    stuck: int


async def run_server(
    server: Server,
    *,
    front_door: FrontDoor | None = None,
    signals: AsyncIterator[int] | None = None,
    exit_now: Callable[[int], Any],
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> ExitReport:
    """Run *server* until its ``draining`` event, or a signal, stops it; then stop it in order.

    Takes the open store over and closes it. Whatever fails that is not foreseen cancels the root nursery
    and is raised: what was acknowledged is durable, so a restart is safe.

    Args:
        front_door: Started with ``nursery.start`` once work is done; must end soon after ``draining``.
        signals: The first drains, the second cuts the grace short, the third calls *exit_now*.
        exit_now: Ends the process with a code, at once: after a third signal, and at the end of a
            shutdown in which a handler cannot be stopped, or the store does not answer in time.
    """
    services = Services(server)
    async with trio.open_nursery() as beside:
        beside.start_soon(_end_at_last, services, exit_now)
        report = await _run_services(
            services, front_door=front_door, signals=signals, exit_now=exit_now, task_status=task_status
        )
        beside.cancel_scope.cancel()
    return report


async def _run_services(
    services: Services,
    *,
    front_door: FrontDoor | None,
    signals: AsyncIterator[int] | None,
    exit_now: Callable[[int], Any],
    task_status: trio.TaskStatus[Server],
) -> ExitReport:
    """Run all services under one nursery, the root, until the server has stopped."""
    server = services.server
    try:
        async with trio.open_nursery() as root:
            if signals is not None:
                root.start_soon(_watch_signals, services, signals, exit_now)
            root.start_soon(server.ledger.run)
            await services.join()
            root.start_soon(services.run_fleet)
            await server.keys.load(server.read_keys)
            await services.put_schedules()
            root.start_soon(services.asyncio.run)
            if services.children is not None:
                root.start_soon(services.children.run)
            root.start_soon(services.collector.run)
            root.start_soon(services.run_workers)
            root.start_soon(run_overseer, services.shop)
            root.start_soon(services.run_notes)
            if not server.store.exclusive:
                backoff = Backoff(server.random)
                root.start_soon(partial(run_keyring, server.keys, server.read_keys, backoff=backoff))
            root.start_soon(server.watchers.run)
            if server.pulse is not None:
                root.start_soon(run_pulse, server.pulse)
            root.start_soon(services.run_intake)
            server.started = True
            await root.start(services.run_front_door, front_door)
            server.emit(
                ServerStarted(at=server.clock.now_ms(), server=server.id, workers=server.settings.workers)
            )
            task_status.started(server)
            await server.draining.wait()
            report = await services.drain()
            if report.stuck:
                # Their threads, or their shields, would hold the nursery for ever.
                server.store.close()
                services.emit_stopped(report)
                exit_now(0)
            root.cancel_scope.cancel()
    finally:
        server.store.close()
    if not report.stuck:
        services.emit_stopped(report)
    return report


async def _watch_signals(
    services: Services, signals: AsyncIterator[int], exit_now: Callable[[int], Any]
) -> None:
    count = 0
    async for _ in signals:
        count += 1
        match count:
            case 1:
                services.server.draining.set()
            case 2:
                services.hurry.set()
            case _:
                exit_now(EXIT_ABORTED)


async def _end_at_last(services: Services, exit_now: Callable[[int], Any]) -> None:
    """End the process where a shutdown takes too long, because what waits for the store cannot be let go.

    What this server did not give back will be recovered, as if it had been killed.
    """
    server = services.server
    await server.draining.wait()
    with trio.move_on_after(server.settings.grace_s):
        await services.hurry.wait()
    await trio.sleep(LAST_S)
    services.emit_stopped(ExitReport(released=0, stuck=len(server.pool.running)))
    exit_now(0)


class Services:
    """The services of one server, wired by their channels, and the order in which they stop.

    hand-over channel (leases) ▶ workers ▶ results channel ▶ collector ▶ ledger.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.hurry = trio.Event()
        self._intake = trio.CancelScope()
        self._intake_done = trio.Event()
        self._membership = trio.CancelScope()
        self._left = trio.Event()
        self._workers_done = trio.Event()
        self._front_door_done = trio.Event()
        self._hand_over, inbox = trio.open_memory_channel[Lease](server.settings.buffer)
        self._outbox, results = trio.open_memory_channel[Result | trio.Event](RESULTS_BUFFER)
        self.asyncio = AsyncioLoop()
        self.children = None if server.spawn is None else Children(server.spawn)
        self.shop = Workshop(
            queue=server.queue,
            pool=server.pool,
            clock=server.clock,
            run_handler=server.run_handler,
            asyncio=self.asyncio,
            children=self.children,
            links=Links(submit=self._submit_for, find=server.find),
            emit=server.emit,
            tell=server.watchers.tell,
            inbox=inbox,
            outbox=self._outbox,
            tracing=server.tracing,
        )
        self._dispatcher = Dispatcher(
            server.ledger,
            server.pool,
            pending=server.feed.pending,
            server=server.id,
            types=server.queue.types,
            hand_over=self._hand_over,
            inbox=inbox,
            clock=server.clock,
            backoff=Backoff(server.random),
            poll_s=POLL_S if server.store.exclusive else math.inf,
            others_ring=lambda: server.fleet.others_ring,
        )
        self.collector = Collector(server.ledger, results, clock=server.clock, random=server.random)

    async def _submit_for(self, request: SubmitRequest) -> TaskId:
        """Submit what a handler asks for, also while the server drains: its work is not done without."""
        new = await self.server.prepare(request)
        return (await self.server.ledger.ask(Submit(new))).task_id

    # Starting

    async def join(self) -> None:
        """Say that this server lives.

        A store that one process has to itself knows that every other server is dead: what those ran is
        taken back. In one that is shared, the others are to be known before anything is changed.
        """
        server, fleet = self.server, self.server.fleet
        if fleet.is_shared:
            await fleet.catch_up()
            await fleet.beat_once()
        else:
            await server.ledger.ask(ops.Beat(server.id))
            await recover_all(server.ledger, server.id, dead_before=server.clock.now_ms() + 1)

    async def run_fleet(self) -> None:
        """In a store that is shared: be one of many, until the last word is said."""
        server, fleet = self.server, self.server.fleet
        if fleet.is_shared:
            with self._membership:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(fleet.run_heart, Backoff(server.random))
                    nursery.start_soon(fleet.run_lifeline)
                    nursery.start_soon(fleet.run_news, Backoff(server.random))
                    nursery.start_soon(fleet.run_flush, Backoff(server.random))
                    nursery.start_soon(
                        partial(
                            run_ears,
                            server.store,
                            server.id,
                            fleet,
                            run_sync=server.run_own,
                            backoff=Backoff(server.random),
                        )
                    )
        self._left.set()

    async def put_schedules(self) -> None:
        """Make the schedules that come with the handlers; those that are there as they are meant stay so."""
        for scheduled in self.server.queue.schedules:
            await self.server.put_schedule(scheduled.name, scheduled.request)

    async def run_intake(self) -> None:
        """The services that bring work in: the first to stop."""
        server = self.server
        with self._intake:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._dispatcher.run)
                nursery.start_soon(
                    partial(
                        run_scheduler,
                        server.ledger,
                        server.store,
                        server.feed,
                        clock=server.clock,
                        run_sync=server.run_own,
                        backoff=Backoff(server.random),
                        leads=lambda: server.fleet.leads,
                    )
                )
                nursery.start_soon(
                    partial(
                        run_sweeper,
                        server.ledger,
                        server.id,
                        fleet=server.fleet,
                        shared=server.fleet.is_shared,
                        backoff=Backoff(server.random),
                    )
                )
        self._intake_done.set()

    async def run_workers(self) -> None:
        """The worker nursery, until every attempt has ended."""
        await run_workers(self.shop)
        self._workers_done.set()

    async def run_notes(self) -> None:
        """What attempts tell while they run is stored, for ever."""
        server = self.server
        pool = server.pool
        await run_notes(server.ledger, pool.notes, noted=pool.noted, backoff=Backoff(server.random))

    async def run_front_door(
        self,
        front_door: FrontDoor | None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """The HTTP surface, if there is one, until it has let everybody go."""
        if front_door is None:
            task_status.started()
        else:
            await front_door(task_status=task_status)
        self._front_door_done.set()

    # Stopping

    async def drain(self) -> ExitReport:
        """Stop in order: nothing new, then what runs, then what it said, then the last request."""
        server = self.server
        released_before = server.feed.released
        server.emit(
            ServerDraining(
                at=server.clock.now_ms(),
                server=server.id,
                running=len(server.pool.running),
                grace_ms=round(server.settings.grace_s * 1000),
            )
        )
        server.feed.close()
        server.watchers.close()
        self._intake.cancel()
        await self._intake_done.wait()
        server.fleet.leave()
        await self._recall()
        self._hand_over.close()
        await self._stop_workers()
        stuck = await self._conclude_stuck()
        await self._recall()
        await self._record_results(stuck)
        await self._front_door_done.wait()
        self._membership.cancel()
        await self._left.wait()
        with suppress(StorageUnavailable):
            await server.ledger.ask(ops.Beat(server.id, gone=True))
        return ExitReport(released=server.feed.released - released_before, stuck=stuck)

    async def _recall(self) -> None:
        # With the store away nothing can be given back; the next start recovers it.
        with suppress(StorageUnavailable):
            await self._dispatcher.recall()

    async def _stop_workers(self) -> None:
        """Let attempts finish within the grace; then cancel their scopes and let them clean up."""
        with trio.move_on_after(self.server.settings.grace_s):
            await _wait_either(self._workers_done, self.hurry)
        for attempt in self.server.pool.running:
            attempt.cancel(Stop.SHUTDOWN, now=self.server.clock.monotonic())
        with trio.move_on_after(CLEANUP_S):
            await self._workers_done.wait()

    async def _conclude_stuck(self) -> int:
        """Give back what still runs: its handler cannot be stopped. How many there are."""
        stuck = list(self.server.pool.running)
        with trio.move_on_after(RECORD_S):
            for attempt in stuck:
                if not attempt.concluded:
                    attempt.concluded = True
                    ended_at = self.server.clock.now_ms()
                    await self._outbox.send(attempt.result(None, ended_at=ended_at))
        return len(stuck)

    async def _record_results(self, stuck: int) -> None:
        """Let what attempts said reach the store; if that is away, the next start recovers their tasks."""
        recorded = trio.Event()
        with trio.move_on_after(RECORD_S):
            if not stuck:
                await self._workers_done.wait()
            await self._outbox.send(recorded)
            await recorded.wait()

    def emit_stopped(self, report: ExitReport) -> None:
        """Tell that the server has stopped."""
        server = self.server
        server.emit(
            ServerStopped(
                at=server.clock.now_ms(), server=server.id, released=report.released, stuck=report.stuck
            )
        )


async def _wait_either(one: trio.Event, other: trio.Event) -> None:
    """Return when either is set."""
    async with trio.open_nursery() as nursery:

        async def wait_and_leave(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait_and_leave, one)
        nursery.start_soon(wait_and_leave, other)
