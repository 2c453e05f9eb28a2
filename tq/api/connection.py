"""One connection, from its first byte to its end: hypercorn's classes with our own ends.

What is ours here, each for a fault of the plain stack:
- HTTP/1.1 and 1.0 only: no upgrade to h2c;
- a head on which servers might disagree, or that is too large, is refused, with a problem that says why;
- a connection closes when it should: at once where the request, the answer or the shutdown says so, and
  after KEEP_ALIVE_S when idle;
- what a client sends beyond what the app wants never blocks the reader, nor piles up;
- sending can be cancelled and has a deadline, so that a client which does not read holds nothing up;
- the head of a response and the start of its body leave in one write;
- a WebSocket has no extensions, messages that are bounded, and helpers that end with its connection.
"""

from __future__ import annotations

import os
import re
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from math import inf
from typing import Any, Final, cast

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, Data, EndBody, Request, Response, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream
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
from tq.api.problems import PROBLEM, problem_response
from tq.core.errors import InvalidInput, TqError

KEEP_ALIVE_S: Final = 5.0
"""Seconds that a connection may be idle, and that the head of a request may take."""
LINGER_S: Final = 2.0
"""Seconds that a client which still sends is listened to after its answer, so that it gets to read it."""
INBOX_MAX: Final = 256 * 1024
"""Bytes of a request's body that wait for the app; the client is read no further while there are more."""
SEND_TIMEOUT_S: Final = 15.0
"""Seconds in which a client must have taken SEND_PIECE bytes of what it is sent."""
SEND_PIECE: Final = 64 * 1024
AT_ONCE_MAX: Final = 256 * 1024
"""Bytes that one connection may write before others get a turn, each write counting WRITE_COST more."""
WRITE_COST: Final = 4 * 1024
HEADERS_MAX: Final = 100
HEAD_MAX: Final = 16 * 1024
"""Bytes of the target and the headers of one request."""
MESSAGE_MAX: Final = 64 * 1024
"""Bytes, or characters, of one WebSocket message."""
PING_S: Final = 15.0
"""Seconds between two pings over a WebSocket."""


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
        self._at_once = 0
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
        """Send *data*; a client that is gone, or too slow to take it, is heard no more.

        What the kernel takes at once, as nearly always, costs no turn of the loop.
        """
        try:
            sent = 0 if self.send_lock.locked() else self._write(data)
            if sent < len(data):
                async with self.send_lock:
                    taken = await self._send_in_time(memoryview(data)[sent:])
            else:
                taken = True
                if self._at_once > AT_ONCE_MAX:
                    self._at_once = 0
                    await trio.lowlevel.checkpoint()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            taken = False
        except trio.Cancelled:
            self._socket.close()
            raise
        if not taken:
            self._socket.close()
            await self._http.handle(Closed())
            # An app that only ever sends must get to hear of it.
            await trio.lowlevel.checkpoint()

    def _write(self, data: bytes) -> int:
        """Bytes of *data* that the kernel took. Raises OSError: the client is gone."""
        self._at_once += WRITE_COST + len(data)
        try:
            return os.write(self._socket.fileno(), data)
        except BlockingIOError:
            return 0

    async def _send_in_time(self, data: memoryview) -> bool:
        """Whether the client took *data*, none of its pieces later than it must."""
        for start in range(0, len(data), SEND_PIECE):
            with trio.move_on_after(SEND_TIMEOUT_S) as slow:
                await self.stream.send_all(data[start : start + SEND_PIECE])
            if slow.cancelled_caught:
                return False
        return True

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


def check_head(request: h11.Request, headers: Sequence[tuple[bytes, bytes]]) -> tuple[int, str] | None:
    """Status and reason of the refusal of a head that h11 has let pass, or None.

    What is refused here is what two servers in a row might read differently, and what costs too much.
    """
    if request.http_version not in (b"1.1", b"1.0"):
        return 505, "this server speaks HTTP/1.1: use that"
    if len(headers) > HEADERS_MAX:
        return 431, f"there are {len(headers)} headers: at most {HEADERS_MAX} are taken"
    size = len(request.target)
    length = coded = False
    for name, value in headers:
        size += len(name) + len(value)
        if name == b"content-length":
            length = True
        elif name == b"transfer-encoding":
            coded = True
    if size > HEAD_MAX:
        return 431, f"target and headers have {size} bytes: at most {HEAD_MAX} are taken"
    if coded and (length or request.http_version == b"1.0"):
        return 400, "Transfer-Encoding stands beside Content-Length, or in HTTP/1.0: send one, in HTTP/1.1"
    if _CONTROL.search(b"".join([value for _, value in headers])):
        return 400, "a header has a control character in it: leave it out"
    return None


_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def check_handshake(headers: Sequence[tuple[bytes, bytes]]) -> tuple[int, str] | None:
    """As check_head, of what asks for a WebSocket."""
    for name, value in headers:
        if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0")):
            return 400, "a WebSocket handshake has no body: leave it out"
        if name.startswith((b"sec-websocket-", b"connection", b"upgrade")) and not value.isascii():
            return 400, f"the header {name.decode()} has a character beyond ASCII: leave it out"
    return None


