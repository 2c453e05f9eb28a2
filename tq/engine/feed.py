"""Wakes the services, and those who wait for a task, that a committed batch concerns."""

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
        on_miss: Called when something may have happened to any task that nobody tells of.
        is_unsettled: Whether there may be something for Settle.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        on_claim: Callable[[Sequence[Lease]], None],
        on_pause: Callable[..., None],
        on_key: Callable[[Key], None],
        stop_running: Callable[[TaskId], None],
        on_miss: Callable[[], None],
        is_unsettled: Callable[[], bool],
    ) -> None:
        self.pending = Bell()
        self.due = Bell()
        self.next_due: int | None = None
        self.released = 0
        self._is_capped = False
        self._clock = clock
        self._on_claim = on_claim
        self._on_pause = on_pause
        self._on_key = on_key
        self._stop_running = stop_running
        self._on_miss = on_miss
        self._is_unsettled = is_unsettled
        self._watchers: dict[TaskId, set[trio.Event]] = {}
        self.is_closed = False

    def on_commit(self, batch: Sequence[AnyOp], replies: Sequence[Reply | TqError]) -> None:
        """Wake and tell whom one committed batch concerns."""
        for op, reply in zip(batch, replies, strict=True):
            if not isinstance(reply, TqError):
                self._spread(op, reply)
        if self._is_unsettled():
            self.note_due(self._clock.now_ms())

    def _spread(self, op: AnyOp, reply: Reply) -> None:
        match op, reply:
            case ops.Submit(), ops.Submitted():
                self._submitted(op.task, reply)
            case ops.SubmitMany(), tuple():
                for task, submitted in zip(op.tasks, reply, strict=True):
                    self._submitted(task, submitted)
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
            case ops.Note(), _:
                pass
            case _:
                self._spread_rest(op, reply)

    def _spread_rest(self, op: AnyOp, reply: Reply) -> None:
        match op, reply:
            case ops.Cancel(), ops.CancelReply():
                self._changed(Change(op.task_id, reply.state))
            case ops.Retry(), ops.Retried():
                self._moved(op.task_id, reply.state)
            case ops.Update(), ops.Updated():
                self._moved(op.task_id, reply.state, reply.run_at)
                self.note_due(reply.stop_at)
            case ops.Promote(), ops.Swept(count=count) if count:
                self.pending.ring()
            case ops.Expire() | ops.Settle(), ops.Changed():
                for change in reply.changes:
                    self._changed(change)
            case ops.Recover(), ops.Recovered() if reply != ops.Recovered():
                self.pending.ring()
                self.look_again()
            case ops.SetQueue() | ops.PauseQueue(), QueueRules():
                self._on_pause(op.queue, paused=reply.paused)
                self.pending.ring()
            case ops.PutSchedule() | ops.PauseSchedule(), Schedule():
                self.note_due(reply.next_at)
            case ops.PutKey() | ops.RevokeKey(), Key():
                self._on_key(reply)
            case ops.Fire(), ops.Fired():
                if op.task is not None and reply.submitted is not None:
                    self._submitted(op.task, reply.submitted)
                self.note_due(op.next_at)
            case _:
                pass

    def _submitted(self, task: NewTask, reply: ops.Submitted) -> None:
        if reply.duplicate:
            return
        if reply.replaced is not None:
            self._changed(Change(reply.replaced, State.CANCELLED))
        self._moved(reply.task_id, reply.state, task.run_at)
        self.note_due(task.options.stop_at)

    def _attempt_ended(self, task_id: TaskId, state: State, run_at: int | None = None) -> None:
        self._moved(task_id, state, run_at)
        if self._is_capped:
            self.pending.ring()

    def _changed(self, change: Change) -> None:
        """A task was cancelled, asked to stop, came too late, or has nothing to wait for any more."""
        self._moved(change.task_id, change.state)
        if change.state is State.RUNNING:
            self._stop_running(change.task_id)

    def _moved(self, task_id: TaskId, state: State, run_at: int | None = None) -> None:
        if state is State.PENDING:
            self.pending.ring()
        elif state in TIMED:
            self.note_due(run_at)
        elif state in FINAL and self._watchers:
            self._wake_watchers(task_id)

    def _wake_watchers(self, task_id: TaskId) -> None:
        for watcher in self._watchers.get(task_id, ()):
            watcher.set()

    def on_news(self, event: Event) -> None:
        """Wake and tell whom it concerns that another server has committed this.

        What is due then is known to that server, and to the leader.
        """
        match event:
            case events.TaskCancelled():
                self._changed(Change(event.task_id, event.state))
            case events.AttemptFinished() | events.TaskReleased():
                self._attempt_ended(event.task_id, event.state)
            case (
                events.TaskSubmitted() | events.TaskUnblocked() | events.TaskUpdated() | events.TaskExpired()
            ):
                self._moved(event.task_id, event.state)
            case events.TaskRetried():
                self.pending.ring()
            case events.TaskDeleted():
                self._wake_watchers(event.task_id)
            case events.QueueChanged():
                self._on_pause(event.queue, paused=event.paused)
                self.pending.ring()
            case events.LeaseExpired():
                self.pending.ring()
                self.look_again()
            case _:
                pass

    def look_again(self) -> None:
        """Something may have happened to any task that nobody tells of: who waits or watches is to look."""
        self._on_miss()
        self._wake_all()

    def _wake_all(self) -> None:
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.set()

    def note_due(self, at: int | None) -> None:
        """Something is to be done at *at*; None: nothing, or what the scheduler knows."""
        if at is not None and (self.next_due is None or at < self.next_due):
            self.next_due = at
            self.due.ring()

    @contextmanager
    def watching(self, task_id: TaskId) -> Iterator[trio.Event]:
        """An event that is set when the task may have ended, or the feed closes, inside the block."""
        watcher = trio.Event()
        if self.is_closed:
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
        self.is_closed = True
        self._wake_all()
