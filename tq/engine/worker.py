"""The worker nursery: one attempt, one cancel scope.

A worker takes a lease from the hand-over channel, runs the handler inside a `move_on_after` scope, and
sends what came of it to the results channel. It knows handlers and time; it never touches the store.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any, Final, assert_never

import msgspec
import trio
from msgspec import structs

from tq import handlers
from tq.clock import Clock, RunSync
from tq.core.errors import PayloadInvalid, UnknownType
from tq.core.events import AttemptOverran, Event, TaskStarted
from tq.core.task import Cancel, Failure, Json, Lease, Outcome, Reason, Snooze, Success, TaskId, cut_text
from tq.core.wire import PAYLOAD_MAX
from tq.engine.bell import Bell
from tq.handlers import CLEANUP_S, Context, Handler, TaskQueue

HAND_OVER_MS: Final = 50
"""How much work, at the measured rate, may lie in the hand-over channel."""
RECALL_MS: Final = 100
"""A lease that lay in the channel this long was handed over by a wrong guess and goes back."""
OVERSEE_EVERY_S: Final = 0.25
TRACEBACK_FRAMES_MAX: Final = 50

_MEAN_WEIGHT: Final = 0.1


class Stop(Enum):
    """Why an attempt's scope was cancelled before its time."""

    USER = "user"
    SHUTDOWN = "shutdown"


