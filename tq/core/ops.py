"""Every change as a value, and what it is answered with. Questions are in `tq.core.queries`.

An op is guarded in itself: what it needs to be true it names, and if that is not so it is refused
with an error and changes nothing. Stores apply ops; nothing else changes a task.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

import msgspec

from tq.core.keys import Key, KeyId, Scope
from tq.core.limits import Limits, Order, QueueRules, Rate
from tq.core.task import (
    AttemptError,
    Json,
    Lease,
    LogLine,
    Newcomer,
    NewTask,
    Progress,
    Reason,
    ServerId,
    State,
    TaskId,
)

CLAIM_LIMIT_MAX: Final = 100
BATCH_MAX: Final = 1_000
"""Ops in one transaction, and tasks in one batch submit."""
SWEEP_LIMIT_MAX: Final = 1_000
"""Rows that one sweeping op touches; its reply says whether there is more."""
SCHEDULES_MAX: Final = 1_000
TICKS_KEPT: Final = 20
"""The last ticks that a schedule remembers."""
REQUEST_KEPT_MS: Final = 24 * 3600 * 1000
"""How long an Idempotency-Key is kept."""
LEAD_MS: Final = 12_000
"""How long a server leads without saying so again: its heart misses one beat and it leads still."""
LETTER_KEPT_MS: Final = 60_000
"""How long a letter is kept for those servers that have not read it."""

R_co = TypeVar("R_co", covariant=True)


class Op(msgspec.Struct, Generic[R_co], frozen=True):
    """A change, answered by an R or refused with a TqError."""


class Change(msgspec.Struct, frozen=True):
    """Another task that an op moved, and the state it is in now."""

    task_id: TaskId
    state: State


class RequestKey(msgspec.Struct, frozen=True):
    """An Idempotency-Key: the *digest* tells whether a repetition says the same."""

    key: str
    digest: str


class Submitted(msgspec.Struct, frozen=True):
    """The task is stored. ``duplicate``: it was there before and nothing changed.

    ``replaced`` is the task that was cancelled in favour of this one.
    """

    task_id: TaskId
    state: State
    duplicate: bool = False
    replaced: TaskId | None = None


class Submit(Op[Submitted], frozen=True):
    """Store a new task.

    A known *request* is answered with the task that it made, a known id by the same request with that
    task, a unique key that is taken as the task's policy says. A task that depends on others is blocked
    until they have ended; if one has already ended badly, it is cancelled at once, unless it is to run.

    Refused: DuplicateTask if the id has another type or payload, or the unique key is taken;
    IdempotencyKeyReused; InvalidInput naming ``parent_id`` or ``depends_on`` where that task is not there;
    Conflict if the parent is cancelled or about to be.

    *request_id* is of the HTTP request that asked, for the event; it is not kept.
    """

    task: NewTask
    request: RequestKey | None = None
    request_id: str | None = None


class SubmitMany(Op[tuple[Submitted, ...]], frozen=True):
    """Store all of the tasks, in order, or none. Refused like Submit; ``index`` names the first bad one."""

    tasks: tuple[NewTask, ...]
    request_id: str | None = None


class Claimed(msgspec.Struct, frozen=True):
    """The *leases*, and what held others back.

    ``again_at`` is the first instant at which a rate lets another task of the types start. ``is_capped``:
    a task waits for the end of one that runs in its queue.
    """

    leases: tuple[Lease, ...]
    again_at: int | None = None
    is_capped: bool = False


class Claim(Op[Claimed], frozen=True):
    """Lease up to *limit* pending tasks to *server*, only of the *types* named; None means any.

    Of the first tasks of all queues the next is that of the highest priority; then run_at; then arrival.
    Within a queue whose order is strict: priority; then the key whose turn it is, which is the one that
    was served longest ago; then run_at; then arrival. Within one whose order is aging: run_at less a head
    start for priority; then priority; then arrival. Queues that are paused, and queues and keys that are
    at their limits, are passed over. Each lease has a generation no start had before.
    """

    server: ServerId
    types: tuple[str, ...] | None
    limit: int


class Finished(msgspec.Struct, frozen=True):
    """The state the task is in now; ``cancelled`` if a cancel came before the end, which then wins.

    ``reason`` is that of such a cancel.
    """

    state: State
    reason: Reason | None = None


class Finish(Op[Finished], frozen=True, kw_only=True):
    """End one attempt as a verdict says. Refused: NotFound, LeaseLost.

    ``error`` joins the history. A task that was asked to cancel becomes cancelled whatever *state* is,
    and its result is dropped. ``burns`` is False where the attempt's number is given back, ``started_at``
    None where it never began.
    """

    task_id: TaskId
    generation: int
    state: State
    reason: Reason | None
    run_at: int | None = None
    result: Json | None = None
    error: AttemptError | None = None
    started_at: int | None
    worker: int | None = None
    burns: bool = True


class Crash(Op[Finished], frozen=True):
    """The attempt's process died: no attempt burnt, one crash added, at CRASHES_MAX failed.

    Refused: NotFound, LeaseLost.
    """

    task_id: TaskId
    generation: int
    error: AttemptError


class Released(msgspec.Struct, frozen=True):
    """The state the task is in now: pending, or cancelled if that was asked for."""

    state: State


class Release(Op[Released], frozen=True):
    """Give a lease back with no attempt burnt. Refused: NotFound, LeaseLost."""

    task_id: TaskId
    generation: int


class Noted(msgspec.Struct, frozen=True):
    """The note is kept."""


class Note(Op[Noted], frozen=True):
    """What an attempt tells while it runs: its *progress*, if not None, and *lines* of log.

    The last LOG_LINES_MAX lines are kept. Refused: NotFound, LeaseLost.
    """

    task_id: TaskId
    generation: int
    progress: Progress | None
    lines: tuple[LogLine, ...] = ()


class CancelReply(msgspec.Struct, frozen=True):
    """``state`` now; running means that its attempt has been asked to stop."""

    state: State


class Cancel(Op[CancelReply], frozen=True):
    """Cancel a waiting task at once; mark a running one. Refused: NotFound, IllegalTransition.

    With *cascade*, its children follow, by Settle.
    """

    task_id: TaskId
    reason: Reason = Reason.USER
    cascade: bool = True


class Retried(msgspec.Struct, frozen=True):
    """The task is pending again, with ``attempt`` back at 0."""

    state: State


class Retry(Op[Retried], frozen=True):
    """An operator's retry of a final task; its history stays, its deadline and expiry do not.

    Refused: NotFound, IllegalTransition, DuplicateTask if its unique key is taken.
    """

    task_id: TaskId


class Updated(msgspec.Struct, frozen=True):
    """The task has its new values; ``run_at`` is when it may start, ``stop_at`` until when."""

    state: State
    run_at: int
    stop_at: int | None


class Update(Op[Updated], frozen=True, kw_only=True):
    """Give a waiting task new values; None leaves what it has. Refused: NotFound, IllegalTransition."""

    task_id: TaskId
    priority: int | None = None
    run_at: int | None = None
    timeout_ms: int | None = None
    max_attempts: int | None = None
    result_ttl_ms: int | None = None
    deadline_at: int | None = None
    expires_at: int | None = None


class Deleted(msgspec.Struct, frozen=True):
    """The task is gone. Totals stay."""


class Delete(Op[Deleted], frozen=True):
    """Delete a final task. Refused: NotFound, IllegalTransition, Conflict while others wait to hear of it."""

    task_id: TaskId


class Swept(msgspec.Struct, frozen=True):
    """How many rows were touched; ``more`` if the limit cut it short."""

    count: int
    more: bool = False


class Promote(Op[Swept], frozen=True):
    """Make scheduled and retrying tasks whose run_at has come pending, earliest first."""

    limit: int = SWEEP_LIMIT_MAX


class Changed(msgspec.Struct, frozen=True):
    """The tasks that were moved; ``more`` if the limit cut it short."""

    changes: tuple[Change, ...]
    more: bool = False


class Expire(Op[Changed], frozen=True):
    """End waiting tasks past their deadline (failed) or expiry (cancelled), earliest first."""

    limit: int = SWEEP_LIMIT_MAX


class Settle(Op[Changed], frozen=True):
    """Tell those concerned of tasks that ended or were asked to stop, in order of these tasks' arrival.

    Of an ended task, each task that depends on it, by arrival: one blocker less, or cancelled. Of a
    cancelled one, or one asked to stop, each child, by arrival: cancelled, or asked to stop. What this
    moves is settled in turn. *limit* counts those told.
    """

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
    """Delete final tasks whose time to be kept is over. Totals stay.

    Tasks that others wait to hear of are passed over. Idempotency keys past their time go too, uncounted.
    """

    limit: int = SWEEP_LIMIT_MAX


class Beaten(msgspec.Struct, frozen=True):
    """The heartbeat is noted. ``known``: the server was there before.

    One that has beaten before and is not known was thought to be dead: what it ran was taken back.
    """

    known: bool


class Beat(Op[Beaten], frozen=True):
    """*server* lives, and was seen no earlier than was known. ``gone`` removes it instead, at the end of a
    clean shutdown.

    ``said`` is what it says of itself, which stores do not read, and ``edition`` a number that grows when
    something of that changes which the others act on. None leaves both as they are.
    """

    server: ServerId
    gone: bool = False
    said: Json | None = None
    edition: int = 0


class Led(msgspec.Struct, frozen=True):
    """Whether the server leads, and for how long it, or the one that does, leads without a word."""

    is_leader: bool
    left_ms: int


class Lead(Op[Led], frozen=True):
    """*server* wants to lead, for LEAD_MS from now: it does if it did, or if nobody does.

    ``gone`` says that it does not want to any more.
    """

    server: ServerId
    gone: bool = False


class Letter(msgspec.Struct, frozen=True):
    """What a batch of one server's tells the others. Letters of a server are numbered, in commit order."""

    server: ServerId
    number: int
    body: bytes


