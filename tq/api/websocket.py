"""A stream of messages over a WebSocket: each message a text, and the end of the stream its close."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Final

from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable

from tq.api.http import Interrupted, unless
from tq.api.live import Message, Messages, socket_text

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
TRY_AGAIN_LATER: Final = 1013

CLOSE_CODES: Final = {"server.draining": GOING_AWAY, "dropped": TRY_AGAIN_LATER}
"""How the WebSocket is closed after the last event, if not as NORMAL (RFC 6455, 7.4)."""


async def serve_socket(messages: Messages, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Accept the WebSocket and send *messages* to their end, then close it; until the client leaves.

    What the client sends is read and dropped.

    Raises:
        TqError: There is nothing to watch, or it may not be now; the WebSocket was not accepted.
    """
    async with aclosing(messages):
        first = await anext(messages, None)
        accept: Any = {"type": "websocket.accept", "subprotocol": None, "headers": []}
        await send(accept)
        try:
            last = await unless(partial(_wait_gone, receive), partial(_send_all, first or [], messages, send))
        except Interrupted:
            return
        await send({"type": "websocket.close", "code": CLOSE_CODES.get(last, NORMAL), "reason": None})


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
