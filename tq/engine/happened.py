"""What has happened, by the events of it, once a batch is applied. Pure: asked before the commit too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tq.core import events, ops
from tq.core.errors import TqError
from tq.core.events import Event
from tq.core.keys import Key
from tq.core.limits import QueueRules
from tq.core.ops import AnyOp, Change, Reply, Schedule
from tq.core.task import Newcomer, NewTask, State


def events_of(batch: Sequence[AnyOp], replies: Sequence[Reply | TqError], now: int) -> list[Event]:
    """The events of *batch*, in order. The ends of attempts are told by who knows more of them."""
    found: list[Event] = []
    for op, reply in zip(batch, replies, strict=True):
        # Most ops under load are these, and tell nothing.
        if not isinstance(reply, TqError) and not isinstance(op, ops.Claim | ops.Finish | ops.Note):
            found.extend(_of_op(op, reply, now))
    return found


def _of_op(op: AnyOp, reply: Reply, now: int) -> Iterator[Event]:
    match op, reply:
        case ops.Submit(), ops.Submitted():
            yield from _submitted(op.task, reply, now, op.request_id)
        case ops.SubmitMany(), tuple():
            for task, submitted in zip(op.tasks, reply, strict=True):
                yield from _submitted(task, submitted, now, op.request_id)
        case ops.Release(), ops.Released():
            yield events.TaskReleased(at=now, task_id=op.task_id, state=reply.state)
        case ops.Cancel(), ops.CancelReply():
            yield _changed(Change(op.task_id, reply.state), now)
        case ops.Retry(), ops.Retried():
            yield events.TaskRetried(at=now, task_id=op.task_id)
        case ops.Update(), ops.Updated():
            yield events.TaskUpdated(at=now, task_id=op.task_id, state=reply.state)
        case ops.Delete(), ops.Deleted():
            yield events.TaskDeleted(at=now, task_id=op.task_id)
        case _:
            yield from _of_sweep(op, reply, now)


def _of_sweep(op: AnyOp, reply: Reply, now: int) -> Iterator[Event]:
    match op, reply:
        case ops.Expire(), ops.Changed():
            for change in reply.changes:
                yield events.TaskExpired(at=now, task_id=change.task_id, state=change.state)
        case ops.Settle(), ops.Changed():
            for change in reply.changes:
                yield _changed(change, now)
        case ops.Announce(), ops.Announced():
            for new in reply.tasks:
                yield _arrived(new, now)
        case ops.Recover(), ops.Recovered() if reply != ops.Recovered():
            yield events.LeaseExpired(
                at=now, pending=reply.pending, failed=reply.failed, cancelled=reply.cancelled
            )
        case ops.Prune(), ops.Swept(count=count) if count:
            yield events.TasksPruned(at=now, count=count)
        case ops.SetQueue() | ops.PauseQueue(), QueueRules():
            yield events.QueueChanged(at=now, queue=op.queue, paused=reply.paused)
        case ops.PutSchedule() | ops.PauseSchedule(), Schedule():
            yield events.ScheduleChanged(at=now, name=op.name, paused=reply.paused)
        case ops.DeleteSchedule(), ops.Deleted():
            yield events.ScheduleChanged(at=now, name=op.name, deleted=True)
        case ops.PutKey(), Key():
            yield events.KeyCreated(at=now, key_id=reply.id, name=reply.name, scopes=reply.scopes)
        case ops.RevokeKey(), Key():
            yield events.KeyRevoked(at=now, key_id=reply.id, name=reply.name)
        case ops.Fire(), ops.Fired():
            yield from _fired(op, reply, now)
        case _:
            pass


def _submitted(
    task: NewTask, reply: ops.Submitted, now: int, request_id: str | None = None
) -> Iterator[Event]:
    if reply.duplicate:
        return
    if reply.replaced is not None:
        yield _changed(Change(reply.replaced, State.CANCELLED), now)
    yield events.TaskSubmitted(
        at=now,
        task_id=reply.task_id,
        type=task.type,
        queue=task.queue,
        state=reply.state,
        trace_id=task.options.trace_id,
        request_id=request_id,
    )


def _arrived(new: Newcomer, now: int) -> Event:
    return events.TaskSubmitted(
        at=now,
        task_id=new.task_id,
        type=new.type,
        queue=new.queue,
        state=new.state,
        trace_id=new.trace_id,
    )


def _changed(change: Change, now: int) -> Event:
    """A task was cancelled, asked to stop, or has nothing to wait for any more."""
    if change.state in (State.PENDING, State.SCHEDULED):
        return events.TaskUnblocked(at=now, task_id=change.task_id, state=change.state)
    return events.TaskCancelled(at=now, task_id=change.task_id, state=change.state)


def _fired(op: ops.Fire, reply: ops.Fired, now: int) -> Iterator[Event]:
    if op.task is not None and reply.submitted is not None:
        yield from _submitted(op.task, reply.submitted, now)
    yield events.ScheduleFired(
        at=now,
        name=op.name,
        tick_at=op.tick_at,
        task_id=None if reply.submitted is None else reply.submitted.task_id,
        overlapped=op.task is not None and reply.submitted is None,
        skipped=op.skipped,
    )
