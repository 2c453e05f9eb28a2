"""Tells whoever watches what has been committed, and wakes the services it concerns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import trio

from tq.clock import Clock
from tq.core import events, ops
from tq.core.errors import TqError
from tq.core.events import Event
from tq.core.keys import Key
from tq.core.limits import QueueRules
from tq.core.ops import AnyOp, Change, Reply, Schedule
from tq.core.task import FINAL, TIMED, Lease, NewTask, State, TaskId
from tq.engine.bell import Bell


class Feed:
    """Reads each committed batch once.

    ``pending`` rings when a task may wait for a worker: at the end of any attempt too, while the last claim
    said that one waits for such an end. ``due`` rings when something is to be done at a time earlier than
    any known before, or at once.

    Args:
        on_claim: Told of the leases of a claim.
        on_pause: Told of a queue that was paused, or was not.
        on_key: Told of a key that was made or revoked.
        stop_running: Told of a running task that was asked to cancel.
        is_unsettled: Whether there may be something for Settle.
    """

    def __init__(
        self,
        clock: Clock,
        emit: Callable[[Event], None],
        *,
        on_claim: Callable[[Sequence[Lease]], None],
        on_pause: Callable[..., None],
        on_key: Callable[[Key], None],
        stop_running: Callable[[TaskId], None],
        is_unsettled: Callable[[], bool],
    ) -> None:
        self.pending = Bell()
        self.due = Bell()
        self.next_due: int | None = None
        self.released = 0
        self._is_capped = False
        self._clock = clock
        self._emit = emit
        self._on_claim = on_claim
        self._on_pause = on_pause
        self._on_key = on_key
        self._stop_running = stop_running
        self._is_unsettled = is_unsettled
        self._watchers: dict[TaskId, set[trio.Event]] = {}
        self._closed = False

    def on_commit(self, batch: Sequence[AnyOp], replies: Sequence[Reply | TqError]) -> None:
        """Spread the news of one committed batch."""
        now = self._clock.now_ms()
        for op, reply in zip(batch, replies, strict=True):
            if not isinstance(reply, TqError):
                self._spread(op, reply, now)
        if self._is_unsettled():
            self._note_due(now)

    def _spread(self, op: AnyOp, reply: Reply, now: int) -> None:
        match op, reply:
            case ops.Submit(), ops.Submitted():
                self._submitted(op.task, reply, now)
            case ops.SubmitMany(), tuple():
                for task, submitted in zip(op.tasks, reply, strict=True):
                    self._submitted(task, submitted, now)
            case ops.Claim(), ops.Claimed():
                self._is_capped = reply.is_capped
                self._on_claim(reply.leases)
            case ops.Finish(), ops.Finished():
                self._attempt_ended(op.task_id, reply.state, op.run_at)
            case ops.Crash(), ops.Finished():
                self._attempt_ended(op.task_id, reply.state)
            case ops.Release(), ops.Released():
                self.released += 1
                self._attempt_ended(op.task_id, reply.state)
                self._emit(events.TaskReleased(at=now, task_id=op.task_id, state=reply.state))
            case ops.Note(), _:
                pass
            case _:
                self._spread_rest(op, reply, now)

    def _spread_rest(self, op: AnyOp, reply: Reply, now: int) -> None:
        match op, reply:
            case ops.Cancel(), ops.CancelReply():
                self._changed(Change(op.task_id, reply.state), now)
            case ops.Retry(), ops.Retried():
                self._moved(op.task_id, reply.state)
                self._emit(events.TaskRetried(at=now, task_id=op.task_id))
            case ops.Update(), ops.Updated():
                self._moved(op.task_id, reply.state, reply.run_at)
                self._note_due(reply.stop_at)
                self._emit(events.TaskUpdated(at=now, task_id=op.task_id, state=reply.state))
            case ops.Delete(), ops.Deleted():
                self._emit(events.TaskDeleted(at=now, task_id=op.task_id))
            case ops.Promote(), ops.Swept(count=count) if count:
                self.pending.ring()
            case ops.Expire(), ops.Changed():
                for change in reply.changes:
                    self._moved(change.task_id, change.state)
                    self._emit(events.TaskExpired(at=now, task_id=change.task_id, state=change.state))
            case ops.Settle(), ops.Changed():
                for change in reply.changes:
                    self._changed(change, now)
            case ops.Recover(), ops.Recovered() if reply != ops.Recovered():
                self.pending.ring()
                self._emit(
                    events.LeaseExpired(
                        at=now, pending=reply.pending, failed=reply.failed, cancelled=reply.cancelled
                    )
                )
            case ops.Prune(), ops.Swept(count=count) if count:
                self._emit(events.TasksPruned(at=now, count=count))
            case _:
                self._spread_rules(op, reply, now)

    def _spread_rules(self, op: AnyOp, reply: Reply, now: int) -> None:
        match op, reply:
            case ops.SetQueue() | ops.PauseQueue(), QueueRules():
                self._on_pause(op.queue, paused=reply.paused)
                self.pending.ring()
                self._emit(events.QueueChanged(at=now, queue=op.queue, paused=reply.paused))
            case ops.PutSchedule() | ops.PauseSchedule(), Schedule():
                self._note_due(reply.next_at)
                self._emit(events.ScheduleChanged(at=now, name=op.name, paused=reply.paused))
            case ops.DeleteSchedule(), ops.Deleted():
                self._emit(events.ScheduleChanged(at=now, name=op.name, deleted=True))
            case ops.PutKey(), Key():
                self._on_key(reply)
                self._emit(events.KeyCreated(at=now, key_id=reply.id, name=reply.name, scopes=reply.scopes))
            case ops.RevokeKey(), Key():
                self._on_key(reply)
                self._emit(events.KeyRevoked(at=now, key_id=reply.id, name=reply.name))
            case ops.Fire(), ops.Fired():
                self._fired(op, reply, now)
            case _:
                pass

    def _fired(self, op: ops.Fire, reply: ops.Fired, now: int) -> None:
        if op.task is not None and reply.submitted is not None:
            self._submitted(op.task, reply.submitted, now)
        self._note_due(op.next_at)
        self._emit(
            events.ScheduleFired(
                at=now,
                name=op.name,
                tick_at=op.tick_at,
                task_id=None if reply.submitted is None else reply.submitted.task_id,
                overlapped=op.task is not None and reply.submitted is None,
                skipped=op.skipped,
            )
        )

    def _submitted(self, task: NewTask, reply: ops.Submitted, now: int) -> None:
        if reply.duplicate:
            return
        if reply.replaced is not None:
            self._changed(Change(reply.replaced, State.CANCELLED), now)
        self._emit(
            events.TaskSubmitted(
                at=now,
                task_id=reply.task_id,
                type=task.type,
                queue=task.queue,
                state=reply.state,
                trace_id=task.options.trace_id,
            )
        )
        self._moved(reply.task_id, reply.state, task.run_at)
        self._note_due(task.options.stop_at)

    def _attempt_ended(self, task_id: TaskId, state: State, run_at: int | None = None) -> None:
        self._moved(task_id, state, run_at)
        if self._is_capped:
            self.pending.ring()

    def _changed(self, change: Change, now: int) -> None:
        """A task was cancelled, asked to stop, or has nothing to wait for any more."""
        if change.state in (State.PENDING, State.SCHEDULED):
            self._emit(events.TaskUnblocked(at=now, task_id=change.task_id, state=change.state))
        else:
            self._emit(events.TaskCancelled(at=now, task_id=change.task_id, state=change.state))
        self._moved(change.task_id, change.state)
        if change.state is State.RUNNING:
            self._stop_running(change.task_id)

    def _moved(self, task_id: TaskId, state: State, run_at: int | None = None) -> None:
        if state is State.PENDING:
            self.pending.ring()
        elif state in TIMED:
            self._note_due(run_at)
        elif state in FINAL and self._watchers:
            for watcher in self._watchers.get(task_id, ()):
                watcher.set()

    def _note_due(self, at: int | None) -> None:
        """Something is to be done at *at*; None: nothing, or what the scheduler knows."""
        if at is not None and (self.next_due is None or at < self.next_due):
            self.next_due = at
            self.due.ring()

    @contextmanager
    def watching(self, task_id: TaskId) -> Iterator[trio.Event]:
        """An event that is set when the task ends, or the feed closes, inside the block."""
        watcher = trio.Event()
        if self._closed:
            watcher.set()
        watchers = self._watchers.setdefault(task_id, set())
        watchers.add(watcher)
        try:
            yield watcher
        finally:
            watchers.discard(watcher)
            if not watchers:
                self._watchers.pop(task_id, None)

    def close(self) -> None:
        """Let everybody who watches go: the server drains."""
        self._closed = True
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.set()
