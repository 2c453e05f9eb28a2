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
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any, Final, cast

from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope, WebsocketScope
from quart import Response as QuartResponse
from quart.routing import QuartRule
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection
from werkzeug import exceptions
from werkzeug.exceptions import HTTPException
from werkzeug.routing import MapAdapter

from tq.api.access import Answered, OnRequest, Tally, tallied
from tq.api.auth import Admitted, Gate
from tq.api.body import BODY_TIMEOUT_S, Body
from tq.api.http import (
    ClientGone,
    Interrupted,
    Request,
    Response,
    check_length,
    check_media,
    read_headers,
    read_query,
    read_request_id,
    unless,
    wait_either,
)
from tq.api.limits import Headers, address_group
from tq.api.live import Messages
from tq.api.negotiate import check_accept, negotiated
from tq.api.origin import LOOPBACK, OriginPolicy, refusal
from tq.api.problems import PROBLEM, BodyTooSlow, MethodNotAllowed, problem_response, with_request_id
from tq.api.reach import check_reach
from tq.api.route import FROZEN, Route, answer_media
from tq.api.routes import ROUTES
from tq.api.submits import told_to
from tq.api.tickets import Tickets
from tq.api.websocket import WebSocketConnection
from tq.clock import IdMaker
from tq.core.errors import DuplicateTask, InvalidInput, NotFound, PayloadTooLarge, TqError, UnsupportedType
from tq.core.keys import KEY_CHANCE_BYTES, Caller, NewKey, make_key
from tq.core.limits import Rate
from tq.engine.server import Server
from tq.metrics.meter import Meter

_WITHOUT_BODY: Final = frozenset({204, 304})
"""Statuses whose answers have no body, and no headers that tell of one."""

OnError = Callable[[BaseException, str], None]


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
    meter: Meter | None = None,
    address_rate: Rate | None = None,
    root_path: str = "",
) -> QuartTrio:
    """The app that answers for *server*.

    Its lifespan hooks need not be run.

    Args:
        origins: From where requests may come while nobody is asked for a key; None, from everywhere.
        on_error: Told of each error that is our own, and of the request, such as ``POST /v1/tasks``.
        on_request: Told of each request when it is over, also of one that was cut.
        secrets: What keys and tickets are made of: must not be foretold. None: the chance of *server*, for
            tests.
        meter: Measures *server*; it is told of each request too. None: one of its own.
        address_rate: How often one address may ask, if it is not of this machine.
        root_path: Where the outside sees the server, such as ``/tq``: it answers below that alone.
    """
    meter = meter or Meter(server)
    secrets = secrets or server.random
    tickets = Tickets(secrets, server.clock.monotonic)
    gate = Gate(server.keys, tickets, server.clock, address_rate=address_rate)
    # Ids of requests are no secret, and must not use up the chance that ids of tasks are made of.
    new_request_id = IdMaker(server.clock, Random(server.id), prefix="req-")
    counting = meter.counting(on_request)
    app = Door(gate, secrets, new_request_id, origins, on_error, counting, root_path=root_path)
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
    # `current` is beside the ids of keys, and no id.
    return [path.replace("{key_id}", "<string(length=16):key_id>").replace("{", "<").replace("}", ">")]


class View:
    """One route of the table as a Quart view: takes a Request, gives a Response."""

    def __init__(self, server: Server, route: Route) -> None:
        self.route = route
        self._server = server

    async def __call__(self, request: Request) -> Response:
        """What the endpoint answers. Raises TqError, ClientGone."""
        if request.caller.queues is None:
            return await self.route.endpoint(self._server, request)
        await self.check(request)
        try:
            return await self.route.endpoint(self._server, request)
        except DuplicateTask as refused:
            raise await told_to(self._server, request.caller, refused) from None

    async def check(self, request: Request) -> None:
        """Return if *request* is about what its caller reaches. Raises NotFound, NotAllowed."""
        await check_reach(self._server, self.route.path, request, narrows=self.route.narrows)

    async def wait_shut_out(self, caller: Caller) -> None:
        """Return when the key of *caller* is good no more."""
        await self._server.keys.wait_fault(caller.name, self._server.clock)

    def messages(self, request: Request) -> Messages:
        """What the route sends over a WebSocket. Raises TqError."""
        assert self.route.socket is not None
        return self.route.socket(self._server, request)

    async def negotiated(self, response: Response, request: Request) -> Response:
        """*response* as *request* can take it best."""
        if self.route.method != "GET" or self.route.path in FROZEN:
            return response
        return await negotiated(response, request.headers, self._server.run_sync)


