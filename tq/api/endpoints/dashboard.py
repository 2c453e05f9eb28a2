"""The dashboard: its page and its files. There is nothing in them but themselves: no key is needed."""

from __future__ import annotations

from typing import Final

from tq.api.endpoints.contract import kept
from tq.api.http import Request, Response
from tq.core.errors import NotFound
from tq.engine.server import Server

_FOR_EVER: Final = "public, max-age=31536000, immutable"
_SAFE: Final = (("referrer-policy", "no-referrer"), ("cross-origin-opener-policy", "same-origin"))


async def page(server: Server, request: Request) -> Response:
    """The dashboard: a page for people, over the routes below `/v1`. All of it comes from this server."""
    from tq.dashboard.files import dashboard

    files = dashboard()
    headers = (("content-security-policy", files.policy), *_SAFE)
    return kept(files.page, headers, "text/html; charset=utf-8")


async def file(server: Server, request: Request) -> Response:
    """A file of the dashboard. Under the version that the page names it is always the same."""
    from tq.dashboard.files import MEDIA, dashboard

    files = dashboard()
    name = request.params["file"]
    content = files.by_name.get(name)
    if content is None:
        raise NotFound(f"the dashboard has no file {name[:80]!r}")
    is_named = request.params["version"] == files.version
    media = MEDIA[name[name.rindex(".") :]]
    return kept(content, _SAFE, media, cache=_FOR_EVER if is_named else "no-cache")
