"""The life of a task, as tables.

A task is in one State. It leaves it only by a Move, and MOVES says which moves a state has and where
each may lead. Everything that changes a task goes through `check_move`, so a state that is not in the
table cannot come about:

    submit ──▶ blocked ─┐
           ──▶ scheduled ┼─promote─▶ pending ─claim─▶ running ─finish─▶ succeeded / failed / cancelled
           ──▶ pending   │             ▲                │  ├─finish─▶ retrying ─promote─▶ pending
                         │             └─release,recover┘  └─finish─▶ scheduled (snoozed)
    cancel, expire ◀─────┘ (every waiting state)                 retry: final ─▶ pending

`verdict` is the other half: what an attempt's Outcome leads to.
"""

from __future__ import annotations

from enum import StrEnum
from hashlib import blake2b
from typing import Final, NewType, assert_never

import msgspec

from tq.core.errors import IllegalTransition
from tq.core.retry import DEFAULT_RETRY, RetryPolicy

TaskId = NewType("TaskId", str)
ServerId = NewType("ServerId", str)
Json = NewType("Json", str)
"""JSON text, kept as it came."""

CRASHES_MAX: Final = 3
"""A task whose server died under it this often has failed: it is likely what kills them."""
HISTORY_MAX: Final = 20
"""How many past attempts a task remembers."""
ERROR_TEXT_MAX: Final = 16 * 1024
"""Characters kept of an error's message, and of its traceback."""
PRIORITY_MIN: Final = -100
PRIORITY_MAX: Final = 100
PRIORITIES: Final = {"low": -10, "normal": 0, "high": 10, "critical": 50}
KEY_MAX: Final = 128
"""Characters of a key."""
TAGS_MAX: Final = 16
DEPENDENCIES_MAX: Final = 100
LOG_LINES_MAX: Final = 200
"""How many lines a task keeps of what its handler logged."""
NOTE_TEXT_MAX: Final = 1024
"""Characters kept of one line of log, and of a progress message."""
TTL_MS: Final = 24 * 3600 * 1000
"""How long succeeded and cancelled tasks are kept, unless the task says otherwise."""
FAILED_TTL_MS: Final = 7 * TTL_MS
"""How long failed tasks are kept, unless the task says otherwise."""


