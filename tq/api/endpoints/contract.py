"""The contract of the API, and the page that shows it: made when they are first asked for."""

from __future__ import annotations

from functools import cache

from tq.api.http import JSON, Request, Response, tag_of
from tq.engine.server import Server


async def get(server: Server, request: Request) -> Response:
    """The OpenAPI document of every route; 304 if it is the one of ``If-None-Match``."""
    return kept(_document(), (), JSON)


async def page(server: Server, request: Request) -> Response:
    """A page that shows the contract; 304 as above. All of it comes from this server."""
    from tq.api.pages import docs_page

    html, policy = docs_page()
    return kept(html, (("content-security-policy", policy),), "text/html; charset=utf-8")


@cache
def _document() -> bytes:
    # Not before it is asked for: it costs a start too much, and is made of the table that names this module.
    from tq.api.openapi import make_document
    from tq.api.routes import ROUTES

    return make_document(ROUTES)


def kept(
    body: bytes, headers: tuple[tuple[str, str], ...], media: str, *, cache: str = "no-cache"
) -> Response:
    """*body*, which the client may keep; unless *cache* says more, it asks each time whether it is that."""
    headers = (("cache-control", cache), ("x-content-type-options", "nosniff"), *headers)
    return Response(200, body, headers, media, tag=tag_of(body))
