"""What a row of the table of routes is, and what the media types of its answers are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from tq.api.http import JSON, NDJSON, Request, Response
from tq.api.live import EVENT_STREAM, Messages
from tq.core.errors import TqError
from tq.core.keys import Scope
from tq.core.wire import PAYLOAD_MAX
from tq.dashboard.files import MEDIA as FILE_MEDIA
from tq.engine.server import Server
from tq.metrics.meter import OPENMETRICS, PLAIN

BODY_MAX: Final = PAYLOAD_MAX + 64 * 1024
"""Bytes of one body: a payload of its greatest size and room for the other fields."""
BATCH_BODY_MAX: Final = 32 * 1024 * 1024
"""Bytes of one array of tasks."""
SMALL_BODY_MAX: Final = 4 * 1024
"""Bytes of a body that holds settings only."""

Endpoint = Callable[[Server, Request], Awaitable[Response]]
Socket = Callable[[Server, Request], Messages]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One row: what is served where, for whom, and within which bounds.

    ``path`` names its parameters in braces; ``{name*}`` takes slashes too and may be empty. ``query``
    lists the query parameters there are, any other being refused; None ignores them. ``bodies`` gives the
    media types of the body and the most bytes of each; None: streamed, of any length. The empty type
    stands for a body that names none. ``narrows``: the endpoint keeps to the queues of a limited key by
    itself; see `tq.api.reach` for the others. ``socket`` gives what is sent to who asks for a WebSocket.

    The rest is for the contract: ``name`` is the operation's own, ``takes`` the JSON body, ``answers``
    the schema in `tq.api.schemas` by status, empty where there is no body, and ``refuses`` the errors
    beside those that any such route can give: see `tq.api.openapi`.
    """

    method: str
    path: str
    endpoint: Endpoint
    scope: Scope
    summary: str
    narrows: bool = False
    socket: Socket | None = None
    name: str = ""
    query: frozenset[str] | None = frozenset()
    bodies: Mapping[str, int | None] = field(default_factory=dict)
    takes: type[msgspec.Struct] | None = None
    answers: Mapping[int, str] = field(default_factory=dict)
    refuses: frozenset[type[TqError]] = frozenset()


FROZEN: Final = frozenset({"/submit", "/status/{id*}", "/stats"})
"""The paths of the original; what it did not heed of a request is not heeded."""
_PROBES: Final = frozenset({"/livez", "/readyz"})
MEDIA: Final = {
    "Page": ("text/html; charset=utf-8",),
    "File": tuple(FILE_MEDIA.values()),
    "EventStream": (EVENT_STREAM,),
    "Metrics": (PLAIN, OPENMETRICS),
}
"""By schema: the media types of an answer that is not JSON."""


def answer_media(route: Route, media: str) -> tuple[str, ...]:
    """What *route* can answer a body of *media* with; nothing: it does not ask what is accepted.

    Probes that say odd things are to learn all the same whether the server is well.
    """
    if route.path in FROZEN or route.path in _PROBES or not any(route.answers.values()):
        return ()
    return (NDJSON,) if media == NDJSON else MEDIA.get(route.answers.get(200, ""), (JSON,))
