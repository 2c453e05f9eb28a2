"""The counters of the store."""

from __future__ import annotations

from tq.api.http import Request, Response, json_response
from tq.core.views import stats_view
from tq.engine.server import Server


async def get(server: Server, request: Request) -> Response:
    """Tasks by state and by queue, and the totals since the store was made."""
    return json_response(stats_view(await server.stats()))
