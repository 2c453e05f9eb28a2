"""The one table of routes. Both doors serve it, the start-up message prints it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from tq.api.endpoints import health, seed, stats, tasks
from tq.api.http import JSON, NDJSON, Request, Response
from tq.core.wire import PAYLOAD_MAX
from tq.engine.server import Server

BODY_MAX: Final = PAYLOAD_MAX + 64 * 1024
"""Bytes of one body: a payload of its greatest size and room for the other fields."""
BATCH_BODY_MAX: Final = 32 * 1024 * 1024
"""Bytes of one array of tasks."""

Endpoint = Callable[[Server, Request], Awaitable[Response]]


class Scope(StrEnum):
    """What a caller must be allowed to do."""

    OPEN = "open"
    READ = "read"
    SUBMIT = "submit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One row: what is served where, for whom, and within which bounds.

    ``path`` names its parameters in braces; ``{name*}`` takes slashes too and may be empty. ``query``
    lists the query parameters there are, any other being refused; None ignores them. ``bodies`` gives the
    media types of the body and the most bytes of each; None: streamed, of any length. The empty type
    stands for a body that names none.
    """

    method: str
    path: str
    endpoint: Endpoint
    scope: Scope
    summary: str
    query: frozenset[str] | None = frozenset()
    bodies: Mapping[str, int | None] = field(default_factory=dict)


_NO_QUERY_CHECK: Final = None
"""The frozen routes ignore what they do not know, as the original did."""
_WAIT: Final = frozenset({"wait"})

ROUTES: Final = (
    Route(
        method="POST",
        path="/submit",
        endpoint=seed.submit,
        scope=Scope.SUBMIT,
        summary="submit a task: {id?, type, payload}",
        query=_NO_QUERY_CHECK,
        bodies={JSON: BODY_MAX, "": BODY_MAX},
    ),
    Route(
        method="GET",
        path="/status/{id*}",
        endpoint=seed.status,
        scope=Scope.READ,
        summary="how a task ended",
        query=_NO_QUERY_CHECK,
    ),
    Route(
        method="GET",
        path="/stats",
        endpoint=seed.stats,
        scope=Scope.READ,
        summary="how many tasks were processed and wait",
        query=_NO_QUERY_CHECK,
    ),
    Route(
        method="POST",
        path="/v1/tasks",
        endpoint=tasks.submit,
        scope=Scope.SUBMIT,
        summary="submit a task; Prefer: wait=N to hold until it ends",
        bodies={JSON: BODY_MAX},
    ),
    Route(
        method="POST",
        path="/v1/tasks/batch",
        endpoint=tasks.submit_batch,
        scope=Scope.SUBMIT,
        summary="submit many: a JSON array, or NDJSON of any length",
        bodies={JSON: BATCH_BODY_MAX, NDJSON: None},
    ),
    Route(
        method="GET",
        path="/v1/tasks/{id}",
        endpoint=tasks.get,
        scope=Scope.READ,
        summary="one task; ?wait=N to hold until it ends",
        query=_WAIT,
    ),
    Route(
        method="GET",
        path="/v1/stats",
        endpoint=stats.get,
        scope=Scope.READ,
        summary="tasks by state and by queue, and totals",
    ),
    Route(
        method="GET",
        path="/livez",
        endpoint=health.livez,
        scope=Scope.OPEN,
        summary="whether the process runs",
    ),
    Route(
        method="GET",
        path="/readyz",
        endpoint=health.readyz,
        scope=Scope.OPEN,
        summary="whether it takes work",
    ),
)
