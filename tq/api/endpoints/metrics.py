"""What the server measures of itself."""

from __future__ import annotations

from tq.api.http import Request, Response
from tq.api.negotiate import accepts, wanted
from tq.core.errors import NotFound
from tq.engine.server import Server
from tq.metrics.meter import OPENMETRICS, PLAIN


async def get(server: Server, request: Request) -> Response:
    """All metrics, for Prometheus; as OpenMetrics if ``Accept`` prefers it. Also while the store is away."""
    accept = request.headers.get("accept", "")
    openmetrics = wants_openmetrics(accept)
    if server.write_metrics is None:
        raise NotFound("nothing measures this server")
    text = await server.write_metrics(openmetrics=openmetrics)
    return Response(200, text, media=OPENMETRICS if openmetrics else PLAIN)


def wants_openmetrics(accept: str) -> bool:
    """Whether OpenMetrics is the answer: *accept* names it, and wants plain text no more than that."""
    by_name = wanted(accept, OPENMETRICS)
    return (by_name > 0 and by_name >= wanted(accept, PLAIN)) or not accepts(accept, PLAIN)
