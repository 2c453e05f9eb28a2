"""The Quart door: every route of the table on a QuartTrio app, and every error a problem, never HTML.

The routes of the table are Quart's own rules and views, found by Quart's own map. What they need of a
request is a Request value, so for them the session, the context globals, the signals and the second trio
task that Quart has for each request are left out: half of what a request costs. Views that are added to
the app in the ordinary way get all of it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Final, cast
from urllib.parse import parse_qsl

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope
from quart import Response as QuartResponse
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection
from werkzeug import exceptions
from werkzeug.exceptions import HTTPException
from werkzeug.routing import MapAdapter

from tq.api.http import ClientGone, Request, Response, media_type
from tq.api.problems import BodyTooSlow, MethodNotAllowed, problem_response
from tq.api.routes import ROUTES, Route
from tq.core.errors import (
    InvalidInput,
    NotFound,
    PayloadTooLarge,
    TqError,
    UnsupportedType,
)
from tq.engine.server import Server

BODY_TIMEOUT_S: Final = 15.0
"""Seconds in which a body that is taken whole must have come."""
QUERY_MAX: Final = 16
"""Parameters in one query string."""
UNREAD_MAX: Final = 64 * 1024
"""Bytes of a body that nobody wants which are read all the same, so that the connection can be kept."""
UNREAD_TIMEOUT_S: Final = 1.0

OnError = Callable[[BaseException, str], None]


def log_error(error: BaseException, where: str) -> None:
    """Put *error*, a bug of ours, into the log."""
    logging.getLogger("tq.api").error("%s: %r", where, error, exc_info=error)


def make_app(server: Server, *, routes: Iterable[Route] = ROUTES, on_error: OnError = log_error) -> QuartTrio:
    """The app that answers for *server*.

    Its lifespan hooks need not be run.

    Args:
        on_error: Told of each error that is our own, and of the request, such as ``POST /v1/tasks``.
    """
    app = Door(on_error)
    for route in routes:
        # Quart's types know no views but those of Quart's own kind.
        view: Any = View(server, route)
        for rule in _rules(route.path):
            app.add_url_rule(
                rule,
                endpoint=f"{route.method} {route.path}",
                view_func=view,
                methods=[route.method],
                provide_automatic_options=False,
            )
    return app


def _rules(path: str) -> list[str]:
    """The rules of Quart's map that *path*, as the table writes it, stands for."""
    head, star, _ = path.partition("{id*}")
    if star:
        return [head, f"{head}<path:id>"]
    return [path.replace("{", "<").replace("}", ">")]


class View:
    """One route of the table as a Quart view: takes a Request, gives a Response."""

    def __init__(self, server: Server, route: Route) -> None:
        self.route = route
        self._server = server

    async def __call__(self, request: Request) -> Response:
        """What the endpoint answers. Raises TqError, ClientGone."""
        return await self.route.endpoint(self._server, request)


