"""Putting the app on sockets: our own serving on hypercorn's classes, nothing of theirs patched.

The sockets are opened first, and one that cannot be says why in one line. Each connection is guarded: no
bytes from the network end the process. A shutdown ends in time, whatever clients do. What happens on a
connection is in `connection`.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import EventWrapper, WorkerContext
from hypercorn.typing import ASGIFramework

from tq.api.app import OnError, log_error
from tq.api.connection import Connection, tell

BACKLOG: Final = 1024
UNREAD_TIMEOUT_MS: Final = 15_000
"""Milliseconds after which the kernel gives up a client that does not take what it is sent."""
REQUEST_GRACE_S: Final = 5.0
"""Seconds that requests in flight have at a shutdown."""

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


# Serving


async def serve_http(
    app: ASGIFramework,
    sockets: Sequence[socket.socket],
    *,
    draining: trio.Event,
    request_grace_s: float = REQUEST_GRACE_S,
    on_error: OnError = log_error,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve *app* on *sockets* until *draining*; they are closed when this returns.

    Then nothing new is accepted, idle connections are closed, and requests in flight have
    *request_grace_s* to end; what is left is cut. Returns by then, whatever clients do. Cancelled, it cuts
    at once.

    Args:
        on_error: Told of each connection that failed for a reason other than its client's leaving.
    """
    context = Context(draining)
    connections: set[Connection] = set()
    serve_one = partial(_serve_one, app, http_config(), context, connections, on_error)
    async with trio.open_nursery() as nursery:
        await _accept_until(draining, sockets, serve_one, nursery, task_status)
        for connection in connections:
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
    connections: set[Connection],
    on_error: OnError,
    stream: trio.SocketStream,
) -> None:
    """Serve one connection. Nothing that comes over it gets out of here as an error."""
    connection = Connection(app, config, context, stream, on_error)
    connections.add(connection)
    try:
        await connection.run()
    except* Exception as errors:
        tell(on_error, errors, "a connection")
    finally:
        connections.discard(connection)


class Context(WorkerContext):
    """What connections know of the server: that it is *draining*, from the moment on that it is."""

    def __init__(self, draining: trio.Event) -> None:
        super().__init__(None)
        self.terminated = _Set(draining)


class _Set(EventWrapper):
    def __init__(self, event: trio.Event) -> None:
        self._event = event


def http_config() -> Config:
    """How hypercorn is to behave: no Server header, no logs of its own."""
    config = Config()
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = None
    return config
