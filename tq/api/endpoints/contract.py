"""The contract of the API, and the page that shows it: made when they are first asked for."""

from __future__ import annotations

from functools import cache
from hashlib import blake2b

from tq.api.http import JSON, Request, Response
from tq.engine.server import Server


async def get(server: Server, request: Request) -> Response:
    """The OpenAPI document of every route; 304 if it is the one of ``If-None-Match``."""
    return kept(request, _document(), (), JSON)


async def page(server: Server, request: Request) -> Response:
    """A page that shows the contract. All of it comes from this server."""
    from tq.api.pages import docs_page

    html, policy = docs_page()
    return kept(request, html, (("content-security-policy", policy),), "text/html; charset=utf-8")


@cache
def _document() -> bytes:
    # Not before it is asked for: it costs a start too much, and is made of the table that names this module.
    from tq.api.openapi import make_document
    from tq.api.routes import ROUTES

    return make_document(ROUTES)


def kept(
    request: Request,
    body: bytes,
    headers: tuple[tuple[str, str], ...],
    media: str,
    *,
    cache: str = "no-cache",
) -> Response:
    """*body*, which the client may keep, and has if its ``If-None-Match`` says so."""
    tag = f'"{blake2b(body, digest_size=8).hexdigest()}"'
    headers = (("etag", tag), ("cache-control", cache), ("x-content-type-options", "nosniff"), *headers)
    if tag in request.headers.get("if-none-match", ""):
        return Response(304, headers=headers)
    return Response(200, body, headers, media)
