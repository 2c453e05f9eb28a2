"""The one table of routes. Both doors serve it, the start-up message prints it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import msgspec

from tq.api.endpoints import (
    actions,
    contract,
    events,
    health,
    lists,
    metrics,
    queues,
    schedules,
    seed,
    servers,
    stats,
    tasks,
    workers,
)
from tq.api.http import JSON, NDJSON, Request, Response
from tq.api.live import Messages
from tq.core.errors import (
    Conflict,
    DuplicateTask,
    IdempotencyKeyReused,
    IllegalTransition,
    NotFound,
    Overloaded,
    PayloadInvalid,
    ShuttingDown,
    StorageFull,
    StorageUnavailable,
    TqError,
    UnknownType,
)
from tq.core.requests import (
    FILTER_FIELDS,
    BulkRequest,
    CancelRequest,
    PurgeRequest,
    QueueRequest,
    ScheduleRequest,
    UpdateRequest,
)
from tq.core.wire import PAYLOAD_MAX, SubmitRequest
from tq.engine.server import Server

BODY_MAX: Final = PAYLOAD_MAX + 64 * 1024
"""Bytes of one body: a payload of its greatest size and room for the other fields."""
BATCH_BODY_MAX: Final = 32 * 1024 * 1024
"""Bytes of one array of tasks."""
SMALL_BODY_MAX: Final = 4 * 1024
"""Bytes of a body that holds settings only."""

Endpoint = Callable[[Server, Request], Awaitable[Response]]
Socket = Callable[[Server, Request], Messages]


class Scope(StrEnum):
    """What a caller must be allowed to do."""

    OPEN = "open"
    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One row: what is served where, for whom, and within which bounds.

    ``path`` names its parameters in braces; ``{name*}`` takes slashes too and may be empty. ``query``
    lists the query parameters there are, any other being refused; None ignores them. ``bodies`` gives the
    media types of the body and the most bytes of each; None: streamed, of any length. The empty type
    stands for a body that names none. ``socket`` gives what is sent to who asks for a WebSocket.

    The rest is for the contract: ``name`` is the operation's own, ``takes`` the JSON body, ``answers``
    the schema in `tq.api.schemas` by status, empty where there is no body, and ``refuses`` the errors
    beside those that any such route can give: see `tq.api.openapi`.
    """

    method: str
    path: str
    endpoint: Endpoint
    scope: Scope
    summary: str
    socket: Socket | None = None
    name: str = ""
    query: frozenset[str] | None = frozenset()
    bodies: Mapping[str, int | None] = field(default_factory=dict)
    takes: type[msgspec.Struct] | None = None
    answers: Mapping[int, str] = field(default_factory=dict)
    refuses: frozenset[type[TqError]] = frozenset()


_NO_QUERY_CHECK: Final = None
"""The frozen routes ignore what they do not know, as the original did."""
_WAIT: Final = frozenset({"wait"})
_LIVE: Final = frozenset({"last_event_id", "ticket"})
_SMALL: Final = {JSON: SMALL_BODY_MAX, "": SMALL_BODY_MAX}
"""A body of settings that may be left out."""
_READ: Final = frozenset[type[TqError]]({StorageUnavailable})
_WRITE: Final = _READ | {StorageFull}
_SUBMIT: Final = _WRITE | {UnknownType, PayloadInvalid, DuplicateTask, ShuttingDown}

