"""The worker nursery: one attempt, one cancel scope.

A worker takes a lease from the hand-over channel, runs the handler inside a `move_on_after` scope, and
sends what came of it to the results channel. It knows handlers and time; it never touches the store.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, assert_never

import trio

from tq.clock import Clock, RunSync
from tq.context import Context, ambient
from tq.core.errors import PayloadInvalid, StorageUnavailable, UnknownType
from tq.core.events import AttemptOverran, Event, TaskStarted
from tq.core.task import Cancel, Expired, Failure, Lease, Outcome, Reason, TaskId
from tq.engine.frames import Run
from tq.engine.links import Links
from tq.engine.loops import AsyncioLoop
from tq.engine.notes import Notes, Tell
from tq.engine.outcomes import outcome_of, refused, success, traceback_of
from tq.engine.pool import Attempt, Pool, Result, Stop, Worker
from tq.engine.processes import Children
from tq.handlers import Handler, Runs, TaskQueue
from tq.tracing import Tracing

OVERSEE_EVERY_S: Final = 0.25
_FAR: Final = frozenset({Runs.ASYNCIO, Runs.PROCESS})
"""Where a Context cannot be made once the handler runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """All that a worker needs, handed in. Without ``children`` no handler may need a process."""

    queue: TaskQueue
    pool: Pool
    clock: Clock
    run_handler: RunSync
    asyncio: AsyncioLoop
    children: Children | None
    links: Links
    emit: Callable[[Event], None]
    tell: Tell
    inbox: trio.MemoryReceiveChannel[Lease]
    outbox: trio.MemorySendChannel[Result | trio.Event]
    tracing: Tracing | None


async def run_workers(shop: Workshop) -> None:
    """The worker nursery. Ends when the hand-over channel is closed and every attempt has ended."""
    async with trio.open_nursery() as nursery:

        def start(worker: Worker) -> None:
            nursery.start_soon(run_worker, shop, worker, name=f"worker {worker.number}")

        shop.pool.open(start)


async def run_worker(shop: Workshop, worker: Worker) -> None:
    """Take leases one after another and run them, until the pool lets go or the channel is closed."""
    with suppress(trio.EndOfChannel):
        while (lease := await next_lease(shop, worker)) is not None:
            shop.pool.took()
            await work(shop, lease, worker)
    shop.pool.left(worker)


async def next_lease(shop: Workshop, worker: Worker) -> Lease | None:
    """The next lease that is handed over; None once the pool lets go of *worker*.

    Raises:
        trio.EndOfChannel: There will be no more.
    """
    if not shop.pool.keeps(worker):
        return None
    try:
        # A scope costs, and where work waits none is needed. Sending the result was the checkpoint.
        return shop.inbox.receive_nowait()
    except trio.WouldBlock:
        pass
    with trio.CancelScope() as worker.rest:
        try:
            return await shop.inbox.receive()
        finally:
            worker.rest = None
    return None


async def work(shop: Workshop, lease: Lease, worker: Worker) -> None:
    """Make one attempt and send its result, unless that was concluded meanwhile."""
    now = shop.clock.now_ms()
    limit_ms = time_limit_ms(lease, now)
    attempt = Attempt(
        lease=lease,
        worker=worker.number,
        started_at=now,
        started=shop.clock.monotonic(),
        scope=trio.move_on_after(limit_ms / 1000),
        limit_ms=limit_ms,
    )
    is_wanted = shop.pool.is_wanted(lease)
    if not is_wanted or comes_too_late(lease, now):
        shop.pool.room.ring()
        # What is given back ends as cancelled, if that was asked while the lease was on its way.
        await shop.outbox.send(attempt.result(Expired() if is_wanted else None, ended_at=now))
        return
    shop.emit(
        TaskStarted(
            at=now,
            task_id=lease.task_id,
            type=lease.type,
            queue=lease.queue,
            attempt=lease.attempt,
            worker=worker.number,
            trace_id=lease.options.trace_id,
        )
    )
    shop.pool.began(worker, attempt)
    try:
        if shop.tracing is None:
            outcome = await run_attempt(shop, attempt)
        else:
            with shop.tracing.attempt(lease) as tell:
                outcome = await run_attempt(shop, attempt)
                tell(outcome)
    finally:
        shop.pool.ended(worker, attempt)
    if not attempt.concluded:
        await shop.outbox.send(attempt.result(outcome, ended_at=shop.clock.now_ms()))