@dataclass(slots=True, eq=False)
class Attempt:
    """One attempt while it runs. ``concluded``: its end was told already; what comes later is dropped.

    ``started`` and ``stopped`` are monotonic seconds, to be compared with the scope's deadline.
    """

    lease: Lease
    worker: int
    started_at: int
    started: float
    scope: trio.CancelScope
    is_async: bool = True
    stop: Stop | None = None
    stopped: float | None = None
    concluded: bool = False

    def cancel(self, stop: Stop, *, now: float) -> None:
        """Cancel what runs, with everything it started in its nurseries."""
        if self.stop is None:
            self.stop, self.stopped = stop, now
        self.scope.cancel()

    def is_overdue(self, now: float) -> bool:
        """Whether it had to end, had its time to clean up, and goes on."""
        ends = self.scope.deadline if self.stopped is None else self.stopped
        return not self.concluded and now >= ends + (CLEANUP_S if self.is_async else 0.0)

    def result(self, outcome: Outcome | None, *, ended_at: int) -> Result:
        """*outcome* as what the collector is told; None gives the lease back."""
        return Result(self.lease, self.worker, self.started_at, ended_at, outcome)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of an attempt; *outcome* None gives the lease back."""

    lease: Lease
    worker: int
    started_at: int
    ended_at: int
    outcome: Outcome | None


@dataclass(slots=True)
class Pool:
    """What the workers of a server do now, and how much more may be handed to them.

    ``size`` workers; ``running`` their attempts; ``handed`` when each lease in the channel was put
    there, oldest first; ``room`` rings when there may be room again.
    """

    size: int
    buffer: int
    running: set[Attempt] = field(default_factory=set)
    handed: deque[float] = field(default_factory=deque)
    room: Bell = field(default_factory=Bell)
    mean_ms: float | None = None

    def find(self, task_id: TaskId) -> Attempt | None:
        """The attempt at this task that has not been concluded, if one runs here."""
        return next((a for a in self.running if a.lease.task_id == task_id and not a.concluded), None)

    def room_for(self) -> int:
        """How many leases may be handed over now: as many as workers are free, and some ahead."""
        free = self.size - len(self.running)
        return min(free + self._ahead() - len(self.handed), self.buffer - len(self.handed))

    def _ahead(self) -> int:
        """What all workers together get through in HAND_OVER_MS."""
        if self.mean_ms is None:
            return 0
        return min(self.buffer, int(self.size * HAND_OVER_MS / max(self.mean_ms, 0.01)))

    def is_worth_claiming(self) -> bool:
        """Whether there is room for enough leases that a claim pays: half of what may lie ahead."""
        return self.room_for() > self._ahead() // 2

    def took(self) -> None:
        """A worker took the oldest lease from the channel."""
        self.handed.popleft()

    def ended(self, duration_ms: float) -> None:
        """An attempt ended after *duration_ms*: the measure of how much to hand over (a moving mean)."""
        if self.mean_ms is None:
            self.mean_ms = duration_ms
        else:
            self.mean_ms += _MEAN_WEIGHT * (duration_ms - self.mean_ms)
        if self.is_worth_claiming():
            self.room.ring()

    def recalled(self, count: int) -> None:
        """The newest *count* leases went back: nothing ahead again until attempts turn out short."""
        for _ in range(count):
            self.handed.pop()
        if count:
            self.mean_ms = max(self.mean_ms or 0.0, float(self.size * HAND_OVER_MS + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """All that a worker needs, handed in."""

    queue: TaskQueue
    pool: Pool
    clock: Clock
    run_handler: RunSync
    emit: Callable[[Event], None]
    inbox: trio.MemoryReceiveChannel[Lease]
    outbox: trio.MemorySendChannel[Result | trio.Event]


async def run_workers(shop: Workshop) -> None:
    """The worker nursery. Ends when the hand-over channel is closed and every attempt has ended."""
    async with trio.open_nursery() as nursery:
        for number in range(1, shop.pool.size + 1):
            nursery.start_soon(run_worker, shop, number, name=f"worker {number}")


async def run_worker(shop: Workshop, number: int) -> None:
    """Take leases one after another and run them, until the channel is closed."""
    async for lease in shop.inbox:
        shop.pool.took()
        await work(shop, lease, number)


async def work(shop: Workshop, lease: Lease, number: int) -> None:
    """Make one attempt and send its result, unless that was concluded meanwhile."""
    now = shop.clock.now_ms()
    attempt = Attempt(
        lease=lease,
        worker=number,
        started_at=now,
        started=shop.clock.monotonic(),
        scope=trio.move_on_after(lease.timeout_ms / 1000),
    )
    shop.emit(
        TaskStarted(
            at=now,
            task_id=lease.task_id,
            type=lease.type,
            queue=lease.queue,
            attempt=lease.attempt,
            worker=number,
        )
    )
    shop.pool.running.add(attempt)
    try:
        outcome = await run_attempt(shop, attempt)
    finally:
        shop.pool.running.discard(attempt)
        shop.pool.ended((shop.clock.monotonic() - attempt.started) * 1000)
    if not attempt.concluded:
        await shop.outbox.send(attempt.result(outcome, ended_at=shop.clock.now_ms()))


async def run_attempt(shop: Workshop, attempt: Attempt) -> Outcome | None:
    """Run the handler in the attempt's scope and say what came of it; None: it was stopped half way.

    Whatever the handler raises is its outcome. Only a cancellation from outside the scope, which is the
    end of the server, goes through.
    """
    lease = attempt.lease
    try:
        handler = shop.queue.handler(lease.type)
        context = Context(
            task=lease,
            worker=attempt.worker,
            deadline_at=attempt.started_at + lease.timeout_ms,
            clock=shop.clock,
        )
        arguments = handler.arguments(lease.payload, context)
    except (UnknownType, PayloadInvalid) as refusal:
        return Failure(
            reason=Reason.ERROR, type=type(refusal).__name__, message=refusal.message, retryable=False
        )
    attempt.is_async = handler.is_async
    value: object = None
    fault: BaseException | None = None
    try:
        with attempt.scope:
            value = await _call(shop, handler, arguments)
    except BaseException as raised:
        if _is_from_outside(raised):
            raise
        fault = raised
    return judge(attempt, value, fault, now=shop.clock.monotonic())


async def _call(shop: Workshop, handler: Handler, arguments: dict[str, Any]) -> object:
    if handler.is_async:
        return await handler.function(**arguments)
    return await shop.run_handler(partial(handler.function, **arguments))


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
    return _success(value)


def cut_short(attempt: Attempt, fault: BaseException | None = None) -> Outcome | None:
    """The outcome of an attempt whose scope was cancelled; None gives the lease back."""
    match attempt.stop:
        case None:
            return timed_out(attempt.lease, fault)
        case Stop.USER:
            return Cancel()
        case Stop.SHUTDOWN:
            return None
        case _:
            assert_never(attempt.stop)


def timed_out(lease: Lease, fault: BaseException | None = None) -> Failure:
    """The failure of an attempt that ran out of its time; *fault* is what its clean-up raised, if it did."""
    return Failure(
        reason=Reason.TIMEOUT,
        type="TimedOut",
        message=f"timed out after {lease.timeout_ms / 1000:g} s",
        traceback=None if fault is None else _traceback_of(fault),
    )


def outcome_of(fault: BaseException) -> Outcome:
    """What raising *fault* means. A group of one, however deep, is that one."""
    while isinstance(fault, BaseExceptionGroup) and len(fault.exceptions) == 1:
        fault = fault.exceptions[0]
    match fault:
        case handlers.Snooze():
            return Snooze(fault.delay_ms)
        case handlers.Cancel():
            return Cancel(cut_text(_message_of(fault)))
        case handlers.Retry():
            return structs.replace(_failure(fault), retry_after_ms=fault.after_ms)
        case _:
            return _failure(fault)


def _failure(fault: BaseException) -> Failure:
    return Failure(
        reason=Reason.ERROR,
        type=type(fault).__qualname__,
        message=cut_text(_message_of(fault)),
        traceback=_traceback_of(fault),
    )


def _message_of(fault: BaseException) -> str:
    try:
        return _storable(str(fault))
    except Exception as worse:
        return f"(its message cannot be shown: {type(worse).__name__})"


def _traceback_of(fault: BaseException) -> str:
    frames = fault.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    try:
        lines = traceback.format_exception(type(fault), fault, frames, limit=-TRACEBACK_FRAMES_MAX)
        return cut_text(_storable("".join(lines)))
    except Exception as worse:
        return f"(its traceback cannot be shown: {type(worse).__name__})"


def _storable(text: str) -> str:
    """*text* without what UTF-8 and SQL text cannot hold: lone surrogates, NUL."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _success(value: object) -> Outcome:
    try:
        result = msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as fault:
        return _bad_result("ResultNotJson", f"the handler returned what JSON cannot hold: {fault}")
    if len(result) > PAYLOAD_MAX:
        return _bad_result(
            "ResultTooLarge", f"the result has {len(result)} bytes, at most {PAYLOAD_MAX} are kept"
        )
    return Success(Json(result.decode()))


def _bad_result(type: str, message: str) -> Failure:
    # The work was done, and doing it again would give the same: never retried.
    return Failure(reason=Reason.ERROR, type=type, message=message, retryable=False)


async def run_overseer(shop: Workshop) -> None:
    """Conclude attempts whose handlers do not stop, for ever. Ends only by cancellation."""
    while True:
        await trio.sleep(OVERSEE_EVERY_S)
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
                at=shop.clock.now_ms(), task_id=lease.task_id, type=lease.type, worker=attempt.worker
            )
        )
        attempt.concluded = True
        await shop.outbox.send(attempt.result(cut_short(attempt), ended_at=shop.clock.now_ms()))
    return len(overran)
