"""What is told of each request once it is over, for the access log and for metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import trio
from hypercorn.typing import ASGISendCallable, ASGISendEvent


@dataclass(frozen=True, slots=True)
class Answered:
    """One request, once it is over.

    Args:
        method: ``WEBSOCKET`` for one of those.
        route: As the table writes it, such as ``/v1/tasks/{id}``; empty where nothing was found.
        path: What was asked for, cut to PATH_MAX characters, where there is no route; else empty.
        status: None: it was cut, or the client left, before there was one.
        sent_bytes: Of the body, as far as it was sent.
        complete: Whether the answer was sent to its end.
        request_id: The client's own, or one made here.
        key_id: Of the API key that the request came with; never the key.
    """

    method: str
    route: str
    status: int | None
    duration_ms: float
    sent_bytes: int
    complete: bool
    request_id: str
    path: str = ""
    key_id: str | None = None


PATH_MAX: Final = 100
OnRequest = Callable[[Answered], None]


class Tally:
    """Passes on what is sent, and keeps count of it."""

    def __init__(self, send: ASGISendCallable) -> None:
        self._send = send
        self.status: int | None = None
        self.sent_bytes = 0
        self.complete = False

    async def __call__(self, message: ASGISendEvent) -> None:
        """Send *message*. What it says is counted once it is sent."""
        await self._send(message)
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "websocket.accept":
            self.status = 101
        elif message["type"] == "websocket.send":
            self.sent_bytes += len(message["text"] or "")
        elif message["type"] == "websocket.close":
            self.complete = True
        elif message["type"] == "websocket.http.response.start":
            self.status = message["status"]
        elif message["type"] in ("http.response.body", "websocket.http.response.body"):
            self.sent_bytes += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)

    def answered(
        self,
        method: str,
        route: str,
        path: str,
        duration_ms: float,
        *,
        request_id: str,
        key_id: str | None,
    ) -> Answered:
        """What is told of the request, as far as it came."""
        return Answered(
            method=method,
            route=route,
            status=self.status,
            duration_ms=duration_ms,
            sent_bytes=self.sent_bytes,
            complete=self.complete,
            request_id=request_id,
            path="" if route else path[:PATH_MAX],
            key_id=key_id,
        )


@contextmanager
def tallied(
    on_request: OnRequest, send: ASGISendCallable, answered: Callable[[Tally, float], Answered]
) -> Iterator[Tally]:
    """What to send by instead of *send*; at the end, also of one that is cut, *on_request* is told.

    Args:
        answered: What is told, of the tally and the milliseconds that it took.
    """
    tally = Tally(send)
    started = trio.current_time()
    try:
        yield tally
    finally:
        on_request(answered(tally, (trio.current_time() - started) * 1000))
