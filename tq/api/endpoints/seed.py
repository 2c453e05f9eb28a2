"""The three routes of the server that tq grew from. Frozen: its clients must notice nothing.

Bodies have these fields in this order and no others; golden tests hold them to the byte.
"""

from __future__ import annotations

from typing import Final

import msgspec

from tq.api.http import Request, Response, json_response, traceparent_of
from tq.api.problems import problem_response
from tq.api.submits import check_known, check_new
from tq.core.errors import InvalidInput
from tq.core.task import FINAL, Json, Reason, State, Task, TaskId
from tq.core.views import format_instant
from tq.core.wire import SubmitRequest, decode, traced
from tq.engine.server import Server

TIMED_OUT: Final = "Task timed out or was cancelled"


class SeedRequest(msgspec.Struct, frozen=True):
    """A submit as the original knew it; what else the object has is ignored."""

    type: str
    payload: msgspec.Raw = msgspec.Raw(b"null")
    id: str | None = None


_decoder = msgspec.json.Decoder(SeedRequest)


async def submit(server: Server, request: Request) -> Response:
    """Store a task; 200 also where it was there already, by the same request."""
    try:
        given = decode(_decoder, request.body)
        asked = SubmitRequest(type=given.type, payload=given.payload, id=given.id)
        new = await server.prepare(traced(asked, traceparent_of(request)))
    except InvalidInput as fault:
        # The original knew one status for every body that it could not use.
        return problem_response(fault, status=400 if type(fault) is InvalidInput else None)
    await check_new(server, request.caller, new)
    submitted = await server.submit(new, request_id=request.request_id)
    await check_known(server, request.caller, submitted)
    return json_response(
        {
            "message": "Task submitted successfully",
            "task_id": submitted.task_id,
            "status": "pending",
        }
    )


async def status(server: Server, request: Request) -> Response:
    """How a task ended; everything else, unknown ids included, is pending or not found."""
    task_id = TaskId(request.params.get("id", ""))
    if not task_id:
        raise InvalidInput("the task id is missing: ask for /status/ID")
    task = await server.find(task_id)
    if task is None or task.state not in FINAL or not request.caller.may_reach(task.queue):
        return json_response({"task_id": task_id, "status": "pending or not found"})
    return json_response(_ended(task))


def _ended(task: Task) -> dict[str, object]:
    assert task.finished_at is not None
    processed_at = format_instant(task.finished_at)
    if task.state is State.SUCCEEDED:
        data = msgspec.Raw((task.result or Json("null")).encode())
        return {"task_id": task.id, "success": True, "data": data, "processed_at": processed_at}
    return {"task_id": task.id, "success": False, "error": _error_text(task), "processed_at": processed_at}


def _error_text(task: Task) -> str:
    if task.reason is Reason.TIMEOUT or task.state is State.CANCELLED or not task.errors:
        return TIMED_OUT
    return task.errors[-1].message


async def stats(server: Server, request: Request) -> Response:
    """How many tasks were processed, and how many wait for a worker."""
    counters = await server.stats()
    return json_response(
        {
            "total_processed": counters.succeeded + counters.failed,
            "successful": counters.succeeded,
            "failed": counters.failed,
            "queue_length": counters.count(State.PENDING),
        }
    )