class PruneLetters(Op[Swept], frozen=True):
    """Delete letters that have been kept for LETTER_KEPT_MS, oldest first."""

    limit: int = SWEEP_LIMIT_MAX


class Announced(msgspec.Struct, frozen=True):
    """The tasks to tell of, in the order in which they arrived; ``more`` says whether to come again."""

    tasks: tuple[Newcomer, ...] = ()
    more: bool = False


class Announce(Op[Announced], frozen=True):
    """Take up to *limit* of the tasks that came into the store without a server, to tell of them, once."""

    limit: int = SWEEP_LIMIT_MAX


class SetQueue(Op[QueueRules], frozen=True, kw_only=True):
    """Give a queue its rules; whether it is paused stays. Answered by the rules it has now.

    Refused: Conflict where QUEUES_MAX have rules already.
    """

    queue: str
    order: Order = Order.STRICT
    limits: Limits = Limits()
    per_key: Limits = Limits()


class PauseQueue(Op[QueueRules], frozen=True):
    """Pause a queue, so that nothing of it is claimed, or resume it. Refused like SetQueue."""

    queue: str
    paused: bool


class Tick(msgspec.Struct, frozen=True, omit_defaults=True):
    """One tick of a schedule that was dealt with: the task it made, or why it made none.

    ``skipped`` counts the ticks before it that made none because they came too late.
    """

    at: int
    task_id: TaskId | None = None
    overlapped: bool = False
    skipped: int = 0


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as it is kept. ``spec`` is its definition, which stores do not read.

    ``version`` changes with the definition. ``seen_until`` is the instant up to which ticks were dealt
    with, ``next_at`` the next one; None: there is none, or it is paused. ``last_task_id`` is the last task
    that a tick made.
    """

    name: str
    spec: Json
    version: int
    paused: bool
    created_at: int
    seen_until: int
    next_at: int | None
    last_task_id: TaskId | None
    ticks: tuple[Tick, ...]


def new_schedule(op: PutSchedule, now: int) -> Schedule:
    """The schedule that *op* makes at *now* under a name that was free."""
    return Schedule(
        name=op.name,
        spec=op.spec,
        version=1,
        paused=False,
        created_at=now,
        seen_until=now,
        next_at=op.next_at,
        last_task_id=None,
        ticks=(),
    )


class PutSchedule(Op[Schedule], frozen=True):
    """Make a schedule, or give it a new definition; the same definition again changes nothing.

    Its ticks count from now on. One that was paused stays so. Refused: Conflict past SCHEDULES_MAX.
    """

    name: str
    spec: Json
    next_at: int | None


class DeleteSchedule(Op[Deleted], frozen=True):
    """Remove a schedule; the tasks it made stay. Refused: NotFound."""

    name: str


class PauseSchedule(Op[Schedule], frozen=True):
    """Pause a schedule (*next_at* None), or resume it with its *next_at*: no tick between is made up for.

    Refused: NotFound; Conflict if the definition is not that of *version* any more.
    """

    name: str
    version: int
    paused: bool
    next_at: int | None


class Fired(msgspec.Struct, frozen=True):
    """The tick is dealt with; *submitted* is the task it made, if it made one."""

    submitted: Submitted | None


class Fire(Op[Fired], frozen=True, kw_only=True):
    """Deal with the tick at *tick_at*: store *task*, or None where it came too late.

    Each tick is dealt with once: refused with Conflict if the schedule has been changed since *version*,
    is paused, or has dealt with ticks up to *seen_until* or later. With *overlap* False no task is made
    while the last one has not ended. Refused: NotFound.
    """

    name: str
    version: int
    tick_at: int
    seen_until: int
    next_at: int | None
    task: NewTask | None
    skipped: int = 0
    overlap: bool = False


class PutKey(Op[Key], frozen=True, kw_only=True):
    """Keep a new key. Where KEYS_MAX are kept, the one that was revoked first makes room for it.

    Refused: Conflict if the id is taken, or there are KEYS_MAX and none is revoked.
    """

    key_id: KeyId
    name: str
    digest: str
    scopes: tuple[Scope, ...]
    queues: tuple[str, ...] = ()
    rate: Rate | None = None
    expires_at: int | None = None


def key_of(op: PutKey, now: int) -> Key:
    """The key that *op* makes."""
    return Key(
        id=op.key_id,
        name=op.name,
        digest=op.digest,
        scopes=op.scopes,
        queues=op.queues,
        rate=op.rate,
        created_at=now,
        expires_at=op.expires_at,
    )


class RevokeKey(Op[Key], frozen=True):
    """Have a key be good no more; it stays in the list. Again changes nothing. Refused: NotFound."""

    key_id: KeyId


AnyOp = (
    Submit
    | SubmitMany
    | Claim
    | Finish
    | Crash
    | Release
    | Note
    | Cancel
    | Retry
    | Update
    | Delete
    | Promote
    | Expire
    | Settle
    | Recover
    | Prune
    | Beat
    | Lead
    | PruneLetters
    | Announce
    | SetQueue
    | PauseQueue
    | PutSchedule
    | DeleteSchedule
    | PauseSchedule
    | Fire
    | PutKey
    | RevokeKey
)
Reply = (
    Submitted
    | tuple[Submitted, ...]
    | Claimed
    | Finished
    | Released
    | Noted
    | CancelReply
    | Retried
    | Updated
    | Deleted
    | Swept
    | Changed
    | Recovered
    | Beaten
    | Led
    | Announced
    | QueueRules
    | Schedule
    | Fired
    | Key
)
