"""What a caller may submit: tasks of its queues, which touch no others.

A caller that is limited to some queues must learn nothing of the others by an id, a reference or a unique
key, and move nothing in them.
"""

from __future__ import annotations

from collections.abc import Iterable

from tq.core.errors import DuplicateTask, NotAllowed
from tq.core.keys import Caller
from tq.core.ops import Submitted
from tq.core.queries import GetTask
from tq.core.refusals import unknown_reference
from tq.core.task import NewTask, OnConflict, TaskId
from tq.engine.server import Server


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
        task = await server.read(GetTask(task_id))
        if task is not None and not caller.may_reach(task.queue):
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
    task = await server.read(GetTask(submitted.task_id))
    if task is not None and not caller.may_reach(task.queue):
        raise DuplicateTask("the id or the unique key is taken by a task of another queue: choose another")
