"""What a caller may submit, and what it is told: tasks of its queues, which touch no others.

A caller that is limited to some queues must learn nothing of the others by an id, a reference or a unique
key, and move nothing in them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tq.core.errors import DuplicateTask, NotAllowed
from tq.core.keys import Caller
from tq.core.ops import Submitted
from tq.core.queries import GetTask
from tq.core.refusals import unknown_reference
from tq.core.task import NewTask, OnConflict, TaskId
from tq.engine.server import Server

_TAKEN: Final = "the id or the unique key is taken by a task of another queue: choose another"


async def check_new(server: Server, caller: Caller, new: NewTask) -> None:
    """Return if *caller* may submit *new*.

    Raises:
        NotAllowed: Its queue is not the caller's; or it may cancel what is not.
        InvalidInput: A task that it refers to is not the caller's; said as of one that is not there.
        StorageUnavailable: Safe to repeat.
    """
    if caller.queues is None:
        return
    caller.check_queue(new.queue)
    unique = new.options.unique
    if unique is not None and unique.on_conflict is OnConflict.REPLACE:
        raise NotAllowed(
            "unique.on_conflict: replace may cancel a task of any queue: it needs a key for all of them"
        )
    for field, task_id in _references(new):
        if await _is_anothers(server, caller, task_id):
            raise unknown_reference(field, task_id)


def _references(new: NewTask) -> Iterable[tuple[str, TaskId]]:
    if new.options.parent_id is not None:
        yield "parent_id", new.options.parent_id
    for task_id in new.options.depends_on:
        yield "depends_on", task_id


async def check_known(server: Server, caller: Caller, submitted: Submitted) -> None:
    """Return if what *submitted* names is the caller's: it may be an older task.

    Raises:
        DuplicateTask: It is not.
        StorageUnavailable: Safe to repeat.
    """
    if caller.queues is None or not submitted.duplicate:
        return
    if await _is_anothers(server, caller, submitted.task_id):
        raise DuplicateTask(_TAKEN)


async def told_to(server: Server, caller: Caller, refused: DuplicateTask) -> DuplicateTask:
    """*refused* as *caller* may hear of it: of a task that is another's, only that something is taken.

    Whatever such a task is like, the words are the same, so that nothing can be guessed and tried.
    Raises StorageUnavailable.
    """
    task_id = refused.fields.get("task_id")
    if caller.queues is None or not isinstance(task_id, str):
        return refused
    if not await _is_anothers(server, caller, TaskId(task_id)):
        return refused
    where = {name: value for name, value in refused.fields.items() if name == "index"}
    return DuplicateTask(_TAKEN, **where)


async def _is_anothers(server: Server, caller: Caller, task_id: TaskId) -> bool:
    task = await server.read(GetTask(task_id))
    return task is not None and not caller.may_reach(task.queue)