class HttpConnection(TrioASGIHTTPConnection):
    """One request, in the one trio task that hypercorn has for it."""

    app: Door
    scope: HTTPScope

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Answer the request. Cancelled, it leaves the answer unfinished and nothing half done."""
        try:
            found = self._find()
            if isinstance(found, View):
                response = await self._answer(found, Body(receive))
            elif found is None:
                await super().__call__(receive, send)
                return
            else:
                response = found
            await self._send(send, response)
        except ClientGone:
            return

    def _find(self) -> View | Response | None:
        """The view for the request, or the answer if there is none; None: a view of Quart's own kind."""
        method, path = self.scope["method"], _path(self.scope["path"])
        try:
            rule, self._params = self.app.urls.match(path, method, return_rule=True)
        except exceptions.MethodNotAllowed as error:
            return _no_such_method(method, path, sorted({*(error.valid_methods or ()), "OPTIONS"}))
        except HTTPException:
            return problem_response(
                NotFound(f"there is nothing at {path[:200]}: see the list of endpoints in the documentation")
            )
        view = self.app.view_functions[rule.endpoint]
        return view if isinstance(view, View) else None

    async def _answer(self, view: View, body: Body) -> Response:
        where = f"{self.scope['method']} {view.route.path}"
        try:
            request = await self._read(view.route, body)
            return await view(request)
        except TqError as error:
            if not isinstance(error, BodyTooSlow):
                await body.skip()
            response = problem_response(error)
            if response.status == 500:
                self.app.on_error(error, where)
            return response
        except ClientGone:
            raise
        except Exception as error:
            self.app.on_error(error, where)
            return problem_response(TqError(""))

    async def _read(self, route: Route, body: Body) -> Request:
        """The request, checked against its route. Raises InvalidInput."""
        headers = read_headers(self.scope["headers"])
        query = _read_query(self.scope["query_string"], route.query) if self.scope["query_string"] else {}
        media = ""
        content = b""
        stream = None
        if route.bodies:
            media = check_media(headers, route.bodies)
            limit = route.bodies[media]
            if limit is None:
                stream = body
            else:
                check_length(headers, limit)
                content = await body.read(limit)
        return Request(
            method=self.scope["method"],
            path=self.scope["path"],
            params=self._params,
            query=query,
            headers=headers,
            media=media,
            body=content,
            stream=stream,
            wait_gone=body.wait_gone,
        )

    async def _send(self, send: ASGISendCallable, response: Response) -> None:
        headers = [(name.encode(), value.encode()) for name, value in response.headers]
        if response.status != 204:
            headers.append((b"content-type", response.media.encode()))
        if isinstance(response.body, bytes):
            if response.status != 204:
                headers.append((b"content-length", b"%d" % len(response.body)))
            await send(_start(response.status, headers))
            await send({"type": "http.response.body", "body": response.body, "more_body": False})
        else:
            await send(_start(response.status, headers))
            await self._send_pieces(send, response.body)

    async def _send_pieces(self, send: ASGISendCallable, pieces: AsyncGenerator[bytes, None]) -> None:
        """Send *pieces* as they come. If they break off, so does the response, for the client to see."""
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        except ClientGone:
            return
        except Exception as error:
            self.app.on_error(error, f"{self.scope['method']} {self.scope['path']}")
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Body:
    """The body of a request: read whole, or iterated over, taking no more than is asked for.

    Raises ClientGone where the client left before its end.
    """

    def __init__(self, receive: ASGIReceiveCallable) -> None:
        self._receive = receive
        self._ended = False

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        message = await self._receive()
        if message["type"] != "http.request":
            raise ClientGone
        self._ended = not message.get("more_body", False)
        return message.get("body", b"")

    async def read(self, limit: int) -> bytes:
        """All of it.

        Raises:
            PayloadTooLarge: Over *limit* bytes.
            BodyTooSlow: Not here after BODY_TIMEOUT_S.
        """
        with trio.move_on_after(BODY_TIMEOUT_S):
            whole = await anext(self, b"")
            if not self._ended:
                whole = await self._read_on(bytearray(whole), limit)
            if len(whole) > limit:
                raise _too_large(limit)
            return whole
        raise BodyTooSlow(f"the body was not here after {BODY_TIMEOUT_S:g} s: send it faster, or in parts")

    async def _read_on(self, start: bytearray, limit: int) -> bytes:
        async for piece in self:
            start += piece
            if len(start) > limit:
                break
        return bytes(start)

    async def skip(self) -> None:
        """Read past the rest, if it is small and comes soon; else the connection will not be kept."""
        size = 0
        with trio.move_on_after(UNREAD_TIMEOUT_S):
            while not self._ended and size <= UNREAD_MAX:
                size += len(await anext(self, b""))

    async def wait_gone(self) -> None:
        """Return when the client has left."""
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                return
            self._ended = not message.get("more_body", False)


def _start(status: int, headers: list[tuple[bytes, bytes]]) -> Any:
    return {"type": "http.response.start", "status": status, "headers": headers}