class State(StrEnum):
    """Where a task is in its life."""

    BLOCKED = "blocked"
    SCHEDULED = "scheduled"
    PENDING = "pending"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Reason(StrEnum):
    """Why a task, or one attempt at it, ended."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    DEADLINE = "deadline"
    EXPIRED = "expired"
    USER = "user"
    PARENT = "parent"
    DEPENDENCY = "dependency"
    REPLACED = "replaced"
    POISON = "poison"
    INTERRUPTED = "interrupted"


class Move(StrEnum):
    """The verbs that take a task from one state to another."""

    PROMOTE = "promote"
    CLAIM = "claim"
    FINISH = "finish"
    RELEASE = "release"
    RECOVER = "recover"
    CANCEL = "cancel"
    RETRY = "retry"
    EXPIRE = "expire"
    UPDATE = "update"


INITIAL: Final = frozenset({State.BLOCKED, State.SCHEDULED, State.PENDING})
FINAL: Final = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
WAITING: Final = frozenset({State.BLOCKED, State.SCHEDULED, State.PENDING, State.RETRYING})
TIMED: Final = frozenset({State.SCHEDULED, State.RETRYING})
"""States that end when the clock reaches ``run_at``."""

_CANCELLED = frozenset({State.CANCELLED})
_PENDING = frozenset({State.PENDING})
_EXPIRED = frozenset({State.CANCELLED, State.FAILED})

MOVES: Final[dict[State, dict[Move, frozenset[State]]]] = {
    State.BLOCKED: {
        Move.PROMOTE: frozenset({State.SCHEDULED, State.PENDING}),
        Move.CANCEL: _CANCELLED,
        Move.EXPIRE: _EXPIRED,
        Move.UPDATE: frozenset({State.BLOCKED}),
    },
    State.SCHEDULED: {
        Move.PROMOTE: _PENDING,
        Move.CANCEL: _CANCELLED,
        Move.EXPIRE: _EXPIRED,
        Move.UPDATE: frozenset({State.SCHEDULED}),
    },
    State.PENDING: {
        Move.CLAIM: frozenset({State.RUNNING}),
        Move.CANCEL: _CANCELLED,
        Move.EXPIRE: _EXPIRED,
        Move.UPDATE: frozenset({State.PENDING, State.SCHEDULED}),
    },
    State.RUNNING: {
        Move.FINISH: FINAL | {State.RETRYING, State.SCHEDULED},
        Move.RELEASE: _PENDING | _CANCELLED,
        Move.RECOVER: frozenset({State.PENDING, State.FAILED, State.CANCELLED}),
        # A running task is asked to stop; its attempt then ends it.
        Move.CANCEL: frozenset({State.RUNNING}),
    },
    State.RETRYING: {
        Move.PROMOTE: _PENDING,
        Move.CANCEL: _CANCELLED,
        Move.EXPIRE: _EXPIRED,
        Move.UPDATE: frozenset({State.RETRYING}),
    },
    State.SUCCEEDED: {Move.RETRY: _PENDING},
    State.FAILED: {Move.RETRY: _PENDING},
    State.CANCELLED: {Move.RETRY: _PENDING},
}


def check_move(task_id: TaskId, state: State, move: Move, to: State) -> None:
    """Return if a task in *state* may go to *to* by *move*.

    Raises:
        IllegalTransition: It may not. Called before anything is changed.
    """
    if to not in MOVES[state].get(move, frozenset()):
        raise IllegalTransition(
            f"task {task_id} is {state}: it cannot be {_DONE[move]}; it can be {_allowed(state)}",
            task_id=task_id,
            state=state.value,
            move=move.value,
        )


_DONE: Final = {
    Move.PROMOTE: "promoted",
    Move.CLAIM: "claimed",
    Move.FINISH: "finished",
    Move.RELEASE: "released",
    Move.RECOVER: "recovered",
    Move.CANCEL: "cancelled",
    Move.RETRY: "retried",
    Move.EXPIRE: "expired",
    Move.UPDATE: "updated",
}


def _allowed(state: State) -> str:
    return ", ".join(sorted(_DONE[move] for move in MOVES[state]))


class AttemptError(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went wrong in one attempt: one entry of a task's history.

    ``frame`` is where the exception was raised, ``file.py:function``.
    """

    attempt: int
    at: int
    reason: Reason
    type: str
    message: str
    traceback: str | None = None
    duration_ms: int | None = None
    frame: str | None = None


def fingerprint(type: str, error: AttemptError | None) -> str | None:
    """What failures of one cause have in common: the task's *type*, the exception, where it was raised."""
    if error is None:
        return None
    text = "\n".join((type, error.type, error.frame or ""))
    return blake2b(text.encode(), digest_size=6).hexdigest()


class During(StrEnum):
    """While what a unique task keeps others out."""

    QUEUED = "queued"
    """Until it is handed to a worker."""
    ACTIVE = "active"
    """Until it has ended."""


class OnConflict(StrEnum):
    """What becomes of a submit whose unique key is taken."""

    EXISTING = "existing"
    """It is answered with the task that has the key."""
    REJECT = "reject"
    REPLACE = "replace"
    """The task that has the key is cancelled, if it has not been started; else as REJECT."""


class Unique(msgspec.Struct, frozen=True, omit_defaults=True):
    """One task at a time with this *key*, among those of its type."""

    key: str
    during: During = During.ACTIVE
    on_conflict: OnConflict = OnConflict.EXISTING


class OnFailure(StrEnum):
    """What becomes of a blocked task when one that it depends on did not succeed."""

    CANCEL = "cancel"
    RUN = "run"


