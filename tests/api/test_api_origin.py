"""From where a server without keys may be asked: not from web pages, nor by names that are not its own."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import trio.testing
from hostile import CLOSE, HANDSHAKE
from raw_http import Api, open_api

from tq.api.origin import LOOPBACK, OriginPolicy, refusal
from tq.api.routes import ROUTES
from tq.handlers import TaskQueue

Clock = trio.testing.MockClock
OURS: dict[str, str] = {"host": "127.0.0.1:8080"}
NAMED = OriginPolicy(frozenset({"tq.example"}))


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {"host": "localhost"}),
        ("GET", {"host": "LocalHost:8080"}),
        ("GET", {"host": "127.0.0.1"}),
        ("GET", {"host": "127.0.0.1:65535"}),
        ("GET", {"host": "127.1.2.3:80"}),
        ("GET", {"host": "[::1]"}),
        ("GET", {"host": "[::1]:8080"}),
        ("GET", {}),  # HTTP/1.0
        ("POST", {}),
        ("POST", OURS),
        ("POST", OURS | {"origin": "http://127.0.0.1:8080"}),
        ("POST", OURS | {"origin": "https://127.0.0.1:8080"}),  # a proxy took off TLS
        ("POST", {"host": "localhost:80", "origin": "http://localhost"}),
        ("POST", {"host": "LOCALHOST", "origin": "http://localhost:80"}),
        ("POST", OURS | {"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:8080"}),
        ("POST", OURS | {"sec-fetch-site": "none"}),
        ("GET", OURS | {"origin": "http://evil.example", "sec-fetch-site": "cross-site"}),
        ("HEAD", OURS | {"sec-fetch-site": "cross-site"}),
        ("OPTIONS", OURS | {"origin": "http://evil.example"}),
        ("WEBSOCKET", OURS | {"origin": "http://127.0.0.1:8080"}),
        ("WEBSOCKET", OURS),
    ],
)
def test_a_request_that_a_page_of_elsewhere_cannot_have_made_is_taken(
    method: str, headers: Mapping[str, str]
) -> None:
    assert refusal(LOOPBACK, method, "/v1/tasks", headers) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example",
        "127.0.0.1:80:80", "evil@localhost", "localhost@evil", "localhost.", "0.0.0.0", "10.0.0.1", "[::2]",
        "[::1", "::1", "", " ", "localhost:x", "128.0.0.1", "127.0.0", "[::ffff:10.0.0.1]", "tq.example",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "WEBSOCKET"])
def test_a_host_that_is_not_ours_is_refused_whatever_is_asked(method: str, host: str) -> None:
    refused = refusal(LOOPBACK, method, "/v1/tasks", {"host": host})
    assert refused is not None
    assert refused.code == "not_allowed"
    assert refused.message == (
        f"this server is not known by the host {host!r}: ask for it by localhost or 127.0.0.1,"
        " or name that host with --host"
    )


def test_a_target_that_is_a_whole_url_counts_instead_of_the_host() -> None:
    assert refusal(LOOPBACK, "GET", "/stats", OURS, authority="evil.example") is not None
    assert refusal(LOOPBACK, "GET", "/stats", {"host": "evil.example"}, authority="localhost:80") is None


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_probes_ask_by_any_name(path: str) -> None:
    assert refusal(LOOPBACK, "GET", path, {"host": "pod-7.example"}) is None


@pytest.mark.parametrize("path", ["/metrics", "/", "/livez/", "/stats"])
def test_what_tells_more_than_health_does_not(path: str) -> None:
    assert refusal(LOOPBACK, "GET", path, {"host": "pod-7.example"}) is not None


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "WEBSOCKET", "BREW"])
@pytest.mark.parametrize(
    "said",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://127.0.0.1:3000"},
        {"origin": "http://127.0.0.1"},
        {"origin": "http://localhost:8080"},
        {"origin": "http://127.0.0.1:8080.evil.example"},
        {"origin": "ftp://127.0.0.1:8080"},
        {"origin": "127.0.0.1:8080"},
        {"origin": "http://127.0.0.1:8080, http://evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "cross-site", "origin": "http://127.0.0.1:8080"},
    ],
)
def test_a_change_asked_for_by_a_page_of_elsewhere_is_refused(method: str, said: dict[str, str]) -> None:
    refused = refusal(LOOPBACK, method, "/v1/tasks", OURS | said)
    assert refused is not None
    assert refused.message.endswith(" may not do this: ask from a page of this server, or a program")


def test_a_page_is_refused_where_no_host_says_whose_it_is() -> None:
    assert refusal(LOOPBACK, "POST", "/submit", {"origin": "http://localhost"}) is not None


def test_a_name_that_was_given_is_ours_too() -> None:
    assert refusal(NAMED, "GET", "/", {"host": "TQ.example:8080"}) is None
    assert refusal(NAMED, "POST", "/", {"host": "tq.example", "origin": "https://tq.example"}) is None
    assert refusal(NAMED, "GET", "/", {"host": "other.example"}) is not None


# Over HTTP


async def exchange(api: Api, sent: bytes) -> bytes:
    """What comes back for *sent*, to the end of its connection."""
    client = await api.connect()
    async with client.stream:
        await client.stream.send_all(sent)
        return await client.until_closed()


async def test_every_route_refuses_a_foreign_host_and_every_change_a_foreign_page(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:

        @api.app.route("/page", methods=["GET", "POST"])
        async def page() -> str:
            return "page"

        own = [("GET", "/page"), ("POST", "/page"), ("GET", "/nope"), ("POST", "/nope")]
        for method, path in [*((route.method, route.path) for route in ROUTES), *own]:
            head = f"{method} {path} HTTP/1.1\r\nContent-Length: 0\r\n".encode() + CLOSE
            rebound = await exchange(api, head + b"Host: evil.example\r\n\r\n")
            probe = path in ("/livez", "/readyz")
            assert rebound.startswith(b"HTTP/1.1 200 " if probe else b"HTTP/1.1 403 "), (method, path)
            assert probe or b'"code":"not_allowed"' in rebound
            assert b"access-control" not in rebound.lower()
            if method != "GET":
                crossed = await exchange(
                    api, head + b"Host: localhost\r\nOrigin: http://evil.example\r\n\r\n"
                )
                assert crossed.startswith(b"HTTP/1.1 403 "), (method, path)
        page_of_elsewhere = b"GET /page HTTP/1.0\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\r\n"
        assert (await exchange(api, page_of_elsewhere)).startswith(b"HTTP/1.1 200 ")
        assert (await api.get("/v1/stats")).json["totals"]["submitted"] == 0


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        (b"http://evil.example/v1/stats", b"localhost", 403),
        (b"http://localhost:8080/v1/stats", b"evil.example", 200),
        (b"http://127.0.0.1", b"localhost", 200),
        (b"http://[", b"localhost", 403),
    ],
)
async def test_the_host_of_a_target_that_is_a_whole_url_counts(
    queue: TaskQueue, autojump_clock: Clock, target: bytes, host: bytes, status: int
) -> None:
    async with open_api(queue) as api:
        sent = b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n" + CLOSE + b"\r\n"
        assert (await exchange(api, sent)).startswith(b"HTTP/1.1 %d " % status)


async def test_where_it_comes_from_does_not_matter_where_keys_are_asked_for(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue, origins=None) as api:
        answer = await api.post("/v1/tasks", {"type": "t"}, {"Origin": "http://evil.example"})
        assert answer.json["code"] == "unknown_type"


@pytest.mark.parametrize(
    ("handshake", "status", "code"),
    [
        (HANDSHAKE + b"Origin: http://evil.example\r\n", 403, "not_allowed"),
        (HANDSHAKE.replace(b"localhost", b"evil.example"), 403, "not_allowed"),
        (HANDSHAKE + b"Origin: http://localhost\r\n", 404, "not_found"),
        (HANDSHAKE.replace(b"/ws", b"?"), 404, "not_found"),
        (HANDSHAKE.replace(b"/ws", b"http://["), 404, "not_found"),
    ],
)
async def test_a_websocket_is_refused_to_a_page_of_elsewhere(
    queue: TaskQueue, autojump_clock: Clock, handshake: bytes, status: int, code: str
) -> None:
    async with open_api(queue) as api:
        answer = await exchange(api, handshake + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert f'"code":"{code}"'.encode() in answer
        assert b"content-type: application/problem+json" in answer.lower()
