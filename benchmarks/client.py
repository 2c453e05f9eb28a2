"""An HTTP/1.1 client that costs next to nothing, so that what is measured is the server."""

from __future__ import annotations

import json
import re
import selectors
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from http.client import HTTPResponse
from typing import Any, TypeAlias

Address: TypeAlias = tuple[str, int]

TIMEOUT_S = 60.0
JSON_TYPE = "application/json"
NDJSON_TYPE = "application/x-ndjson"

_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def request_bytes(
    method: str, path: str, body: bytes = b"", media: str = JSON_TYPE, *, key: str | None = None
) -> bytes:
    """A request as it goes over the wire."""
    typed = f"Content-Type: {media}\r\n" if body else ""
    typed += f"Authorization: Bearer {key}\r\n" if key else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{typed}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Connection:
    """One connection, one request at a time."""

    def __init__(self, address: Address) -> None:
        self.socket = socket.create_connection(address, timeout=TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent_at = 0.0
        self.is_last = False
        """Whether the server said that it closes the connection after this answer."""
        self._buffer = b""
        self._needed = 0

    def send(self, request: bytes) -> None:
        self._buffer = b""
        self._needed = 0
        self.sent_at = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> bool:
        """Take what is there; whether the answer is whole."""
        data = self.socket.recv(262_144)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._buffer += data
        if not self._needed:
            head = self._buffer.find(b"\r\n\r\n")
            if head < 0:
                return False
            length = _LENGTH.search(self._buffer, 0, head)
            if length is None or self._buffer[9:10] != b"2":
                raise ConnectionError(f"not the answer that was hoped for: {self._buffer[:500]!r}")
            self._needed = head + 4 + int(length[1])
            self.is_last = _CLOSE.search(self._buffer, 0, head) is not None
        return len(self._buffer) >= self._needed

    def ask(self, request: bytes) -> Any:
        """Send *request*, wait, and give the JSON of the answer."""
        self.send(request)
        while not self.receive():
            pass
        return json.loads(self._buffer.partition(b"\r\n\r\n")[2])

    def close(self) -> None:
        self.socket.close()


def ask(address: Address, method: str, path: str) -> Any:
    """The JSON of one answer, on a connection of its own: idle ones are closed after some seconds."""
    with closing(Connection(address)) as connection:
        return connection.ask(request_bytes(method, path))


@dataclass
class Load:
    """What came of a time of load."""

    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return len(self.latencies_ms) / self.seconds


def hammer(
    address: Address, request: bytes, *, connections: int, seconds: float = 1e9, count: int = 10**9
) -> Load:
    """Send *request* again and again on each of the *connections*, for *seconds* or *count* answers.

    Hypercorn closes a connection after a thousand requests; another takes its place.
    """
    load = Load()
    with selectors.DefaultSelector() as selector, ExitStack() as opened:

        def open_connection() -> Connection:
            connection = opened.enter_context(closing(Connection(address)))
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            return connection

        every = [open_connection() for _ in range(connections)]
        now = start = time.perf_counter()
        for connection in every:
            connection.send(request)
        while now < start + seconds and len(load.latencies_ms) < count:
            for key, _ in selector.select(TIMEOUT_S):
                connection = key.data
                if connection.receive():
                    now = time.perf_counter()
                    load.latencies_ms.append((now - connection.sent_at) * 1000)
                    if connection.is_last:
                        selector.unregister(connection.socket)
                        connection = open_connection()
                    connection.send(request)
        load.seconds = now - start
    return load


def stream_lines(address: Address, line: bytes, count: int) -> None:
    """Submit *line* *count* times as one NDJSON upload, reading the answers meanwhile."""
    sock = socket.create_connection(address, timeout=TIMEOUT_S)
    head = (
        f"POST /v1/tasks/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: {NDJSON_TYPE}\r\n"
        f"Content-Length: {len(line) * count}\r\nConnection: close\r\n\r\n"
    )

    def upload() -> None:
        sock.sendall(head.encode())
        at_once = 1_000
        piece = line * at_once
        for _ in range(count // at_once):
            sock.sendall(piece)
        sock.sendall(line * (count % at_once))

    sender = threading.Thread(target=upload)
    sender.start()
    with HTTPResponse(sock, method="POST") as response:
        response.begin()
        answered = 0
        while data := response.read1(262_144):
            answered += data.count(b"\n")
            if response.status != 200 or b'"error"' in data:
                raise ConnectionError(f"an upload was refused: {data[:500]!r}")
    sender.join()
    sock.close()
    if answered != count:
        raise ConnectionError(f"{count} lines had {answered} answers")


def stream_at_once(address: Address, line: bytes, count: int, *, connections: int) -> float:
    """Submit *count* lines over several uploads at once; the seconds that it took."""
    start = time.perf_counter()
    senders = [
        threading.Thread(target=stream_lines, args=(address, line, count // connections))
        for _ in range(connections)
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    return time.perf_counter() - start


def quantile(values: Iterable[float], share: float) -> float:
    """The value that *share* of the *values* do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
