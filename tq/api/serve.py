"""Putting the app on sockets: our own serving on hypercorn's classes, nothing of theirs patched.

The sockets are opened first, and one that cannot be says why in one line. Each connection is guarded: no
bytes from the network end the process. There are no more connections than there are descriptors for. A
shutdown ends in time, whatever clients do. What happens on a connection is in `connection`.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import EventWrapper, WorkerContext
from hypercorn.typing import ASGIFramework

from tq.api.app import OnError, log_error
from tq.api.connection import HEAD_MAX, MESSAGE_MAX, PING_S, Connection, tell
from tq.api.limits import address_group

BACKLOG: Final = 1024
UNREAD_TIMEOUT_MS: Final = 15_000
"""Milliseconds after which the kernel gives up a client that does not take what it is sent."""
REQUEST_GRACE_S: Final = 4.7
"""Seconds that requests in flight have at a shutdown: with what comes after, it ends within 5."""

# Sockets


class CannotListen(Exception):
    """An address cannot be listened on; ``str()`` says in one line which, why, and what to do."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"cannot listen on {address}: {reason}")
        self.address = address
        self.reason = reason


_REASONS: Final = {
    errno.EADDRINUSE: "the port is in use: stop what uses it, or choose another (0 picks a free one)",
    errno.EACCES: "not permitted: choose a port from 1024 up",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.EAFNOSUPPORT: "this machine has no such kind of address",
}


def bind_sockets(binds: Sequence[str]) -> list[socket.socket]:
    """Listening sockets for *binds*, each ``HOST:PORT`` or ``[HOST]:PORT``; port 0 picks a free port.

    A host that has several addresses is listened on at all of them that this machine has.

    Raises:
        CannotListen: One of them cannot be; none is then open.
    """
    sockets: list[socket.socket] = []
    try:
        for bind in binds:
            sockets += _bind(bind)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bind(bind: str) -> list[socket.socket]:
    host, port = _split(bind)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise CannotListen(bind, f"there is no host {host!r}") from None
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    for family, *_, address in found:
        # The second address of a host gets the port that the first one was given.
        chosen = sockets[0].getsockname()[1] if sockets else port
        try:
            sockets.append(_listen(family, (address[0], chosen, *address[2:])))
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                for sock in sockets:
                    sock.close()
                raise CannotListen(bind, _reason(error)) from None
            missing = error
    if not sockets:
        assert missing is not None
        raise CannotListen(bind, _reason(missing))
    return sockets


def _reason(error: OSError) -> str:
    return _REASONS.get(error.errno or 0) or os.strerror(error.errno or 0).lower()


def _split(bind: str) -> tuple[str, int]:
    host, colon, port = bind.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise CannotListen(bind, "not an address: write HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080")
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], int(port)
    if ":" in host:
        raise CannotListen(bind, f"not an address: write [{host}]:{port}")
    return host, int(port)


def _listen(family: int, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Accepted connections inherit these.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_TIMEOUT_MS)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


# How many connections


@dataclass(frozen=True, slots=True)
class Caps:
    """The most connections there may be: in all, and from one address that is not of this machine."""

    total: int
    per_address: int


CONNECTIONS_MAX: Final = 50_000
"""Connections in all, however many descriptors the process may have."""


