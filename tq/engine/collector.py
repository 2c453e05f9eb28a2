"""Takes what came of attempts from the results channel and records it, many in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from random import Random
from typing import Final

import trio

from tq.clock import Clock
from tq.core import ops
from tq.core.errors import StorageUnavailable, TqError
from tq.core.events import AttemptFinished, Event, LeaseRefused
from tq.core.ops import AnyOp, Finish, Finished, Release, Reply
from tq.core.task import (
    AttemptError,
    Cancel,
    Crash,
    Expired,
    Failure,
    Outcome,
    Reason,
    Snooze,
    State,
    Success,
    deadline_passed,
    expiry,
    verdict,
)
from tq.engine.backoff import Backoff
from tq.engine.ledger import Ledger
from tq.engine.notes import take_all
from tq.engine.pool import Result

COLLECT_MAX: Final = 200
"""Results recorded in one transaction, each with at most one note."""


class Collector:
    """Turns results into Finish and Release ops; nothing is dropped while the store is away."""

    def __init__(
        self,
        ledger: Ledger,
        results: trio.MemoryReceiveChannel[Result | trio.Event],
        *,
        clock: Clock,
        random: Random,
    ) -> None:
        self._ledger = ledger
        self._results = results
        self._clock = clock
        self._random = random
        self._backoff = Backoff(random)

    async def run(self) -> None:
        """Record results, for ever. Ends only by cancellation.

        An Event among the results is set once everything sent before it is recorded.
        """
        async for first in self._results:
            batch: list[Result] = []
            marks: list[trio.Event] = []
            for each in (first, *self._more()):
                if isinstance(each, Result):
                    batch.append(each)
                else:
                    marks.append(each)
            if batch:
                await self.record(batch)
            for mark in marks:
                mark.set()

    def _more(self) -> Iterator[Result | trio.Event]:
        """What else lies in the channel already, up to COLLECT_MAX in all."""
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            for _ in range(COLLECT_MAX - 1):
                yield self._results.receive_nowait()

    async def record(self, batch: Sequence[Result]) -> None:
        """Record *batch*, waiting for the store as long as that takes."""
        ends = [self._op_of(result) for result in batch]
        while True:
            # What an attempt told last goes before its end, which ends its right to tell.
            taken = take_all(result.notes for result in batch if result.notes is not None)
            notes: list[AnyOp] = [note for _, note in taken]
            try:
                # What is told of an end is told with it, before any later change of the same task.
                tells = partial(self._events_of, batch, ends)
                await self._ledger.ask_each([*notes, *ends], tells=tells)
                break
            except StorageUnavailable:
                for whose, note in taken:
                    whose.put_back(note, is_last=True)
                await self._backoff.wait()
        self._backoff.reset()

    def _events_of(
        self, batch: Sequence[Result], ends: Sequence[AnyOp], replies: Sequence[Reply | TqError]
    ) -> list[Event]:
        found = [self._event_of(*each) for each in zip(batch, ends, replies[-len(ends) :], strict=True)]
        return [event for event in found if event is not None]

    def _op_of(self, result: Result) -> AnyOp:
        lease, outcome = result.lease, result.outcome
        if outcome is None:
            return Release(lease.task_id, lease.generation)
        error = _error_of(result, outcome)
        if isinstance(outcome, Crash):
            assert error is not None
            return ops.Crash(lease.task_id, lease.generation, error)
        began = not isinstance(outcome, Expired)
        fate = verdict(outcome, lease, now=result.ended_at, chance=self._random.random())
        return Finish(
            task_id=lease.task_id,
            generation=lease.generation,
            state=fate.state,
            reason=fate.reason,
            run_at=fate.run_at,
            result=outcome.result if isinstance(outcome, Success) else None,
            error=error,
            started_at=result.started_at if began else None,
            worker=result.worker if began else None,
            burns=not isinstance(outcome, Snooze | Expired),
        )

    def _event_of(self, result: Result, op: AnyOp, reply: Reply | TqError) -> Event | None:
        lease = result.lease
        if isinstance(reply, TqError):
            return LeaseRefused(at=self._clock.now_ms(), task_id=lease.task_id, generation=lease.generation)
        if isinstance(reply, Finished):
            assert isinstance(op, Finish | ops.Crash)
            return _finished(result, op, reply)
        return None


def _finished(result: Result, op: Finish | ops.Crash, reply: Finished) -> AttemptFinished:
    lease = result.lease
    failed = isinstance(result.outcome, Failure | Crash)
    return AttemptFinished(
        at=result.ended_at,
        task_id=lease.task_id,
        type=lease.type,
        queue=lease.queue,
        state=reply.state,
        reason=_reason(op, reply),
        attempt=lease.attempt,
        worker=result.worker,
        duration_ms=result.ended_at - result.started_at,
        wait_ms=max(0, result.started_at - lease.run_at),
        error_code=op.error.type if failed and op.error else None,
        retry_at=op.run_at if isinstance(op, Finish) and reply.state is State.RETRYING else None,
        trace_id=lease.options.trace_id,
    )


def _reason(op: Finish | ops.Crash, reply: Finished) -> Reason | None:
    if isinstance(op, Finish):
        return reply.reason or op.reason
    return reply.reason or (Reason.POISON if reply.state is State.FAILED else Reason.INTERRUPTED)


def _error_of(result: Result, outcome: Outcome) -> AttemptError | None:
    """The history entry of an attempt that did not succeed, or that cancelled its task and says why."""
    attempt, at = result.lease.attempt, result.ended_at
    duration_ms = at - result.started_at
    match outcome:
        case Failure():
            return AttemptError(
                attempt=attempt,
                at=at,
                reason=outcome.reason,
                type=outcome.type,
                message=outcome.message,
                traceback=outcome.traceback,
                duration_ms=duration_ms,
                frame=outcome.frame,
            )
        case Cancel() if outcome.message:
            return AttemptError(attempt, at, Reason.USER, "Cancel", outcome.message, duration_ms=duration_ms)
        case Crash():
            return AttemptError(
                attempt, at, Reason.INTERRUPTED, "ProcessDied", outcome.message, duration_ms=duration_ms
            )
        case Expired() if expiry(result.lease.options, at).state is State.FAILED:
            return deadline_passed(attempt - 1, at)
        case _:
            return None
