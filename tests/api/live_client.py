"""Clients of streams of events: SSE and WebSocket, over bytes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import h11
import trio
from raw_http import Api, Client
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Ping, RejectConnection, RejectData, TextMessage
from wsproto.events import Request as Handshake

JSON = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """One message of a stream; *event* empty: a heartbeat."""

    id: str | None
    event: str
    data: Any = None


class Stream:
    """An SSE stream that has been opened. ``last_id`` is what a browser would come back with."""

    def __init__(self, client: Client, status: int, headers: dict[str, str]) -> None:
        self.client = client
        self.status = status
        self.headers = headers
        self.last_id: str | None = None
        self.ended = False
        self._rest = b""

    async def block(self) -> Seen | None:
        """The next block, a heartbeat too; None at the end."""
        while b"\n\n" not in self._rest:
            event = await self.client.event()
            if not isinstance(event, h11.Data):
                self.ended = isinstance(event, h11.EndOfMessage)
                return None
            self._rest += event.data
        block, _, self._rest = self._rest.partition(b"\n\n")
        seen = read_block(block.decode())
        self.last_id = seen.id or self.last_id
        return seen

    async def next(self) -> Seen:
        """The next event; there must be one."""
        while (seen := await self.block()) is not None:
            if seen.event:
                return seen
        raise AssertionError("the stream ended")

    async def rest(self) -> list[Seen]:
        """All events to the end."""
        found = []
        while (seen := await self.block()) is not None:
            if seen.event:
                found.append(seen)
        return found

    async def problem(self) -> JSON:
        body = b""
        while isinstance(event := await self.client.event(), h11.Data):
            body += event.data
        return dict(json.loads(body))


def read_block(text: str) -> Seen:
    fields: dict[str, str] = {}
    for line in text.split("\n"):
        name, _, value = line.partition(": ")
        fields[name] = value
    data = json.loads(fields["data"]) if "data" in fields else None
    return Seen(fields.get("id"), fields.get("event", ""), data)


@asynccontextmanager
async def sse(
    api: Api, path: str, *, last: str | None = None, receive_buffer: int | None = None
) -> AsyncIterator[Stream]:
    """A stream; the connection is cut at the end of the block."""
    client = await api.connect(receive_buffer=receive_buffer)
    async with client.stream:
        headers = {"Accept": "text/event-stream"} | ({} if last is None else {"Last-Event-ID": last})
        await client.begin("GET", path, headers)
        await client._send(h11.EndOfMessage())
        head = await client.event()
        assert isinstance(head, h11.Response)
        yield Stream(client, head.status_code, {k.decode(): v.decode() for k, v in head.headers})


class Socket:
    """A WebSocket. ``code`` is what the server closed it with; ``status`` why it was not opened."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.status = 101
        self.problem = b""
        self.code: int | None = None
        self.pings: list[float] = []
        self.texts: list[str] = []
        self.wire = WSConnection(ConnectionType.CLIENT)

    async def open(self, path: str, headers: Mapping[str, str]) -> None:
        extra = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.stream.send_all(self.wire.send(Handshake("localhost", path, extra_headers=extra)))
        await self._read_until(lambda: self._is_open or self.status != 101)
        while self.status != 101 and (data := await self._receive()):
            self.wire.receive_data(data)
            self._take()

    _is_open = False

    async def next(self) -> Seen:
        """The next message; there must be one."""
        await self._read_until(lambda: bool(self.texts) or self.code is not None)
        assert self.texts, f"closed with {self.code}"
        found = json.loads(self.texts.pop(0))
        assert list(found) == ["id", "event", "data"]
        return Seen(**found)

    async def rest(self) -> list[Seen]:
        """All messages to the close."""
        await self._read_until(lambda: self.code is not None)
        texts, self.texts = self.texts, []
        return [Seen(**json.loads(text)) for text in texts]

    async def _read_until(self, is_there: Any) -> None:
        while not is_there():
            data = await self._receive()
            assert data, "the connection ended"
            self.wire.receive_data(data)
            self._take()

    async def _receive(self) -> bytes:
        return bytes(await self.stream.receive_some(65536))

    def _take(self) -> None:
        for event in self.wire.events():
            match event:
                case AcceptConnection():
                    self._is_open = True
                case RejectConnection():
                    self.status = event.status_code
                case RejectData():
                    self.problem += bytes(event.data)
                case TextMessage():
                    self.texts.append(event.data)
                case Ping():
                    self.pings.append(trio.current_time())
                case CloseConnection():
                    self.code = event.code


@asynccontextmanager
async def websocket(api: Api, path: str, headers: Mapping[str, str] | None = None) -> AsyncIterator[Socket]:
    client = await api.connect()
    socket = Socket(client.stream)
    async with client.stream:
        await socket.open(path, headers or {})
        yield socket
        with suppress(trio.BrokenResourceError, Exception):
            await client.stream.send_all(socket.wire.send(CloseConnection(1000)))