def connection_caps(files_max: int) -> Caps:
    """The caps of a process that may have *files_max* descriptors open, 0 or less meaning any number.

    A quarter of them is left to the store, the children and the log; one address gets a quarter of the rest.
    """
    total = CONNECTIONS_MAX if files_max <= 0 else min(CONNECTIONS_MAX, files_max * 3 // 4)
    return Caps(total, max(1, total // 4))


def own_caps() -> Caps:
    """The caps of this process."""
    return connection_caps(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


@dataclass(slots=True)
class Traffic:
    """What came over the sockets, counted from the start."""

    open: int = 0
    """Connections that there are now."""
    accepted: int = 0
    refused_full: int = 0
    """Connections that were closed at once: there were as many as there may be."""
    refused_address: int = 0
    """The same, from their address alone."""
    failed: int = 0
    """Connections that ended with an error of ours."""


class Lobby:
    """The connections there are, within the caps."""

    def __init__(self, caps: Caps, traffic: Traffic) -> None:
        self.traffic = traffic
        self.connections: set[Connection] = set()
        self._caps = caps
        self._by_group: Counter[str] = Counter()

    @contextmanager
    def place(self, host: str) -> Iterator[bool]:
        """Hold a place for a connection from *host*, if there is one: whether there is."""
        group = address_group(host)
        if self._is_free(group):
            self.traffic.open += 1
            self._by_group[group] += 1
            try:
                yield True
            finally:
                self.traffic.open -= 1
                self._by_group[group] -= 1
                if not self._by_group[group]:
                    del self._by_group[group]
        else:
            yield False

    def _is_free(self, group: str) -> bool:
        if self.traffic.open >= self._caps.total:
            self.traffic.refused_full += 1
        elif group and self._by_group[group] >= self._caps.per_address:
            self.traffic.refused_address += 1
        else:
            self.traffic.accepted += 1
            return True
        return False


_FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)


def _turn_away(stream: trio.SocketStream) -> None:
    """Close a connection there is no place for, with an answer if the client is quick to read it."""
    sock = stream.socket
    with suppress(OSError):
        os.write(sock.fileno(), _FULL)
        # To close on unread data resets the connection, and the answer may be lost with it.
        os.read(sock.fileno(), HEAD_MAX)
    sock.close()


# Serving


async def serve_http(
    app: ASGIFramework,
    sockets: Sequence[socket.socket],
    *,
    draining: trio.Event,
    request_grace_s: float = REQUEST_GRACE_S,
    caps: Caps | None = None,
    traffic: Traffic | None = None,
    on_error: OnError = log_error,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve *app* on *sockets* until *draining*; they are closed when this returns.

    Then nothing new is accepted, idle connections are closed, and requests in flight have
    *request_grace_s* to end; what is left is cut. Returns by then, whatever clients do. Cancelled, it cuts
    at once.

    Args:
        caps: How many connections there may be; what is over is closed at once. None: own_caps().
        traffic: Where connections are counted.
        on_error: Told of each connection that failed for a reason other than its client's leaving.
    """
    context = Context(draining)
    lobby = Lobby(caps or own_caps(), traffic or Traffic())
    serve_one = partial(_serve_one, app, http_config(), context, lobby, on_error)
    async with trio.open_nursery() as nursery:
        await _accept_until(draining, sockets, serve_one, nursery, task_status)
        for connection in lobby.connections:
            connection.close_if_idle()
        nursery.cancel_scope.deadline = trio.current_time() + request_grace_s


async def _accept_until(
    draining: trio.Event,
    sockets: Sequence[socket.socket],
    serve_one: Callable[[trio.SocketStream], Awaitable[None]],
    nursery: trio.Nursery,
    task_status: trio.TaskStatus[None],
) -> None:
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in sockets]
    try:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(partial(trio.serve_listeners, serve_one, listeners, handler_nursery=nursery))
            task_status.started()
            await draining.wait()
            accepting.cancel_scope.cancel()
    finally:
        for listener in listeners:
            listener.socket.close()


async def _serve_one(
    app: ASGIFramework,
    config: Config,
    context: WorkerContext,
    lobby: Lobby,
    on_error: OnError,
    stream: trio.SocketStream,
) -> None:
    """Serve one connection. Nothing that comes over it gets out of here as an error."""
    with lobby.place(_host_of(stream)) as has_place:
        if not has_place:
            _turn_away(stream)
            return
        connection = Connection(app, config, context, stream, on_error)
        lobby.connections.add(connection)
        try:
            await connection.run()
        except* Exception as errors:
            lobby.traffic.failed += 1
            tell(on_error, errors, "a connection")
        finally:
            lobby.connections.discard(connection)


def _host_of(stream: trio.SocketStream) -> str:
    """The address of the client; empty if it has left already."""
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        return ""


class Context(WorkerContext):
    """What connections know of the server: that it is *draining*, from the moment on that it is."""

    def __init__(self, draining: trio.Event) -> None:
        super().__init__(None)
        self.terminated = _Set(draining)


class _Set(EventWrapper):
    def __init__(self, event: trio.Event) -> None:
        self._event = event


def http_config() -> Config:
    """How hypercorn is to behave: no Server header, no logs of its own, our limits."""
    config = Config()
    config.include_server_header = False
    config.h11_max_incomplete_size = HEAD_MAX
    config.websocket_max_message_size = MESSAGE_MAX
    config.websocket_ping_interval = PING_S
    config.accesslog = None
    config.errorlog = None
    return config
