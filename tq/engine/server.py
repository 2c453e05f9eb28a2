"""One tq process: the root nursery that starts every service in order and stops them in order.

`Server` is what the HTTP surface talks to; `run_server` is its life.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from random import Random
from typing import Any, Final

import trio
from msgspec.structs import replace

from tq.clock import Clock, IdMaker, RunSync
from tq.core import ops
from tq.core.errors import Overloaded, ShuttingDown, StorageUnavailable, TqError
from tq.core.events import Event, ServerDraining, ServerStarted, ServerStopped
from tq.core.ops import GetStats, GetTask, Stats, Submit, SubmitMany, Submitted
from tq.core.task import FINAL, Lease, NewTask, ServerId, State, Task, TaskId
from tq.core.wire import SubmitRequest
from tq.engine.backoff import Backoff
from tq.engine.collector import Collector
from tq.engine.dispatcher import Dispatcher
from tq.engine.feed import Feed
from tq.engine.ledger import Ledger
from tq.engine.scheduler import run_scheduler
from tq.engine.sweeper import DEAD_AFTER_MS, recover_all, run_heartbeat, run_sweeper
from tq.engine.worker import Pool, Result, Stop, Workshop, run_overseer, run_workers
from tq.handlers import CLEANUP_S, TaskQueue
from tq.storage.store import Store

RESULTS_BUFFER: Final = 100
RECORD_S: Final = 2.0
"""Seconds that the last results have to reach the store at shutdown."""

EXIT_ABORTED: Final = 130
"""The exit code after a third signal."""

FrontDoor = Callable[..., Awaitable[None]]


class Phase(StrEnum):
    """Where a server is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a server is to work. Seconds."""

    workers: int = 5
    buffer: int = 100
    timeout_s: float = 5.0
    grace_s: float = 10.0


@dataclass(frozen=True, slots=True)
class ExitReport:
    """How a shutdown went: *released* tasks went back to wait, *stuck* handlers never stopped."""

    released: int
    stuck: int


class Server:
    """What a server can be asked. Valid while `run_server` runs it.

    Args:
        run_sync: Runs the store's blocking calls: in threads, or inline under virtual time.
        run_handler: Runs handlers that are plain functions.
        emit: Told of every event; must not block.
    """

    def __init__(
        self,
        queue: TaskQueue,
        store: Store,
        *,
        settings: Settings,
        clock: Clock,
        random: Random,
        run_sync: RunSync,
        run_handler: RunSync,
        emit: Callable[[Event], None],
    ) -> None:
        self.queue = queue
        self.settings = settings
        self.clock = clock
        self.random = random
        self.started = False
        self.draining = trio.Event()
        self.store = store
        self.run_sync = run_sync
        self.run_handler = run_handler
        self.emit = emit
        self.new_id = IdMaker(clock, random)
        self.id = ServerId(f"server-{random.getrandbits(64):016x}")
        self.pool = Pool(size=settings.workers, buffer=settings.buffer)
        self.feed = Feed(clock, emit)
        self.feed.stop_running = self._stop_running
        self.ledger = Ledger(store, clock=clock, run_sync=run_sync, on_commit=self.feed.on_commit, emit=emit)

    @property
    def phase(self) -> Phase:
        """Where this server is in its life."""
        if self.draining.is_set():
            return Phase.DRAINING
        return Phase.READY if self.started else Phase.STARTING

    # Submitting

    def new_task(self, request: SubmitRequest) -> NewTask:
        """The task that *request* asks for, checked, with an id; nothing is stored.

        Raises:
            UnknownType, PayloadInvalid, PayloadTooLarge, InvalidInput: What is wrong, naming the field.
        """
        return self.queue.new_task(
            request,
            new_id=self.new_id(),
            now=self.clock.now_ms(),
            timeout_ms=round(self.settings.timeout_s * 1000),
        )

    async def submit(self, new: NewTask) -> Submitted:
        """Store *new*; durable when this returns.

        Raises:
            DuplicateTask: Its id belongs to another request.
            ShuttingDown: Nothing new is taken.
            StorageUnavailable: Nothing was stored; safe to repeat with the same id.
        """
        self._check_open()
        return await self.ledger.ask(Submit(new))

    async def submit_many(self, new: Sequence[NewTask]) -> tuple[Submitted, ...]:
        """Store all of *new* or nothing. Raises as submit; ``index`` names the first bad one."""
        self._check_open()
        return await self.ledger.ask(SubmitMany(tuple(new)))

    async def submit_each(self, new: Sequence[NewTask]) -> list[Submitted | TqError]:
        """Store each of *new*, in one transaction, with an answer of its own.

        Raises:
            ShuttingDown, StorageUnavailable: None was stored.
        """
        self._check_open()
        replies = await self.ledger.ask_each([Submit(task) for task in new])
        return [reply for reply in replies if isinstance(reply, Submitted | TqError)]

    def _check_open(self) -> None:
        if self.phase is Phase.DRAINING:
            raise ShuttingDown("this server is shutting down: submit to another, or again later")

    # Asking

    async def find(self, task_id: TaskId) -> Task | None:
        """The task as it is now, or None."""
        task = await self.run_sync(partial(self.store.read, GetTask(task_id)))
        attempt = self.pool.find(task_id) if task is not None and task.state is State.RUNNING else None
        if task is None or attempt is None or attempt.lease.generation != task.generation:
            return task
        # Which worker has it is known here only, so that a start needs no write of its own.
        return replace(task, worker=attempt.worker, started_at=attempt.started_at)

    async def wait_final(self, task_id: TaskId, *, timeout_s: float) -> Task | None:
        """The task once it has ended; as it then is after *timeout_s*, or when the server drains."""
        with self.feed.watching(task_id) as ended:
            task = await self.find(task_id)
            if task is None or task.state in FINAL or timeout_s <= 0:
                return task
            with trio.move_on_after(timeout_s):
                await ended.wait()
        return await self.find(task_id)

    async def stats(self) -> Stats:
        """The counters of the store."""
        return await self.run_sync(partial(self.store.read, GetStats()))

    async def check_ready(self) -> None:
        """Return if this server takes and does work.

        Raises:
            Overloaded: It is starting. ShuttingDown: It is stopping. StorageUnavailable: No store.
        """
        self._check_open()
        if self.phase is Phase.STARTING:
            raise Overloaded("this server is starting", retry_after_ms=1_000)
        if self.ledger.is_away:
            raise StorageUnavailable(
                "the store is away: this server tries again by itself", retry_after_ms=1_000
            )

    def _stop_running(self, task_id: TaskId) -> None:
        attempt = self.pool.find(task_id)
        if attempt is not None:
            attempt.cancel(Stop.USER, now=self.clock.monotonic())


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
            shutdown in which a handler cannot be stopped.
    """
    services = Services(server)
    try:
        async with trio.open_nursery() as root:
            root.start_soon(server.ledger.run)
            await services.recover()
            root.start_soon(services.collector.run)
            root.start_soon(services.run_workers)
            root.start_soon(run_overseer, services.shop)
            root.start_soon(services.run_intake)
            if signals is not None:
                root.start_soon(_watch_signals, services, signals, exit_now)
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


