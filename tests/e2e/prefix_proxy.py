"""A reverse proxy that shows a server below a path, and may ask for a key as a server with keys does."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

PASSED_ON = ("host", "origin", "content-type", "accept", "last-event-id", "if-none-match")
OPEN = ("/", "/openapi.json", "/docs")


class Proxy(ThreadingHTTPServer):
    """What was asked is in ``asked``: method, path as it came, and whether it had the key."""

    daemon_threads = False

    def __init__(self, upstream: int, prefix: str, key: str | None, *, may_change: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream, self.prefix, self.key, self.may_change = upstream, prefix, key, may_change
        self.asked: list[tuple[str, str, bool]] = []
        self.open: set[socket.socket] = set()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_port}{self.prefix}/"

    def server_close(self) -> None:
        """End every stream, and wait until its thread has."""
        for upstream in list(self.open):
            with suppress(OSError):
                upstream.shutdown(socket.SHUT_RDWR)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that leaves is no error."""


class Handler(BaseHTTPRequestHandler):
    server: Proxy

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def answer(self) -> None:
        proxy = self.server
        has_key = proxy.key is not None and self.headers.get("authorization") == f"Bearer {proxy.key}"
        proxy.asked.append((self.command, self.path, has_key))
        path = self.path.removeprefix(proxy.prefix)
        if path == self.path and proxy.prefix:
            self.refuse(404, "not_found")
        elif proxy.key and not has_key and path not in OPEN and not path.startswith("/dashboard/"):
            self.refuse(401, "unauthorized")
        elif self.command != "GET" and not proxy.may_change:
            self.refuse(403, "not_allowed", scope="operate")
        else:
            self.pass_on(path)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = answer

    def refuse(self, status: int, code: str, **more: str) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/problem+json")
        self.end_headers()
        problem = {"status": status, "code": code, "detail": f"refused: {code}", **more}
        self.wfile.write(json.dumps(problem).encode())

    def pass_on(self, path: str) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name: self.headers[name] for name in PASSED_ON if name in self.headers}
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream)
        upstream.connect()
        connection = upstream.sock
        self.server.open.add(connection)
        try:
            upstream.request(self.command, path, body, headers)
            with suppress(OSError), upstream.getresponse() as response:
                self.send_back(response)
        finally:
            self.server.open.discard(connection)
            upstream.close()

    def send_back(self, response: http.client.HTTPResponse) -> None:
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        self.end_headers()
        while piece := response.read1(65_536):
            self.wfile.write(piece)


@contextmanager
def open_proxy(
    upstream: int, prefix: str = "", *, key: str | None = None, may_change: bool = True
) -> Iterator[Proxy]:
    """A proxy before the server at port *upstream*."""
    proxy = Proxy(upstream, prefix, key, may_change=may_change)
    Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
