"""Takes what came of attempts from the results channel and records it, many in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from random import Random
from typing import Final

import trio

from tq.clock import Clock
from tq.core.errors import StorageUnavailable, TqError
from tq.core.events import AttemptFinished, Event, LeaseRefused
from tq.core.ops import AnyOp, Finish, Finished, Release, Reply
from tq.core.task import AttemptError, Cancel, Failure, Outcome, Reason, Snooze, State, Success, verdict
from tq.engine.backoff import Backoff
from tq.engine.ledger import Ledger
from tq.engine.worker import Result

COLLECT_MAX: Final = 200
"""Results recorded in one transaction."""


class Collector:
    """Turns results into Finish and Release ops; nothing is dropped while the store is away."""

    def __init__(
        self,
        ledger: Ledger,
        results: trio.MemoryReceiveChannel[Result | trio.Event],
        *,
        clock: Clock,
        random: Random,
        emit: Callable[[Event], None],
    ) -> None:
        self._ledger = ledger
        self._results = results
        self._clock = clock
        self._random = random
        self._emit = emit
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
        ops = [self._op_of(result) for result in batch]
        while True:
            try:
                replies = await self._ledger.ask_each(ops)
                break
            except StorageUnavailable:
                await self._backoff.wait()
        self._backoff.reset()
        for result, op, reply in zip(batch, ops, replies, strict=True):
            self._tell(result, op, reply)

    def _op_of(self, result: Result) -> AnyOp:
        lease, outcome = result.lease, result.outcome
        if outcome is None:
            return Release(lease.task_id, lease.generation)
        fate = verdict(outcome, lease, now=result.ended_at, chance=self._random.random())
        return Finish(
            task_id=lease.task_id,
            generation=lease.generation,
            state=fate.state,
            reason=fate.reason,
            run_at=fate.run_at,
            result=outcome.result if isinstance(outcome, Success) else None,
            error=_error_of(result, outcome),
            started_at=result.started_at,
            worker=result.worker,
            burns=not isinstance(outcome, Snooze),
        )

    def _tell(self, result: Result, op: AnyOp, reply: Reply | TqError) -> None:
        lease = result.lease
        if isinstance(reply, TqError):
            self._emit(
                LeaseRefused(at=self._clock.now_ms(), task_id=lease.task_id, generation=lease.generation)
            )
        elif isinstance(reply, Finished):
            assert isinstance(op, Finish)
            failed = isinstance(result.outcome, Failure)
            self._emit(
                AttemptFinished(
                    at=result.ended_at,
                    task_id=lease.task_id,
                    type=lease.type,
                    queue=lease.queue,
                    state=reply.state,
                    reason=op.reason if reply.state is op.state else Reason.USER,
                    attempt=lease.attempt,
                    worker=result.worker,
                    duration_ms=result.ended_at - result.started_at,
                    wait_ms=max(0, result.started_at - lease.run_at),
                    error_code=op.error.type if failed and op.error else None,
                    retry_at=op.run_at if reply.state is State.RETRYING else None,
                )
            )


def _error_of(result: Result, outcome: Outcome) -> AttemptError | None:
    """The history entry of an attempt that did not succeed, or that cancelled its task and says why."""
    match outcome:
        case Failure():
            reason, type, message = outcome.reason, outcome.type, outcome.message
        case Cancel() if outcome.message:
            reason, type, message = Reason.USER, "Cancel", outcome.message
        case _:
            return None
    return AttemptError(
        attempt=result.lease.attempt,
        at=result.ended_at,
        reason=reason,
        type=type,
        message=message,
        traceback=outcome.traceback if isinstance(outcome, Failure) else None,
        duration_ms=result.ended_at - result.started_at,
    )
