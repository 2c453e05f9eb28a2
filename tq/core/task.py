"""The life of a task, as tables.

A task is in one State. It leaves it only by a Move, and MOVES says which moves a state has and where
each may lead. Everything that changes a task goes through `check_move`, so a state that is not in the
table cannot come about:

    submit ──▶ blocked ─┐
           ──▶ scheduled ┼─promote─▶ pending ─claim─▶ running ─finish─▶ succeeded / failed / cancelled
           ──▶ pending   │             ▲                │  ├─finish─▶ retrying ─promote─▶ pending
                         │             └─release,recover┘  └─finish─▶ scheduled (snoozed)
           cancel ◀──────┘ (every waiting state)                 retry: final ─▶ pending

`verdict` is the other half: what an attempt's Outcome leads to.
"""

from __future__ import annotations

from enum import StrEnum
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


INITIAL: Final = frozenset({State.BLOCKED, State.SCHEDULED, State.PENDING})
FINAL: Final = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
WAITING: Final = frozenset({State.BLOCKED, State.SCHEDULED, State.PENDING, State.RETRYING})
TIMED: Final = frozenset({State.SCHEDULED, State.RETRYING})
"""States that end when the clock reaches ``run_at``."""

_CANCELLED = frozenset({State.CANCELLED})
_PENDING = frozenset({State.PENDING})

MOVES: Final[dict[State, dict[Move, frozenset[State]]]] = {
    State.BLOCKED: {Move.PROMOTE: frozenset({State.SCHEDULED, State.PENDING}), Move.CANCEL: _CANCELLED},
    State.SCHEDULED: {Move.PROMOTE: _PENDING, Move.CANCEL: _CANCELLED},
    State.PENDING: {Move.CLAIM: frozenset({State.RUNNING}), Move.CANCEL: _CANCELLED},
    State.RUNNING: {
        Move.FINISH: FINAL | {State.RETRYING, State.SCHEDULED},
        Move.RELEASE: _PENDING | _CANCELLED,
        Move.RECOVER: frozenset({State.PENDING, State.FAILED, State.CANCELLED}),
        # A running task is asked to stop; its attempt then ends it.
        Move.CANCEL: frozenset({State.RUNNING}),
    },
    State.RETRYING: {Move.PROMOTE: _PENDING, Move.CANCEL: _CANCELLED},
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
            f"task {task_id} is {state}: it cannot {move}" + _allowed_hint(state),
            task_id=task_id,
            state=state.value,
            move=move.value,
        )


def _allowed_hint(state: State) -> str:
    return f"; from {state} a task can " + ", ".join(sorted(MOVES[state]))


class AttemptError(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went wrong in one attempt: one entry of a task's history."""

    attempt: int
    at: int
    reason: Reason
    type: str
    message: str
    traceback: str | None = None
    duration_ms: int | None = None


class NewTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task as it is submitted: every default filled in, nothing decided yet.

    ``id_given`` tells an id that the caller chose, which makes the request repeatable.
    """

    id: TaskId
    type: str
    payload: Json = Json("null")
    queue: str = "default"
    priority: int = 0
    run_at: int
    timeout_ms: int
    max_attempts: int
    retry: RetryPolicy = DEFAULT_RETRY
    result_ttl_ms: int | None = None
    id_given: bool = False


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A task as it is kept. Instants are Unix milliseconds; absent is None.

    ``generation`` grows with every start and proves a lease. ``attempt`` is the number of the attempt
    that runs or ran last, 0 before the first; what does not burn an attempt gives the number back.
    ``cancel_reason`` is set on a running task that has been asked to stop.
    """

    id: TaskId
    type: str
    queue: str
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


class Success(msgspec.Struct, frozen=True):
    """The attempt did its work; *result* is JSON text."""

    result: Json


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """The attempt did not. ``retryable`` is False where another try would only fail again."""

    reason: Reason
    type: str
    message: str
    traceback: str | None = None
    retryable: bool = True
    retry_after_ms: int | None = None


class Snooze(msgspec.Struct, frozen=True):
    """Not now: again after *delay_ms*, with no attempt burnt."""

    delay_ms: int


class Cancel(msgspec.Struct, frozen=True):
    """The handler itself says that the task is not to be done."""

    message: str = ""


Outcome = Success | Failure | Snooze | Cancel


class Verdict(msgspec.Struct, frozen=True):
    """Where an outcome leads: the next state and, if it is one that waits, until when."""

    state: State
    reason: Reason | None
    run_at: int | None = None


def verdict(outcome: Outcome, lease: Lease, *, now: int, chance: float) -> Verdict:
    """What *outcome* leads to. *chance*, uniform in [0, 1), spreads the retries."""
    match outcome:
        case Success():
            return Verdict(State.SUCCEEDED, Reason.OK)
        case Failure():
            if not outcome.retryable or lease.attempt >= lease.max_attempts:
                return Verdict(State.FAILED, outcome.reason)
            delay_ms = outcome.retry_after_ms
            if delay_ms is None:
                delay_ms = lease.retry.delay_ms(lease.attempt, chance)
            return Verdict(State.RETRYING, outcome.reason, now + delay_ms)
        case Snooze():
            return Verdict(State.SCHEDULED, None, now + outcome.delay_ms)
        case Cancel():
            return Verdict(State.CANCELLED, Reason.USER)
        case _:
            assert_never(outcome)


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


def same_json(one: Json, other: Json) -> bool:
    """Whether two JSON texts say the same: order of keys and white space aside, 1 and 1.0 apart."""
    return one == other or _canonical(one) == _canonical(other)


def _canonical(text: Json) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(text), order="sorted")


def cut_text(text: str) -> str:
    """*text* within ERROR_TEXT_MAX characters; the end is kept, where a traceback says most."""
    if len(text) <= ERROR_TEXT_MAX:
        return text
    return "… " + text[-(ERROR_TEXT_MAX - 2) :]
