"""What happens, as it happens: to one task and to all, over SSE or a WebSocket; and tickets for pages."""

from __future__ import annotations

from tq.api.endpoints.tasks import task_id_of
from tq.api.http import Request, Response, json_response
from tq.api.live import Messages, all_messages, last_event_id, sse_response, task_messages
from tq.core.errors import InvalidInput
from tq.core.fields import check_name
from tq.core.requests import check_nothing
from tq.engine.ring import Wanted
from tq.engine.server import Server


async def of_task(server: Server, request: Request) -> Response:
    """What happens to one task, to its end."""
    return await sse_response(request, stream_of_task(server, request))


async def of_all(server: Server, request: Request) -> Response:
    """What happens, for ever."""
    return await sse_response(request, stream_of_all(server, request))


def stream_of_task(server: Server, request: Request) -> Messages:
    """The messages about one task. Raises InvalidInput, NotFound."""
    return task_messages(server, task_id_of(request), last_event_id(request))


def stream_of_all(server: Server, request: Request) -> Messages:
    """The messages about all tasks that the query asks for, and the server. Raises InvalidInput."""
    queue = request.caller.narrowed(_name(request, "queue"))
    wanted = Wanted(queue=queue, type=_name(request, "type"))
    return all_messages(server, wanted, last_event_id(request))


def _name(request: Request, parameter: str) -> str | None:
    text = request.query.get(parameter)
    try:
        return None if text is None else check_name(parameter, text)
    except InvalidInput as fault:
        # In a query it is a parameter, not a field of a body.
        raise InvalidInput(fault.message, parameter=parameter) from None


async def issue_ticket(server: Server, request: Request) -> Response:
    """A ticket that stands for the caller, once and soon."""
    check_nothing(request.body)
    return json_response(request.new_ticket(), status=201, headers=(("cache-control", "no-store"),))
