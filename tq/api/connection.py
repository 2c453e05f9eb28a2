"""One connection, from its first byte to its end: hypercorn's classes with our own ends.

What is ours here, each for a fault of the plain stack:
- HTTP/1.1 only: no upgrade to h2c;
- a connection closes when it should: at once where the request, the answer or the shutdown says so, and
  after KEEP_ALIVE_S when idle;
- what a client sends beyond what the app wants never blocks the reader, nor piles up;
- sending can be cancelled, so that a client which does not read holds nothing up;
- the head of a response and the start of its body leave in one write.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from math import inf
from typing import Any, Final

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Response
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import (
    ASGIFramework,
    ASGIReceiveEvent,
    ASGISendEvent,
    ConnectionState,
    H11SendableEvent,
    Scope,
)
from hypercorn.utils import parse_socket_addr

from tq.api.app import OnError

KEEP_ALIVE_S: Final = 5.0
"""Seconds that a connection may be idle, and that the head of a request may take."""
LINGER_S: Final = 2.0
"""Seconds that a client which still sends is listened to after its answer, so that it gets to read it."""
INBOX_MAX: Final = 256 * 1024
"""Bytes of a request's body that wait for the app; the client is read no further while there are more."""


def tell(on_error: OnError, errors: ExceptionGroup[Exception], where: str) -> None:
    """Report *errors*, the group left out where it holds one only."""
    error: Exception = errors
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    on_error(error, where)


class Connection(TCPServer):
    """One connection: read until the client, the app or the shutdown ends it."""

    def __init__(
        self,
        app: ASGIFramework,
        config: Config,
        context: WorkerContext,
        stream: trio.SocketStream,
        on_error: OnError,
    ) -> None:
        super().__init__(app, config, context, ConnectionState({}), stream)  # type: ignore[arg-type]
        self._socket = stream.socket
        self._on_error = on_error
        self._reading = trio.CancelScope()
        self._idle = True
        self._lingering = False
        self._http: Http11

    async def run(self) -> None:
        """Serve the connection to its end; it is closed when this returns."""
        sock = self._socket
        try:
            client = parse_socket_addr(sock.family, sock.getpeername())
            server = parse_socket_addr(sock.family, sock.getsockname())
        except OSError:
            sock.close()
            return
        try:
            async with trio.open_nursery() as nursery:
                tasks: Any = AppTasks(nursery, self._on_error)
                self._http = Http11(
                    self.app,
                    self.config,
                    self.context,
                    tasks,
                    ConnectionState({}),
                    False,
                    client,
                    server,
                    self.protocol_send,
                )
                await self._read_data()
                tasks.tell_gone()
        finally:
            sock.close()

    def close_if_idle(self) -> None:
        """Close the connection if no request is under way; otherwise it closes after that.

        A request that has come but was not read yet is under way: to close on it would reset the connection.
        """
        if self._idle and not self._socket.is_readable():
            self._reading.cancel()

    async def protocol_send(self, event: Event) -> None:
        """Do what the protocol wants done.

        The end of a request is dealt with without a checkpoint: Quart cancels a request's trio task when it
        hears that the request is over, and it is in that same task that the connection is then closed, or
        made ready for the next request.
        Cancelled while it sends, it closes the connection: nothing may follow half an answer.
        """
        if isinstance(event, RawData):
            if event.data:
                await self._send(event.data)
        elif isinstance(event, Closed):
            self._hang_up()
            await self._http.handle(Closed())
        elif isinstance(event, Updated):
            self._idle = event.idle
            self._reading.deadline = trio.current_time() + KEEP_ALIVE_S if event.idle else inf

    async def _send(self, data: bytes) -> None:
        try:
            async with self.send_lock:
                await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await self._http.handle(Closed())
        except trio.Cancelled:
            self._socket.close()
            raise

    async def _read_data(self) -> None:
        """Hand over what comes, until the end or until the connection has been idle for too long."""
        self._reading.deadline = trio.current_time() + KEEP_ALIVE_S
        if self.context.terminated.is_set():
            return
        with self._reading, suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            data = b"anything"
            while data:
                data = bytes(await self.stream.receive_some(MAX_RECV))
                if not self._lingering:
                    await self._http.handle(RawData(data))
        await self._http.handle(Closed())

    def _hang_up(self) -> None:
        """Say that no more will come. A client that still sends is heard out, or it might lose the answer:
        to close on unread data resets the connection.
        """
        if not self._http.is_receiving():
            self._socket.close()
        elif not self._lingering:
            self._lingering = True
            self._reading.deadline = trio.current_time() + LINGER_S
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)