class Options(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a task may have and most have not. ``deadline_at`` and ``expires_at`` are Unix milliseconds.

    ``schedule`` names the schedule that fired the task, ``traceparent`` the span that submitted it.
    """

    tags: tuple[str, ...] = ()
    parent_id: TaskId | None = None
    depends_on: tuple[TaskId, ...] = ()
    on_dependency_failure: OnFailure = OnFailure.CANCEL
    unique: Unique | None = None
    deadline_at: int | None = None
    expires_at: int | None = None
    schedule: str | None = None
    traceparent: str | None = None

    @property
    def trace_id(self) -> str | None:
        """The trace that ``traceparent`` is of."""
        return None if self.traceparent is None else self.traceparent.split("-")[1]

    @property
    def stop_at(self) -> int | None:
        """The instant after which the task may not wait any more."""
        if self.deadline_at is None or self.expires_at is None:
            return self.expires_at if self.deadline_at is None else self.deadline_at
        return min(self.deadline_at, self.expires_at)


NO_OPTIONS: Final = Options()


class Progress(msgspec.Struct, frozen=True):
    """How far an attempt is: *fraction* from 0 to 1, and in words."""

    fraction: float
    message: str = ""


class LogLine(msgspec.Struct, frozen=True):
    """One line that a handler logged, in attempt *attempt*."""

    at: int
    attempt: int
    text: str


class NewTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task as it is submitted: every default filled in, nothing decided yet."""

    id: TaskId
    type: str
    payload: Json = Json("null")
    queue: str = "default"
    key: str | None = None
    priority: int = 0
    run_at: int
    timeout_ms: int
    max_attempts: int
    retry: RetryPolicy = DEFAULT_RETRY
    result_ttl_ms: int | None = None
    options: Options = NO_OPTIONS


class Newcomer(msgspec.Struct, frozen=True):
    """A task that nobody has told of yet, in the state in which it was submitted."""

    task_id: TaskId
    type: str
    queue: str
    state: State
    trace_id: str | None = None


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A task as it is kept. Instants are Unix milliseconds; absent is None.

    ``generation`` grows with every start and proves a lease. ``attempt`` is the number of the attempt
    that runs or ran last, 0 before the first; what does not burn an attempt gives the number back.
    ``cancel_reason`` is set on a running task that has been asked to stop. ``blockers`` counts the tasks
    it still waits for. ``fingerprint`` is that of its last error, on a failed task.
    """

    id: TaskId
    type: str
    queue: str
    key: str | None
    state: State
    reason: Reason | None
    payload: Json
    priority: int
    attempt: int
    max_attempts: int
    crashes: int
    generation: int
    timeout_ms: int
    retry: RetryPolicy
    result_ttl_ms: int | None
    created_at: int
    run_at: int
    started_at: int | None
    finished_at: int | None
    worker: int | None
    server: ServerId | None
    cancel_reason: Reason | None
    result: Json | None
    errors: tuple[AttemptError, ...]
    blockers: int
    fingerprint: str | None
    progress: Progress | None
    logs: tuple[LogLine, ...]
    options: Options


def brief(task: Task) -> Task:
    """*task* without what may be long: payload null, no result, no logs, the last error alone, untraced."""
    last = tuple(msgspec.structs.replace(error, traceback=None) for error in task.errors[-1:])
    return msgspec.structs.replace(task, payload=Json("null"), result=None, logs=(), errors=last)


class Lease(msgspec.Struct, frozen=True, array_like=True):
    """The right to run one task, and what is needed to run it."""

    task_id: TaskId
    generation: int
    type: str
    queue: str
    payload: Json
    attempt: int
    max_attempts: int
    timeout_ms: int
    retry: RetryPolicy
    result_ttl_ms: int | None
    created_at: int
    run_at: int
    claimed_at: int
    key: str | None = None
    options: Options = NO_OPTIONS


class Success(msgspec.Struct, frozen=True):
    """The attempt did its work; *result* is JSON text."""

    result: Json


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """The attempt did not. ``retryable`` is False where another try would only fail again."""

    reason: Reason
    type: str
    message: str
    traceback: str | None = None
    frame: str | None = None
    retryable: bool = True
    retry_after_ms: int | None = None


class Snooze(msgspec.Struct, frozen=True):
    """Not now: again after *delay_ms*, with no attempt burnt."""

    delay_ms: int


class Cancel(msgspec.Struct, frozen=True):
    """The handler itself says that the task is not to be done."""

    message: str = ""


class Crash(msgspec.Struct, frozen=True):
    """The process of the attempt died under it; *message* says how. What it leads to the store knows."""

    message: str


class Expired(msgspec.Struct, frozen=True):
    """The attempt came too late to begin."""


Judged = Success | Failure | Snooze | Cancel | Expired
Outcome = Judged | Crash


class Verdict(msgspec.Struct, frozen=True):
    """Where an outcome leads: the next state and, if it is one that waits, until when."""

    state: State
    reason: Reason | None
    run_at: int | None = None


def verdict(outcome: Judged, lease: Lease, *, now: int, chance: float) -> Verdict:
    """What *outcome* leads to. *chance*, uniform in [0, 1), spreads the retries.

    A wait that would end after the task's deadline is not begun: the task has failed.
    """
    match outcome:
        case Success():
            return Verdict(State.SUCCEEDED, Reason.OK)
        case Failure():
            return _failed(outcome, lease, now=now, chance=chance)
        case Snooze():
            return _in_time(Verdict(State.SCHEDULED, None, now + outcome.delay_ms), lease)
        case Cancel():
            return Verdict(State.CANCELLED, Reason.USER)
        case Expired():
            return expiry(lease.options, now)
        case _:
            assert_never(outcome)


def _failed(failure: Failure, lease: Lease, *, now: int, chance: float) -> Verdict:
    if not failure.retryable or lease.attempt >= lease.max_attempts:
        return Verdict(State.FAILED, failure.reason)
    delay_ms = failure.retry_after_ms
    if delay_ms is None:
        delay_ms = lease.retry.delay_ms(lease.attempt, chance)
    return _in_time(Verdict(State.RETRYING, failure.reason, now + delay_ms), lease)


def _in_time(wait: Verdict, lease: Lease) -> Verdict:
    deadline_at = lease.options.deadline_at
    if deadline_at is not None and wait.run_at is not None and wait.run_at >= deadline_at:
        return Verdict(State.FAILED, Reason.DEADLINE)
    return wait


def expiry(options: Options, now: int) -> Verdict:
    """Where a task goes that still waits when it may not any more: past its deadline it has failed."""
    if options.deadline_at is not None and options.deadline_at <= now:
        return Verdict(State.FAILED, Reason.DEADLINE)
    return Verdict(State.CANCELLED, Reason.EXPIRED)


def initial_state(run_at: int, now: int) -> State:
    """The state a submitted task starts in."""
    return State.SCHEDULED if run_at > now else State.PENDING


def keep_until(state: State, result_ttl_ms: int | None, now: int) -> int:
    """When a task that ended in *state* at *now* may be pruned."""
    if result_ttl_ms is not None:
        return now + result_ttl_ms
    return now + (FAILED_TTL_MS if state is State.FAILED else TTL_MS)


def server_lost(attempt: int, now: int) -> AttemptError:
    """The history entry of an attempt whose server died under it."""
    return AttemptError(
        attempt=attempt,
        at=now,
        reason=Reason.INTERRUPTED,
        type="ServerLost",
        message="the server that ran this attempt is gone",
    )


def deadline_passed(attempt: int, now: int) -> AttemptError:
    """The history entry of a task whose deadline passed while it waited."""
    return AttemptError(
        attempt=attempt,
        at=now,
        reason=Reason.DEADLINE,
        type="DeadlinePassed",
        message="the deadline passed while the task waited",
    )


def unique_name(type: str, unique: Unique) -> str:
    """What a store keeps unique: the key among the tasks of *type*, whose characters have no slash."""
    return f"{type}/{unique.key}"


def holds_unique(state: State, unique: Unique) -> bool:
    """Whether a task in *state* keeps others with its unique key out."""
    return state in WAITING or (state is State.RUNNING and unique.during is During.ACTIVE)


def same_json(one: Json, other: Json) -> bool:
    """Whether two JSON texts say the same: order of keys and white space aside, 1 and 1.0 apart."""
    return one == other or _canonical(one) == _canonical(other)


def _canonical(text: Json) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(text), order="sorted")


def cut_note(text: str) -> str:
    """*text* within NOTE_TEXT_MAX characters, from its beginning, and without what SQL text cannot hold."""
    text = storable(text)
    return text if len(text) <= NOTE_TEXT_MAX else text[: NOTE_TEXT_MAX - 1] + "…"


def storable(text: str) -> str:
    """*text* without what UTF-8 and SQL text cannot hold: lone surrogates, NUL."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def cut_text(text: str) -> str:
    """*text* within ERROR_TEXT_MAX characters; the end is kept, where a traceback says most."""
    if len(text) <= ERROR_TEXT_MAX:
        return text
    return "… " + text[-(ERROR_TEXT_MAX - 2) :]
