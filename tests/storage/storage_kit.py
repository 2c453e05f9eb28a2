"""What the tests of stores say in one word."""

from __future__ import annotations

from collections import Counter
from typing import Any, TypeVar

import msgspec

from tq.core import ops, queries
from tq.core.errors import TqError
from tq.core.ops import AnyOp, Op
from tq.core.queries import LaneCount
from tq.core.task import (
    NO_OPTIONS,
    AttemptError,
    Json,
    Lease,
    NewTask,
    Options,
    Reason,
    ServerId,
    State,
    Task,
    TaskId,
)
from tq.storage.store import Store

R = TypeVar("R")
E = TypeVar("E", bound=TqError)

NOW = 1_700_000_000_000
HERE = ServerId("here")
"""The server that claims, unless a test says otherwise."""
DAY_MS = 86_400_000


def recount(store: Store) -> tuple[LaneCount, ...]:
    """The counters of lanes as they follow from the tasks themselves."""
    counts = Counter((task.queue, task.type, task.state) for task in store.snapshot().tasks)
    return tuple(sorted(LaneCount(*lane, count) for lane, count in counts.items()))


def new(
    name: str,
    *,
    type: str = "email",
    queue: str = "default",
    payload: str = '{"n":1}',
    priority: int = 0,
    run_at: int = NOW,
    result_ttl_ms: int | None = None,
    key: str | None = None,
    **options: Any,
) -> NewTask:
    """A new task; what is not named here is a field of its Options."""
    return NewTask(
        id=TaskId(name),
        type=type,
        queue=queue,
        payload=Json(payload),
        priority=priority,
        run_at=run_at,
        timeout_ms=5_000,
        max_attempts=3,
        result_ttl_ms=result_ttl_ms,
        key=key,
        options=Options(**options) if options else NO_OPTIONS,
    )


def do(store: Store, op: Op[R], now: int = NOW) -> R:
    """The reply to *op* alone; a refusal is raised."""
    [reply] = store.apply([_any(op)], now)
    if isinstance(reply, TqError):
        raise reply
    return reply  # type: ignore[return-value]  # a store answers an Op[R] with an R


def _any(op: Op[R]) -> AnyOp:
    assert isinstance(op, AnyOp)
    return op


def refusal(kind: type[E], store: Store, op: AnyOp, now: int = NOW) -> E:
    """How *op* alone is refused. It must be, and must change nothing at all."""
    before = store.snapshot()
    [refused] = store.apply([op], now)
    assert type(refused) is kind, refused
    assert store.snapshot() == before
    return refused


def submit(store: Store, *names: str, now: int = NOW) -> None:
    for name in names:
        do(store, ops.Submit(new(name, run_at=now)), now)


def claim(
    store: Store, limit: int = 1, *, types: tuple[str, ...] | None = None, by: str = HERE, now: int = NOW
) -> tuple[Lease, ...]:
    return do(store, ops.Claim(ServerId(by), types, limit), now).leases


def claimed(store: Store, limit: int = 100, *, types: tuple[str, ...] | None = None) -> list[str]:
    """The names of the tasks that a claim gives, in its order."""
    return [lease.task_id for lease in claim(store, limit, types=types)]


def running(store: Store, name: str, *, by: str = HERE) -> Lease:
    """A new task *name*, leased: it must be the only one pending."""
    submit(store, name)
    [lease] = claim(store, by=by)
    assert lease.task_id == name
    return lease


def finish(
    lease: Lease,
    state: State = State.SUCCEEDED,
    reason: Reason | None = Reason.OK,
    *,
    run_at: int | None = None,
    result: str | None = None,
    error: AttemptError | None = None,
    burns: bool = True,
) -> ops.Finish:
    return ops.Finish(
        task_id=lease.task_id,
        generation=lease.generation,
        state=state,
        reason=reason,
        run_at=run_at,
        result=None if result is None else Json(result),
        error=error,
        started_at=NOW + 1,
        worker=4,
        burns=burns,
    )


def failure(attempt: int, message: str = "boom") -> AttemptError:
    return AttemptError(
        attempt=attempt, at=NOW + 2, reason=Reason.ERROR, type="ValueError", message=message, duration_ms=7
    )


def put(store: Store, name: str, *, now: int = NOW, **given: Any) -> State:
    """Submit a task of a type of its own name, which `start` can name; the state it is in."""
    return do(store, ops.Submit(new(name, type=name, run_at=given.pop("run_at", now), **given)), now).state


def start(store: Store, name: str, *, now: int = NOW) -> Lease:
    """Claim a task that was `put`."""
    [lease] = claim(store, types=(name,), now=now)
    return lease


def succeed(store: Store, name: str, *, now: int = NOW) -> None:
    """Run a task that was `put`, and well."""
    do(store, finish(start(store, name, now=now)), now)


def fail(store: Store, name: str, *, now: int = NOW) -> None:
    """Run a task that was `put`, and badly."""
    do(store, finish(start(store, name, now=now), State.FAILED, Reason.ERROR, error=failure(1)), now)


def settle(store: Store, *, limit: int = ops.SWEEP_LIMIT_MAX, now: int = NOW) -> list[tuple[str, str]]:
    """Settle to the end, *limit* at a time; what that changed, in order."""
    changes: list[tuple[str, str]] = []
    while True:
        settled = do(store, ops.Settle(limit), now)
        changes += [(change.task_id, change.state.value) for change in settled.changes]
        if not settled.more:
            return changes


def fates(store: Store, names: str) -> list[str]:
    """The state of each task in *names*, with spaces between them, and its reason where it has one."""
    found = [task(store, name) for name in names.split()]
    return [each.state.value + (f" {each.reason.value}" if each.reason else "") for each in found]


def task(store: Store, name: str) -> Task:
    found = store.read(queries.GetTask(TaskId(name)))
    assert found is not None, f"no task {name}"
    return found


def state(store: Store, name: str) -> State:
    return task(store, name).state


def changed(task: Task, **changes: object) -> Task:
    """*task* but for *changes*: what a test says is all that has changed."""
    return msgspec.structs.replace(task, **changes)