class Services:
    """The services of one server, wired by their channels, and the order in which they stop.

    hand-over channel (leases) ▶ workers ▶ results channel ▶ collector ▶ ledger.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.hurry = trio.Event()
        self._intake = trio.CancelScope()
        self._intake_done = trio.Event()
        self._workers_done = trio.Event()
        self._front_door_done = trio.Event()
        self._hand_over, inbox = trio.open_memory_channel[Lease](server.settings.buffer)
        self._outbox, results = trio.open_memory_channel[Result | trio.Event](RESULTS_BUFFER)
        self.shop = Workshop(
            queue=server.queue,
            pool=server.pool,
            clock=server.clock,
            run_handler=server.run_handler,
            emit=server.emit,
            inbox=inbox,
            outbox=self._outbox,
        )
        self._dispatcher = Dispatcher(
            server.ledger,
            server.pool,
            pending=server.feed.pending,
            server=server.id,
            types=server.queue.types,
            hand_over=self._hand_over,
            inbox=inbox,
            backoff=Backoff(server.random),
        )
        self.collector = Collector(
            server.ledger, results, clock=server.clock, random=server.random, emit=server.emit
        )

    # Starting

    async def recover(self) -> None:
        """Say that this server lives and take back what dead ones ran.

        A store that one process has to itself knows that every other server is dead.
        """
        server = self.server
        await server.ledger.ask(ops.Beat(server.id))
        now = server.clock.now_ms()
        dead_before = now + 1 if server.store.exclusive else now - DEAD_AFTER_MS
        await recover_all(server.ledger, server.id, dead_before=dead_before)

    async def run_intake(self) -> None:
        """The services that bring work in: the first to stop."""
        server = self.server
        shared = not server.store.exclusive
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
                        run_sync=server.run_sync,
                        backoff=Backoff(server.random),
                    )
                )
                nursery.start_soon(
                    partial(
                        run_sweeper,
                        server.ledger,
                        server.id,
                        clock=server.clock,
                        shared=shared,
                        backoff=Backoff(server.random),
                    )
                )
                if shared:
                    nursery.start_soon(
                        partial(run_heartbeat, server.ledger, server.id, backoff=Backoff(server.random))
                    )
        self._intake_done.set()

    async def run_workers(self) -> None:
        """The worker nursery, until every attempt has ended."""
        await run_workers(self.shop)
        self._workers_done.set()

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
        self._intake.cancel()
        await self._intake_done.wait()
        await self._recall()
        self._hand_over.close()
        await self._stop_workers()
        stuck = await self._conclude_stuck()
        await self._recall()
        await self._record_results(stuck)
        await self._front_door_done.wait()
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
