"""Whether the process runs, and whether it takes work. For whoever starts and restarts servers."""

from __future__ import annotations

from tq.api.http import Request, Response, json_response
from tq.engine.server import Server


async def livez(server: Server, request: Request) -> Response:
    """200 for as long as the loop turns."""
    return json_response({"status": "ok"})


async def readyz(server: Server, request: Request) -> Response:
    """200 if the server takes work; else the reason, with 503."""
    await server.check_ready()
    return json_response({"status": "ready"})
