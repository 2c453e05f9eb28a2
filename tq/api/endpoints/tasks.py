"""Submitting tasks, one or many, and looking at one."""

from __future__ import annotations

from functools import partial

import msgspec

from tq.api.endpoints.ndjson import open_replies
from tq.api.http import (
    NDJSON,
    Request,
    Response,
    encode_json,
    json_response,
    unless_gone,
    wait_asked,
    wait_preferred,
)
from tq.core.errors import InvalidInput, NotFound
from tq.core.ops import Submitted
from tq.core.task import FINAL, NewTask, State, Task, TaskId
from tq.core.wire import at_index, checked_id, decode_batch, decode_submit, format_instant, task_json
from tq.engine.server import Server


class Created(msgspec.Struct, frozen=True):
    """A task as its submit is answered: what the server decided, without a read after the commit."""

    id: TaskId
    type: str
    queue: str
    state: State
    priority: int
    attempt: int
    max_attempts: int
    timeout: float
    run_at: str


class Stored(msgspec.Struct, frozen=True, omit_defaults=True):
    """One task of a batch."""

    id: TaskId
    state: State
    duplicate: bool = False


async def submit(server: Server, request: Request) -> Response:
    """Store a task: 201, or 200 with ``Tq-Duplicate`` where the same request stored it before.

    The answer to ``Prefer: wait=N`` is the whole task, 200 if it has ended.
    """
    new = server.new_task(decode_submit(request.body))
    submitted = await server.submit(new)
    status = 200 if submitted.duplicate else 201
    headers = [("location", f"/v1/tasks/{new.id}")]
    if submitted.duplicate:
        headers.append(("tq-duplicate", "true"))
    wait = wait_preferred(request)
    if wait is not None:
        task = await unless_gone(request, partial(server.wait_final, new.id, timeout_s=wait))
        headers.append(("preference-applied", f"wait={wait}"))
        status = 200 if task is not None and task.state in FINAL else status
    else:
        task = await server.find(new.id) if submitted.duplicate else None
    return Response(status, _created(new, submitted) if task is None else task_json(task), tuple(headers))


def _created(new: NewTask, submitted: Submitted) -> bytes:
    return encode_json(
        Created(
            id=new.id,
            type=new.type,
            queue=new.queue,
            state=submitted.state,
            priority=new.priority,
            attempt=0,
            max_attempts=new.max_attempts,
            timeout=new.timeout_ms / 1000,
            run_at=format_instant(new.run_at),
        )
    )


async def get(server: Server, request: Request) -> Response:
    """One task; with ``?wait=N`` once it has ended, or as it is after N seconds."""
    wait = wait_asked(request)
    task_id = _task_id(request.params["id"])
    if wait:
        task = await unless_gone(request, partial(server.wait_final, task_id, timeout_s=wait))
    else:
        task = await server.find(task_id)
    return Response(200, task_json(_found(task, task_id)))


def _task_id(text: str) -> TaskId:
    try:
        return checked_id(text)
    except InvalidInput:
        raise _not_found(text) from None


def _found(task: Task | None, task_id: TaskId) -> Task:
    if task is None:
        raise _not_found(task_id)
    return task


def _not_found(task_id: str) -> NotFound:
    return NotFound(
        f"no task {task_id[:128]}: check the id; a task that has ended is kept for a limited time only",
        task_id=task_id[:128],
    )


async def submit_batch(server: Server, request: Request) -> Response:
    """Store an array of tasks, all or none; or lines of NDJSON, each on its own, as they come."""
    if request.media == NDJSON:
        assert request.stream is not None
        return Response(200, await open_replies(server, request.stream), media=NDJSON)
    new = _new_tasks(server, request.body)
    submitted = await server.submit_many(new) if new else ()
    stored = [Stored(one.task_id, one.state, one.duplicate) for one in submitted]
    all_known = all(one.duplicate for one in submitted)
    return json_response({"tasks": stored}, status=200 if all_known else 201)


def _new_tasks(server: Server, body: bytes) -> list[NewTask]:
    new = []
    for index, asked in enumerate(decode_batch(body)):
        try:
            new.append(server.new_task(asked))
        except InvalidInput as fault:
            raise at_index(fault, index) from None
    return new
