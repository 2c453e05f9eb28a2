"""What the door itself does: finding routes, media types, limits, queries, and errors that are never HTML."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import h11
import pytest
import trio
import trio.testing
from quart import abort
from raw_http import JSON_TYPE, open_api

from tq.api.http import Request, Response
from tq.api.route import BODY_MAX, Route
from tq.api.routes import ROUTES
from tq.core.errors import Conflict
from tq.core.keys import Scope
from tq.engine.server import Server
from tq.handlers import TaskQueue

Clock = trio.testing.MockClock


async def fail(server: Server, request: Request) -> Response:
    raise RuntimeError("a secret of ours")


async def break_off(server: Server, request: Request) -> Response:
    async def pieces() -> AsyncGenerator[bytes, None]:
        yield b"so far so good"
        raise RuntimeError("a secret of ours")

    return Response(200, pieces())


FAILING = Route(method="GET", path="/fail", endpoint=fail, scope=Scope.OPEN, summary="")
BREAKING = Route(method="GET", path="/break", endpoint=break_off, scope=Scope.OPEN, summary="")


@pytest.mark.parametrize("path", ["/nope", "/v1", "/v1/tasks/", "/v1/tasks/a/b", "/static/x", "*"])
async def test_nothing_there_is_a_404_problem(queue: TaskQueue, autojump_clock: Clock, path: str) -> None:
    async with open_api(queue) as api:
        answer = await api.get(path)
        assert answer.status == 404
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json["code"] == "not_found"
        assert answer.json["type"] == "urn:tq:error:not_found"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/v1/tasks", "GET, HEAD, OPTIONS, POST"),
        ("DELETE", "/stats", "GET, HEAD, OPTIONS"),
        ("POST", "/status/x", "GET, HEAD, OPTIONS"),
        ("BREW", "/livez", "GET, HEAD, OPTIONS"),
        ("GET", "/v1/tasks/batch?wait=1", None),
    ],
)
async def test_another_method_is_a_405_problem_that_lists_what_is_allowed(
    queue: TaskQueue, autojump_clock: Clock, method: str, path: str, allow: str | None
) -> None:
    async with open_api(queue) as api:
        answer = await api.ask(method, path)
        assert answer.headers["content-type"] == "application/problem+json"
        if allow is None:
            # GET /v1/tasks/{id} is there, and "batch" might be an id.
            assert answer.status == 404
        else:
            assert (answer.status, answer.json["code"]) == (405, "method_not_allowed")
            assert answer.headers["allow"] == allow
            assert answer.json["allow"] == allow.split(", ")


async def test_options_answers_what_is_allowed(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:
        answer = await api.ask("OPTIONS", "/v1/stats")
        assert (answer.status, answer.headers["allow"], answer.body) == (204, "GET, HEAD, OPTIONS", b"")
        assert "content-length" not in answer.headers


async def test_head_answers_as_get_without_the_body(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:
        client = await api.connect()
        async with client.stream:
            get = await client.ask("GET", "/livez")
            head = await client.ask("HEAD", "/livez")
            assert (head.status, head.body) == (200, b"")
            assert head.headers["content-length"] == get.headers["content-length"] == "15"
            assert (await client.ask("HEAD", "/nope")).status == 404
            assert (await client.ask("GET", "/livez")).body == get.body


async def test_absolute_targets_are_served(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:
        assert (await api.get("http://test/livez")).status == 200


async def test_our_own_error_is_a_500_problem_and_tells_the_hook_alone(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue, routes=[*ROUTES, FAILING]) as api:
        answer = await api.get("/fail")
        assert answer.status == 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json["code"] == "internal_error"
        assert b"secret" not in answer.body
        [(error, where)] = api.errors
        assert (str(error), where) == ("a secret of ours", f"GET /fail, {answer.headers['x-request-id']}")
        api.errors.clear()


async def test_a_response_that_breaks_off_is_seen_to(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue, routes=[*ROUTES, BREAKING]) as api:
        client = await api.connect()
        async with client.stream:
            with pytest.raises(h11.RemoteProtocolError):
                await client.ask("GET", "/break")
        assert [str(error) for error, _ in api.errors] == ["a secret of ours"]
        api.errors.clear()


async def test_errors_of_views_of_quarts_own_kind_are_problems_too(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:

        @api.app.get("/page/<what>")
        async def page(what: str) -> str:
            if what == "bug":
                raise RuntimeError("a secret of ours")
            if what == "refusal":
                raise Conflict("no", task_id="t1")
            if what == "gone":
                abort(410)
            return "<p>page</p>"

        fine = await api.get("/page/fine")
        assert (fine.status, fine.body) == (200, b"<p>page</p>")
        for what, status, code in [
            ("bug", 500, "internal_error"),
            ("refusal", 409, "conflict"),
            ("gone", 410, "invalid_input"),
        ]:
            answer = await api.get(f"/page/{what}")
            assert (answer.status, answer.json["code"]) == (status, code)
            assert answer.headers["content-type"] == "application/problem+json"
            assert b"secret" not in answer.body
        assert len(api.errors) == 1
        api.errors.clear()


# Media types


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": ""},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-ndjson"},
        {"Content-Type": "application/vnd.api+json"},
        {"Content-Type": "application/json; charset=utf-16"},
        JSON_TYPE | {"Content-Encoding": "gzip"},
        JSON_TYPE | {"Content-Encoding": "identity, br"},
    ],
)
async def test_a_body_of_another_type_is_415_and_stores_nothing(
    queue: TaskQueue, autojump_clock: Clock, headers: dict[str, str]
) -> None:
    queue.task("*")(fail)
    async with open_api(queue) as api:
        client = await api.connect()
        async with client.stream:
            answer = await client.ask("POST", "/v1/tasks", b'{"type":"x"}', headers)
            assert (answer.status, answer.json["code"]) == (415, "unsupported_media_type")
            # The connection is kept: what was not wanted has been read.
            assert (await client.ask("GET", "/livez")).status == 200
        assert (await api.server.stats()).submitted == 0


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "APPLICATION/json ;charset=utf-8", 'application/json; charset="UTF-8"'],
)
async def test_json_by_any_spelling_is_taken(
    queue: TaskQueue, autojump_clock: Clock, content_type: str
) -> None:
    queue.task("x")(fail_task)
    async with open_api(queue) as api:
        answer = await api.ask("POST", "/v1/tasks", b'{"type":"x"}', {"Content-Type": content_type})
        assert answer.status == 201


async def fail_task() -> None:
    raise RuntimeError


# Limits


async def test_a_body_that_says_it_is_too_large_is_413_before_it_is_read(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        client = await api.connect()
        async with client.stream:
            await client.begin("POST", "/v1/tasks", JSON_TYPE | {"Content-Length": str(BODY_MAX + 1)})
            answer = await client.answer()
            assert (answer.status, answer.json["code"]) == (413, "payload_too_large")
            assert answer.json["limit"] == BODY_MAX == 1_114_112


async def test_a_body_that_does_not_say_is_413_once_it_is_over_the_limit(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        client = await api.connect()
        async with client.stream:
            await client.begin("POST", "/v1/tasks", JSON_TYPE | {"Transfer-Encoding": "chunked"})
            for _ in range(34):
                await client.send(b" " * 32768)
            await client.send(b" ")
            answer = await client.answer()
            assert answer.status == 413


async def test_a_client_that_still_sends_gets_to_read_why_it_is_refused(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        client = await api.connect()
        async with client.stream:
            await client.begin("POST", "/v1/tasks", JSON_TYPE | {"Content-Length": str(20_000_000)})
            for _ in range(100):
                await client.send(b" " * 65536)
            assert (await client.answer()).status == 413


async def test_a_body_that_is_not_here_in_fifteen_seconds_is_408(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        client = await api.connect()
        async with client.stream:
            await client.begin("POST", "/v1/tasks", JSON_TYPE | {"Content-Length": "100"})
            for _ in range(7):
                await client.send(b" ")
                await trio.sleep(2)
            answer = await client.answer()
            assert (answer.status, answer.json["code"]) == (408, "body_too_slow")
            assert trio.current_time() == 15


async def test_a_body_of_the_greatest_size_is_taken(queue: TaskQueue, autojump_clock: Clock) -> None:
    queue.task("x")(fail_payload)
    async with open_api(queue) as api:
        body = b'{"type":"x","payload":"' + b"x" * (1024 * 1024 - 2) + b'"}'
        assert (await api.ask("POST", "/v1/tasks", body, JSON_TYPE)).status == 201


async def fail_payload(payload: str) -> None:
    raise RuntimeError


# Queries


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/v1/stats?verbose=1", ["verbose"]),
        ("/v1/tasks/x?wait=1&zebra&aa=%20", ["aa", "zebra"]),
        ("/readyz?x", ["x"]),
    ],
)
async def test_an_unknown_query_parameter_is_400_and_named(
    queue: TaskQueue, autojump_clock: Clock, path: str, names: list[str]
) -> None:
    async with open_api(queue) as api:
        answer = await api.get(path)
        assert (answer.status, answer.json["parameters"]) == (400, names)


@pytest.mark.parametrize("query", ["wait=1&wait=2", "wait=%ff", "&".join(["wait=1"] * 17)])
async def test_a_query_that_makes_no_sense_is_400(
    queue: TaskQueue, autojump_clock: Clock, query: str
) -> None:
    async with open_api(queue) as api:
        answer = await api.get(f"/v1/tasks/x?{query}")
        assert (answer.status, answer.json["code"]) == (400, "invalid_input")


# WebSocket

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


@pytest.mark.parametrize(("path", "status"), [("/nope", 404), ("/v1/stats", 400)])
async def test_a_websocket_nobody_serves_is_refused_with_a_problem_and_closed(
    queue: TaskQueue, autojump_clock: Clock, path: str, status: int
) -> None:
    async with open_api(queue) as api:
        client = await api.connect()
        async with client.stream:
            await client.begin("GET", path, UPGRADE)
            answer = await client.answer()
            assert answer.status == status
            assert answer.headers["content-type"] == "application/problem+json"
            assert await client.until_closed() == b""
        assert trio.current_time() == 0