def _path(target: str) -> str:
    """The path of a request target, which may be a whole URL, or ``*``, or nonsense."""
    if target.startswith("/"):
        return target
    _, scheme, rest = target.partition("://")
    return "/" + (rest.partition("/")[2] if scheme else target)


def _no_such_method(method: str, path: str, allow: list[str]) -> Response:
    if method == "OPTIONS":
        return Response(204, headers=(("allow", ", ".join(allow)),))
    return problem_response(
        MethodNotAllowed(f"{path[:200]} does not take {method}: use {' or '.join(allow)}", allow=allow)
    )


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by name; the values of one that comes several times are joined (RFC 9110, 5.3)."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _read_query(raw: bytes, known: frozenset[str] | None) -> dict[str, str]:
    """The query's parameters. Raises InvalidInput: one that is not *known*, or comes twice."""
    if known is None:
        return {}
    try:
        pairs = parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=QUERY_MAX
        )
    except (UnicodeDecodeError, ValueError) as error:
        raise InvalidInput(f"the query cannot be read: {error}") from None
    query = dict(pairs)
    if unknown := sorted(name[:40] for name in query.keys() - known):
        allowed = ", ".join(sorted(known)) or "none"
        raise InvalidInput(
            f"unknown query parameter {', '.join(map(repr, unknown))}: allowed here: {allowed}",
            parameters=unknown,
        )
    if len(query) < len(pairs):
        raise InvalidInput("a query parameter is given twice: give each once")
    return query


def check_media(headers: Mapping[str, str], bodies: Mapping[str, int | None]) -> str:
    """The media type of the body, one of *bodies*. Raises UnsupportedType."""
    encoding = headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise UnsupportedType(f"content encoding {encoding[:40]!r} is not read here: send the body as it is")
    media = media_type(headers.get("content-type", ""))
    if media not in bodies:
        wanted = " or ".join(name for name in bodies if name)
        raise UnsupportedType(
            f"content type {media[:80]!r} is not read here: send {wanted}",
            accepted=[name for name in bodies if name],
        )
    return media


def check_length(headers: Mapping[str, str], limit: int) -> None:
    """Return if the body says that it is within *limit* bytes, or says nothing. Raises PayloadTooLarge."""
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is over {limit} bytes: send less at once", limit=limit)


class Door(QuartTrio):
    """A QuartTrio app whose errors are problems, with the lean way for the routes of the table."""

    asgi_http_class = HttpConnection

    def __init__(self, on_error: OnError) -> None:
        super().__init__("tq.api", static_folder=None)
        self.on_error = on_error
        self.config["BODY_TIMEOUT"] = BODY_TIMEOUT_S
        self.url_map.merge_slashes = False
        self.urls: MapAdapter = self.url_map.bind("")
        self.register_error_handler(HTTPException, _quart_problem)
        self.register_error_handler(Exception, self._quart_failure)

    async def _quart_failure(self, error: Exception) -> QuartResponse:
        if isinstance(error, TqError):
            return _to_quart(problem_response(error))
        self.on_error(error, "a view of Quart's own kind")
        return _to_quart(problem_response(TqError("")))


_HTTP_ERRORS: Final[dict[int, type[TqError]]] = {
    404: NotFound,
    413: PayloadTooLarge,
    415: UnsupportedType,
    408: BodyTooSlow,
}


async def _quart_problem(error: HTTPException) -> QuartResponse:
    """What werkzeug raises for a view of Quart's own kind, a WebSocket's included, as a problem."""
    status = error.code or 500
    kind = _HTTP_ERRORS.get(status, InvalidInput if status < 500 else TqError)
    return _to_quart(problem_response(kind(error.description or error.name), status=status))


def _to_quart(response: Response) -> QuartResponse:
    return QuartResponse(
        cast(bytes, response.body),
        response.status,
        dict(response.headers),
        content_type=response.media,
    )