class Http11(H11Protocol):
    """HTTP/1.1 alone. The head of a response is kept until there is something to send with it."""

    connection: h11.Connection
    _head = b""

    def is_receiving(self) -> bool:
        """Whether a request is not all here yet."""
        return self.connection.their_state is h11.SEND_BODY

    async def handle(self, event: Event) -> None:
        """Take in *event*; a request that hypercorn itself refused ends the connection.

        Hypercorn leaves it open, neither idle nor busy: after a bad WebSocket handshake, for one.
        """
        await super().handle(event)
        if self.stream is not None and self.stream.closed:
            await self.send(Closed())

    async def stream_send(self, event: StreamEvent) -> None:
        """Send *event*; a response that begins while the server drains says that it is the last."""
        if isinstance(event, Response) and self.context.terminated.is_set():
            event = replace(event, headers=[*event.headers, (b"connection", b"close")])
        await super().stream_send(event)

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        try:
            data = self.connection.send(event)
        except h11.LocalProtocolError:
            if self.connection.their_state != h11.ERROR:
                raise
            return
        assert data is not None
        if isinstance(event, h11.Response):
            self._head = data
        elif self._head or data:
            head, self._head = self._head, b""
            await self.send(RawData(head + data))

    async def _check_protocol(self, event: h11.Request) -> None:
        """No other protocol is taken up: an upgrade to h2c is ignored."""


class AppTasks:
    """Runs the app for each request of one connection: hypercorn's TaskGroup, with an Inbox for each."""

    def __init__(self, nursery: trio.Nursery, on_error: OnError) -> None:
        self._nursery = nursery
        self._on_error = on_error
        self._inboxes: set[Inbox] = set()

    def tell_gone(self) -> None:
        """Let every run of the app know that the client has left, if it does not yet."""
        for inbox in self._inboxes:
            inbox.disconnect()

    async def spawn_app(
        self,
        app: ASGIFramework,
        config: Config,
        scope: Scope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Start *app* and give the function that takes what it is to receive."""
        inbox = Inbox(scope["type"])
        self._inboxes.add(inbox)
        self._nursery.start_soon(self._run, app, scope, inbox, send)
        return inbox.put

    def spawn(self, func: Callable[..., Any], *args: Any) -> None:
        """Start *func*, for as long as the connection lives."""
        self._nursery.start_soon(func, *args)

    async def _run(
        self,
        app: ASGIFramework,
        scope: Scope,
        inbox: Inbox,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> None:
        try:
            await app(scope, inbox.receive, send)
        except* Exception as errors:
            tell(self._on_error, errors, "the app")
        finally:
            self._inboxes.discard(inbox)
            inbox.close()
            await send(None)


class Inbox:
    """What the reader of a connection has for one run of the app, in order.

    The reader waits while more than INBOX_MAX bytes are here, but never for an app that has ended: a full
    queue that nobody empties would hold the connection for ever. Parts of a body come out joined.

    Args:
        kind: ``http`` or ``websocket``.
    """

    def __init__(self, kind: str = "http") -> None:
        self._kind = kind
        self._messages: deque[ASGIReceiveEvent] = deque()
        self._size = 0
        self._end: ASGIReceiveEvent | None = None
        self._closed = False
        self._readers = trio.lowlevel.ParkingLot()
        self._writers = trio.lowlevel.ParkingLot()

    async def put(self, message: ASGIReceiveEvent) -> None:
        """Add *message*; waits for room. A disconnect is always taken, and what comes after it dropped."""
        if message["type"] in ("http.disconnect", "websocket.disconnect"):
            self.disconnect(message)
        else:
            while self._size > INBOX_MAX and not self._is_over():
                await self._writers.park()
            if self._is_over():
                return
            self._messages.append(message)
            self._size += _size(message)
            self._readers.unpark_all()

    def disconnect(self, message: ASGIReceiveEvent | None = None) -> None:
        """The client has left; the first *message* that says so counts."""
        if self._end is None:
            self._end = message or _disconnected(self._kind)
        self._writers.unpark_all()
        self._readers.unpark_all()

    def _is_over(self) -> bool:
        return self._closed or self._end is not None

    async def receive(self) -> ASGIReceiveEvent:
        """The next message; the disconnect again and again once that is all there is."""
        while not self._messages:
            if self._end is not None:
                return self._end
            await self._readers.park()
        message = self._take()
        if message["type"] == "http.request" and self._messages:
            body = [message["body"]]
            while self._messages and message["more_body"]:
                message = self._take()
                assert message["type"] == "http.request"
                body.append(message["body"])
            message = {"type": "http.request", "body": b"".join(body), "more_body": message["more_body"]}
        return message

    def _take(self) -> ASGIReceiveEvent:
        message = self._messages.popleft()
        self._size -= _size(message)
        self._writers.unpark_all()
        return message

    def close(self) -> None:
        """Take nothing more: the app has ended."""
        self._closed = True
        self._messages.clear()
        self._writers.unpark_all()


def _disconnected(kind: str) -> ASGIReceiveEvent:
    if kind == "websocket":
        return {"type": "websocket.disconnect", "code": 1006}
    return {"type": "http.disconnect"}


def _size(message: ASGIReceiveEvent) -> int:
    """Bytes that *message* takes, roughly."""
    if message["type"] == "http.request":
        return len(message["body"])
    if message["type"] == "websocket.receive":
        return len(message["bytes"] or message["text"] or "")
    return 0
