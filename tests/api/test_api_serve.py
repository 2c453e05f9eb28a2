"""Serving: sockets, when connections end, and that nothing a client does holds or ends the server.

Each test of a fault of the plain stack fails on hypercorn's own `serve`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator
from contextlib import suppress
from functools import partial

import pytest
import trio
import trio.testing
from hypercorn.typing import ASGIReceiveEvent
from plain_server import serving
from quart import websocket
from quart_trio import QuartTrio
from raw_http import JSON_TYPE, Client, open_api
from tiers import slow
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, TextMessage
from wsproto.events import Request as Handshake

from tq.api.connection import INBOX_MAX, LINGER_S, Connection, Inbox
from tq.api.http import Request, Response
from tq.api.route import Route
from tq.api.routes import ROUTES
from tq.api.serve import CannotListen, Context, bind_sockets, http_config, serve_http
from tq.core.keys import Scope
from tq.engine.server import Server
from tq.handlers import TaskQueue

Clock = trio.testing.MockClock
GET = b"GET /hello HTTP/1.1\r\nHost: test\r\n"


# Sockets


def test_a_free_port_is_picked_and_listened_on() -> None:
    (sock,) = bind_sockets(["127.0.0.1:0"])
    with sock:
        assert sock.getsockname()[1] > 0
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000
        with socket.create_connection(sock.getsockname()):
            accepted, _ = sock.accept()
            with accepted:
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000


def test_a_host_with_several_addresses_has_one_port_at_all_of_them() -> None:
    sockets = bind_sockets(["localhost:0"])
    assert len({sock.getsockname()[1] for sock in sockets}) == 1
    for sock in sockets:
        sock.close()


def test_a_port_in_use_is_said_so_in_one_line_and_leaves_nothing_open() -> None:
    (sock,) = bind_sockets(["127.0.0.1:0"])
    with sock:
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        with pytest.raises(CannotListen) as caught:
            bind_sockets(["127.0.0.1:0", address])  # A socket left open would be a ResourceWarning.
        assert caught.value.address == address
        assert str(caught.value) == (
            f"cannot listen on {address}: the port is in use: stop what uses it,"
            " or choose another (0 picks a free one)"
        )


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("8080", "not an address: write HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080"),
        (":8080", "not an address: write HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080"),
        ("127.0.0.1:", "not an address: write HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080"),
        ("127.0.0.1:http", "not an address: write HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080"),
        ("127.0.0.1:65536", "not an address: write HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080"),
        ("127.0.0.1:²", "not an address: write HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080"),
        ("::1:8080", "not an address: write [::1]:8080"),
        ("no-such-host.invalid:80", "there is no host 'no-such-host.invalid'"),
        (f"{'x' * 80}:80", f"there is no host '{'x' * 80}'"),
        ("203.0.113.7:8080", "this machine has no such address"),
    ],
)
def test_an_address_that_cannot_be_listened_on_is_explained(address: str, reason: str) -> None:
    with pytest.raises(CannotListen) as caught:
        bind_sockets([address])
    assert (caught.value.address, caught.value.reason) == (address, reason)


def test_a_port_that_is_not_permitted_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(CannotListen) as caught:
        bind_sockets(["127.0.0.1:80"])
    assert caught.value.reason == "not permitted: choose a port from 1024 up"


# A plain Quart app, served by us: what is promised here holds for every view, not for tq's own alone.


@pytest.fixture
def app() -> QuartTrio:
    app = QuartTrio(__name__, static_folder=None)

    @app.get("/hello")
    async def hello() -> str:
        return "hello"

    @app.get("/slow/<int:seconds>")
    async def slow(seconds: int) -> str:
        await trio.sleep(seconds)
        return "slow"

    @app.get("/endless")
    async def endless() -> AsyncGenerator[bytes, None]:
        async def pieces() -> AsyncGenerator[bytes, None]:
            while True:
                yield b"x" * 65536

        return pieces()

    @app.websocket("/ws")
    async def ws() -> None:
        await websocket.receive()

    return app


@pytest.mark.parametrize(
    "head", [GET + b"Connection: close\r\n\r\n", b"GET /hello HTTP/1.0\r\n\r\n"], ids=["close", "http/1.0"]
)
async def test_a_connection_that_is_not_to_be_kept_closes_at_once_after_the_whole_body(
    app: QuartTrio, autojump_clock: Clock, head: bytes
) -> None:
    async with serving(app) as this:
        client = await this.connect()
        async with client.stream:
            await client.stream.send_all(head)
            answer = await client.until_closed()
        assert answer.endswith(b"\r\n\r\nhello")
        assert trio.current_time() == 0


@pytest.mark.parametrize("route", ["/livez", "/v1/stats", "/nope", "/page"])
async def test_tq_closes_at_once_too(queue: TaskQueue, autojump_clock: Clock, route: str) -> None:
    async with open_api(queue) as api:

        @api.app.get("/page")
        async def page() -> str:
            return "page"

        client = await api.connect()
        async with client.stream:
            await client.stream.send_all(b"GET %s HTTP/1.0\r\n\r\n" % route.encode())
            assert (await client.until_closed()).startswith(b"HTTP/1.1 ")
        assert trio.current_time() == 0


async def test_an_idle_connection_closes_after_five_seconds(app: QuartTrio, autojump_clock: Clock) -> None:
    async with serving(app) as this:
        client = await this.connect()
        async with client.stream:
            assert (await client.ask("GET", "/hello")).body == b"hello"
            await trio.sleep(4)
            assert (await client.ask("GET", "/hello")).body == b"hello"
            assert await client.until_closed() == b""
        assert trio.current_time() == 4 + 5


@pytest.mark.parametrize("sent", [b"", b"GET /hello HTT", b"GET /hello HTTP/1.1\r\nHost: te"])
async def test_the_head_of_a_request_must_come_within_five_seconds(
    app: QuartTrio, autojump_clock: Clock, sent: bytes
) -> None:
    async with serving(app) as this:
        client = await this.connect()
        async with client.stream:
            for byte in sent:
                await client.stream.send_all(bytes([byte]))
                await trio.sleep(0.1)
            assert await client.until_closed() == b""
        assert trio.current_time() == 5


async def test_a_request_may_take_longer_than_a_connection_may_be_idle(
    app: QuartTrio, autojump_clock: Clock
) -> None:
    async with serving(app) as this:
        client = await this.connect()
        async with client.stream:
            assert (await client.ask("GET", "/slow/30")).body == b"slow"
            assert (await client.ask("GET", "/hello")).body == b"hello"


async def test_pipelined_requests_are_answered_in_order(app: QuartTrio, autojump_clock: Clock) -> None:
    async with serving(app) as this:
        client = await this.connect()
        async with client.stream:
            slow = GET.replace(b"/hello", b"/slow/3") + b"\r\n"
            await client.stream.send_all(slow + GET + b"\r\n" + slow + GET + b"Connection: close\r\n\r\n")
            answers = await client.until_closed()
            assert [part[:5] for part in answers.split(b"\r\n\r\n")[1:]] == [
                b"slowH", b"hello", b"slowH", b"hello",
            ]  # fmt: skip


@slow
async def test_a_connection_has_a_thousand_requests_and_is_told_which_is_the_last(
    app: QuartTrio, autojump_clock: Clock
) -> None:
    async with serving(app) as this:
        client = await this.connect()
        async with client.stream:
            answers = [await client.ask("GET", "/hello") for _ in range(1000)]
            assert [answer.headers.get("connection") for answer in answers] == [*[None] * 999, "close"]
            assert await client.until_closed() == b""


async def test_no_answer_names_the_software(app: QuartTrio, autojump_clock: Clock) -> None:
    async with serving(app) as this:
        client = await this.connect()
        async with client.stream:
            answer = await client.ask("GET", "/hello")
            assert "server" not in answer.headers
            assert "date" in answer.headers


# Draining


async def test_draining_closes_listeners_and_idle_connections_at_once(
    app: QuartTrio, autojump_clock: Clock
) -> None:
    async with serving(app) as this:
        fresh, used = await this.connect(), await this.connect()
        await used.ask("GET", "/hello")
        await trio.sleep(0.5)
        this.draining.set()
        async with fresh.stream, used.stream:
            assert await fresh.until_closed() == b""
            assert await used.until_closed() == b""
        await this.ended.wait()
        assert trio.current_time() == 0.5
        with pytest.raises(OSError, match=r"127\.0\.0\.1"):
            await this.connect()


async def test_a_request_in_flight_is_answered_and_its_connection_closed(
    app: QuartTrio, autojump_clock: Clock
) -> None:
    async with serving(app) as this:
        client = await this.connect()
        async with client.stream:
            await client.begin("GET", "/slow/4")
            await trio.sleep(1)
            this.draining.set()
            answer = await client.answer()
            assert (answer.body, answer.headers["connection"]) == (b"slow", "close")
            assert await client.until_closed() == b""
            await this.ended.wait()
            assert trio.current_time() == 4


async def test_a_request_that_came_but_was_not_read_is_not_idle(
    app: QuartTrio, autojump_clock: Clock
) -> None:
    (listening,) = bind_sockets(["127.0.0.1:0"])
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
    client = await trio.open_tcp_stream(*listening.getsockname())
    context = Context(trio.Event())
    connection = Connection(app, http_config(), context, await listener.accept(), fail_on_error)
    async with trio.open_nursery() as nursery, client, listener:
        nursery.start_soon(connection.run)
        await trio.testing.wait_all_tasks_blocked()
        # In one step of this trio task: nothing can have been read in between.
        os.write(client.socket.fileno(), GET + b"Connection: close\r\n\r\n")
        connection.close_if_idle()
        answer = b""
        while piece := await client.receive_some():
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200")


def fail_on_error(error: BaseException, where: str) -> None:
    raise AssertionError(where) from error


async def test_a_request_that_takes_longer_than_its_grace_is_cut(
    app: QuartTrio, autojump_clock: Clock
) -> None:
    async with serving(app) as this:
        client = await this.connect()
        async with client.stream:
            await client.begin("GET", "/slow/100")
            await trio.sleep(1)
            this.draining.set()
            await client.until_closed()
            await this.ended.wait()
            assert trio.current_time() == 1 + 4.7
    assert this.errors == []


async def test_a_client_that_does_not_read_does_not_hold_the_shutdown(
    app: QuartTrio, autojump_clock: Clock
) -> None:
    async with serving(app) as this:
        client = await this.connect()
        async with client.stream:
            await client.begin("GET", "/endless")
            await trio.sleep(1)
            this.draining.set()
            await this.ended.wait()
            assert trio.current_time() == 1 + 4.7
    assert this.errors == []


async def endless(server: Server, request: Request) -> Response:
    async def pieces() -> AsyncGenerator[bytes, None]:
        while True:
            yield b"x" * 65536

    return Response(200, pieces())


async def huge(server: Server, request: Request) -> Response:
    return Response(200, b"x" * 100_000_000)


@pytest.mark.parametrize("endpoint", [endless, huge])
async def test_nor_does_one_that_does_not_read_from_tq(
    queue: TaskQueue, autojump_clock: Clock, endpoint: object
) -> None:
    assert endpoint in (endless, huge)
    route = Route(
        method="GET",
        path="/x",
        endpoint=endless if endpoint is endless else huge,
        scope=Scope.OPEN,
        summary="",
    )
    async with open_api(queue, routes=[*ROUTES, route]) as api:
        client = await api.connect()
        await client.begin("GET", "/x")
        await trio.sleep(1)
    assert trio.current_time() == 1 + 4.7
    await client.stream.aclose()


async def test_nor_does_one_that_does_not_send(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:
        client = await api.connect()
        await client.begin("POST", "/v1/tasks", JSON_TYPE | {"Content-Length": "100"})
        await trio.sleep(1)
    assert trio.current_time() == 1 + 4.7
    await client.stream.aclose()


async def test_cancelled_it_cuts_at_once_and_closes_its_sockets(
    app: QuartTrio, autojump_clock: Clock
) -> None:
    (sock,) = bind_sockets(["127.0.0.1:0"])
    port = sock.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_http, app, [sock], draining=trio.Event()))
        client = Client(await trio.open_tcp_stream("127.0.0.1", port))
        await client.begin("GET", "/endless")
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert trio.current_time() == 1
    bind_sockets([f"127.0.0.1:{port}"])[0].close()
    await client.stream.aclose()


# Hostile clients

HOSTILE = [
    b"\x00\xff\xfe" * 100,
    b"GET / HTTP/9.9\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
    GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: !!!\r\n\r\n",
    GET + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    GET + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n",
    b"GET ?\xc3\x28 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET ?x HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /hello?%ff=%fe HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /hello HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /hello HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"GET /hello HTTP/1.1\r\n\r\n",
    b"GET /hello HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000,
]  # fmt: skip
# Hypercorn answers this one itself while the app answers it too, so that one of them fails.
HASTY = (
    GET.replace(b"/hello", b"/ws")
    + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    + b"Sec-WebSocket-Key: x\r\n\r\n"
    + b"\xff" * 1000
)


@pytest.mark.parametrize("sent", [*HOSTILE, HASTY])
async def test_no_bytes_end_the_server_or_hang_on_to_it(
    app: QuartTrio, autojump_clock: Clock, sent: bytes
) -> None:
    async with serving(app) as this:
        for half_close in (False, True):
            client = await this.connect()
            async with client.stream:
                with suppress(trio.BrokenResourceError):
                    await client.stream.send_all(sent)
                    if half_close:
                        await client.stream.send_eof()
                    await client.until_closed()
        assert trio.current_time() <= 10
        good = await this.connect()
        async with good.stream:
            assert (await good.ask("GET", "/hello")).body == b"hello"
        this.draining.set()
        await this.ended.wait()


@pytest.mark.parametrize("sent", HOSTILE)
async def test_nor_do_they_make_tq_fail(queue: TaskQueue, autojump_clock: Clock, sent: bytes) -> None:
    async with open_api(queue) as api:  # Which checks that no hook was told of an error.
        client = await api.connect()
        async with client.stream:
            with suppress(trio.BrokenResourceError):
                await client.stream.send_all(sent)
                assert b" 500 " not in (await client.until_closed())[:20]


async def test_an_error_in_a_connection_ends_that_connection_and_is_told_once(
    app: QuartTrio, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*args: object) -> None:
        raise ZeroDivisionError("planted")

    async with serving(app) as this:
        other = await this.connect()
        async with other.stream:
            await other.ask("GET", "/hello")
            with monkeypatch.context() as patch:
                patch.setattr("tq.api.connection.Http11._create_stream", broken)
                client = await this.connect()
                async with client.stream:
                    await client.begin("GET", "/hello")
                    assert await client.until_closed() == b""
            assert (await other.ask("GET", "/hello")).body == b"hello"
        [(error, where)] = this.errors
        assert (repr(error), where) == ("ZeroDivisionError('planted')", "a connection")


async def test_h2c_is_not_taken_up(app: QuartTrio, autojump_clock: Clock) -> None:
    async with serving(app) as this:
        client = await this.connect()
        async with client.stream:
            upgrade = {
                "Connection": "Upgrade, HTTP2-Settings",
                "Upgrade": "h2c",
                "HTTP2-Settings": "AAMAAABkAAQAAP__",
            }
            await client.begin("GET", "/hello", upgrade)
            answer = await client.finish()
            assert (answer.status, answer.body) == (200, b"hello")


async def test_a_websocket_that_ended_does_not_hold_the_reader_of_its_connection(
    app: QuartTrio, autojump_clock: Clock
) -> None:
    async with serving(app) as this:
        client = await this.connect()
        async with client.stream:
            ws = WSConnection(ConnectionType.CLIENT)
            await client.stream.send_all(ws.send(Handshake(host="test", target="/ws")))
            ws.receive_data(await client.stream.receive_some(65536))
            assert isinstance(next(ws.events()), AcceptConnection)
            await client.stream.send_all(b"".join(ws.send(TextMessage("x")) for _ in range(1000)))
            await client.until_closed()
            this.draining.set()
            await this.ended.wait()
            # The client, which does not close its side, gets to read how it ended.
            assert trio.current_time() == LINGER_S == 2


# What waits for the app


def part(size: int, *, more: bool = True) -> ASGIReceiveEvent:
    return {"type": "http.request", "body": b"x" * size, "more_body": more}


async def test_parts_of_a_body_that_wait_come_out_joined() -> None:
    inbox = Inbox()
    await inbox.put(part(3))
    await inbox.put(part(4))
    assert await inbox.receive() == part(7)
    await inbox.put(part(2))
    await inbox.put(part(0, more=False))
    await inbox.put({"type": "http.disconnect"})
    assert await inbox.receive() == part(2, more=False)
    assert await inbox.receive() == {"type": "http.disconnect"}
    assert await inbox.receive() == {"type": "http.disconnect"}


async def test_the_reader_waits_while_too_much_is_waiting(autojump_clock: Clock) -> None:
    inbox = Inbox()
    async with trio.open_nursery() as nursery:

        async def fill() -> None:
            for _ in range(20):
                await inbox.put(part(65536))

        nursery.start_soon(fill)
        taken = 0
        while taken < 20 * 65536:
            await trio.sleep(1)
            message = await inbox.receive()
            assert message["type"] == "http.request"
            assert len(message["body"]) <= INBOX_MAX + 65536
            taken += len(message["body"])


@pytest.mark.parametrize("how", ["disconnect", "end"])
async def test_the_reader_waits_no_longer_once_it_is_over(autojump_clock: Clock, how: str) -> None:
    inbox = Inbox()
    async with trio.open_nursery() as nursery:

        async def fill() -> None:
            for _ in range(20):
                await inbox.put(part(65536))

        nursery.start_soon(fill)
        await trio.sleep(1)
        if how == "disconnect":
            await inbox.put({"type": "http.disconnect"})
        else:
            inbox.close()
