"""The types that are handled here: the defaults of their tasks, and their payloads."""

from __future__ import annotations

from tq.api.http import Request, Response, json_response
from tq.engine.server import Server
from tq.handlers import ANY_TYPE, Handler


async def get(server: Server, request: Request) -> Response:
    """Every type that has a handler of its own, with the JSON Schema of its payload."""
    handlers = server.queue.handlers
    return json_response(
        {
            "types": [_view(each, server.timeout_ms) for each in handlers if each.type != ANY_TYPE],
            "anything": any(each.type == ANY_TYPE for each in handlers),
        }
    )


def _view(handler: Handler, timeout_ms: int) -> dict[str, object]:
    defaults = handler.defaults
    return {
        "type": handler.type,
        "queue": defaults.queue,
        "priority": defaults.priority,
        "timeout": (defaults.timeout_ms if handler.timeout_given else timeout_ms) / 1000,
        "max_attempts": defaults.max_attempts,
        "runs": handler.runs.name.lower(),
        "description": handler.description,
        "payload": handler.signature.schema(),
    }