def time_limit_ms(lease: Lease, now: int) -> int:
    """How long an attempt that begins *now* may take: its timeout, or until the task's deadline."""
    deadline_at = lease.options.deadline_at
    return lease.timeout_ms if deadline_at is None else min(lease.timeout_ms, max(0, deadline_at - now))


def comes_too_late(lease: Lease, now: int) -> bool:
    """Whether the task of *lease* may not begin any more."""
    stop_at = lease.options.stop_at
    return stop_at is not None and stop_at <= now


async def run_attempt(shop: Workshop, attempt: Attempt) -> Outcome | None:
    """Run the handler in the attempt's scope and say what came of it; None: it was stopped half way.

    Whatever the handler raises is its outcome. Only a cancellation from outside the scope, which is the
    end of the server, goes through.
    """
    lease = attempt.lease
    try:
        handler = shop.queue.handler(lease.type)
        asks = handler.signature.context is not None
        context = _context(shop, attempt, handler) if asks or handler.runs in _FAR else None
        arguments = handler.arguments(lease.payload, context)
    except (UnknownType, PayloadInvalid) as refusal:
        return refused(refusal)
    attempt.is_async = handler.runs is not Runs.THREAD
    value: object = None
    fault: BaseException | None = None
    try:
        with attempt.scope:
            if asks and context is not None and lease.options.depends_on:
                try:
                    context.dependencies.update(await shop.links.results(lease.options.depends_on))
                except StorageUnavailable:
                    # Not the handler's fault: no attempt is burnt.
                    return None
            value = await _call(shop, attempt, handler, context, arguments)
    except BaseException as raised:
        if _is_from_outside(raised):
            raise
        fault = raised
    return judge(attempt, value, fault, now=shop.clock.monotonic())


def _context(shop: Workshop, attempt: Attempt, handler: Handler) -> Context:
    """What the handler may know; one that does not ask for it may submit, but has nothing to tell."""
    notes = Notes(attempt.lease, shop.clock.now_ms, tell=shop.tell)
    if handler.signature.context is not None:
        attempt.notes = notes
        shop.pool.noted.ring()
    return Context(
        task=attempt.lease,
        worker=attempt.worker,
        deadline_at=attempt.started_at + attempt.limit_ms,
        clock=shop.clock,
        link=shop.links.link(notes, handler.runs),
        dependencies={},
    )


@dataclass(slots=True)
class Unasked:
    """Stands for the Context of a handler that asks for none: made where it submits all the same."""

    make: Callable[[], Context]

    async def submit(self, type: str, payload: object = None, **fields: object) -> TaskId:
        """See Context.submit."""
        return await self.make().submit(type, payload, **fields)

    def submit_sync(self, type: str, payload: object = None, **fields: object) -> TaskId:
        """See Context.submit_sync."""
        return self.make().submit_sync(type, payload, **fields)


@dataclass(frozen=True, slots=True)
class Told:
    """An outcome that another process has judged."""

    outcome: Outcome


async def _call(
    shop: Workshop, attempt: Attempt, handler: Handler, context: Context | None, arguments: dict[str, Any]
) -> object:
    """What the handler returns, or Told."""
    before = ambient.set(context or Unasked(partial(_context, shop, attempt, handler)))
    try:
        match handler.runs:
            case Runs.TRIO:
                return await handler.function(**arguments)
            case Runs.THREAD:
                return await shop.run_handler(partial(handler.function, **arguments))
            case Runs.ASYNCIO:
                return await shop.asyncio.call(partial(handler.function, **arguments))
            case Runs.PROCESS:
                assert context is not None
                return await _call_in_process(shop, attempt, context)
            case _:
                assert_never(handler.runs)
    finally:
        ambient.reset(before)