ROUTES: Final = (
    Route(
        method="POST",
        path="/submit",
        endpoint=seed.submit,
        scope=Scope.SUBMIT,
        name="submit_original",
        summary="submit a task: {id?, type, payload}",
        query=_NO_QUERY_CHECK,
        bodies={JSON: BODY_MAX, "": BODY_MAX},
        takes=seed.SeedRequest,
        answers={200: "SeedSubmitted"},
        refuses=_SUBMIT,
    ),
    Route(
        method="GET",
        path="/status/{id*}",
        endpoint=seed.status,
        scope=Scope.READ,
        name="get_status",
        summary="how a task ended",
        query=_NO_QUERY_CHECK,
        answers={200: "SeedStatus"},
        refuses=_READ,
    ),
    Route(
        method="GET",
        path="/stats",
        endpoint=seed.stats,
        scope=Scope.READ,
        name="get_original_stats",
        summary="how many tasks were processed and wait",
        query=_NO_QUERY_CHECK,
        answers={200: "SeedStats"},
        refuses=_READ,
    ),
    Route(
        method="POST",
        path="/v1/tasks",
        endpoint=tasks.submit,
        scope=Scope.SUBMIT,
        name="submit_task",
        summary="submit a task; Prefer: wait=N to hold until it ends",
        bodies={JSON: BODY_MAX},
        takes=SubmitRequest,
        answers={200: "Submitted", 201: "Submitted"},
        refuses=_SUBMIT | {IdempotencyKeyReused, Conflict, NotFound},
    ),
    Route(
        method="POST",
        path="/v1/tasks/batch",
        endpoint=tasks.submit_batch,
        scope=Scope.SUBMIT,
        name="submit_tasks",
        summary="submit many: a JSON array, or NDJSON of any length",
        bodies={JSON: BATCH_BODY_MAX, NDJSON: None},
        takes=SubmitRequest,
        answers={200: "Batch", 201: "Batch"},
        refuses=_SUBMIT | {Conflict},
    ),
    Route(
        method="GET",
        path="/v1/tasks",
        endpoint=lists.list_tasks,
        scope=Scope.READ,
        name="list_tasks",
        summary="tasks by state, queue, type, tag and more, newest first",
        query=frozenset({*FILTER_FIELDS, "limit", "cursor"}),
        answers={200: "TaskPage"},
        refuses=_READ,
    ),
    Route(
        method="POST",
        path="/v1/tasks/cancel",
        endpoint=lists.cancel,
        scope=Scope.ADMIN,
        name="cancel_tasks",
        summary="cancel all that a filter means",
        bodies={JSON: SMALL_BODY_MAX},
        takes=BulkRequest,
        answers={200: "BulkDone"},
        refuses=_WRITE,
    ),
    Route(
        method="POST",
        path="/v1/tasks/retry",
        endpoint=lists.retry,
        scope=Scope.ADMIN,
        name="retry_tasks",
        summary="retry all that a filter means",
        bodies={JSON: SMALL_BODY_MAX},
        takes=BulkRequest,
        answers={200: "BulkDone"},
        refuses=_WRITE,
    ),
    Route(
        method="POST",
        path="/v1/tasks/delete",
        endpoint=lists.delete,
        scope=Scope.ADMIN,
        name="delete_tasks",
        summary="delete all ended ones that a filter means",
        bodies={JSON: SMALL_BODY_MAX},
        takes=BulkRequest,
        answers={200: "BulkDone"},
        refuses=_WRITE,
    ),
    Route(
        method="GET",
        path="/v1/failures",
        endpoint=lists.failures,
        scope=Scope.READ,
        name="list_failures",
        summary="failed tasks by cause",
        query=frozenset({"limit"}),
        answers={200: "Failures"},
        refuses=_READ,
    ),
    Route(
        method="GET",
        path="/v1/tasks/{id}",
        endpoint=tasks.get,
        scope=Scope.READ,
        name="get_task",
        summary="one task; ?wait=N to hold until it ends",
        query=_WAIT,
        answers={200: "Task"},
        refuses=_READ,
    ),
    Route(
        method="PATCH",
        path="/v1/tasks/{id}",
        endpoint=actions.update,
        scope=Scope.SUBMIT,
        name="update_task",
        summary="change a waiting task",
        bodies={JSON: SMALL_BODY_MAX},
        takes=UpdateRequest,
        answers={200: "Task"},
        refuses=_WRITE | {IllegalTransition},
    ),
    Route(
        method="DELETE",
        path="/v1/tasks/{id}",
        endpoint=actions.delete,
        scope=Scope.SUBMIT,
        name="delete_task",
        summary="delete an ended task",
        answers={204: ""},
        refuses=_WRITE | {IllegalTransition, Conflict},
    ),
    Route(
        method="POST",
        path="/v1/tasks/{id}/cancel",
        endpoint=actions.cancel,
        scope=Scope.SUBMIT,
        name="cancel_task",
        summary="cancel a task, waiting or running; ?wait=N to see it end",
        query=_WAIT,
        bodies=_SMALL,
        takes=CancelRequest,
        answers={200: "Task", 202: "Task"},
        refuses=_WRITE | {IllegalTransition},
    ),
    Route(
        method="POST",
        path="/v1/tasks/{id}/retry",
        endpoint=actions.retry,
        scope=Scope.SUBMIT,
        name="retry_task",
        summary="run an ended task again",
        bodies=_SMALL,
        answers={200: "Task"},
        refuses=_WRITE | {IllegalTransition, DuplicateTask},
    ),
    Route(
        method="GET",
        path="/v1/tasks/{id}/tree",
        endpoint=actions.tree,
        scope=Scope.READ,
        name="get_tree",
        summary="a task and all below it",
        answers={200: "Tree"},
        refuses=_READ,
    ),
    Route(
        method="GET",
        path="/v1/tasks/{id}/events",
        endpoint=events.of_task,
        socket=events.stream_of_task,
        scope=Scope.READ,
        name="watch_task",
        summary="what happens to a task, to its end: SSE or WebSocket",
        query=_LIVE,
        answers={101: "", 200: "EventStream", 204: ""},
        refuses=_READ | {Overloaded, ShuttingDown},
    ),
    Route(
        method="GET",
        path="/v1/events",
        endpoint=events.of_all,
        socket=events.stream_of_all,
        scope=Scope.READ,
        name="watch_all",
        summary="what happens, by queue and type: SSE or WebSocket",
        query=_LIVE | {"queue", "type"},
        answers={101: "", 200: "EventStream"},
        refuses=frozenset({Overloaded, ShuttingDown}),
    ),
    Route(
        method="POST",
        path="/v1/tickets",
        endpoint=events.issue_ticket,
        scope=Scope.READ,
        name="make_ticket",
        summary="a ticket for ?ticket=, in place of a key: 30 s, once",
        bodies={"": SMALL_BODY_MAX, JSON: SMALL_BODY_MAX},
        answers={201: "Ticket"},
        refuses=frozenset({Overloaded}),
    ),
    Route(
        method="GET",
        path="/v1/queues",
        endpoint=queues.list_queues,
        scope=Scope.READ,
        name="list_queues",
        summary="queues, their rules and counts",
        answers={200: "Queues"},
        refuses=_READ,
    ),
    Route(
        method="GET",
        path="/v1/queues/{queue}",
        endpoint=queues.get,
        scope=Scope.READ,
        name="get_queue",
        summary="one queue",
        answers={200: "Queue"},
        refuses=_READ,
    ),
    Route(
        method="PUT",
        path="/v1/queues/{queue}",
        endpoint=queues.put,
        scope=Scope.ADMIN,
        name="put_queue",
        summary="order, concurrency and rate of a queue",
        bodies={JSON: SMALL_BODY_MAX},
        takes=QueueRequest,
        answers={200: "Queue"},
        refuses=_WRITE | {Conflict},
    ),
    Route(
        method="POST",
        path="/v1/queues/{queue}/pause",
        endpoint=queues.pause,
        scope=Scope.ADMIN,
        name="pause_queue",
        summary="start nothing more of a queue",
        bodies=_SMALL,
        answers={200: "Queue"},
        refuses=_WRITE | {Conflict},
    ),
    Route(
        method="POST",
        path="/v1/queues/{queue}/resume",
        endpoint=queues.resume,
        scope=Scope.ADMIN,
        name="resume_queue",
        summary="let a queue go on",
        bodies=_SMALL,
        answers={200: "Queue"},
        refuses=_WRITE | {Conflict},
    ),
    Route(
        method="POST",
        path="/v1/queues/{queue}/purge",
        endpoint=queues.purge,
        scope=Scope.ADMIN,
        name="purge_queue",
        summary="cancel all that waits in a queue",
        bodies=_SMALL,
        takes=PurgeRequest,
        answers={200: "BulkDone"},
        refuses=_WRITE,
    ),
    Route(
        method="GET",
        path="/v1/schedules",
        endpoint=schedules.list_schedules,
        scope=Scope.READ,
        name="list_schedules",
        summary="schedules",
        query=frozenset({"cursor"}),
        answers={200: "Schedules"},
        refuses=_READ,
    ),
    Route(
        method="GET",
        path="/v1/schedules/{name}",
        endpoint=schedules.get,
        scope=Scope.READ,
        name="get_schedule",
        summary="one schedule, its last and next ticks",
        answers={200: "Schedule"},
        refuses=_READ,
    ),
    Route(
        method="PUT",
        path="/v1/schedules/{name}",
        endpoint=schedules.put,
        scope=Scope.ADMIN,
        name="put_schedule",
        summary="make or change a schedule: cron or every, and a task",
        bodies={JSON: BODY_MAX},
        takes=ScheduleRequest,
        answers={200: "Schedule", 201: "Schedule"},
        refuses=_WRITE | {UnknownType, PayloadInvalid, Conflict},
    ),
    Route(
        method="DELETE",
        path="/v1/schedules/{name}",
        endpoint=schedules.delete,
        scope=Scope.ADMIN,
        name="delete_schedule",
        summary="remove a schedule",
        answers={204: ""},
        refuses=_WRITE,
    ),
    Route(
        method="POST",
        path="/v1/schedules/{name}/pause",
        endpoint=schedules.pause,
        scope=Scope.ADMIN,
        name="pause_schedule",
        summary="fire no tick",
        bodies=_SMALL,
        answers={200: "Schedule"},
        refuses=_WRITE | {Conflict},
    ),
    Route(
        method="POST",
        path="/v1/schedules/{name}/resume",
        endpoint=schedules.resume,
        scope=Scope.ADMIN,
        name="resume_schedule",
        summary="fire ticks again",
        bodies=_SMALL,
        answers={200: "Schedule"},
        refuses=_WRITE | {Conflict},
    ),
    Route(
        method="POST",
        path="/v1/schedules/{name}/run",
        endpoint=schedules.run,
        scope=Scope.SUBMIT,
        name="run_schedule",
        summary="make the task of a schedule now",
        bodies=_SMALL,
        answers={200: "Submitted", 201: "Submitted"},
        refuses=_WRITE | {DuplicateTask, ShuttingDown},
    ),
    Route(
        method="GET",
        path="/v1/stats",
        endpoint=stats.get,
        scope=Scope.READ,
        name="get_stats",
        summary="tasks by state and by queue, and totals",
        answers={200: "Stats"},
        refuses=_READ,
    ),
    Route(
        method="GET",
        path="/v1/servers",
        endpoint=servers.get,
        scope=Scope.READ,
        name="get_servers",
        summary="the servers that share the store",
        answers={200: "ServersView"},
        refuses=_READ,
    ),
    Route(
        method="GET",
        path="/v1/workers",
        endpoint=workers.get,
        scope=Scope.READ,
        name="get_workers",
        summary="the workers, what each runs and since when",
        answers={200: "WorkersView"},
    ),
    Route(
        method="PUT",
        path="/v1/workers",
        endpoint=workers.put,
        scope=Scope.ADMIN,
        name="set_workers",
        summary="how many workers: {count} or {min, max}",
        bodies={JSON: SMALL_BODY_MAX},
        takes=workers.WorkersRequest,
        answers={200: "WorkersView"},
        refuses=frozenset({ShuttingDown}),
    ),
    Route(
        method="GET",
        path="/metrics",
        endpoint=metrics.get,
        scope=Scope.READ,
        name="get_metrics",
        summary="what the server measures, for Prometheus",
        query=_NO_QUERY_CHECK,
        answers={200: "Metrics"},
    ),
    Route(
        method="GET",
        path="/livez",
        endpoint=health.livez,
        scope=Scope.OPEN,
        name="get_alive",
        summary="whether the process runs",
        answers={200: "Alive"},
    ),
    Route(
        method="GET",
        path="/readyz",
        endpoint=health.readyz,
        scope=Scope.OPEN,
        name="get_ready",
        summary="whether it takes work",
        answers={200: "Ready"},
        refuses=_READ | {Overloaded, ShuttingDown},
    ),
    Route(
        method="GET",
        path="/openapi.json",
        endpoint=contract.get,
        scope=Scope.OPEN,
        name="get_contract",
        summary="this contract, as OpenAPI 3.1",
        answers={200: "Contract", 304: ""},
    ),
    Route(
        method="GET",
        path="/docs",
        endpoint=contract.page,
        scope=Scope.OPEN,
        name="get_docs",
        summary="a page that shows the contract",
        answers={200: "Page", 304: ""},
    ),
)
