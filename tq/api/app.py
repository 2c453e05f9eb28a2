"""The Quart door: every route of the table on a QuartTrio app, and every error a problem, never HTML.

The routes of the table are Quart's own rules and views, found by Quart's own map. What they need of a
request is a Request value, so for them the session, the context globals, the signals and the second trio
task that Quart has for each request are left out: half of what a request costs. Views that are added to
the app in the ordinary way get all of it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Final, cast
from urllib.parse import parse_qsl

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, HTTPScope, WebsocketScope
from quart import Response as QuartResponse
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection, TrioASGIWebsocketConnection
from werkzeug import exceptions
from werkzeug.exceptions import HTTPException
from werkzeug.routing import MapAdapter

from tq.api.http import ClientGone, Interrupted, Request, Response, media_type, unless
from tq.api.live import Messages
from tq.api.origin import LOOPBACK, OriginPolicy, refusal
from tq.api.problems import BodyTooSlow, MethodNotAllowed, problem_response
from tq.api.routes import ROUTES, Route
from tq.api.tickets import Tickets
from tq.api.websocket import serve_socket
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
ANONYMOUS: Final = "anonymous"
"""Who asks without a ticket."""

_WITHOUT_BODY: Final = frozenset({204, 304})
"""Statuses whose answers have no body, and no headers that tell of one."""

OnError = Callable[[BaseException, str], None]


@dataclass(frozen=True, slots=True)
class Answered:
    """One request, once it is over.

    Args:
        route: As the table writes it, such as ``/v1/tasks/{id}``; empty where nothing was found.
        status: None: it was cut, or the client left, before there was one.
        sent_bytes: Of the body, as far as it was sent.
        complete: Whether the answer was sent to its end.
    """

    method: str
    route: str
    status: int | None
    duration_ms: float
    sent_bytes: int
    complete: bool


OnRequest = Callable[[Answered], None]


def log_error(error: BaseException, where: str) -> None:
    """Put *error*, a bug of ours, into the log."""
    logging.getLogger("tq.api").error("%s: %r", where, error, exc_info=error)


def make_app(
    server: Server,
    *,
    routes: Iterable[Route] = ROUTES,
    origins: OriginPolicy | None = LOOPBACK,
    on_error: OnError = log_error,
    on_request: OnRequest | None = None,
    secrets: Random | None = None,
) -> QuartTrio:
    """The app that answers for *server*.

    Its lifespan hooks need not be run.

    Args:
        origins: From where requests may come; None, from everywhere: only where keys are asked for.
        on_error: Told of each error that is our own, and of the request, such as ``POST /v1/tasks``.
        on_request: Told of each request when it is over, also of one that was cut.
        secrets: What tickets are made of: must not be foretold. None: the chance of *server*, for tests.
    """
    tickets = Tickets(secrets or server.random, server.clock.monotonic)
    app = Door(tickets, origins, on_error, on_request)
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

    def messages(self, request: Request) -> Messages:
        """What the route sends over a WebSocket. Raises TqError."""
        assert self.route.socket is not None
        return self.route.socket(self._server, request)


class HttpConnection(TrioASGIHTTPConnection):
    """One request, in the one trio task that hypercorn has for it."""

    app: Door
    scope: HTTPScope
    _route = ""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Answer the request. Cancelled, it leaves the answer unfinished and nothing half done."""
        if self.app.on_request is None:
            await self._serve(receive, send)
            return
        tally = Tally(send)
        started = trio.current_time()
        try:
            await self._serve(receive, tally)
        finally:
            duration_ms = (trio.current_time() - started) * 1000
            self.app.on_request(
                Answered(
                    self.scope["method"],
                    self._route,
                    tally.status,
                    duration_ms,
                    tally.sent_bytes,
                    tally.complete,
                )
            )

    async def _serve(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        self._headers = read_headers(self.scope["headers"])
        try:
            found = self._refuse() or self._find()
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

    def _refuse(self) -> Response | None:
        """The answer to a request that may not come from where it does."""
        target = self.scope["path"]
        if not target.startswith("/"):
            # Quart would read the target for itself, and does not expect nonsense.
            self.scope = {**self.scope, "path": _path(target)}
        if self.app.origins is None:
            return None
        refused = refusal(
            self.app.origins,
            self.scope["method"],
            self.scope["path"],
            self._headers,
            authority=_authority(target),
        )
        return None if refused is None else problem_response(refused)

    def _find(self) -> View | Response | None:
        """The view for the request, or the answer if there is none; None: a view of Quart's own kind."""
        method, path = self.scope["method"], self.scope["path"]
        try:
            rule, self._params = self.app.urls.match(path, method, return_rule=True)
        except exceptions.MethodNotAllowed as error:
            return _no_such_method(method, path, sorted({*(error.valid_methods or ()), "OPTIONS"}))
        except HTTPException:
            return problem_response(
                NotFound(f"there is nothing at {path[:200]}: see the list of endpoints in the documentation")
            )
        view = self.app.view_functions[rule.endpoint]
        if isinstance(view, View):
            self._route = view.route.path
            return view
        self._route = rule.rule
        return None

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
        headers = self._headers
        query = _read_query(self.scope["query_string"], route.query) if self.scope["query_string"] else {}
        caller = self.app.caller(query)
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
            new_ticket=partial(self.app.tickets.issue, caller),
        )

    async def _send(self, send: ASGISendCallable, response: Response) -> None:
        headers = [(name.encode(), value.encode()) for name, value in response.headers]
        has_body = response.status not in _WITHOUT_BODY
        if has_body:
            headers.append((b"content-type", response.media.encode()))
        if isinstance(response.body, bytes):
            if has_body:
                headers.append((b"content-length", b"%d" % len(response.body)))
            await send(_start(response.status, headers))
            await send({"type": "http.response.body", "body": response.body, "more_body": False})
        else:
            async with aclosing(response.body):
                await send(_start(response.status, headers))
                await self._send_until(response.until, partial(self._send_pieces, send, response.body))

    async def _send_until(
        self, until: Callable[[], Awaitable[None]] | None, send_all: Callable[[], Awaitable[None]]
    ) -> None:
        if until is None:
            await send_all()
        else:
            with suppress(Interrupted):
                await unless(until, send_all)

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