async def _call_in_process(shop: Workshop, attempt: Attempt, context: Context) -> Told:
    """Have a child make the attempt. Its time counts from when the child is ready."""

    def begin() -> Run:
        now = shop.clock.now_ms()
        attempt.limit_ms = time_limit_ms(attempt.lease, now)
        attempt.scope.deadline = shop.clock.monotonic() + attempt.limit_ms / 1000
        traceparent = None if shop.tracing is None else shop.tracing.current()
        return Run(attempt.lease, attempt.worker, now + attempt.limit_ms, traceparent)

    assert shop.children is not None, "the server has checked it"
    attempt.scope.deadline = math.inf
    return Told(await shop.children.make(begin, link=context.link, dependencies=context.dependencies))


def _is_from_outside(raised: BaseException) -> bool:
    """Whether *raised* is not the handler's own fault: the scope has absorbed its own cancellation."""
    if isinstance(raised, BaseExceptionGroup):
        return any(_is_from_outside(part) for part in raised.exceptions)
    return isinstance(raised, trio.Cancelled)


def judge(attempt: Attempt, value: object, fault: BaseException | None, *, now: float) -> Outcome | None:
    """The outcome of a handler that returned *value* or raised *fault* at the monotonic instant *now*.

    The time limit is judged by the clock, not by whether the handler noticed: one that swallows its
    cancellation and returns late has timed out all the same.
    """
    # A handler that blocked the loop past its time has a scope that never got to be cancelled.
    if attempt.scope.cancel_called or now >= attempt.scope.deadline:
        is_done_after_all = fault is None and not attempt.scope.cancelled_caught
        if attempt.stop is not Stop.SHUTDOWN or not is_done_after_all:
            return cut_short(attempt, fault)
    if fault is not None:
        return outcome_of(fault)
    return value.outcome if isinstance(value, Told) else success(value)


def cut_short(attempt: Attempt, fault: BaseException | None = None) -> Outcome | None:
    """The outcome of an attempt whose scope was cancelled; None gives the lease back."""
    match attempt.stop:
        case None:
            return timed_out(attempt, fault)
        case Stop.USER:
            return Cancel()
        case Stop.SHUTDOWN | Stop.LOST:
            return None
        case _:
            assert_never(attempt.stop)


def timed_out(attempt: Attempt, fault: BaseException | None = None) -> Failure:
    """The failure of an attempt that ran out of its time; *fault* is what its clean-up raised, if it did."""
    trace = None if fault is None else traceback_of(fault)
    if attempt.limit_ms < attempt.lease.timeout_ms:
        return Failure(
            reason=Reason.DEADLINE,
            type="DeadlinePassed",
            message="the deadline of the task passed while it ran",
            traceback=trace,
            retryable=False,
        )
    message = f"timed out after {attempt.limit_ms / 1000:g} s"
    return Failure(reason=Reason.TIMEOUT, type="TimedOut", message=message, traceback=trace)


async def run_overseer(shop: Workshop) -> None:
    """Conclude attempts whose handlers do not stop, and let idle workers go, for ever.

    Ends only by cancellation.
    """
    while True:
        if shop.pool.is_at_rest:
            await shop.pool.stirred.wait_rung()
        await trio.sleep(OVERSEE_EVERY_S)
        shop.pool.shrink()
        await oversee_once(shop)


async def oversee_once(shop: Workshop) -> int:
    """Conclude each attempt that is over its time and goes on; how many.

    A thread cannot be cancelled, and a handler can swallow its cancellation. The task moves on; the
    worker stays taken until the handler ends, and what it says then is dropped.
    """
    now = shop.clock.monotonic()
    overran = [attempt for attempt in shop.pool.running if attempt.is_overdue(now)]
    for attempt in overran:
        lease = attempt.lease
        shop.emit(
            AttemptOverran(
                at=shop.clock.now_ms(),
                task_id=lease.task_id,
                type=lease.type,
                queue=lease.queue,
                worker=attempt.worker,
            )
        )
        attempt.concluded = True
        await shop.outbox.send(attempt.result(cut_short(attempt), ended_at=shop.clock.now_ms()))
    return len(overran)
