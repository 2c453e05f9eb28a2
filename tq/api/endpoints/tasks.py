"""Submitting tasks, one or many, and looking at one."""

from __future__ import annotations

import re
from functools import partial
from hashlib import blake2b
from typing import Final

import msgspec

from tq.api.endpoints.ndjson import open_replies
from tq.api.http import (
    NDJSON,
    Request,
    Response,
    encode_json,
    json_response,
    tag_of,
    traceparent_of,
    unless_gone,
    wait_asked,
    wait_preferred,
)
from tq.api.submits import check_known, check_new
from tq.core.errors import InvalidInput, NotFound
from tq.core.fields import checked_id
from tq.core.keys import Caller
from tq.core.ops import RequestKey, Submitted
from tq.core.task import FINAL, NewTask, State, Task, TaskId
from tq.core.views import format_instant, task_json
from tq.core.wire import at_index, decode_batch, decode_submit, traced
from tq.engine.server import Server

_TASK_HEADERS: Final = (("cache-control", "private, no-cache"),)
"""Whoever keeps a task asks each time whether it is still that."""
_IDEMPOTENCY_KEY: Final = re.compile(r"[ -~]{1,255}")


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
    """Store a task: 201, or 200 with ``Tq-Duplicate`` where it, or what it stands for, was there before.

    The answer to ``Prefer: wait=N`` is the whole task, 200 if it has ended.
    """
    new = await server.prepare(traced(decode_submit(request.body), traceparent_of(request)))
    await check_new(server, request.caller, new)
    submitted = await server.submit(new, idempotency_key(request), request_id=request.request_id)
    await check_known(server, request.caller, submitted)
    wait = wait_preferred(request)
    if wait is None:
        task = await server.find(submitted.task_id) if submitted.duplicate else None
        return submitted_response(new, submitted, task=task)
    task = await unless_gone(request, partial(server.wait_final, submitted.task_id, timeout_s=wait))
    return submitted_response(new, submitted, task=task, headers=(("preference-applied", f"wait={wait}"),))


def submitted_response(
    new: NewTask,
    submitted: Submitted,
    *,
    task: Task | None = None,
    headers: tuple[tuple[str, str], ...] = (),
) -> Response:
    """The answer to a submit of *new*; *task* is what came of it, if that is known."""
    is_over = task is not None and task.state in FINAL
    headers = (("location", f"/v1/tasks/{submitted.task_id}"), *headers)
    if submitted.duplicate:
        headers = (*headers, ("tq-duplicate", "true"))
    body = _created(new, submitted) if task is None else task_json(task)
    return Response(200 if submitted.duplicate or is_over else 201, body, headers)


def idempotency_key(request: Request) -> RequestKey | None:
    """The ``Idempotency-Key`` of *request*, if it has one.

    Raises:
        InvalidInput: It is empty, too long or has odd characters.
    """
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidInput(
            f"Idempotency-Key: {key[:40]!r} is not allowed: 1 to 255 printable ASCII characters",
            header="Idempotency-Key",
        )
    return RequestKey(_apart(request.caller) + key, blake2b(request.body, digest_size=16).hexdigest())


def _apart(caller: Caller) -> str:
    """What keeps the keys of callers apart that reach other tasks: no header has a line end."""
    return "" if caller.queues is None else ",".join(sorted(caller.queues)) + "\n"


def _created(new: NewTask, submitted: Submitted) -> bytes:
    return encode_json(
        Created(
            id=submitted.task_id,
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
    """One task; with ``?wait=N`` once it has ended, or as it is after N seconds.

    304 if nothing that it shows has changed since the ``ETag`` in ``If-None-Match``.
    """
    wait = wait_asked(request)
    task_id = task_id_of(request)
    if wait:
        task = await unless_gone(request, partial(server.wait_final, task_id, timeout_s=wait))
    else:
        task = await server.find(task_id)
    found = found_task(task, task_id)
    body = task_json(found, cancellable=server.cancellable(found))
    return Response(200, body, _TASK_HEADERS, tag=tag_of(body))


def task_id_of(request: Request) -> TaskId:
    """The task that the path names. Raises NotFound if that is no id at all."""
    text = request.params["id"]
    try:
        return checked_id(text)
    except InvalidInput:
        raise _not_found(text) from None


def found_task(task: Task | None, task_id: TaskId) -> Task:
    """*task*, if it was found. Raises NotFound."""
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
    if "idempotency-key" in request.headers:
        raise InvalidInput(
            "Idempotency-Key: a batch does not take it: give each task an id, and send the same again",
            header="Idempotency-Key",
        )
    if request.media == NDJSON:
        assert request.stream is not None
        replies = await open_replies(server, request, request.stream)
        return Response(200, replies, media=NDJSON)
    new = await _new_tasks(server, request)
    submitted = await server.submit_many(new, request_id=request.request_id) if new else ()
    for one in submitted:
        await check_known(server, request.caller, one)
    stored = [Stored(one.task_id, one.state, one.duplicate) for one in submitted]
    all_known = all(one.duplicate for one in submitted)
    return json_response({"tasks": stored}, status=200 if all_known else 201)


async def _new_tasks(server: Server, request: Request) -> list[NewTask]:
    new = []
    traceparent = traceparent_of(request)
    for index, asked in enumerate(decode_batch(request.body)):
        try:
            new.append(await server.prepare(traced(asked, traceparent)))
            await check_new(server, request.caller, new[-1])
        except InvalidInput as fault:
            raise at_index(fault, index) from None
    return new
