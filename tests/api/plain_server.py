"""A plain Quart app served by us: what is promised of serving holds for every app, not for tq's own alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
from quart_trio import QuartTrio
from raw_http import Client

from tq.api.serve import Caps, Traffic, bind_sockets, serve_http


@dataclass
class Serving:
    port: int
    draining: trio.Event
    ended: trio.Event = field(default_factory=trio.Event)
    errors: list[tuple[BaseException, str]] = field(default_factory=list)
    traffic: Traffic = field(default_factory=Traffic)

    async def connect(self) -> Client:
        return Client(await trio.open_tcp_stream("127.0.0.1", self.port))


@asynccontextmanager
async def serving(app: QuartTrio, *, caps: Caps | None = None) -> AsyncIterator[Serving]:
    """*app* on a socket until the block ends, and then until its connections have."""
    sockets = bind_sockets(["127.0.0.1:0"])
    this = Serving(sockets[0].getsockname()[1], trio.Event())

    async def serve(task_status: trio.TaskStatus[None]) -> None:
        await serve_http(
            app,
            sockets,
            draining=this.draining,
            caps=caps,
            traffic=this.traffic,
            on_error=lambda error, where: this.errors.append((error, where)),
            task_status=task_status,
        )
        this.ended.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        yield this
        this.draining.set()
