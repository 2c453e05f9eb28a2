"""What a server says of itself to the others. Stores keep it as text."""

from __future__ import annotations

from typing import Final

import msgspec

from tq.core.task import Json, ServerId
from tq.core.wire import TypeDefaults

DEAD_AFTER_MS: Final = 15_000
"""A server that was not seen for so long is dead, and what it ran is taken back."""


class ServerInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a server is, and what it does now.

    ``types`` are those it handles, with what a submit of each means where it says nothing; None: any.
    ``session`` counts how often it has joined the others: once, and again whenever they had thought it dead.
    ``hears`` are the sessions of those for whom it writes letters: what it commits from now on, each of
    them will read of.
    """

    host: str
    pid: int
    version: str
    started_at: int
    types: dict[str, TypeDefaults] | None
    workers: int
    busy: int
    url: str | None = None
    leads: bool = False
    draining: bool = False
    session: int = 1
    hears: dict[ServerId, int] = {}


_decoder: Final = msgspec.json.Decoder(ServerInfo)


def server_text(info: ServerInfo) -> Json:
    """*info* as it is kept."""
    return Json(msgspec.json.encode(info).decode())


def read_server(said: Json | None) -> ServerInfo | None:
    """What a server said; None where that cannot be read: another version may say it otherwise."""
    if said is None:
        return None
    try:
        return _decoder.decode(said)
    except msgspec.ValidationError:
        return None
