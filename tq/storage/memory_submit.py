"""How the reference model takes new tasks: the order in which what is against one is looked at."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from tq.core import ops, refusals
from tq.core.errors import DuplicateTask, TqError
from tq.core.ops import RequestKey
from tq.core.task import (
    FINAL,
    WAITING,
    NewTask,
    OnConflict,
    OnFailure,
    Options,
    Reason,
    State,
    Task,
    TaskId,
    initial_state,
    unique_name,
)
from tq.storage.memory_rows import Rows


def submit(rows: Rows, new: NewTask, now: int, request: RequestKey | None = None) -> ops.Submitted:
    """See Submit."""
    known = None if request is None else rows.requests.get(request.key)
    if request is not None and known is not None and known[2] > now:
        task = rows.tasks.get(known[1])
        return refusals.answer_repeated(known[0], request, known[1], None if task is None else task.state)
    submitted = _admit(rows, new, now)
    if request is not None:
        rows.requests[request.key] = (request, submitted.task_id, now + ops.REQUEST_KEPT_MS)
    return submitted


def _admit(rows: Rows, new: NewTask, now: int) -> ops.Submitted:
    known = rows.tasks.get(new.id)
    if known is not None:
        return refusals.answer_known(known.state, known.type, known.payload, new)
    _check_references(rows, new.options)
    unique = new.options.unique
    holder = None if unique is None else rows.holders.get(unique_name(new.type, unique))
    if unique is None or holder is None:
        return _insert(rows, new, now)
    taken_by = rows.tasks[holder]
    if unique.on_conflict is OnConflict.EXISTING:
        return ops.Submitted(holder, taken_by.state, duplicate=True)
    if unique.on_conflict is OnConflict.REJECT or taken_by.state not in WAITING:
        raise refusals.unique_taken(new, holder)
    if new.options.parent_id == holder:
        raise refusals.parent_cancelled(holder)
    rows.end(taken_by, now, state=State.CANCELLED, reason=Reason.REPLACED)
    return replace(_insert(rows, new, now), replaced=holder)


def _check_references(rows: Rows, options: Options) -> None:
    for depended_on in options.depends_on:
        if depended_on not in rows.tasks:
            raise refusals.unknown_reference("depends_on", depended_on)
    if options.parent_id is not None:
        parent = rows.tasks.get(options.parent_id)
        if parent is None:
            raise refusals.unknown_reference("parent_id", options.parent_id)
        if parent.state is State.CANCELLED or parent.cancel_reason is not None:
            raise refusals.parent_cancelled(parent.id)


def submit_many(rows: Rows, tasks: Sequence[NewTask], now: int) -> tuple[Rows, tuple[ops.Submitted, ...]]:
    """The rows with all of *tasks* in them, and a reply for each. Raises the refusal of the first bad one.

    It is tried on a copy, so that one refusal undoes all: slow, and obviously right.
    """
    if not all(_is_plain(new) for new in tasks):
        rows = rows.copied()
    else:
        _check_ids(rows, tasks)
    replies = []
    for index, new in enumerate(tasks):
        try:
            replies.append(submit(rows, new, now))
        except TqError as refusal:
            raise type(refusal)(refusal.message, **(refusal.fields | {"index": index})) from None
    return rows, tuple(replies)


def _is_plain(new: NewTask) -> bool:
    """Whether nothing but its id can be against *new*."""
    options = new.options
    return options.unique is None and options.parent_id is None and not options.depends_on


def _check_ids(rows: Rows, tasks: Sequence[NewTask]) -> None:
    arriving: dict[TaskId, NewTask] = {}
    for index, new in enumerate(tasks):
        known = rows.tasks.get(new.id) or arriving.setdefault(new.id, new)
        if known is not new:
            try:
                refusals.answer_known(State.PENDING, known.type, known.payload, new)
            except DuplicateTask as refusal:
                raise DuplicateTask(refusal.message, **refusal.fields, index=index) from None


def _insert(rows: Rows, new: NewTask, now: int) -> ops.Submitted:
    waits_for = [each for each in dict.fromkeys(new.options.depends_on) if _is_open(rows, each)]
    is_doomed = new.options.on_dependency_failure is OnFailure.CANCEL and any(
        rows.tasks[each].state in (State.FAILED, State.CANCELLED) for each in new.options.depends_on
    )
    state = State.BLOCKED if waits_for or is_doomed else initial_state(new.run_at, now)
    task = Task(
        id=new.id,
        type=new.type,
        queue=new.queue,
        key=new.key,
        state=state,
        reason=None,
        payload=new.payload,
        priority=new.priority,
        attempt=0,
        max_attempts=new.max_attempts,
        crashes=0,
        generation=0,
        timeout_ms=new.timeout_ms,
        retry=new.retry,
        result_ttl_ms=new.result_ttl_ms,
        created_at=now,
        run_at=new.run_at,
        started_at=None,
        finished_at=None,
        worker=None,
        server=None,
        cancel_reason=None,
        result=None,
        errors=(),
        blockers=0 if is_doomed else len(waits_for),
        fingerprint=None,
        progress=None,
        logs=(),
        options=new.options,
    )
    rows.arrived += 1
    rows.arrivals[task.id] = rows.arrived
    rows.submitted += 1
    rows.tasks[task.id] = task
    rows.count(task, +1)
    rows.hold(task)
    _watch(rows, task, [] if is_doomed else waits_for)
    if is_doomed:
        rows.end(task, now, state=State.CANCELLED, reason=Reason.DEPENDENCY)
        return ops.Submitted(task.id, State.CANCELLED)
    rows.enqueue(task)
    return ops.Submitted(task.id, state)


def _is_open(rows: Rows, task_id: TaskId) -> bool:
    return rows.tasks[task_id].state not in FINAL


def _watch(rows: Rows, task: Task, waits_for: list[TaskId]) -> None:
    rows.watched.update(waits_for)
    for each in waits_for:
        rows.edges.setdefault(each, []).append(task.id)
    if task.options.parent_id is not None:
        rows.watched.add(task.options.parent_id)
