"""What a key that is limited to some queues reaches: their tasks, and nothing else.

A route whose path names a task or a queue is held to that here. Of the others, those that narrow what
they do by themselves say so in the table; the rest is of all queues, and needs a key for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from tq.api.endpoints.tasks import found_task, task_id_of
from tq.api.http import Request
from tq.core.errors import NotFound
from tq.core.queries import GetTask
from tq.engine.server import Server


async def check_reach(server: Server, path: str, request: Request, *, narrows: bool) -> None:
    """Return if what *request* is about is its caller's.

    Args:
        path: As the table writes it.
        narrows: Whether the route looks by itself.
    Raises:
        NotFound: The task or queue is another's; there might as well be none.
        NotAllowed: It is of all queues.
        StorageUnavailable: Safe to repeat.
    """
    caller = request.caller
    if caller.queues is None or narrows:
        return
    if "{queue}" in path:
        if not caller.may_reach(request.params["queue"]):
            raise NotFound("there is no such queue for this key: see the list of queues")
    elif "{id}" in path:
        task_id = task_id_of(request)
        task = await server.read(GetTask(task_id))
        found_task(task if task is not None and caller.may_reach(task.queue) else None, task_id)
    else:
        caller.check_unlimited()


def reached(request: Request, queues: Iterable[str]) -> list[str]:
    """Those of *queues* that the caller of *request* may see."""
    return [queue for queue in queues if request.caller.may_reach(queue)]
