"""What a server can be asked: the one object that the HTTP surface talks to.

How its services start and stop is in `tq.engine.services`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from random import Random
from typing import Protocol, TypeVar

import trio
from msgspec.structs import replace

from tq import __version__
from tq.clock import Clock, FollowingClock, IdMaker, RunSync
from tq.core.errors import Overloaded, ShuttingDown, StorageUnavailable, TqError, UnknownType
from tq.core.events import Event, WorkersResized
from tq.core.keys import Key
from tq.core.ops import Op, RequestKey, Schedule, Submit, SubmitMany, Submitted
from tq.core.queries import GetKeys, GetSchedule, GetServers, GetStats, GetTask, Query, ServerRow, Stats
from tq.core.requests import ScheduleRequest, submit_of
from tq.core.servers import ServerInfo, read_server
from tq.core.task import FINAL, NewTask, ServerId, State, Task, TaskId
from tq.core.wire import SubmitRequest, new_task
from tq.engine import schedules
from tq.engine.feed import Feed
from tq.engine.fleet import Fleet
from tq.engine.keyring import KeyRing
from tq.engine.ledger import Ledger
from tq.engine.pool import Pool, Stop, Why
from tq.engine.processes import Spawn
from tq.engine.watchers import Watchers
from tq.handlers import Runs, TaskQueue
from tq.storage.store import Store
from tq.tracing import Tracing

R = TypeVar("R")


class Phase(StrEnum):
    """Where a server is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a server is to work. Seconds.

    ``workers`` at least, ``workers_max`` at most; None: as many. ``host``, ``pid`` and ``url`` are what it
    says of where it is.
    """

    workers: int = 5
    workers_max: int | None = None
    buffer: int = 100
    timeout_s: float = 5.0
    grace_s: float = 10.0
    host: str = "localhost"
    pid: int = 0
    url: str | None = None


class WriteMetrics(Protocol):
    """Writes what is measured of a server."""

    async def __call__(self, *, openmetrics: bool) -> bytes:
        """All metrics, as OpenMetrics or as plain text."""
        ...


class Server:
    """What a server can be asked. Valid while `run_server` runs it.

    Args:
        run_sync: Runs the store's blocking calls: in threads, or inline under virtual time.
        run_own: The same for those that nobody asked for and that all else hangs on: it must not have them
            wait for calls of *run_sync*. Without it, that is taken.
        run_handler: Runs handlers that are plain functions.
        emit: Told of every event; must not block.
        id: The name of this start of a server; without it, one that *random* makes.
        spawn: Starts the child processes of handlers that run in one.
    Raises:
        ValueError: A handler needs a process, and there is no *spawn*.
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
        spawn: Spawn | None = None,
        tracing: Tracing | None = None,
        id: ServerId | None = None,
        run_own: RunSync | None = None,
    ) -> None:
        _check_processes(queue, spawn)
        if not store.exclusive:
            # The clock of a store that is shared judges: all that is said here of time goes by it.
            clock = following = FollowingClock(clock)
        self.queue = queue
        self.settings = settings
        self.clock = clock
        self.random = random
        self.started = False
        self.pulse: Callable[[float], None] | None = None
        """Told every second by how many seconds the loop was late. To be set before the server runs."""
        self.write_metrics: WriteMetrics | None = None
        """There if something measures this server."""
        self.draining = trio.Event()
        self.store = store
        self.run_sync = run_sync
        self.run_own = run_own or run_sync
        self.run_handler = run_handler
        self.spawn = spawn
        self.tracing = tracing
        self.new_id = IdMaker(clock, random)
        self.id = id or new_server_id(random)
        self.started_at = clock.now_ms()
        self.watchers = Watchers(clock, self.id, emit)
        self.pool = Pool(
            settings.workers, settings.workers_max or settings.workers, buffer=settings.buffer, clock=clock
        )
        self.pool.told = self._workers_resized
        self.keys = KeyRing()
        self.feed = Feed(
            clock,
            on_claim=self.pool.expect,
            on_pause=self.pool.pause,
            on_key=self.keys.note,
            stop_running=self._stop_running,
            on_miss=self.watchers.miss,
            is_unsettled=lambda: store.unsettled,
        )
        self.ledger = Ledger(
            store,
            clock=clock,
            run_sync=self.run_own,
            on_commit=self.feed.on_commit,
            emit=self.watchers.emit,
            outbox=None if store.exclusive else self.watchers.outbox,
            follow=None if store.exclusive else following.follow,
        )
        self.fleet = self._new_fleet()

    def _new_fleet(self) -> Fleet:
        return Fleet(
            self.id,
            self.store,
            self.ledger,
            types=self.queue.types,
            clock=self.clock,
            run_sync=self.run_own,
            pool=self.pool,
            feed=self.feed,
            watchers=self.watchers,
            emit=self.watchers.emit,
            describe=self._describe,
        )

    @property
    def phase(self) -> Phase:
        """Where this server is in its life."""
        if self.draining.is_set():
            return Phase.DRAINING
        return Phase.READY if self.started else Phase.STARTING

    @property
    def timeout_ms(self) -> int:
        """How long an attempt may take where neither task nor handler says so."""
        return round(self.settings.timeout_s * 1000)

    def emit(self, event: Event) -> None:
        """Tell everybody whom it concerns, here and elsewhere, of *event*, which no commit tells of."""
        self.watchers.outbox.put(event)
        self.watchers.emit(event)

    def _describe(self) -> ServerInfo:
        return ServerInfo(
            host=self.settings.host,
            pid=self.settings.pid,
            version=__version__,
            started_at=self.started_at,
            types=self.queue.defaults(timeout_ms=self.timeout_ms),
            workers=len(self.pool.workers),
            busy=len(self.pool.running),
            url=self.settings.url,
        )

    async def servers(self) -> list[tuple[ServerRow, ServerInfo]]:
        """The servers there are and what each said last, by id; this one as it is now.

        Raises:
            StorageUnavailable: Safe to repeat.
        """
        rows = {row.server: row for row in await self.read(GetServers())}
        rows[self.id] = ServerRow(self.id, self.clock.now_ms(), None, 0)
        said = ((row, read_server(row.said)) for row in rows.values() if row.server != self.id)
        known = [(row, info) for row, info in said if info is not None]
        known.append((rows[self.id], self.fleet.info()))
        # One that died while it led says so for as long as its row is there.
        leads_at = max((row.seen_at for row, info in known if info.leads), default=0)
        known = [(row, replace(info, leads=info.leads and row.seen_at == leads_at)) for row, info in known]
        return sorted(known, key=lambda each: each[0].server)

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Have *listener* told of every event from now on, before any watcher is; it must not block."""
        self.watchers.listeners.append(listener)

    # Submitting

    def new_task(self, request: SubmitRequest, *, new_id: TaskId | None = None) -> NewTask:
        """The task that *request* asks for, checked, with an id; nothing is stored.

        The payload of a type that only another server handles is checked where it runs.

        Raises:
            UnknownType, PayloadInvalid, PayloadTooLarge, InvalidInput: What is wrong, naming the field.
        """
        new_id, now = new_id or self.new_id(), self.clock.now_ms()
        try:
            new = self.queue.new_task(request, new_id=new_id, now=now, timeout_ms=self.timeout_ms)
        except UnknownType as unknown:
            defaults = self.fleet.defaults_of(request.type)
            if defaults is None:
                raise self._unknown(request.type, unknown) from None
            new = new_task(request, defaults, new_id=new_id, now=now)
        return new if self.tracing is None else self.tracing.submitted(new)

    def _unknown(self, type: str, unknown: UnknownType) -> UnknownType:
        if not self.fleet.others:
            return unknown
        known = sorted(self.fleet.types | set(self.queue.types or ()))
        return UnknownType(
            f"type: no server handles {type!r}: it must be one of {', '.join(known) or '(none)'}",
            field="type",
            known=known,
        )

    async def prepare(self, request: SubmitRequest, *, new_id: TaskId | None = None) -> NewTask:
        """As new_task; before a type is unknown, the other servers are looked for.

        Raises:
            UnknownType, PayloadInvalid, PayloadTooLarge, InvalidInput: What is wrong, naming the field.
            StorageUnavailable: Safe to repeat.
        """
        try:
            return self.new_task(request, new_id=new_id)
        except UnknownType:
            if not self.fleet.is_shared:
                raise
        await self.fleet.catch_up()
        return self.new_task(request, new_id=new_id)

    async def submit(
        self, new: NewTask, request: RequestKey | None = None, *, request_id: str | None = None
    ) -> Submitted:
        """Store *new*; durable when this returns. The reply names the task, which may be another one.

        Args:
            request: What makes this submit repeatable, beside the id.
            request_id: Of the HTTP request, for the event that tells of it.
        Raises:
            DuplicateTask: Its id belongs to another request, or its unique key to another task.
            IdempotencyKeyReused: The *request* was another one.
            InvalidInput, Conflict: A task that it refers to is not there, or cancelled.
            ShuttingDown: Nothing new is taken.
            StorageUnavailable: Nothing was stored; safe to repeat with the same id.
        """
        self._check_open()
        return await self.ledger.ask(Submit(new, request, request_id))

    async def submit_many(
        self, new: Sequence[NewTask], *, request_id: str | None = None
    ) -> tuple[Submitted, ...]:
        """Store all of *new* or nothing. Raises as submit; ``index`` names the first bad one."""
        self._check_open()
        return await self.ledger.ask(SubmitMany(tuple(new), request_id))

    async def submit_each(
        self, new: Sequence[NewTask], *, request_id: str | None = None
    ) -> list[Submitted | TqError]:
        """Store each of *new*, in one transaction, with an answer of its own.

        Raises:
            ShuttingDown, StorageUnavailable: None was stored.
        """
        self._check_open()
        replies = await self.ledger.ask_each([Submit(task, request_id=request_id) for task in new])
        return [reply for reply in replies if isinstance(reply, Submitted | TqError)]

    def _check_open(self) -> None:
        if self.phase is Phase.DRAINING:
            raise ShuttingDown("this server is shutting down: submit to another, or again later")

    async def change(self, op: Op[R]) -> R:
        """Apply *op*; durable when this returns. Also while the server drains.

        Raises:
            TqError: It was refused and changed nothing.
            StorageUnavailable: Nothing was applied; safe to repeat.
        """
        return await self.ledger.ask(op)

    async def put_schedule(self, name: str, request: ScheduleRequest) -> tuple[Schedule, bool]:
        """Make a schedule, or give it a new definition; as it is now, and whether it was there before.

        Raises:
            UnknownType, PayloadInvalid, PayloadTooLarge, InvalidInput: What is wrong, naming the field.
            Conflict: There are too many.
            StorageUnavailable: Safe to repeat.
        """
        known = await self.read(GetSchedule(name))
        task = await self.prepare(submit_of(request), new_id=TaskId(name))
        op = schedules.put(name, request, task, known=known, now=self.clock.now_ms())
        if known is not None and known.spec == op.spec:
            return known, True
        return await self.ledger.ask(op), known is not None

    # Asking

    async def read(self, query: Query[R]) -> R:
        """What the store answers. Raises StorageUnavailable; safe to repeat."""
        return await self.run_sync(partial(self.store.read, query))

    async def read_keys(self) -> tuple[Key, ...]:
        """All keys. Raises StorageUnavailable; safe to repeat."""
        return await self.read(GetKeys())

    async def find(self, task_id: TaskId) -> Task | None:
        """The task as it is now, or None."""
        task = await self.read(GetTask(task_id))
        return None if task is None else self.as_it_runs(task)

    def as_it_runs(self, task: Task) -> Task:
        """*task* with what is known here only, so that it needs no write of its own: how it runs."""
        attempt = self.pool.find(task.id) if task.state is State.RUNNING else None
        if attempt is None or attempt.lease.generation != task.generation:
            return task
        task = replace(task, worker=attempt.worker, started_at=attempt.started_at)
        return task if attempt.notes is None else attempt.notes.added_to(task)

    def cancellable(self, task: Task) -> str | None:
        """How the attempt that runs can be stopped: ``async``, ``process`` or ``thread``; None: none runs."""
        if task.state is not State.RUNNING:
            return None
        runs = self.queue.runs(task.type)
        return "async" if runs in (Runs.TRIO, Runs.ASYNCIO) else runs.value

    async def wait_final(self, task_id: TaskId, *, timeout_s: float) -> Task | None:
        """The task once it has ended; as it then is after *timeout_s*, or when the server drains."""
        until = trio.current_time() + timeout_s
        while True:
            with self.feed.watching(task_id) as ended:
                task = await self.find(task_id)
                is_late = trio.current_time() >= until or self.feed.is_closed
                if task is None or task.state in FINAL or is_late:
                    return task
                with trio.move_on_at(until):
                    await ended.wait()

    async def wait_told(self) -> None:
        """Return when all that the store can show by now has been told to those who watch here.

        Raises:
            StorageUnavailable: Safe to repeat.
        """
        await self.fleet.wait_told()

    async def stats(self) -> Stats:
        """The counters of the store."""
        return await self.read(GetStats())

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

    # Workers

    def resize_workers(self, *, minimum: int, maximum: int) -> None:
        """Have so many workers until this server ends; no attempt is interrupted.

        Args:
            minimum, maximum: 1 ≤ minimum ≤ maximum ≤ WORKERS_MAX.
        Raises:
            ShuttingDown: The workers are about to end.
        """
        self._check_open()
        self.pool.resize(minimum, maximum)

    def _workers_resized(self, why: Why) -> None:
        self.emit(WorkersResized(at=self.clock.now_ms(), count=len(self.pool.workers), why=why.value))

    def _stop_running(self, task_id: TaskId) -> None:
        attempt = self.pool.find(task_id)
        if attempt is None:
            self.pool.refuse(task_id)
        else:
            attempt.cancel(Stop.USER, now=self.clock.monotonic())


def new_server_id(random: Random) -> ServerId:
    """A name for one start of a server."""
    return ServerId(f"server-{random.getrandbits(64):016x}")


def _check_processes(queue: TaskQueue, spawn: Spawn | None) -> None:
    in_processes = queue.types_that_run(Runs.PROCESS)
    if in_processes and spawn is None:
        raise ValueError(
            f"type {', '.join(in_processes)}: isolation=process needs an app that a child can import"
        )
