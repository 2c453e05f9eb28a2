"""What a server says, typed; and what may be said to it. The fields are those of docs/http-api.md.

A field that a newer server adds is ignored, and one that an answer leaves out has its default.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, TypedDict

import msgspec

from tq.core.task import FINAL, Progress, Reason, State

# What a server says


class AttemptFailure(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt that failed."""

    attempt: int
    at: datetime
    reason: Reason
    type: str
    message: str
    traceback: str | None = None
    frame: str | None = None
    duration: float | None = None


class Line(msgspec.Struct, frozen=True):
    """A line that a handler logged."""

    at: datetime
    attempt: int
    text: str


class TaskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A task as a server showed it. Instants know their zone, UTC; durations are seconds.

    The answer to a submit is short: what a server did not say is as if it did not apply (`is_whole`).
    ``duplicate``: the submit stored nothing, this task was there. ``brief``: it is of a list that was to be
    so, without payload, result and logs, and with the last error alone, untraced.
    """

    id: str
    state: State
    type: str = ""
    queue: str | None = None
    reason: Reason | None = None
    payload: Any = None
    priority: int = 0
    attempt: int = 0
    max_attempts: int | None = None
    crashes: int = 0
    timeout: float | None = None
    created_at: datetime | None = None
    run_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    result: Any = None
    errors: tuple[AttemptFailure, ...] = ()
    worker: int | None = None
    server: str | None = None
    cancellable: str | None = None
    cancel_requested: bool = False
    progress: Progress | None = None
    logs: tuple[Line, ...] = ()
    fingerprint: str | None = None
    waiting_for: int | None = None
    schedule: str | None = None
    key: str | None = None
    tags: tuple[str, ...] = ()
    unique: dict[str, str] | None = None
    parent_id: str | None = None
    depends_on: tuple[str, ...] = ()
    on_dependency_failure: str | None = None
    deadline: datetime | None = None
    expires_at: datetime | None = None
    traceparent: str | None = None
    duplicate: bool = False
    brief: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether its state is final."""
        return self.state in FINAL

    @property
    def is_whole(self) -> bool:
        """Whether the server showed all of it: its payload, result and errors too."""
        return self.created_at is not None and not self.brief


class TaskEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a task: see docs/live.md for the names and their data.

    ``record`` is the task itself, with ``snapshot`` and ``end``; None if it was deleted since.
    """

    name: str
    data: Any
    record: TaskRecord | None = None


class Page(msgspec.Struct, frozen=True):
    """Some of the tasks of a list; ``next`` is where it goes on."""

    tasks: tuple[TaskRecord, ...]
    next: str | None = None


class Batch(msgspec.Struct, frozen=True):
    """The tasks of a batch, in the order in which they were given."""

    tasks: tuple[TaskRecord, ...]


class Stats(msgspec.Struct, frozen=True):
    """How many tasks there are, by state and by queue; ``totals`` only grow."""

    states: dict[State, int]
    queues: dict[str, dict[State, int]]
    totals: dict[str, int]


# What may be said to it

Instant = str | datetime
"""In RFC 3339, or a datetime that knows its zone."""


class RetryFields(TypedDict, total=False):
    """When the next attempt is made: see docs/retries.md."""

    kind: Literal["exponential", "fixed", "polynomial"]
    base: float
    cap: float
    jitter: float


class Fields(TypedDict, total=False):
    """What a submit takes beside type and payload: see docs/http-api.md."""

    id: str
    queue: str
    priority: int | Literal["low", "normal", "high", "critical"]
    delay: float
    run_at: Instant
    timeout: float
    max_attempts: int
    retry: RetryFields
    result_ttl: float
    key: str
    tags: Sequence[str]
    unique: dict[str, str]
    parent_id: str
    depends_on: Sequence[str]
    on_dependency_failure: Literal["cancel", "run"]
    deadline: Instant
    expires_at: Instant
    traceparent: str


class Filters(TypedDict, total=False):
    """Which tasks are meant: see docs/listing.md."""

    state: str | Sequence[str]
    queue: str
    type: str
    key: str
    tag: str
    parent_id: str
    schedule: str
    fingerprint: str
    created_after: Instant
    created_before: Instant
    error: str
    where: str
