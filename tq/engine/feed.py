"""Tells whoever watches what has been committed, and wakes the services it concerns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import trio

from tq.clock import Clock
from tq.core import events, ops
from tq.core.errors import TqError
from tq.core.ops import AnyOp, Reply
from tq.core.task import FINAL, TIMED, State, TaskId
from tq.engine.bell import Bell


class Feed:
    """Reads each committed batch once.

    ``pending`` rings when a task may wait for a worker; ``due`` when one waits for a time earlier than
    any known before.
    """

    def __init__(self, clock: Clock, emit: Callable[[events.Event], None]) -> None:
        self.pending = Bell()
        self.due = Bell()
        self.next_due: int | None = None
        self.released = 0
        self._clock = clock
        self._emit = emit
        self._watchers: dict[TaskId, set[trio.Event]] = {}
        self._closed = False
        self.stop_running: Callable[[TaskId], None] | None = None
        """Called for a running task that was asked to cancel."""

    def on_commit(self, batch: Sequence[AnyOp], replies: Sequence[Reply | TqError]) -> None:
        """Spread the news of one committed batch."""
        now = self._clock.now_ms()
        for op, reply in zip(batch, replies, strict=True):
            if not isinstance(reply, TqError):
                self._spread(op, reply, now)

    def _spread(self, op: AnyOp, reply: Reply, now: int) -> None:
        match op, reply:
            case ops.Submit(), ops.Submitted():
                self._submitted(reply, op.task.run_at, now)
            case ops.SubmitMany(), tuple():
                for task, submitted in zip(op.tasks, reply, strict=True):
                    assert isinstance(submitted, ops.Submitted)
                    self._submitted(submitted, task.run_at, now)
            case ops.Finish(), ops.Finished():
                self._moved(op.task_id, reply.state, op.run_at)
            case ops.Release(), ops.Released():
                self.released += 1
                self._moved(op.task_id, reply.state)
                self._emit(events.TaskReleased(at=now, task_id=op.task_id, state=reply.state))
            case ops.Cancel(), ops.CancelReply():
                self._moved(op.task_id, reply.state)
                self._emit(events.TaskCancelled(at=now, task_id=op.task_id, state=reply.state))
                if reply.state is State.RUNNING and self.stop_running:
                    self.stop_running(op.task_id)
            case ops.Retry(), ops.Retried():
                self._moved(op.task_id, reply.state)
                self._emit(events.TaskRetried(at=now, task_id=op.task_id))
            case ops.Promote(), ops.Swept(count=count) if count:
                self.pending.ring()
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
                pass

    def _submitted(self, reply: ops.Submitted, run_at: int, now: int) -> None:
        if reply.duplicate:
            return
        self._emit(events.TaskSubmitted(at=now, task_id=reply.task_id, state=reply.state))
        self._moved(reply.task_id, reply.state, run_at)

    def _moved(self, task_id: TaskId, state: State, run_at: int | None = None) -> None:
        if state is State.PENDING:
            self.pending.ring()
        elif state in TIMED:
            assert run_at is not None
            if self.next_due is None or run_at < self.next_due:
                self.next_due = run_at
                self.due.ring()
        elif state in FINAL and self._watchers:
            for watcher in self._watchers.get(task_id, ()):
                watcher.set()

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
