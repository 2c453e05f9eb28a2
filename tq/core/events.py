"""Every event of tq: its name, ``noun.past``, and its fields.

A log line, a metric, a live feed and a test's assertion are made of the same event. No payloads, no
results, no secrets. ``at`` is Unix milliseconds.
"""

from __future__ import annotations

import msgspec

from tq.core.keys import KeyId, Scope
from tq.core.task import Reason, ServerId, State, TaskId


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event"):
    """Something that happened at an instant."""

    at: int


class TaskSubmitted(Event, frozen=True, tag="task.submitted"):
    """A task was stored.

    ``trace_id`` is of the trace that it was submitted in and ``request_id`` of the HTTP request, if any.
    """

    task_id: TaskId
    type: str
    queue: str
    state: State
    trace_id: str | None = None
    request_id: str | None = None


class TaskStarted(Event, frozen=True, tag="task.started"):
    """A worker has begun an attempt."""

    task_id: TaskId
    type: str
    queue: str
    attempt: int
    worker: int
    trace_id: str | None = None


class AttemptFinished(Event, frozen=True, tag="attempt.finished"):
    """An attempt has ended and its end is stored: the one full line about it.

    ``state`` is where the task is now and ``reason`` why; ``wait_ms`` how long it was ready before it began;
    ``retry_at`` when it comes back, if it does.
    """

    task_id: TaskId
    type: str
    queue: str
    state: State
    reason: Reason | None
    attempt: int
    worker: int
    duration_ms: int
    wait_ms: int
    error_code: str | None = None
    retry_at: int | None = None
    trace_id: str | None = None


class TaskCancelled(Event, frozen=True, tag="task.cancelled"):
    """A waiting task was cancelled, or a running one asked to stop (``state`` is running)."""

    task_id: TaskId
    state: State


class TaskRetried(Event, frozen=True, tag="task.retried"):
    """An operator made a final task pending again."""

    task_id: TaskId


class TaskUnblocked(Event, frozen=True, tag="task.unblocked"):
    """The tasks that a blocked task waited for have ended."""

    task_id: TaskId
    state: State


class TaskExpired(Event, frozen=True, tag="task.expired"):
    """A task waited past its deadline (``state`` is failed) or its expiry (cancelled)."""

    task_id: TaskId
    state: State


class TaskUpdated(Event, frozen=True, tag="task.updated"):
    """A waiting task was given new values."""

    task_id: TaskId
    state: State


class TaskDeleted(Event, frozen=True, tag="task.deleted"):
    """An ended task was deleted on request."""

    task_id: TaskId


class TaskReleased(Event, frozen=True, tag="task.released"):
    """A task was given back with no attempt burnt, at a shutdown for example."""

    task_id: TaskId
    state: State


class LeaseExpired(Event, frozen=True, tag="lease.expired"):
    """Tasks of dead servers were taken back: so many run again, were poison, were to be cancelled."""

    pending: int
    failed: int
    cancelled: int


class LeaseRefused(Event, frozen=True, tag="lease.refused"):
    """An attempt ended after its lease was lost; what it said was dropped."""

    task_id: TaskId
    generation: int


class AttemptOverran(Event, frozen=True, tag="attempt.overran"):
    """A handler went on after its attempt was ended; its worker is taken until it stops."""

    task_id: TaskId
    type: str
    queue: str
    worker: int


class TasksPruned(Event, frozen=True, tag="tasks.pruned"):
    """Final tasks whose time to be kept was over were deleted."""

    count: int


class WorkersResized(Event, frozen=True, tag="workers.resized"):
    """The server has ``count`` workers now.

    ``why``: ``work`` waited, some were ``idle``, or it was ``asked`` to.
    """

    count: int
    why: str


class QueueChanged(Event, frozen=True, tag="queue.changed"):
    """The rules of a queue were changed, or it was paused or resumed."""

    queue: str
    paused: bool


class ScheduleChanged(Event, frozen=True, tag="schedule.changed"):
    """A schedule was made, changed, paused, resumed or, with ``deleted``, removed."""

    name: str
    paused: bool = False
    deleted: bool = False


class ScheduleFired(Event, frozen=True, tag="schedule.fired"):
    """A tick of a schedule was dealt with. ``task_id`` is the task it made.

    It made none where the last one had not ended (``overlapped``), or it came too late; ``skipped`` ticks
    before it came too late too.
    """

    name: str
    tick_at: int
    task_id: TaskId | None = None
    overlapped: bool = False
    skipped: int = 0


class KeyCreated(Event, frozen=True, tag="key.created"):
    """A key was made."""

    key_id: KeyId
    name: str
    scopes: tuple[Scope, ...]


class KeyRevoked(Event, frozen=True, tag="key.revoked"):
    """A key is good no more."""

    key_id: KeyId
    name: str


class ServerStarted(Event, frozen=True, tag="server.started"):
    """The server answers."""

    server: ServerId
    workers: int


class ServerDraining(Event, frozen=True, tag="server.draining"):
    """The server takes nothing new and finishes what runs: ``running`` tasks have ``grace_ms``."""

    server: ServerId
    running: int
    grace_ms: int


class ServerStopped(Event, frozen=True, tag="server.stopped"):
    """The store is closed, or never answered. ``released`` tasks went back to wait; ``stuck`` handlers never
    stopped.
    """

    server: ServerId
    released: int
    stuck: int


class ServerRejoined(Event, frozen=True, tag="server.rejoined"):
    """The others had thought the server dead, for it was silent for long, and had taken back what it ran."""

    server: ServerId


class LeaderElected(Event, frozen=True, tag="leader.elected"):
    """Of the servers that share the store, this one leads from now on."""

    server: ServerId


class StorageLost(Event, frozen=True, tag="storage.unavailable"):
    """The store could not be reached; what was asked of it is tried again."""

    code: str
    message: str


class StorageRestored(Event, frozen=True, tag="storage.restored"):
    """The store answers again."""

    away_ms: int


class HttpAnswered(Event, frozen=True, tag="http.answered"):
    """A request, or a WebSocket (its ``method`` is WEBSOCKET), is over: its one line in the access log.

    Only with ``--access-log on``, and told to the log alone. ``route`` is a pattern; ``path``, cut to 100
    characters, odd ones escaped, is there only where no route was found. Without a ``status`` it was cut, or
    its client left, before there was one; ``complete`` is false where the answer was cut off half way.
    ``key_id`` names the API key that it came with.
    """

    method: str
    route: str | None
    path: str | None
    status: int | None
    duration_ms: float
    sent_bytes: int
    complete: bool
    key_id: str | None
    request_id: str
