"""How stores refuse: the errors that more than one store raises, in the same words."""

from __future__ import annotations

from tq.core.errors import (
    Conflict,
    DuplicateTask,
    IdempotencyKeyReused,
    IllegalTransition,
    InvalidInput,
    LeaseLost,
    NotFound,
)
from tq.core.keys import KeyId
from tq.core.ops import RequestKey, Submitted
from tq.core.task import FINAL, Json, NewTask, State, TaskId, same_json


def answer_known(state: State, type: str, payload: Json, new: NewTask) -> Submitted:
    """The answer to a submit whose id is taken by a task of *type* and *payload*, now in *state*.

    Raises:
        DuplicateTask: That task is another one.
    """
    if type == new.type and same_json(payload, new.payload):
        return Submitted(new.id, state, duplicate=True)
    what = "type" if type != new.type else "payload"
    raise DuplicateTask(
        f"task {new.id} exists with another {what}: choose another id or send the same request",
        task_id=new.id,
    )


def lease_lost(task_id: TaskId, generation: int) -> LeaseLost:
    """The refusal of a word said with an old generation."""
    return LeaseLost(
        f"task {task_id} is no longer run by generation {generation}: drop the work",
        task_id=task_id,
        generation=generation,
    )


def no_such_task(task_id: TaskId) -> NotFound:
    """The refusal of an op on a task that is not there."""
    return NotFound(f"no task {task_id}: it never existed or its time to be kept is over", task_id=task_id)


def answer_repeated(
    known: RequestKey, request: RequestKey, task_id: TaskId, state: State | None
) -> Submitted:
    """The answer to a *request* whose key is *known*, by the task it made, now in *state*; None: gone.

    Raises:
        IdempotencyKeyReused: It says something else than the first did.
        NotFound: Its task is not kept any more.
    """
    if known.digest != request.digest:
        raise IdempotencyKeyReused(
            "Idempotency-Key: it came before with another body: use a new key for a new request",
            task_id=task_id,
        )
    if state is None:
        raise no_such_task(task_id)
    return Submitted(task_id, state, duplicate=True)


def unique_taken(new: NewTask, holder: TaskId) -> DuplicateTask:
    """The refusal of a task whose unique key *holder* has."""
    assert new.options.unique is not None
    return DuplicateTask(
        f"unique.key: task {holder} has {new.options.unique.key!r}: wait for its end, or cancel it",
        task_id=holder,
        field="unique.key",
    )


def unique_taken_meanwhile(task_id: TaskId, holder: TaskId) -> DuplicateTask:
    """The refusal to retry a task whose unique key another has taken meanwhile."""
    return DuplicateTask(f"task {task_id}: {holder} has its unique key now: wait for its end", task_id=holder)


def unknown_reference(field: str, task_id: TaskId) -> InvalidInput:
    """The refusal of a task that names one that is not there."""
    return InvalidInput(
        f"{field}: no task {task_id}: it must be stored before this one, and still be kept", field=field
    )


def parent_cancelled(parent_id: TaskId) -> Conflict:
    """The refusal of a child that would be cancelled with its parent."""
    return Conflict(f"parent_id: task {parent_id} is cancelled: it gets no more children", field="parent_id")


def check_deletable(task_id: TaskId, state: State, *, is_settled: bool) -> None:
    """Return if a task may be deleted. Raises IllegalTransition, Conflict."""
    if state not in FINAL:
        raise IllegalTransition(
            f"task {task_id} is {state}: only a task that has ended can be deleted; cancel it first",
            task_id=task_id,
            state=state.value,
            move="delete",
        )
    if not is_settled:
        raise Conflict(f"others still wait to hear of the end of {task_id}: try again", task_id=task_id)


def too_many(what: str, limit: int) -> Conflict:
    """The refusal of one more than there may be."""
    return Conflict(f"there are {limit} {what} already, which is all there may be: remove one", limit=limit)


def key_is_taken(key_id: KeyId) -> Conflict:
    """The refusal of a key whose id another has."""
    return Conflict(f"key {key_id} exists: make another", key_id=key_id)


def no_such_key(key_id: KeyId) -> NotFound:
    """The refusal of an op on a key that is not there."""
    return NotFound(f"no key {key_id}: see the list of keys", key_id=key_id)


def no_such_schedule(name: str) -> NotFound:
    """The refusal of an op on a schedule that is not there."""
    return NotFound(f"no schedule {name}: see the list of schedules", name=name)


def schedule_moved_on(name: str) -> Conflict:
    """The refusal of a word about a schedule that has changed meanwhile."""
    return Conflict(f"schedule {name} has been changed meanwhile: look again", name=name)
