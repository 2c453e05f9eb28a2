"""The workers of this server: what each runs, since when, and how many there are to be."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from tq.api.http import Request, Response, json_response
from tq.core.errors import InvalidInput
from tq.core.task import TaskId
from tq.core.views import format_instant
from tq.core.wire import decode
from tq.core.workers import WORKERS_MAX, WorkerRange
from tq.engine.pool import Pool, Worker
from tq.engine.server import Server


class WorkersRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many workers are asked for: ``count``, or ``min`` and ``max``."""

    count: int | UnsetType = UNSET
    minimum: int | UnsetType = msgspec.field(default=UNSET, name="min")
    maximum: int | UnsetType = msgspec.field(default=UNSET, name="max")


class WorkerView(msgspec.Struct, frozen=True):
    """One worker. ``since`` is when it began what it does; ``overran``: that was to have ended by now."""

    worker: int
    state: str
    since: str
    task_id: TaskId | UnsetType = UNSET
    type: str | UnsetType = UNSET
    queue: str | UnsetType = UNSET
    attempt: int | UnsetType = UNSET
    overran: bool | UnsetType = UNSET


class WorkersView(msgspec.Struct, frozen=True):
    """All workers of a server. More than ``max`` are there while some finish their last task."""

    minimum: int = msgspec.field(name="min")
    maximum: int = msgspec.field(name="max")
    count: int
    busy: int
    workers: list[WorkerView]


_request = msgspec.json.Decoder(WorkersRequest)


async def get(server: Server, request: Request) -> Response:
    """The workers as they are now."""
    return json_response(_view(server.pool))


async def put(server: Server, request: Request) -> Response:
    """Have so many workers until this server ends; the answer is the workers as they are then."""
    asked = range_asked(decode(_request, request.body))
    server.resize_workers(minimum=asked.minimum, maximum=asked.maximum)
    return json_response(_view(server.pool))


def range_asked(request: WorkersRequest) -> WorkerRange:
    """How many workers *request* asks for.

    Raises:
        InvalidInput: Not one of the two forms, or out of bounds; ``field`` names what is wrong.
    """
    if request.count is not UNSET:
        if request.minimum is not UNSET or request.maximum is not UNSET:
            raise InvalidInput("count: give either count, or min and max", field="count")
        count = _within("count", request.count)
        return WorkerRange(count, count)
    if request.minimum is UNSET and request.maximum is UNSET:
        raise InvalidInput("count: missing: give count, or min and max", field="count")
    asked = WorkerRange(_within("min", request.minimum), _within("max", request.maximum))
    if not asked.is_allowed:
        raise InvalidInput(f"min: {asked.minimum} is over max, which is {asked.maximum}", field="min")
    return asked


def _within(name: str, value: int | UnsetType) -> int:
    allowed = f"an integer from 1 to {WORKERS_MAX}"
    if value is UNSET:
        raise InvalidInput(f"{name}: missing: min and max go together, each {allowed}", field=name)
    if not 1 <= value <= WORKERS_MAX:
        raise InvalidInput(f"{name}: {value} is not allowed: {allowed}", field=name)
    return value


def _view(pool: Pool) -> WorkersView:
    return WorkersView(
        minimum=pool.minimum,
        maximum=pool.maximum,
        count=len(pool.workers),
        busy=len(pool.running),
        workers=[_worker_view(pool.workers[number]) for number in sorted(pool.workers)],
    )


def _worker_view(worker: Worker) -> WorkerView:
    attempt = worker.attempt
    if attempt is None:
        return WorkerView(worker.number, "idle", format_instant(worker.since_at))
    return WorkerView(
        worker.number,
        "busy",
        format_instant(attempt.started_at),
        task_id=attempt.lease.task_id,
        type=attempt.lease.type,
        queue=attempt.lease.queue,
        attempt=attempt.lease.attempt,
        overran=attempt.concluded,
    )
