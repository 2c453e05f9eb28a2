"""A tq server on a real loopback socket in this process, and a client of bytes to talk to it."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import h11
import trio
from quart_trio import QuartTrio

from tq.api.access import OnRequest
from tq.api.app import make_app
from tq.api.origin import LOOPBACK, OriginPolicy
from tq.api.route import Route
from tq.api.routes import ROUTES
from tq.api.serve import Traffic, bind_sockets, serve_http
from tq.core.events import Event
from tq.core.limits import Rate
from tq.engine.server import Server, Settings
from tq.engine.services import FrontDoor
from tq.handlers import TaskQueue
from tq.metrics.meter import Meter
from tq.storage.store import Store
from tq.testing import open_server

JSON_TYPE = {"Content-Type": "application/json"}
NDJSON_TYPE = {"Content-Type": "application/x-ndjson"}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.h11 = h11.Connection(h11.CLIENT)

    async def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Answer:
        await self.begin(method, path, {"Content-Length": str(len(body)), **(headers or {})})
        await self.send(body)
        return await self.finish()

    async def begin(self, method: str, path: str, headers: dict[str, str] | None = None) -> None:
        if self.h11.our_state is h11.DONE:
            self.h11.start_next_cycle()
        names = [("Host", "localhost"), *(headers or {}).items()]
        await self._send(h11.Request(method=method, target=path, headers=names))

    async def send(self, data: bytes) -> None:
        await self._send(h11.Data(data=data))

    async def finish(self) -> Answer:
        await self._send(h11.EndOfMessage())
        return await self.answer()

    async def answer(self) -> Answer:
        head = await self.event()
        assert isinstance(head, h11.Response)
        body = b""
        while isinstance(event := await self.event(), h11.Data):
            body += event.data
        assert isinstance(event, h11.EndOfMessage), event
        return Answer(head.status_code, {k.decode(): v.decode() for k, v in head.headers}, body)

    async def event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        while (event := self.h11.next_event()) is h11.NEED_DATA:
            self.h11.receive_data(await self.stream.receive_some(65536))
        return event

    async def _send(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> None:
        data = self.h11.send(event)
        if data:
            await self.stream.send_all(data)

    async def until_closed(self) -> bytes:
        """All bytes that come until the server closes."""
        data = b""
        while piece := await self.stream.receive_some(65536):
            data += piece
        return data


@dataclass
class Api:
    server: Server
    app: QuartTrio
    port: int
    errors: list[tuple[BaseException, str]] = field(default_factory=list)
    """What the error hooks were told. Checked to be empty at the end, unless a test empties it."""

    async def connect(self, *, receive_buffer: int | None = None) -> Client:
        sock = trio.socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await sock.connect(("127.0.0.1", self.port))
        return Client(trio.SocketStream(sock))

    async def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Answer:
        client = await self.connect()
        async with client.stream:
            return await client.ask(method, path, body, headers)

    async def post(self, path: str, content: object, headers: dict[str, str] | None = None) -> Answer:
        return await self.ask("POST", path, json.dumps(content).encode(), JSON_TYPE | (headers or {}))

    async def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        return await self.ask("GET", path, headers=headers)

    async def put(self, path: str, content: object) -> Answer:
        return await self.ask("PUT", path, json.dumps(content).encode(), JSON_TYPE)

    async def delete(self, path: str) -> Answer:
        return await self.ask("DELETE", path)


@asynccontextmanager
async def open_api(
    queue: TaskQueue,
    *,
    store: Store | None = None,
    settings: Settings | None = None,
    routes: Iterable[Route] = ROUTES,
    origins: OriginPolicy | None = LOOPBACK,
    on_request: OnRequest | None = None,
    address_rate: Rate | None = None,
    seed: int = 0,
    root_path: str = "",
    emit: Callable[[Event], None] = lambda event: None,
) -> AsyncIterator[Api]:
    sockets = bind_sockets(["127.0.0.1:0"])
    errors: list[tuple[BaseException, str]] = []
    apps: list[QuartTrio] = []

    def on_error(error: BaseException, where: str) -> None:
        errors.append((error, where))

    def door(server: Server) -> FrontDoor:
        traffic = Traffic()
        app = make_app(
            server,
            routes=routes,
            origins=origins,
            on_error=on_error,
            on_request=on_request,
            meter=Meter(server, traffic),
            address_rate=address_rate,
            root_path=root_path,
        )
        apps.append(app)
        return partial(serve_http, app, sockets, draining=server.draining, traffic=traffic, on_error=on_error)

    port = sockets[0].getsockname()[1]
    async with open_server(
        queue, store=store, settings=settings, front_door=door, seed=seed, emit=emit
    ) as server:
        yield Api(server, apps[0], port, errors)
    assert errors == []


def lines(answer: Answer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.body.splitlines()]