def is_handshake(request: h11.Request, headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether *request* asks for a WebSocket."""
    if request.method != b"GET":
        return False
    found = dict(headers)
    return found.get(b"upgrade", b"").strip().lower() == b"websocket" and b"upgrade" in [
        token.strip() for token in found.get(b"connection", b"").lower().split(b",")
    ]


_UNREADABLE: Final = {
    400: "this cannot be read as HTTP/1.1",
    431: f"target and headers are over {HEAD_MAX} bytes: send less",
    501: "there is a Transfer-Encoding other than chunked: leave it out",
}
"""What h11 refuses, by the status that it gives it."""


def _problem(status: int, reason: str) -> bytes:
    error = TqError("") if status == 500 else InvalidInput(reason)
    return cast(bytes, problem_response(error, status=status).body)


class Http11(H11Protocol):
    """HTTP/1.1 alone. The head of a response is kept until there is something to send with it."""

    connection: h11.Connection
    _head = b""
    _refused = False

    def is_receiving(self) -> bool:
        """Whether the client may have more to say: its request is not all here yet, or was not understood."""
        if self._refused or isinstance(self.connection, H11WSConnection):
            return True
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

    async def _create_stream(self, request: h11.Request) -> None:
        headers = list(request.headers)
        refusal = check_head(request, headers)
        kind: type[HTTPStream | WSStream] = HTTPStream
        if refusal is None and is_handshake(request, headers):
            refusal = check_handshake(headers)
            kind = WebSocket
        if refusal is not None:
            await self._refuse(*refusal, with_body=request.method != b"HEAD")
            await self.send(Closed())
            return
        if kind is WebSocket:
            self.connection = cast(h11.Connection, H11WSConnection(self.connection))
        self.stream = kind(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=headers,
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii").upper(),
                raw_path=request.target,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1

    async def _send_error_response(self, status_code: int) -> None:
        await self._refuse(status_code, _UNREADABLE.get(status_code, _UNREADABLE[400]))

    async def _refuse(self, status: int, reason: str, *, with_body: bool = True) -> None:
        """Answer what is no request with a problem, and be done with the client."""
        self._refused = True
        body = _problem(status, reason)
        headers = [
            (b"content-type", PROBLEM.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            *self.config.response_headers("h11"),
        ]
        await self._send_h11_event(h11.Response(headers=headers, status_code=status))
        if with_body:
            await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


class WebSocket(WSStream):
    """A WebSocket without extensions: compression can make 178 MB here of 60 KB on the wire."""

    async def handle(self, event: StreamEvent) -> None:
        """Take in *event*. What comes before the handshake is answered ends it."""
        if isinstance(event, Request):
            kept = [each for each in event.headers if each[0] != b"sec-websocket-extensions"]
            event = replace(event, headers=kept)
        elif isinstance(event, Body | Data) and not self.closed and not self.handshake.accepted:
            if self.state is ASGIWebsocketState.HANDSHAKE:
                # Before the answer: the app must not answer too.
                self.closed = True
                await self._send_error_response(400)
            return
        await super().handle(event)

    async def _handle_events(self) -> None:
        await super()._handle_events()
        if self.buffer.length > self.buffer.max_length:
            self.buffer.clear()
            await self.send(StreamClosed(stream_id=self.stream_id))

    async def _send_error_response(self, status_code: int) -> None:
        body = _problem(
            status_code, "this is no handshake of a WebSocket that is taken (RFC 6455, version 13)"
        )
        headers = [
            (b"content-type", PROBLEM.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        await self.send(Response(stream_id=self.stream_id, status_code=status_code, headers=headers))
        await self.send(Body(stream_id=self.stream_id, data=body))
        await self.send(EndBody(stream_id=self.stream_id))


class AppTasks:
    """Runs the app for each request of one connection: hypercorn's TaskGroup, with an Inbox for each."""

    def __init__(self, nursery: trio.Nursery, on_error: OnError) -> None:
        self._nursery = nursery
        self._on_error = on_error
        self._inboxes: set[Inbox] = set()
        self._helpers: set[trio.CancelScope] = set()

    def tell_gone(self) -> None:
        """Let every run of the app know that the client has left, if it does not yet; end its helpers."""
        for inbox in self._inboxes:
            inbox.disconnect()
        for helper in self._helpers:
            helper.cancel()

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
        self._nursery.start_soon(self._help, func, *args)

    async def _help(self, func: Callable[..., Awaitable[None]], *args: Any) -> None:
        with trio.CancelScope() as scope:
            self._helpers.add(scope)
            try:
                await func(*args)
            finally:
                self._helpers.discard(scope)

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


MESSAGE_COST: Final = 256
"""Bytes that a message takes beside what is in it: a flood of empty ones fills an inbox too."""


def _size(message: ASGIReceiveEvent) -> int:
    """Bytes that *message* takes, roughly."""
    if message["type"] == "http.request":
        return MESSAGE_COST + len(message["body"])
    if message["type"] == "websocket.receive":
        return MESSAGE_COST + len(message["bytes"] or message["text"] or "")
    return MESSAGE_COST