class HttpConnection(TrioASGIHTTPConnection):
    """One request, in the one trio task that hypercorn has for it."""

    app: Door
    scope: HTTPScope
    key_id: str | None = None
    """Of the API key that the request came with, once it is known."""
    _route = ""
    _told: Headers = ()
    """Headers that every answer has: what the rate of the caller leaves."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Answer the request. Cancelled, it leaves the answer unfinished and nothing half done."""
        self._headers = read_headers(self.scope["headers"])
        self._request_id = read_request_id(self._headers) or self.app.new_request_id()
        if self.app.on_request is None:
            await self._serve(receive, send)
        else:
            with tallied(self.app.on_request, send, self._answered) as tally:
                await self._serve(receive, tally)

    def _answered(self, tally: Tally, duration_ms: float) -> Answered:
        method, path = self.scope["method"], self.scope["path"]
        return tally.answered(
            method, self._route, path, duration_ms, request_id=self._request_id, key_id=self.key_id
        )

    async def _serve(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        try:
            found = self._refuse() or self._find()
            if isinstance(found, View):
                response = await self._answer(found, Body(receive))
            elif found is None:
                await super().__call__(receive, partial(_send_with_id, send, self._request_id))
                return
            else:
                response = found
            await self._send(send, response)
        except ClientGone:
            return

    def _refuse(self) -> Response | None:
        """The answer to a request that may not come from where it does, or is for no path of ours."""
        method, target = self.scope["method"], self.scope["path"]
        path = self.app.local_path(_path(target))
        if path != target:
            # Quart would read the target for itself, and does not expect nonsense.
            self.scope = {**self.scope, "path": _path(target) if path is None else path}
        origins = self.app.origins
        if origins is not None:
            refused = refusal(origins, method, path or "", self._headers, authority=_authority(target))
            if refused is not None:
                return problem_response(refused)
        if path == "/" and method in ("GET", "HEAD") and _path(target) == self.app.root_path:
            # What the dashboard links to is found from the folder that its address is in.
            return Response(308, headers=(("location", "/"),))
        if target == "*" and method == "OPTIONS":
            return Response(204, headers=(("allow", ", ".join(self.app.methods)),))
        return problem_response(self.app.outside()) if path is None else None

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
        try:
            admitted, request = await self._read(view.route, body)
            response = await view.negotiated(await view(request), request)
            if admitted.is_known and not isinstance(response.body, bytes):
                shut_out = partial(view.wait_shut_out, admitted.caller)
                until = shut_out if response.until is None else partial(wait_either, response.until, shut_out)
                return replace(response, until=until)
            return response
        except TqError as error:
            if not isinstance(error, BodyTooSlow):
                await body.skip()
            response = problem_response(error)
            if response.status == 500:
                self._tell(error, view)
            return response
        except ClientGone:
            raise
        except Exception as error:
            self._tell(error, view)
            return problem_response(TqError(""))

    def _tell(self, error: Exception, view: View) -> None:
        self.app.on_error(error, f"{self.scope['method']} {view.route.path}, {self._request_id}")

    async def _read(self, route: Route, body: Body) -> tuple[Admitted, Request]:
        """The request, and who asks, checked against its route. Raises InvalidInput, NotAllowed."""
        headers = self._headers
        query = read_query(self.scope["query_string"], route.query) if self.scope["query_string"] else {}
        admitted = self.app.admit(route, headers, query, self.scope)
        self._told = admitted.headers
        self.key_id = admitted.key_id
        media = ""
        content = b""
        stream = None
        if route.bodies:
            media = check_media(headers, route.bodies)
        if "accept" in headers and (answer := answer_media(route, media)):
            check_accept(headers, answer)
        if route.bodies:
            limit = route.bodies[media]
            if limit is None:
                stream = body
            else:
                check_length(headers, limit)
                content = await body.read(limit)
        request = Request(
            method=self.scope["method"],
            path=self.scope["path"],
            params=self._params,
            query=query,
            headers=headers,
            media=media,
            body=content,
            stream=stream,
            wait_gone=body.wait_gone,
            caller=admitted.caller,
            new_ticket=partial(self.app.gate.tickets.issue, admitted.caller.name),
            new_key=self.app.new_key,
            request_id=self._request_id,
        )
        return admitted, request

    async def _send(self, send: ASGISendCallable, response: Response) -> None:
        if response.media == PROBLEM:
            response = with_request_id(response, self._request_id)
        own = (*self.app.outer(response.headers), *self._told)
        headers = [(name.encode(), value.encode()) for name, value in own]
        headers.append((b"x-request-id", self._request_id.encode()))
        has_body = response.status not in _WITHOUT_BODY
        if has_body:
            headers.append((b"content-type", response.media.encode()))
        if isinstance(response.body, bytes):
            if has_body:
                headers.append((b"content-length", b"%d" % len(response.body)))
            await send(_start(response.status, headers))
            body = b"" if self.scope["method"] == "HEAD" else response.body
            await send({"type": "http.response.body", "body": body, "more_body": False})
        elif self.scope["method"] == "HEAD":
            await response.body.aclose()
            await send(_start(response.status, headers))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
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
            self.app.on_error(error, f"{self.scope['method']} {self.scope['path']}, {self._request_id}")
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_with_id(send: ASGISendCallable, request_id: str, message: Any) -> None:
    """Send *message* of a view of Quart's own kind."""
    if message["type"] == "http.response.start":
        headers = [*message["headers"], (b"x-request-id", request_id.encode())]
        message = {**message, "headers": headers}
    await send(message)


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


class LazyRule(QuartRule):
    """A rule for matching: its code to build URLs, most of what a rule costs, is made when it is called."""

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        compiled = super()._compile_builder

        def build(rule: LazyRule, **values: Any) -> tuple[str, str]:
            return compiled(append_unknown)(rule, **values)

        return build


class Door(QuartTrio):
    """A QuartTrio app whose errors are problems, with the lean way for the routes of the table."""

    url_rule_class = LazyRule  # type: ignore[assignment]  # as Quart's own class has it
    asgi_http_class = HttpConnection
    asgi_websocket_class = WebSocketConnection

    def __init__(
        self,
        gate: Gate,
        secrets: Random,
        new_request_id: Callable[[], str],
        origins: OriginPolicy | None,
        on_error: OnError,
        on_request: OnRequest | None,
        *,
        root_path: str,
    ) -> None:
        super().__init__("tq.api", static_folder=None)
        self.gate = gate
        self.new_request_id = new_request_id
        self.root_path = root_path
        self._secrets = secrets
        self._origins = origins
        self.on_error = on_error
        self.on_request = on_request
        self.config["BODY_TIMEOUT"] = BODY_TIMEOUT_S
        self.url_map.merge_slashes = False
        self.urls: MapAdapter = self.url_map.bind("")
        self.register_error_handler(HTTPException, _quart_problem)
        self.register_error_handler(Exception, self._quart_failure)

    @property
    def origins(self) -> OriginPolicy | None:
        """From where requests may come; None: from everywhere, as where keys are asked for.

        No page can send a key that it has not been given, so that who else reads pages does not matter.
        """
        return self._origins if self.gate.is_open else None

    def admit(
        self,
        route: Route,
        headers: Mapping[str, str],
        query: dict[str, str],
        scope: HTTPScope | WebsocketScope,
    ) -> Admitted:
        """Who asks for *route*, if that caller may. Raises Unauthorized, NotAllowed, RateLimited."""
        client = scope.get("client")
        address = "" if client is None else address_group(client[0])
        return self.gate.admit(route.scope, headers, query, address=address)

    def new_key(self) -> NewKey:
        """A key that nobody has yet."""
        return make_key(self._secrets.randbytes(KEY_CHANCE_BYTES))

    @property
    def methods(self) -> list[str]:
        """Every method that something here takes."""
        found = {method for rule in self.url_map.iter_rules() for method in rule.methods or ()}
        return sorted(found | {"OPTIONS"})

    def local_path(self, path: str) -> str | None:
        """*path*, as the outside asks for it, without the root path; None if it is not below that."""
        if not self.root_path:
            return path
        below = path.removeprefix(self.root_path)
        is_below = path.startswith(self.root_path) and below[:1] in ("", "/")
        return (below or "/") if is_below else None

    def outside(self) -> NotFound:
        """Why there is nothing where the root path does not lead."""
        return NotFound(f"this server answers below {self.root_path}/ only")

    def outer(self, headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        """*headers*, with the paths in them as the outside sees them."""
        if not self.root_path:
            return headers
        before = {"location": "/", "link": "</"}
        return tuple(
            (name, value.replace(before[name], before[name][:-1] + self.root_path + "/", 1))
            if name in before
            else (name, value)
            for name, value in headers
        )

    def find_socket(self, path: str) -> tuple[View, dict[str, str]] | None:
        """What answers to a WebSocket at *path*, and its parameters; None: what else is there is Quart's."""
        try:
            rule, params = self.urls.match(path, "GET", return_rule=True)
        except HTTPException:
            return None
        view = self.view_functions[rule.endpoint]
        if isinstance(view, View) and view.route.socket is not None:
            return view, dict(params)
        return None

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
