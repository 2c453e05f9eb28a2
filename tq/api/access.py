"""What is told of each request once it is over, for the access log and for metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hypercorn.typing import ASGISendCallable, ASGISendEvent


@dataclass(frozen=True, slots=True)
class Answered:
    """One request, once it is over.

    Args:
        route: As the table writes it, such as ``/v1/tasks/{id}``; empty where nothing was found.
        status: None: it was cut, or the client left, before there was one.
        sent_bytes: Of the body, as far as it was sent.
        complete: Whether the answer was sent to its end.
    """

    method: str
    route: str
    status: int | None
    duration_ms: float
    sent_bytes: int
    complete: bool


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
        elif message["type"] == "http.response.body":
            self.sent_bytes += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
