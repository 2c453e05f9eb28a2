"""What can be done to one task: cancel, retry, change, delete; and the tree below it."""

from __future__ import annotations

from functools import partial

from tq.api.endpoints.tasks import found_task, task_id_of
from tq.api.http import Request, Response, json_response, unless_gone, wait_asked
from tq.core.keys import Caller
from tq.core.ops import Cancel, Delete, Retry
from tq.core.requests import check_nothing, read_cancel, read_update
from tq.core.task import FINAL, TaskId
from tq.core.views import line_view, task_json
from tq.engine.bulk import Branch, read_tree
from tq.engine.server import Server


async def cancel(server: Server, request: Request) -> Response:
    """Cancel a task: 200 once it has ended, 202 while its attempt has been asked to stop.

    The task in the answer says in ``cancellable`` what can be promised of an attempt that runs, and in
    ``state`` who won if it ended meanwhile; one that had ended before is 409.
    """
    wait = wait_asked(request)
    task_id = task_id_of(request)
    await server.change(Cancel(task_id, cascade=read_cancel(request.body).cascade))
    if wait:
        await unless_gone(request, partial(server.wait_final, task_id, timeout_s=wait))
    return await _show(server, task_id)


async def retry(server: Server, request: Request) -> Response:
    """Have an ended task run again, from its first attempt; its history stays."""
    check_nothing(request.body)
    task_id = task_id_of(request)
    await server.change(Retry(task_id))
    return await _show(server, task_id)


async def update(server: Server, request: Request) -> Response:
    """Give a waiting task new values."""
    op = read_update(request.body, task_id_of(request), now=server.clock.now_ms())
    await server.change(op)
    return await _show(server, op.task_id)


async def delete(server: Server, request: Request) -> Response:
    """Delete an ended task."""
    await server.change(Delete(task_id_of(request)))
    return Response(204)


async def tree(server: Server, request: Request) -> Response:
    """The task, its children, theirs, and so on; ``more`` where the tree was cut off."""
    task_id = task_id_of(request)
    root = found_task(await server.find(task_id), task_id)
    branch, more = await read_tree(server.read, root)
    return json_response({"tree": _tree_view(server, branch, request.caller), "more": more})


def _tree_view(server: Server, branch: Branch, caller: Caller) -> dict[str, object]:
    view = line_view(server.as_it_runs(branch.task))
    seen = [child for child in branch.children if caller.may_reach(child.task.queue)]
    return view | {"children": [_tree_view(server, child, caller) for child in seen]}


async def _show(server: Server, task_id: TaskId) -> Response:
    task = found_task(await server.find(task_id), task_id)
    is_stopping = task.cancel_reason is not None and task.state not in FINAL
    return Response(202 if is_stopping else 200, task_json(task, cancellable=server.cancellable(task)))
