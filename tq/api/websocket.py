"""A WebSocket: the way in, and a stream of messages over it, each a text, and the end of it the close."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, WebsocketScope
from quart_trio.asgi import TrioASGIWebsocketConnection

from tq.api.access import Answered, Tally, tallied
from tq.api.http import Interrupted, Request, read_headers, read_query, read_request_id, unless
from tq.api.live import Message, Messages, socket_text
from tq.api.origin import refusal
from tq.api.problems import problem_response, with_request_id
from tq.core.errors import NotFound, TqError

if TYPE_CHECKING:
    from tq.api.app import Door, View

Headers = tuple[tuple[bytes, bytes], ...]

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
    headers: Headers = (),
    *,
    until: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Accept the WebSocket and send *messages* to their end, then close it; until the client leaves.

    What the client sends is read and dropped. Once *until* returns, the WebSocket is closed: the client may
    not listen any more.

    Args:
        headers: Of the answer that accepts it.
    Raises:
        TqError: There is nothing to watch, or it may not be now; the WebSocket was not accepted.
    """
    async with aclosing(messages):
        first = await anext(messages, None)
        accept: Any = {"type": "websocket.accept", "subprotocol": None, "headers": [*headers]}
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
    key_id: str | None = None
    """Of the API key that the WebSocket came with, once it is known."""
    _route = ""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve the WebSocket to its end."""
        self._headers = read_headers(self.scope["headers"])
        self._request_id = read_request_id(self._headers) or self.app.new_request_id()
        if self.app.on_request is None:
            await self._serve_or_refuse(receive, send)
        else:
            with tallied(self.app.on_request, send, self._answered) as tally:
                await self._serve_or_refuse(receive, tally)

    def _answered(self, tally: Tally, duration_ms: float) -> Answered:
        path = self.scope["path"]
        return tally.answered(
            "WEBSOCKET", self._route, path, duration_ms, request_id=self._request_id, key_id=self.key_id
        )

    async def _serve_or_refuse(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
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
        self._route = view.route.path
        try:
            query = read_query(self.scope["query_string"], view.route.query)
            admitted = self.app.admit(view.route, self._headers, query, self.scope)
            self.key_id = admitted.key_id
            request = Request("GET", self.scope["path"], params, query, self._headers, caller=admitted.caller)
            await view.check(request)
            shut_out = partial(view.wait_shut_out, admitted.caller) if admitted.is_known else None
            own = ((b"x-request-id", self._request_id.encode()),)
            await serve_socket(view.messages(request), receive, send, own, until=shut_out)
        except TqError as error:
            return error
        except Exception as error:
            # Not accepted yet, the WebSocket is refused with 500; else it is closed with 1011.
            self.app.on_error(error, f"WebSocket {view.route.path}, {self._request_id}")
        return None

    async def _send_problem(self, send: ASGISendCallable, refused: TqError) -> None:
        response = with_request_id(problem_response(refused), self._request_id)
        headers = [(name.encode(), value.encode()) for name, value in response.headers]
        headers.append((b"content-type", response.media.encode()))
        headers.append((b"x-request-id", self._request_id.encode()))
        start: Any = {"type": "websocket.http.response.start", "status": response.status, "headers": headers}
        await send(start)
        await send(
            {"type": "websocket.http.response.body", "body": cast(bytes, response.body), "more_body": False}
        )

    def _refuse(self) -> TqError | None:
        target = self.scope["path"]
        if not target.startswith("/"):
            return NotFound("there is no WebSocket at this target: ask for a path, such as /v1/events")
        path = self.app.local_path(target)
        self.scope = {**self.scope, "path": target if path is None else path}
        origins = self.app.origins
        if origins is not None:
            refused = refusal(origins, "WEBSOCKET", path or "", self._headers)
            if refused is not None:
                return refused
        return self.app.outside() if path is None else None
