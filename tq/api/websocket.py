"""A WebSocket: the way in, and a stream of messages over it, each a text, and the end of it the close."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, WebsocketScope
from quart_trio.asgi import TrioASGIWebsocketConnection

from tq.api.http import Interrupted, Request, read_headers, read_query, unless
from tq.api.live import Message, Messages, socket_text
from tq.api.origin import refusal
from tq.api.problems import problem_response
from tq.core.errors import NotFound, TqError

if TYPE_CHECKING:
    from tq.api.app import Door, View

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
TRY_AGAIN_LATER: Final = 1013
POLICY_VIOLATION: Final = 1008
SHUT_OUT: Final = "shut out"
"""In place of the name of the last event: the key is good no more."""

CLOSE_CODES: Final = {"server.draining": GOING_AWAY, "dropped": TRY_AGAIN_LATER, SHUT_OUT: POLICY_VIOLATION}
"""How the WebSocket is closed after the last event, if not as NORMAL (RFC 6455, 7.4)."""


async def serve_socket(
    messages: Messages,
    receive: ASGIReceiveCallable,
    send: ASGISendCallable,
    *,
    until: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Accept the WebSocket and send *messages* to their end, then close it; until the client leaves.

    What the client sends is read and dropped. Once *until* returns, the WebSocket is closed: the client may
    not listen any more.

    Raises:
        TqError: There is nothing to watch, or it may not be now; the WebSocket was not accepted.
    """
    async with aclosing(messages):
        first = await anext(messages, None)
        accept: Any = {"type": "websocket.accept", "subprotocol": None, "headers": []}
        await send(accept)
        try:
            send_all = partial(_send_all, first or [], messages, send)
            last = await unless(partial(_wait_gone, receive), partial(_send_until, until, send_all))
        except Interrupted:
            return
        await send({"type": "websocket.close", "code": CLOSE_CODES.get(last, NORMAL), "reason": None})


async def _send_until(
    until: Callable[[], Awaitable[None]] | None, send_all: Callable[[], Awaitable[str]]
) -> str:
    try:
        return await send_all() if until is None else await unless(until, send_all)
    except Interrupted:
        return SHUT_OUT


async def _wait_gone(receive: ASGIReceiveCallable) -> None:
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def _send_all(first: Sequence[Message], rest: Messages, send: ASGISendCallable) -> str:
    """Send every message but heartbeats, for which the connection has pings; the name of the last one."""
    last = await _send_each(first, send)
    async for batch in rest:
        last = await _send_each(batch, send) or last
    return last


async def _send_each(batch: Sequence[Message], send: ASGISendCallable) -> str:
    last = ""
    for message in batch:
        if message.event is not None:
            last = message.event
            await send({"type": "websocket.send", "bytes": None, "text": socket_text(message)})
    return last


class WebSocketConnection(TrioASGIWebsocketConnection):
    """One WebSocket, refused before Quart hears of it if it may not come from where it does."""

    app: Door
    scope: WebsocketScope

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve the WebSocket to its end."""
        refused = self._refuse()
        found = self.app.find_socket(self.scope["path"]) if refused is None else None
        if found is not None:
            refused = await self._serve(*found, receive, send)
        elif refused is None:
            await super().__call__(receive, send)
        if refused is not None:
            await self._send_problem(send, refused)

    async def _serve(
        self, view: View, params: dict[str, str], receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> TqError | None:
        """Send what *view* has, to its end; why it was refused instead, if it was."""
        try:
            query = read_query(self.scope["query_string"], view.route.query)
            headers = read_headers(self.scope["headers"])
            admitted = self.app.admit(view.route, headers, query, self.scope)
            request = Request("GET", self.scope["path"], params, query, headers, caller=admitted.caller)
            await view.check(request)
            shut_out = partial(view.wait_shut_out, admitted.caller) if admitted.is_known else None
            await serve_socket(view.messages(request), receive, send, until=shut_out)
        except TqError as error:
            return error
        except Exception as error:
            # Not accepted yet, the WebSocket is refused with 500; else it is closed with 1011.
            self.app.on_error(error, f"WebSocket {view.route.path}")
        return None

    async def _send_problem(self, send: ASGISendCallable, refused: TqError) -> None:
        response = problem_response(refused)
        headers = [(name.encode(), value.encode()) for name, value in response.headers]
        headers.append((b"content-type", response.media.encode()))
        start: Any = {"type": "websocket.http.response.start", "status": response.status, "headers": headers}
        await send(start)
        await send(
            {"type": "websocket.http.response.body", "body": cast(bytes, response.body), "more_body": False}
        )

    def _refuse(self) -> TqError | None:
        path = self.scope["path"]
        if not path.startswith("/"):
            return NotFound("there is no WebSocket at this target: ask for a path, such as /v1/events")
        origins = self.app.origins
        if origins is None:
            return None
        return refusal(origins, "WEBSOCKET", path, read_headers(self.scope["headers"]))
