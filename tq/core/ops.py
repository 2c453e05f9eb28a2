"""Every change as a value, and what it is answered with; every question likewise.

An op is guarded in itself: what it needs to be true it names, and if that is not so it is refused
with an error and changes nothing. Stores apply ops; nothing else changes a task.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

import msgspec

from tq.core.errors import DuplicateTask, LeaseLost, NotFound
from tq.core.task import (
    AttemptError,
    Json,
    Lease,
    NewTask,
    Reason,
    ServerId,
    State,
    Task,
    TaskId,
    same_json,
)

CLAIM_LIMIT_MAX: Final = 100
BATCH_MAX: Final = 1_000
"""Ops in one transaction, and tasks in one batch submit."""
SWEEP_LIMIT_MAX: Final = 1_000
"""Rows that one Promote, Recover or Prune touches; its reply says whether there is more."""

R_co = TypeVar("R_co", covariant=True)


class Op(msgspec.Struct, Generic[R_co], frozen=True):
    """A change, answered by an R or refused with a TqError."""


class Submitted(msgspec.Struct, frozen=True):
    """The task is stored. ``duplicate``: it was there before, by the same request; nothing changed."""

    task_id: TaskId
    state: State
    duplicate: bool = False


class Submit(Op[Submitted], frozen=True):
    """Store a new task.

    Refused: DuplicateTask if the id has another type or payload.
    """

    task: NewTask


class SubmitMany(Op[tuple[Submitted, ...]], frozen=True):
    """Store all of the tasks or none. Refused like Submit, with ``index`` naming the first bad one."""

    tasks: tuple[NewTask, ...]


class Claim(Op[tuple[Lease, ...]], frozen=True):
    """Lease up to *limit* pending tasks to *server*: priority, high first; then run_at; then arrival.

    Only tasks of the *types* named; None means any. Each lease has a generation no start had before.
    """

    server: ServerId
    types: tuple[str, ...] | None
    limit: int


class Finished(msgspec.Struct, frozen=True):
    """The state the task is in now; ``cancelled`` if a cancel came before the end, which then wins."""

    state: State


class Finish(Op[Finished], frozen=True, kw_only=True):
    """End one attempt as a verdict says. Refused: NotFound, LeaseLost.

    ``error`` joins the history. A task that was asked to cancel becomes cancelled whatever *state* is,
    and its result is dropped. ``burns`` is False where the attempt's number is given back.
    """

    task_id: TaskId
    generation: int
    state: State
    reason: Reason | None
    run_at: int | None = None
    result: Json | None = None
    error: AttemptError | None = None
    started_at: int
    worker: int | None = None
    burns: bool = True


class Released(msgspec.Struct, frozen=True):
    """The state the task is in now: pending, or cancelled if that was asked for."""

    state: State


class Release(Op[Released], frozen=True):
    """Give a lease back with no attempt burnt. Refused: NotFound, LeaseLost."""

    task_id: TaskId
    generation: int


class CancelReply(msgspec.Struct, frozen=True):
    """``state`` now; running means that its attempt has been asked to stop."""

    state: State


class Cancel(Op[CancelReply], frozen=True):
    """Cancel a waiting task at once; mark a running one. Refused: NotFound, IllegalTransition."""

    task_id: TaskId
    reason: Reason = Reason.USER


class Retried(msgspec.Struct, frozen=True):
    """The task is pending again, with ``attempt`` back at 0."""

    state: State


class Retry(Op[Retried], frozen=True):
    """An operator's retry of a final task; its history stays. Refused: NotFound, IllegalTransition."""

    task_id: TaskId


class Swept(msgspec.Struct, frozen=True):
    """How many rows were touched; ``more`` if the limit cut it short."""

    count: int
    more: bool = False


class Promote(Op[Swept], frozen=True):
    """Make scheduled and retrying tasks whose run_at has come pending, earliest first."""

    limit: int = SWEEP_LIMIT_MAX


class Recovered(msgspec.Struct, frozen=True):
    """``pending`` are to run again, ``failed`` were poison, ``cancelled`` had been asked to stop."""

    pending: int = 0
    failed: int = 0
    cancelled: int = 0
    more: bool = False


class Recover(Op[Recovered], frozen=True):
    """Take back what dead servers ran: no attempt burnt, one crash added, at CRASHES_MAX failed.

    A server is dead if it was last seen before *dead_before*, or is unknown; *server*, who asks, is not.
    """

    server: ServerId
    dead_before: int
    limit: int = SWEEP_LIMIT_MAX


class Prune(Op[Swept], frozen=True):
    """Delete final tasks whose time to be kept is over. Totals stay."""

    limit: int = SWEEP_LIMIT_MAX


class Beaten(msgspec.Struct, frozen=True):
    """The heartbeat is noted."""


class Beat(Op[Beaten], frozen=True):
    """*server* lives. ``gone`` removes it instead, at the end of a clean shutdown."""

    server: ServerId
    gone: bool = False


AnyOp = Submit | SubmitMany | Claim | Finish | Release | Cancel | Retry | Promote | Recover | Prune | Beat
Reply = (
    Submitted
    | tuple[Submitted, ...]
    | tuple[Lease, ...]
    | Finished
    | Released
    | CancelReply
    | Retried
    | Swept
    | Recovered
    | Beaten
)


class Query(msgspec.Struct, Generic[R_co], frozen=True):
    """A question, answered by an R; it changes nothing."""


class GetTask(Query[Task | None], frozen=True):
    """One task, or None if it is not, or no longer, there."""

    task_id: TaskId


class LaneCount(msgspec.Struct, frozen=True, order=True):
    """How many tasks of a type are in a state in a queue; zero counts are left out."""

    queue: str
    type: str
    state: State
    count: int


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters kept with the tasks. The totals only grow: they survive restart, pruning and retry."""

    lanes: tuple[LaneCount, ...]
    submitted: int
    succeeded: int
    failed: int
    cancelled: int

    def count(self, state: State) -> int:
        """How many tasks are in *state* now."""
        return sum(lane.count for lane in self.lanes if lane.state is state)


class GetStats(Query[Stats], frozen=True):
    """All counters; costs nothing that grows with the number of tasks."""


class NextDue(Query[int | None], frozen=True):
    """The earliest run_at of a scheduled or retrying task."""


AnyQuery = GetTask | GetStats | NextDue


def answer_known(state: State, type: str, payload: Json, new: NewTask) -> Submitted:
    """The answer to a submit whose id is taken by a task of *type* and *payload*, now in *state*.

    Raises:
        DuplicateTask: That task is another one.
    """
    if type == new.type and same_json(payload, new.payload):
        return Submitted(new.id, state, duplicate=True)
    what = "type" if type != new.type else "payload"
    raise DuplicateTask(
        f"task {new.id} exists with another {what}: choose another id or send the same request",
        task_id=new.id,
    )


def lease_lost(task_id: TaskId, generation: int) -> LeaseLost:
    """The refusal of a word said with an old generation."""
    return LeaseLost(
        f"task {task_id} is no longer run by generation {generation}: drop the work",
        task_id=task_id,
        generation=generation,
    )


def no_such_task(task_id: TaskId) -> NotFound:
    """The refusal of an op on a task that is not there."""
    return NotFound(f"no task {task_id}: it never existed or its time to be kept is over", task_id=task_id)
