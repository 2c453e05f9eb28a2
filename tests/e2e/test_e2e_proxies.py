"""The recipes of docs/explanation/security.md for reverse proxies, as they stand, with real nginx and Caddy.

All that is changed is what a test cannot have: the usual ports and certificates. A machine without one of
the two skips its tests.
"""

from __future__ import annotations

import http.client
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from process import JSON_TYPE, PATIENCE_S, Answer, Server, Site, ask_on, wait_until
from tiers import slow, tiered

pytest_plugins = ("site_fixture",)

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
HOST = {"Host": "tasks.example.org"}
OUR_PAGE = HOST | JSON_TYPE | {"Origin": "https://tasks.example.org"}
OTHER_PAGE = HOST | JSON_TYPE | {"Origin": "https://elsewhere.example"}
HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def recipe(name: str) -> str:
    """The block of the page that begins with *name* as a comment."""
    page = (DOCS / "explanation/security.md").read_text()
    [block] = re.findall(rf"^```\n# {name}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return str(block)


def nginx(folder: Path, port: int, upstream: int) -> list[str]:
    location, beside = recipe("nginx").split("# beside the server block\n")
    location = location.replace("127.0.0.1:8080", f"127.0.0.1:{upstream}")
    paths = "".join(
        f"{each}_temp_path {folder / each};\n"
        for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "conf").write_text(
        f"daemon off; pid {folder / 'pid'}; error_log stderr; events {{}}\n"
        f"http {{ access_log off;\n{paths}{beside}"
        f"server {{ listen 127.0.0.1:{port}; server_name tasks.example.org;\n{location} }} }}\n"
    )
    return ["nginx", "-p", str(folder), "-c", str(folder / "conf")]


def caddy(folder: Path, port: int, upstream: int) -> list[str]:
    site = recipe("Caddy").replace("127.0.0.1:8080", f"127.0.0.1:{upstream}")
    site = site.replace("tasks.example.org {", f"http://tasks.example.org:{port} {{")
    (folder / "conf").write_text(f"{{\n admin off\n auto_https off\n}}\n{site}")
    return ["caddy", "run", "--config", str(folder / "conf"), "--adapter", "caddyfile"]


@pytest.fixture(params=[nginx, caddy])
def through(request: pytest.FixtureRequest, site: Site, tmp_path: Path) -> Iterator[Server]:
    """The server, as it is asked through a proxy."""
    configure: Callable[[Path, int, int], list[str]] = request.param
    if shutil.which(configure.__name__) is None:
        pytest.skip(f"{configure.__name__} is not installed")
    server = site.spawn(host="tasks.example.org", root_path="/tq")
    first = server.output.wait("listening on http://127.0.0.1:")
    upstream = int(first.removesuffix("/tq").rpartition(":")[2])
    with socket.create_server(("127.0.0.1", 0)) as free:
        server.port = free.getsockname()[1]
    proxy = subprocess.Popen(
        configure(tmp_path, server.port, upstream), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: listens(server.port), lambda: "the proxy does not listen")
        yield server
    finally:
        proxy.terminate()
        proxy.wait(PATIENCE_S)


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def arrivals(server: Server, path: str, headers: dict[str, str], until: bytes) -> list[float]:
    """How many seconds after the first piece each piece of an answer came, until one has *until* in it."""
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    got = b""
    times: list[float] = []
    with server.open_socket() as sock:
        sock.sendall("\r\n".join(lines).encode())
        while until not in got and (piece := sock.recv(65536)):
            got += piece
            times.append(time.monotonic())
    assert until in got, got
    return [each - times[0] for each in times]


def test_through_a_proxy_all_is_as_without_it(through: Server) -> None:
    connection = through.connect()
    made = ask_on(connection, "POST", "/tq/v1/tasks", b'{"type":"echo","delay":60}', OUR_PAGE)
    assert made.status == 201
    location = made.headers["location"]
    assert location.startswith("/tq/v1/tasks/")
    assert re.fullmatch(r"req-[0-9a-f]{32}|[0-9a-f]{32}", made.headers["x-request-id"])
    assert ask_on(connection, "POST", "/tq/v1/tasks", b'{"type":"echo"}', OTHER_PAGE).status == 403
    shown = ask_on(connection, "GET", location, headers=HOST)
    assert shown.status == 200
    known = HOST | {"If-None-Match": shown.headers["etag"]}
    assert ask_on(connection, "GET", location, headers=known).status == 304
    ask_on(connection, "POST", "/tq/v1/tasks", b'{"type":"echo","delay":60}', OUR_PAGE)
    page = ask_on(connection, "GET", "/tq/v1/tasks?limit=1", headers=HOST)
    following = page.headers["link"].removeprefix("<").partition(">")[0]
    assert ask_on(connection, "GET", following, headers=HOST).json["tasks"][0]["id"] == made.json["id"]
    assert ask_on(connection, "GET", "/tq/docs", headers=HOST).status == 200
    packed = ask_on(connection, "GET", "/tq/openapi.json", headers=HOST | {"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    connection.close()


@slow
@pytest.mark.parametrize(
    "more", tiered([{"Accept": "text/event-stream"}, HANDSHAKE]), ids=["sse", "websocket"]
)
def test_through_a_proxy_events_come_as_they_happen(through: Server, more: dict[str, str]) -> None:
    made = through.ask("POST", "/tq/v1/tasks", b'{"type":"nap","payload":{"seconds":2}}', OUR_PAGE)
    times = arrivals(through, f"{made.headers['location']}/events", HOST | more, b'"succeeded"')
    # Held back by the proxy, the first piece would come with the last.
    assert times[-1] > 1


@slow
def test_through_a_proxy_no_page_of_another_host_opens_a_websocket(through: Server) -> None:
    connection: http.client.HTTPConnection = through.connect()
    answer: Answer = ask_on(connection, "GET", "/tq/v1/events", headers=OTHER_PAGE | HANDSHAKE)
    connection.close()
    assert answer.status == 403
