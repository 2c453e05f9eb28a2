"""What a server says, typed; and what may be said to it. The fields are those of docs/reference/http-api.md.

A field that a newer server adds is ignored, and one that an answer leaves out has its default.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, ParamSpec, Protocol, Required, TypedDict

import msgspec

from tq.core.task import FINAL, Progress, Reason, State

P = ParamSpec("P")

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
    """Something that happened to a task: see docs/how-to/live.md for the names and their data.

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


class Branch(msgspec.Struct, frozen=True, kw_only=True):
    """A task of a tree, and those below it."""

    id: str
    type: str
    queue: str
    state: State
    reason: Reason | None = None
    progress: Progress | None = None
    children: tuple[Branch, ...] = ()


class Tree(msgspec.Struct, frozen=True):
    """A task and all below it; ``more``: it was cut off."""

    tree: Branch
    more: bool


class BulkDone(msgspec.Struct, frozen=True):
    """How many tasks were meant and how many were changed; ``more``: the limit did not allow for all.

    After ``dry_run`` nothing is changed. Where an answer was lost and the request sent again, it counts
    what was left for the second one.
    """

    matched: int
    changed: int
    more: bool
    dry_run: bool


class FailureGroup(msgspec.Struct, frozen=True):
    """Failed tasks of one cause. ``latest`` is the id of the one that arrived last, with its ``error``."""

    fingerprint: str
    type: str
    count: int
    latest: str
    error: AttemptFailure


class Failures(msgspec.Struct, frozen=True):
    """Failed tasks by cause, the most first."""

    groups: tuple[FailureGroup, ...]


class Rate(msgspec.Struct, frozen=True):
    """At most ``limit`` starts in ``period`` seconds, ``burst`` of them at once."""

    limit: int
    period: float
    burst: int


class Limits(msgspec.Struct, frozen=True):
    """How many tasks may run at once, and start in a time; None: any number."""

    concurrency: int | None = None
    rate: Rate | None = None


class QueueRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A queue: its rules, and how many of its tasks are in which state."""

    queue: str
    paused: bool
    order: Literal["strict", "aging"]
    concurrency: int | None
    rate: Rate | None
    per_key: Limits
    tasks: dict[State, int]
    pending_since: datetime | None = None


class Queues(msgspec.Struct, frozen=True):
    """Queues by name."""

    queues: tuple[QueueRecord, ...]


class Tick(msgspec.Struct, frozen=True, kw_only=True):
    """An instant at which a schedule was due: the task that it made, or why it made none."""

    at: datetime
    task_id: str | None = None
    skipped: Literal["overlap", "misfire"] | None = None
    missed_before: int = 0


class ScheduleRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule: ``cron`` in the zone ``tz``, or ``every`` so many seconds; ``task`` is what it submits."""

    name: str
    cron: str | None = None
    tz: str | None = None
    every: float | None = None
    overlap: Literal["skip", "allow"]
    misfire_grace: float
    paused: bool
    task: dict[str, Any]
    created_at: datetime
    last_task_id: str | None
    next: tuple[datetime, ...]
    ticks: tuple[Tick, ...]


class SchedulePage(msgspec.Struct, frozen=True):
    """Some schedules, by name; ``next`` is where the list goes on."""

    schedules: tuple[ScheduleRecord, ...]
    next: str | None = None


class TypeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A type that is handled: the defaults of its tasks, and the JSON Schema of their payloads."""

    type: str
    queue: str
    priority: int
    timeout: float
    max_attempts: int
    runs: str
    description: str
    payload: dict[str, Any] | bool


class Types(msgspec.Struct, frozen=True):
    """The types that a server handles; ``anything``: it takes all others too."""

    types: tuple[TypeRecord, ...]
    anything: bool


class ServerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A server of a store; ``here``: the one that answered. ``types`` None: it takes any."""

    id: str
    host: str
    pid: int
    version: str
    url: str | None
    started_at: datetime
    seen_at: datetime
    types: tuple[str, ...] | None
    workers: int
    busy: int
    leads: bool
    draining: bool
    here: bool


class Servers(msgspec.Struct, frozen=True):
    """The servers that share a store."""

    servers: tuple[ServerRecord, ...]


class WorkerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A worker, since when it is idle or busy, and with what; ``overran``: that was to have ended by now."""

    worker: int
    state: Literal["idle", "busy"]
    since: datetime
    task_id: str | None = None
    type: str | None = None
    queue: str | None = None
    attempt: int | None = None
    overran: bool = False


class Workers(msgspec.Struct, frozen=True):
    """The workers of the server that answered: from ``min`` to ``max`` of them."""

    min: int
    max: int
    count: int
    busy: int
    workers: tuple[WorkerRecord, ...]


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A key, without its text: what it is for, and until when it is good. ``queues`` None: all of them."""

    id: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    queues: tuple[str, ...] | None = None
    rate: Rate | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


class CurrentKey(msgspec.Struct, frozen=True, kw_only=True):
    """What a client may do: ``key`` None: the server asks for none; ``queues`` None: all of them."""

    key: KeyRecord | None
    scopes: tuple[str, ...]
    queues: tuple[str, ...] | None


# What may be said to it

Instant = str | datetime
"""In RFC 3339, or a datetime that knows its zone."""


class RetryFields(TypedDict, total=False):
    """When the next attempt is made: see docs/how-to/retries.md."""

    kind: Literal["exponential", "fixed", "polynomial"]
    base: float
    cap: float
    jitter: float


class Fields(TypedDict, total=False):
    """What a submit takes beside type and payload: see docs/reference/http-api.md."""

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


class Changes(TypedDict, total=False):
    """What of a waiting task may be changed: see docs/reference/http-api.md."""

    priority: int | Literal["low", "normal", "high", "critical"]
    delay: float
    run_at: Instant
    timeout: float
    max_attempts: int
    result_ttl: float
    deadline: Instant
    expires_at: Instant


class RateFields(TypedDict, total=False):
    """At most ``limit`` starts in ``period`` seconds (1), ``burst`` of them (``limit``) at once."""

    limit: Required[int]
    period: float
    burst: int


class LimitsFields(TypedDict, total=False):
    """What holds for the tasks of each key by themselves."""

    concurrency: int | None
    rate: RateFields | None


class QueueRules(TypedDict, total=False):
    """The rules of a queue; what is not said is as in a queue without rules: see docs/how-to/queues.md."""

    order: Literal["strict", "aging"]
    concurrency: int | None
    rate: RateFields | None
    per_key: LimitsFields | None


class ScheduleFields(TypedDict, total=False):
    """When it fires, and what its tasks have beside type and payload: see docs/how-to/schedules.md."""

    cron: str
    tz: str
    every: float
    overlap: Literal["skip", "allow"]
    misfire_grace: float
    queue: str
    priority: int | Literal["low", "normal", "high", "critical"]
    timeout: float
    max_attempts: int
    retry: RetryFields
    result_ttl: float
    key: str
    tags: Sequence[str]
    unique: dict[str, str]


class Filters(TypedDict, total=False):
    """Which tasks are meant: see docs/how-to/listing.md."""

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


class Submittable(Protocol[P]):
    """What can be submitted by a call with the parameters *P*: a handler of `tq.TaskQueue`."""

    def body(self, /, *args: P.args, **kwargs: P.kwargs) -> dict[str, object]:
        """The submit of that call, in the form of ``POST /v1/tasks``."""
        ...
