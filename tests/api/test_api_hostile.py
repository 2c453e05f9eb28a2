"""Hostile clients: what is refused, how long the slow are borne, and how many there may be at once.

Each test of a guard fails on the plain stack. The corpus runs against a real process in tests/e2e.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncGenerator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import trio
import trio.testing
from hostile import (
    CHUNKED,
    CLOSE,
    GET,
    HANDSHAKE,
    HOST,
    POST,
    PREFACE,
    corpus,
    frame,
    mutations,
    splits,
    ws_frames,
)
from plain_server import serving
from quart import websocket
from quart_trio import QuartTrio
from raw_http import Client, open_api
from tiers import slow

from tq.api.access import Answered
from tq.api.connection import INBOX_MAX, Connection, Inbox
from tq.api.http import Request, Response
from tq.api.limits import address_group
from tq.api.route import Route
from tq.api.serve import (
    Caps,
    Context,
    Lobby,
    Traffic,
    bind_sockets,
    connection_caps,
    http_config,
)
from tq.core.keys import Scope
from tq.engine.server import Server
from tq.handlers import TaskQueue

Clock = trio.testing.MockClock
CODED = b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def app() -> QuartTrio:
    app = QuartTrio(__name__, static_folder=None)

    @app.get("/livez")
    async def livez() -> str:
        return "well"

    @app.get("/endless")
    async def endless() -> AsyncGenerator[bytes, None]:
        async def pieces() -> AsyncGenerator[bytes, None]:
            while True:
                yield b"x" * 65536

        return pieces()

    @app.websocket("/ws")
    async def ws() -> None:
        while True:
            await websocket.send(await websocket.receive())

    return app


async def exchange(client: Client, *parts: bytes, half_close: bool = False) -> bytes:
    """What comes back, to the end of the connection, when *parts* are sent one by one."""
    answer = b""
    async with client.stream:
        with suppress(trio.BrokenResourceError):
            for part in parts:
                await client.stream.send_all(part)
                await trio.testing.wait_all_tasks_blocked()
            if half_close:
                await client.stream.send_eof()
            while piece := await client.stream.receive_some(65536):
                answer += piece
    return answer


# The head of a request


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (POST + b"Content-Length: 5\r\n" + CODED, 400, "Transfer-Encoding stands beside"),
        (POST.replace(b"1.1", b"1.0") + CODED, 400, "Transfer-Encoding stands beside"),
        (GET + b"X: y\r\n" * 100 + b"\r\n", 431, "there are 101 headers: at most 100 are taken"),
        (GET + b"X: " + b"y" * 16_384 + b"\r\n\r\n", 431, "target and headers have 16404 bytes"),
        (GET + b"X: " + b"y" * 100_000, 431, "target and headers are over 16384 bytes"),
        (GET.replace(b"HTTP/1.1", b"HTTP/2.0") + b"\r\n", 505, "this server speaks HTTP/1.1"),
        (GET.replace(b"HTTP/1.1", b"HTTP/0.9") + b"\r\n", 505, "this server speaks HTTP/1.1"),
        (PREFACE, 505, "this server speaks HTTP/1.1"),
        (GET + b"X: a\x01b\r\n\r\n", 400, "a header has a control character in it"),
        (GET + b"X: \x1b[31m\r\n\r\n", 400, "a header has a control character in it"),
        (GET + b"X: \x7f\r\n\r\n", 400, "a header has a control character in it"),
        (GET + b"X: a\x00b\r\n\r\n", 400, "this cannot be read as HTTP/1.1"),
        (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400, "this cannot be read as HTTP/1.1"),
        (POST + b"Transfer-Encoding: gzip\r\n\r\n", 501, "there is a Transfer-Encoding other than chunked"),
        (GET + HOST + b"\r\n", 400, "this cannot be read as HTTP/1.1"),
        (b"GET /livez HTTP/1.1\r\n\r\n", 400, "this cannot be read as HTTP/1.1"),
        (HANDSHAKE + b"Sec-WebSocket-Protocol: \xff\r\n\r\n", 400, "the header sec-websocket-protocol"),
        (HANDSHAKE + b"Content-Length: 5\r\n\r\nhello", 400, "a WebSocket handshake has no body"),
        (HANDSHAKE.replace(b": 13", b": 8") + b"\r\n", 400, "this is no handshake of a WebSocket"),
        (HANDSHAKE + b"\r\n" + frame(1, b"early"), 400, "this is no handshake of a WebSocket"),
    ],
    ids=lambda each: each[-40:] if isinstance(each, bytes) else str(each),
)  # fmt: skip
async def test_a_head_that_is_not_taken_is_refused_with_a_problem_and_the_connection_closed(
    app: QuartTrio, autojump_clock: Clock, sent: bytes, status: int, reason: str
) -> None:
    async with serving(app) as this:
        answer = await exchange(await this.connect(), sent)
        assert trio.current_time() == 0
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in head.lower()
    assert b"content-type: application/problem+json" in head.lower()
    problem = json.loads(body)
    assert (problem["status"], problem["code"]) == (status, "invalid_input")
    assert problem["detail"].startswith(reason)
    assert this.errors == []


@pytest.mark.parametrize("head", [GET + b"X: \x01\r\n\r\n", GET + b": x\r\n\r\n", CHUNKED + b"zz\r\n"])
async def test_a_client_that_goes_on_sending_gets_to_read_why_it_is_refused(
    app: QuartTrio, autojump_clock: Clock, head: bytes
) -> None:
    async with serving(app) as this:
        answer = await exchange(await this.connect(), head, b"x" * 1_000_000, b"x" * 1_000_000)
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_a_refused_head_is_answered_without_a_body_to_head(
    app: QuartTrio, autojump_clock: Clock
) -> None:
    async with serving(app) as this:
        head = GET.replace(b"GET", b"HEAD") + b"X: \x01\r\n\r\n"
        answer = await exchange(await this.connect(), head)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b"\r\n\r\n")
    assert this.errors == []


async def test_nothing_is_done_of_what_follows_a_head_that_is_read_in_two_ways(
    app: QuartTrio, autojump_clock: Clock
) -> None:
    async with serving(app) as this:
        smuggled = POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + GET + b"\r\n"
        answer = await exchange(await this.connect(), smuggled)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "headers",
    [
        b"".join(b"X%d: y\r\n" % n for n in range(98)) + CLOSE,
        b"X: " + b"y" * 16_000 + b"\r\n" + CLOSE,
        b"X: a\tb \x80\xff\r\n" + CLOSE,
        b"Content-Length: 0\r\n" + CLOSE,
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nConnection: close, Upgrade, HTTP2-Settings\r\n",
    ],
    ids=["99 headers", "16 KiB", "tab and more", "no body", "h2c"],
)
async def test_a_head_within_bounds_is_taken(app: QuartTrio, autojump_clock: Clock, headers: bytes) -> None:
    async with serving(app) as this:
        answer = await exchange(await this.connect(), GET + headers + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"well")


# Everything there is, in no time: what goes over real processes and real time is in tests/e2e.


async def test_nothing_of_the_corpus_makes_tq_fail(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:  # Which checks that no hook was told of an error.
        for name, sent in [*corpus(), *mutations(1, 200)]:
            with trio.fail_after(60):
                answer = await exchange(await api.connect(), sent, half_close=True)
            assert b"HTTP/1.1 500 " not in answer, name
        assert (await api.get("/livez")).status == 200


@slow
async def test_a_request_cut_at_any_byte_is_the_same_request(app: QuartTrio, autojump_clock: Clock) -> None:
    async with serving(app) as this:
        for name, *parts in splits():
            answer = await exchange(await this.connect(), *parts, half_close=True)
            if "handshake" not in name:
                wanted = {"get": b"200", "chunked": b"404", "smuggle": b"400"}[name.split("-")[1]]
                assert answer.split(b" ", 2)[1] == wanted, (name, answer)
    assert this.errors == []


@slow
async def test_no_frames_make_a_websocket_fail(app: QuartTrio, autojump_clock: Clock) -> None:
    async with serving(app) as this:
        for number, sent in enumerate(ws_frames()):
            with trio.fail_after(60):
                client = await open_websocket(await this.connect())
                await exchange(client, sent, half_close=True)
            assert this.errors == [], number


# Slow clients


async def test_a_client_that_does_not_read_is_cut_after_fifteen_seconds(
    app: QuartTrio, autojump_clock: Clock
) -> None:
    async with serving(app) as this:
        client = await this.connect()
        async with client.stream:
            await client.stream.send_all(GET.replace(b"/livez", b"/endless") + b"\r\n")
            await trio.sleep(14.9)
            assert this.traffic.open == 1
            await trio.sleep(0.2)
            assert this.traffic.open == 0
    assert this.errors == []


def fail_on_error(error: BaseException, where: str) -> None:
    raise AssertionError(where) from error


class SlowStream:
    """Takes each piece after *seconds*."""

    def __init__(self, seconds: float) -> None:
        self.socket = None
        self.seconds = seconds
        self.sizes: list[int] = []

    async def send_all(self, data: memoryview) -> None:
        self.sizes.append(len(data))
        await trio.sleep(self.seconds)


@pytest.mark.parametrize(
    ("seconds", "size", "taken", "after"),
    [
        (14, 10 * 65_536 + 1, True, 11 * 14),
        (14, 65_536, True, 14),
        (16, 10 * 65_536, False, 15),
        (16, 1, False, 15),
    ],
)
async def test_64_kib_must_be_taken_in_fifteen_seconds(
    app: QuartTrio, autojump_clock: Clock, seconds: float, size: int, taken: bool, after: float
) -> None:
    stream: Any = SlowStream(seconds)
    connection = Connection(app, http_config(), Context(trio.Event()), stream, fail_on_error)
    assert await connection._send_in_time(memoryview(b"x" * size)) is taken
    assert trio.current_time() == after
    assert max(stream.sizes) <= 65_536


async def test_a_connection_that_only_writes_lets_others_have_their_turn(app: QuartTrio) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async def read(client: Client) -> None:
        while await client.stream.receive_some(1_000_000):
            pass

    (listening,) = bind_sockets(["127.0.0.1:0"])
    async with trio.SocketListener(trio.socket.from_stdlib_socket(listening)) as listener:
        client = Client(await trio.open_tcp_stream(*listening.getsockname()))
        stream = await listener.accept()
        connection = Connection(app, http_config(), Context(trio.Event()), stream, fail_on_error)
        async with client.stream, stream, trio.open_nursery() as nursery:
            nursery.start_soon(count)
            nursery.start_soon(read, client)
            for _ in range(1_000):
                await connection._send(b"an event")
            assert turns >= 10
            nursery.cancel_scope.cancel()


# WebSockets


async def open_websocket(client: Client, *more: bytes) -> Client:
    await client.stream.send_all(HANDSHAKE + b"".join(more) + b"\r\n")
    answer = await client.stream.receive_some(65536)
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert b"sec-websocket-extensions" not in answer.lower()
    return client


async def test_no_compression_is_agreed_on_and_what_is_compressed_is_refused(
    app: QuartTrio, autojump_clock: Clock
) -> None:
    packer = zlib.compressobj(wbits=-15)
    bomb = packer.compress(b"0" * 10_000_000) + packer.flush(zlib.Z_SYNC_FLUSH)
    async with serving(app) as this:
        offer = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
        client = await open_websocket(await this.connect(), offer)
        assert b"0000" not in await exchange(client, frame(1, bomb[:-4], first=0xC0))
        assert trio.current_time() == 0
    assert this.errors == []


@pytest.mark.parametrize(
    "parts",
    [
        [frame(1, b"x" * 65_537)],
        [frame(2, b"x" * 65_537)],
        [frame(1, b"a", first=0), *[frame(0, b"x" * 1_000, first=0)] * 100],
    ],
    ids=["text", "bytes", "in many frames"],
)
async def test_a_message_over_64_kib_closes_the_websocket_with_1009(
    app: QuartTrio, autojump_clock: Clock, parts: list[bytes]
) -> None:
    async with serving(app) as this:
        client = await open_websocket(await this.connect())
        assert (await exchange(client, *parts)).endswith(b"\x88\x02" + (1009).to_bytes(2, "big"))
        assert trio.current_time() == 0
    assert this.errors == []


async def test_a_message_of_64_kib_is_taken(app: QuartTrio, autojump_clock: Clock) -> None:
    async with serving(app) as this:
        client = await open_websocket(await this.connect())
        answer = b""
        async with client.stream:
            await client.stream.send_all(frame(2, b"x" * 65_536))
            while not answer.endswith(b"x" * 65_536):
                answer += await client.stream.receive_some(65536)
                assert len(answer) < 66_000


async def test_a_websocket_is_pinged_every_fifteen_seconds(app: QuartTrio, autojump_clock: Clock) -> None:
    async with serving(app) as this:
        client = await open_websocket(await this.connect())
        async with client.stream:
            with trio.move_on_after(1):
                # The first is sent at once, and may have come with the answer to the handshake.
                await client.stream.receive_some(65536)
            pinged_at = []
            for _ in range(3):
                assert await client.stream.receive_some(65536) == b"\x89\x00"
                pinged_at.append(trio.current_time())
            assert pinged_at == [15, 30, 45]


async def test_what_comes_after_a_handshake_that_was_refused_is_dropped(autojump_clock: Clock) -> None:
    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.http.response.start", "status": 403, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"", "more_body": False})
        await trio.sleep(1)

    asgi: Any = refuse
    async with serving(asgi) as this:
        answer = await exchange(
            await this.connect(), HANDSHAKE + b"\r\n", frame(1, b"late"), frame(1, b"later")
        )
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert this.errors == []


async def test_pings_end_with_their_connection(app: QuartTrio, autojump_clock: Clock) -> None:
    async with serving(app) as this:
        client = await open_websocket(await this.connect())
        await trio.sleep(1)
        await client.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert this.traffic.open == 0
        this.draining.set()
        await this.ended.wait()
        assert trio.current_time() == 1


async def test_a_flood_of_empty_messages_makes_the_reader_wait(autojump_clock: Clock) -> None:
    inbox = Inbox("websocket")
    with trio.move_on_after(1) as waits:
        for _ in range(INBOX_MAX):
            await inbox.put({"type": "websocket.receive", "bytes": None, "text": ""})
    assert waits.cancelled_caught
    assert len(inbox._messages) == 1025


# How many there may be


@pytest.mark.parametrize(
    ("files_max", "caps"),
    [
        (1024, Caps(768, 192)),
        (20_000, Caps(15_000, 3_750)),
        (1_048_576, Caps(50_000, 12_500)),
        (4, Caps(3, 1)),
    ],
)
def test_a_quarter_of_the_descriptors_is_left_to_the_rest(files_max: int, caps: Caps) -> None:
    assert connection_caps(files_max) == caps


def test_without_a_limit_on_descriptors_there_is_one_on_connections() -> None:
    assert connection_caps(-1) == Caps(50_000, 12_500)


@pytest.mark.parametrize(
    ("host", "group"),
    [
        ("127.0.0.1", ""),
        ("127.9.9.9", ""),
        ("::1", ""),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:0db8:0001:0002"),
        ("2001:db8:1:2::9", "2001:0db8:0001:0002"),
        ("fe80::1%eth0", "fe80:0000:0000:0000"),
        ("what", "what"),
    ],
)
def test_one_clients_addresses_are_one_group_and_this_machine_is_none(host: str, group: str) -> None:
    assert address_group(host) == group


def test_an_address_has_no_more_places_than_its_share() -> None:
    lobby = Lobby(Caps(total=5, per_address=2), Traffic())
    with lobby.place("192.0.2.1") as first, lobby.place("192.0.2.1") as second:
        with lobby.place("192.0.2.1") as third, lobby.place("192.0.2.2") as another:
            assert (first, second, third, another) == (True, True, False, True)
        with ExitStack() as stack:
            ours = [stack.enter_context(lobby.place("127.0.0.1")) for _ in range(4)]
            assert ours == [True, True, True, False]
    with lobby.place("192.0.2.1") as free_again:
        assert free_again
    assert lobby.traffic == Traffic(open=0, accepted=7, refused_full=1, refused_address=1)


async def test_what_comes_over_the_cap_is_turned_away_until_there_is_room(
    app: QuartTrio, autojump_clock: Clock
) -> None:
    async with serving(app, caps=Caps(total=2, per_address=2)) as this:
        first, second = await this.connect(), await this.connect()
        for client in (first, second):
            assert (await client.ask("GET", "/livez")).status == 200
        for _ in range(10):
            answer = await exchange(await this.connect())
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: 1" in answer
        assert (this.traffic.open, this.traffic.refused_full) == (2, 10)
        async with second.stream:
            assert (await second.ask("GET", "/livez")).status == 200
        await first.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        third = await this.connect()
        async with third.stream:
            assert (await third.ask("GET", "/livez")).status == 200


async def test_an_error_in_a_connection_is_counted(
    app: QuartTrio, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*args: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("tq.api.connection.Http11._create_stream", broken)
    async with serving(app) as this:
        assert await exchange(await this.connect(), GET + b"\r\n") == b""
    assert this.traffic.failed == len(this.errors) == 1


# What is told of requests


async def hold(server: Server, request: Request) -> Response:
    await trio.sleep(3600)
    raise AssertionError


HOLD = Route(method="GET", path="/hold/{id}", endpoint=hold, scope=Scope.OPEN, summary="")


async def test_each_request_is_told_of_once_it_is_over(queue: TaskQueue, autojump_clock: Clock) -> None:
    told: list[Answered] = []
    async with open_api(queue, on_request=told.append) as api:

        @api.app.get("/page/<name>")
        async def page(name: str) -> str:
            return "page"

        await api.get("/livez")
        await api.get("/v1/tasks/x%0d%0ay?wait=0")
        await api.get("/nope")
        await api.get("/page/one")
        answer = await api.ask("HEAD", "/livez")
        assert answer.body == b""
    sizes = [each.sent_bytes for each in told]
    assert [(each.method, each.route, each.status, each.complete) for each in told] == [
        ("GET", "/livez", 200, True),
        ("GET", "/v1/tasks/{id}", 404, True),
        ("GET", "", 404, True),
        ("GET", "/page/<name>", 200, True),
        ("HEAD", "/livez", 200, True),
    ]
    assert sizes[3] == 4
    assert all(each.duration_ms == 0 for each in told)


async def test_a_request_that_is_cut_is_told_of_too(queue: TaskQueue, autojump_clock: Clock) -> None:
    told: list[Answered] = []
    async with open_api(queue, routes=[HOLD], on_request=told.append) as api:
        client = await api.connect()
        await client.begin("GET", "/hold/mine")
        await trio.sleep(1)
    await client.stream.aclose()
    [cut] = told
    assert (cut.method, cut.route, cut.status, cut.sent_bytes, cut.complete) == (
        "GET",
        "/hold/{id}",
        None,
        0,
        False,
    )
    assert cut.duration_ms == pytest.approx(1000 + 4700)


async def test_serving_writes_no_log_of_its_own(
    app: QuartTrio, autojump_clock: Clock, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    async with serving(app) as this:
        target = GET.replace(b"/livez", b"/%0d%0aevil%1b[31m") + CLOSE + b"\r\n"
        assert (await exchange(await this.connect(), target)).startswith(b"HTTP/1.1 404 ")
    assert caplog.messages == []
    assert capfd.readouterr() == ("", "")
