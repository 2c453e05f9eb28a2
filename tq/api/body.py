"""The body of a request as it comes over the wire: within its limit, in time, no more than is asked for."""

from __future__ import annotations

from typing import Final

import trio
from hypercorn.typing import ASGIReceiveCallable

from tq.api.http import ClientGone, too_large
from tq.api.problems import BodyTooSlow

BODY_TIMEOUT_S: Final = 15.0
"""Seconds in which a body that is taken whole must have come."""
UNREAD_MAX: Final = 64 * 1024
"""Bytes of a body that nobody wants which are read all the same, so that the connection can be kept."""
UNREAD_TIMEOUT_S: Final = 1.0


class Body:
    """The body of a request: read whole, or iterated over, taking no more than is asked for.

    Raises ClientGone where the client left before its end.
    """

    def __init__(self, receive: ASGIReceiveCallable) -> None:
        self._receive = receive
        self._ended = False

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        message = await self._receive()
        if message["type"] != "http.request":
            raise ClientGone
        self._ended = not message.get("more_body", False)
        return message.get("body", b"")

    async def read(self, limit: int) -> bytes:
        """All of it.

        Raises:
            PayloadTooLarge: Over *limit* bytes.
            BodyTooSlow: Not here after BODY_TIMEOUT_S.
        """
        with trio.move_on_after(BODY_TIMEOUT_S):
            whole = await anext(self, b"")
            if not self._ended:
                whole = await self._read_on(bytearray(whole), limit)
            if len(whole) > limit:
                raise too_large(limit)
            return whole
        raise BodyTooSlow(f"the body was not here after {BODY_TIMEOUT_S:g} s: send it faster, or in parts")

    async def _read_on(self, start: bytearray, limit: int) -> bytes:
        async for piece in self:
            start += piece
            if len(start) > limit:
                break
        return bytes(start)

    async def skip(self) -> None:
        """Read past the rest, if it is small and comes soon; else the connection will not be kept."""
        size = 0
        with trio.move_on_after(UNREAD_TIMEOUT_S):
            while not self._ended and size <= UNREAD_MAX:
                size += len(await anext(self, b""))

    async def wait_gone(self) -> None:
        """Return when the client has left."""
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                return
            self._ended = not message.get("more_body", False)
