"""The servers that share the store: who they are, what they do, which one leads."""

from __future__ import annotations

import msgspec

from tq.api.http import Request, Response, json_response
from tq.core.queries import ServerRow
from tq.core.servers import ServerInfo
from tq.core.task import ServerId
from tq.core.views import format_instant
from tq.engine.server import Server


class ServerView(msgspec.Struct, frozen=True):
    """A server as it last said. ``here``: the one that answers. ``types`` null: it takes any."""

    id: ServerId
    host: str
    pid: int
    version: str
    url: str | None
    started_at: str
    seen_at: str
    types: list[str] | None
    workers: int
    busy: int
    leads: bool
    draining: bool
    here: bool


class ServersView(msgspec.Struct, frozen=True):
    """The servers that live, as far as is known, by id."""

    servers: list[ServerView]


async def get(server: Server, request: Request) -> Response:
    """The servers; the one that answers as it is now."""
    servers = [_view(row, info, here=row.server == server.id) for row, info in await server.servers()]
    return json_response(ServersView(servers))


def _view(row: ServerRow, info: ServerInfo, *, here: bool) -> ServerView:
    return ServerView(
        id=row.server,
        host=info.host,
        pid=info.pid,
        version=info.version,
        url=info.url,
        started_at=format_instant(info.started_at),
        seen_at=format_instant(row.seen_at),
        types=None if info.types is None else sorted(info.types),
        workers=info.workers,
        busy=info.busy,
        leads=info.leads,
        draining=info.draining,
        here=here,
    )