class Tally:
    """Passes on what is sent, and keeps count of it."""

    def __init__(self, send: ASGISendCallable) -> None:
        self._send = send
        self.status: int | None = None
        self.sent_bytes = 0
        self.complete = False

    async def __call__(self, message: ASGISendEvent) -> None:
        """Send *message*. What it says is counted once it is sent."""
        await self._send(message)
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self.sent_bytes += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)


class WebSocketConnection(TrioASGIWebsocketConnection):
    """One WebSocket, refused before Quart hears of it if it may not come from where it does."""

    app: Door
    scope: WebsocketScope

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve the WebSocket to its end."""
        refused = self._refuse()
        view = self._find() if refused is None else None
        if view is not None:
            refused = await self._serve(view, receive, send)
        elif refused is None:
            await super().__call__(receive, send)
        if refused is not None:
            await self._send_problem(send, refused)

    def _find(self) -> View | None:
        """The view of a route that sends messages over a WebSocket; None: what else is there is Quart's."""
        try:
            rule, self._params = self.app.urls.match(self.scope["path"], "GET", return_rule=True)
        except HTTPException:
            return None
        view = self.app.view_functions[rule.endpoint]
        return view if isinstance(view, View) and view.route.socket is not None else None

    async def _serve(
        self, view: View, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> TqError | None:
        """Send what *view* has, to its end; why it was refused instead, if it was."""
        try:
            query = _read_query(self.scope["query_string"], view.route.query)
            self.app.caller(query)
            headers = read_headers(self.scope["headers"])
            request = Request("GET", self.scope["path"], self._params, query, headers)
            await serve_socket(view.messages(request), receive, send)
        except TqError as error:
            return error
        except Exception as error:
            # Not accepted yet, the WebSocket is refused with 500; else it is closed with 1011.
            self.app.on_error(error, f"WebSocket {view.route.path}")
        return None

    async def _send_problem(self, send: ASGISendCallable, refused: TqError) -> None:
        response = problem_response(refused)
        headers = [(name.encode(), value.encode()) for name, value in response.headers]
        headers.append((b"content-type", response.media.encode()))
        start: Any = {"type": "websocket.http.response.start", "status": response.status, "headers": headers}
        await send(start)
        await send(
            {"type": "websocket.http.response.body", "body": cast(bytes, response.body), "more_body": False}
        )

    def _refuse(self) -> TqError | None:
        path = self.scope["path"]
        if not path.startswith("/"):
            return NotFound("there is no WebSocket at this target: ask for a path, such as /v1/events")
        if self.app.origins is None:
            return None
        return refusal(self.app.origins, "WEBSOCKET", path, read_headers(self.scope["headers"]))


def _start(status: int, headers: list[tuple[bytes, bytes]]) -> Any:
    return {"type": "http.response.start", "status": status, "headers": headers}


def _path(target: str) -> str:
    """The path of a request target, which may be a whole URL, or ``*``, or nonsense."""
    if target.startswith("/"):
        return target
    _, scheme, rest = target.partition("://")
    return "/" + (rest.partition("/")[2] if scheme else target)


def _authority(target: str) -> str | None:
    """Host and port of a request target that is a whole URL; None for a path."""
    _, is_url, rest = target.partition("://") if not target.startswith("/") else ("", "", "")
    return rest.partition("/")[0] if is_url else None


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
        names = [name for name, _ in pairs]
        twice = next(name for name in query if names.count(name) > 1)
        raise InvalidInput(f"{twice}: a query parameter is given twice: give each once", parameter=twice)
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
    asgi_websocket_class = WebSocketConnection

    def __init__(
        self,
        tickets: Tickets,
        origins: OriginPolicy | None,
        on_error: OnError,
        on_request: OnRequest | None,
    ) -> None:
        super().__init__("tq.api", static_folder=None)
        self.tickets = tickets
        self.origins = origins
        self.on_error = on_error
        self.on_request = on_request
        self.config["BODY_TIMEOUT"] = BODY_TIMEOUT_S
        self.url_map.merge_slashes = False
        self.urls: MapAdapter = self.url_map.bind("")
        self.register_error_handler(HTTPException, _quart_problem)
        self.register_error_handler(Exception, self._quart_failure)

    def caller(self, query: dict[str, str]) -> str:
        """Who asks: whose ticket is in *query*, which it is taken out of. Raises NotAllowed."""
        ticket = query.pop("ticket", None)
        return ANONYMOUS if ticket is None else self.tickets.redeem(ticket)

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
