"""What the standards say where we use them: RFC 9110 (HTTP), RFC 9457 (problems), on every route."""

from __future__ import annotations

import gzip
import json
import re
from typing import Any

import pytest
import trio
import trio.testing
from contract import BY_NAME, check_answer
from raw_http import JSON_TYPE, NDJSON_TYPE, Answer, open_api

from tq.api.body import BODY_TIMEOUT_S
from tq.api.http import JSON
from tq.api.route import Route
from tq.api.routes import ROUTES
from tq.context import Context
from tq.dashboard.files import dashboard
from tq.handlers import TaskQueue

Clock = trio.testing.MockClock
GETS = [route for route in ROUTES if route.method == "GET"]
WITH_BODY = [route for route in ROUTES if JSON in route.bodies]
STREAMS = {"/v1/events", "/v1/tasks/{id}/events"}
WITHOUT_BODY = {"delete_task", "delete_schedule"}
ORIGINAL = {"/submit", "/status/{id*}", "/stats"}


def named(routes: list[Route]) -> list[Any]:
    return [pytest.param(route, id=route.name) for route in routes]


def path_of(route: Route) -> str:
    values = {"id": "t", "id*": "t", "queue": "q", "name": "s", "key_id": "0" * 16}
    values |= {"version": dashboard().version, "file": "main.js"}
    return re.sub(r"\{([^}]+)\}", lambda match: values[match[1]], route.path)


@pytest.fixture
def queue() -> TaskQueue:
    queue = TaskQueue()

    @queue.task("*", max_attempts=1)
    async def work(payload: Any) -> Any:
        return payload

    @queue.task("steps", timeout=100)
    async def steps(ctx: Context) -> None:
        for done in range(10):
            ctx.progress(done / 10)
            await trio.sleep(1)

    return queue


# HEAD and OPTIONS


@pytest.mark.parametrize("route", named(GETS))
async def test_head_has_the_headers_of_get_and_no_body_on_every_route(
    route: Route, queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t", "type": "x", "delay": 60, "payload": "x" * 2000})
        await api.put("/v1/schedules/s", {"every": 60, "type": "x"})
        client = await api.connect()
        async with client.stream:
            asked = {"Accept-Encoding": "gzip", "X-Request-Id": "the-same"}
            head = await client.ask("HEAD", path_of(route), headers=asked)
            assert (head.status, head.body) == (200, b"")
            # The connection goes on: nothing was sent that HEAD does not have.
            assert (await client.ask("HEAD", "/livez")).status == 200
            if route.path in STREAMS:
                assert head.headers["content-type"] == "text/event-stream"
                assert "content-length" not in head.headers
                return
            get = await client.ask("GET", path_of(route), headers=asked)
            assert get.status == 200
            assert len(get.body) == int(get.headers["content-length"]) > 0
            # The metrics count the very requests that ask for them.
            moving = {"date", "content-length"} if route.name == "get_metrics" else {"date"}
            assert {**head.headers, **dict.fromkeys(moving)} == {**get.headers, **dict.fromkeys(moving)}


@pytest.mark.parametrize("route", named(list(ROUTES)))
async def test_options_lists_the_methods_of_every_path(
    route: Route, queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        answer = await api.ask("OPTIONS", path_of(route))
        assert (answer.status, answer.body) == (204, b"")
        allowed = answer.headers["allow"].split(", ")
        assert allowed == sorted({*allowed, "OPTIONS", route.method})
        assert ("HEAD" in allowed) == ("GET" in allowed)


async def test_options_of_everything_lists_every_method(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:
        answer = await api.ask("OPTIONS", "*")
        assert (answer.status, answer.body) == (204, b"")
        assert answer.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"


# Problems


@pytest.mark.parametrize("route", named(list(ROUTES)))
async def test_a_method_that_no_path_takes_is_a_405_with_allow_everywhere(
    route: Route, queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        answer = await api.ask("TRACE", path_of(route))
        assert answer.status == 405
        assert route.method in answer.headers["allow"].split(", ")
        assert answer.headers["content-type"] == "application/problem+json"


async def test_every_problem_has_the_members_of_rfc_9457(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:
        asked = [
            (400, await api.get("/v1/stats?odd=1")),
            (403, await api.post("/v1/tasks", {}, {"Origin": "http://elsewhere"})),
            (404, await api.get("/nope")),
            (405, await api.ask("PUT", "/v1/tasks")),
            (406, await api.get("/v1/stats", {"Accept": "text/html"})),
            (413, await api.post("/v1/tasks/cancel", "x" * 5000)),
            (415, await api.ask("POST", "/v1/tasks", b"{}")),
            (422, await api.post("/v1/tasks", {"type": "x", "priority": 101})),
        ]
    for status, answer in asked:
        assert answer.status == status, answer
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json
        assert problem["status"] == status
        assert problem["type"] == f"urn:tq:error:{problem['code']}"
        assert problem["title"] == problem["code"].replace("_", " ").capitalize()
        assert isinstance(problem["detail"], str)
        assert problem["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("route", named(WITH_BODY))
async def test_a_body_that_says_it_is_too_large_is_413_and_not_waited_for(
    route: Route, queue: TaskQueue, autojump_clock: Clock
) -> None:
    limit = route.bodies[JSON]
    assert limit is not None
    async with open_api(queue) as api:
        for length, is_too_large in ((limit, False), (limit + 1, True)):
            client = await api.connect()
            async with client.stream:
                await client.begin(route.method, path_of(route), JSON_TYPE | {"Content-Length": str(length)})
                with trio.move_on_after(BODY_TIMEOUT_S - 1) as waiting:
                    answer = await client.answer()
                # One that is not too large is waited for.
                assert waiting.cancelled_caught is not is_too_large
        assert (answer.status, answer.json["code"], answer.json["limit"]) == (413, "payload_too_large", limit)
        check_answer(route, answer)


@pytest.mark.parametrize("route", named(WITH_BODY))
@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/json; charset=latin-1"},
        JSON_TYPE | {"Content-Encoding": "gzip"},
    ],
    ids=["text", "form", "parts", "latin-1", "gzip"],
)
async def test_a_body_of_another_type_is_415_and_nothing_is_done(
    route: Route, headers: dict[str, str], queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t", "type": "x", "delay": 60})
        before = (await api.get("/v1/stats")).json
        answer = await api.ask(route.method, path_of(route), b'{"type":"x"}', headers)
        assert (answer.status, answer.json["code"]) == (415, "unsupported_media_type")
        check_answer(route, answer)
        assert (await api.get("/v1/stats")).json == before


# Accept


@pytest.mark.parametrize("route", named(list(ROUTES)))
async def test_an_answer_that_accept_leaves_out_is_406_and_nothing_is_done(
    route: Route, queue: TaskQueue, autojump_clock: Clock
) -> None:
    heeds = route.path not in ORIGINAL | {"/livez", "/readyz"} and route.name not in WITHOUT_BODY
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t", "type": "x", "delay": 60})
        before = (await api.get("/v1/stats")).json
        answer = await api.ask(
            route.method, path_of(route), b'{"type":"x"}', JSON_TYPE | {"Accept": "image/png"}
        )
        assert (answer.status == 406) is heeds, answer
        if heeds:
            check_answer(route, answer)
            assert answer.json["code"] == "not_acceptable"
            assert (await api.get("/v1/stats")).json == before


@pytest.mark.parametrize(
    ("path", "accept"),
    [
        ("/v1/stats", "*/*"),
        ("/v1/stats", "application/json"),
        ("/v1/stats", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("/docs", "text/html"),
        ("/livez", "image/png"),
    ],
)
async def test_an_answer_that_accept_takes_is_given(
    queue: TaskQueue, autojump_clock: Clock, path: str, accept: str
) -> None:
    async with open_api(queue) as api:
        assert (await api.get(path, {"Accept": accept})).status == 200
        assert (await api.get(path)).status == 200, "without Accept"


async def test_the_type_of_a_stream_is_that_of_the_stream(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t", "type": "x"})
        await trio.sleep(1)
        refused = await api.get("/v1/tasks/t/events", {"Accept": "application/json"})
        assert (refused.status, refused.json["accepted"]) == (406, ["text/event-stream"])
        assert (await api.get("/v1/tasks/t/events", {"Accept": "text/event-stream"})).status == 200
        line = b'{"type":"x"}\n'
        ask = NDJSON_TYPE | {"Accept": "application/json"}
        assert (await api.ask("POST", "/v1/tasks/batch", line, ask)).status == 406
        ask = NDJSON_TYPE | {"Accept": "application/x-ndjson"}
        assert (await api.ask("POST", "/v1/tasks/batch", line, ask)).status == 200


# Entity tags


async def test_a_task_that_has_not_changed_is_304(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t", "type": "x", "delay": 60})
        first = await api.get("/v1/tasks/t")
        assert re.fullmatch(r'"[0-9a-f]{16}"', first.headers["etag"])
        assert first.headers["cache-control"] == "private, no-cache"
        for known in (first.headers["etag"], "W/" + first.headers["etag"], "*"):
            again = await api.get("/v1/tasks/t", {"If-None-Match": known})
            assert (again.status, again.body) == (304, b"")
            assert again.headers["etag"] == first.headers["etag"]
            assert "content-type" not in again.headers
            check_answer(BY_NAME["get_task"], again)
        assert (await api.get("/v1/tasks/t", {"If-None-Match": '"0"'})).body == first.body
        assert (await api.get("/v1/tasks/none", {"If-None-Match": "*"})).status == 404


async def test_the_tag_of_a_task_changes_with_its_progress_and_its_state(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t", "type": "steps"})
        seen: dict[str, bytes] = {}
        for _ in range(13):
            await trio.sleep(1)
            answer = await api.get("/v1/tasks/t")
            assert seen.setdefault(answer.headers["etag"], answer.body) == answer.body
        assert answer.json["state"] == "succeeded"
        assert len(seen) == len(set(seen.values())) == 10


async def test_a_wait_ends_in_304_only_if_the_end_is_known(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t", "type": "x", "delay": 5})
        early = (await api.get("/v1/tasks/t")).headers["etag"]
        ended = await api.get("/v1/tasks/t?wait=10", {"If-None-Match": early})
        assert (ended.status, ended.json["state"]) == (200, "succeeded")
        again = await api.get("/v1/tasks/t?wait=10", {"If-None-Match": ended.headers["etag"]})
        assert again.status == 304


# Compression


async def test_a_large_answer_is_compressed_for_who_asks_and_has_a_tag_of_its_own(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t", "type": "x", "payload": "x" * 5000, "delay": 60})
        plain = await api.get("/v1/tasks/t")
        coded = await api.get("/v1/tasks/t", {"Accept-Encoding": "br, gzip"})
        assert "content-encoding" not in plain.headers
        assert coded.headers["content-encoding"] == "gzip"
        assert plain.headers["vary"] == coded.headers["vary"] == "accept-encoding"
        assert gzip.decompress(coded.body) == plain.body
        assert len(coded.body) == int(coded.headers["content-length"]) < 500
        assert coded.headers["etag"] == plain.headers["etag"][:-1] + '-gzip"'
        for tag in (plain.headers["etag"], coded.headers["etag"]):
            again = await api.get("/v1/tasks/t", {"Accept-Encoding": "gzip", "If-None-Match": tag})
            assert (again.status, again.headers["etag"]) == (304, coded.headers["etag"])
            assert "content-encoding" not in again.headers


async def test_lists_and_the_contract_are_compressed_and_nothing_else(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "t", "type": "x", "payload": "x" * 5000})
        await trio.sleep(1)
        asked = {"Accept-Encoding": "gzip"}
        for path in ("/v1/tasks", "/openapi.json", "/docs"):
            assert (await api.get(path, asked)).headers["content-encoding"] == "gzip", path
        for path in ("/v1/stats", "/status/t", "/v1/tasks/t/events"):
            assert "content-encoding" not in (await api.get(path, asked)).headers, path
        held = {"type": "x", "payload": "x" * 5000}
        posted = await api.post("/v1/tasks", held, asked | {"Prefer": "wait=5"})
        assert (posted.json["state"], "content-encoding" in posted.headers) == ("succeeded", False)


# Idempotency-Key


async def test_a_request_with_a_key_is_repeated_by_its_body_alone(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    def traced(span: int) -> dict[str, str]:
        trace = f"00-{'a' * 32}-{span:016x}-01"
        return {"Idempotency-Key": "k", "Traceparent": trace, "X-Request-Id": str(span)}

    async with open_api(queue) as api:
        first = await api.post("/v1/tasks", {"type": "x"}, traced(1))
        again = await api.post("/v1/tasks", {"type": "x"}, traced(2))
        assert (first.status, again.status) == (201, 200)
        assert again.json["id"] == first.json["id"]
        assert again.headers["tq-duplicate"] == "true"
        other = await api.post("/v1/tasks", {"type": "y"}, traced(3))
        assert (other.status, other.json["code"]) == (422, "idempotency_key_reused")


# X-Request-Id


async def test_every_answer_has_an_id_of_its_own(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue) as api:

        @api.app.get("/page")
        async def page() -> str:
            return "page"

        paths = ["/livez", "/nope", "/v1/stats", "/v1/tasks/none", "/page"]
        ids = [(await api.get(path)).headers["x-request-id"] for path in paths]
        ids += [(await api.ask("OPTIONS", "*")).headers["x-request-id"]]
    assert all(re.fullmatch(r"req-[0-9a-f]{32}", each) for each in ids)
    assert ids == sorted(set(ids)), "by time"


@pytest.mark.parametrize("id", ["a", "0123-abc.DEF_~:+/=@", "x" * 128])
async def test_an_id_that_makes_sense_is_taken(queue: TaskQueue, autojump_clock: Clock, id: str) -> None:
    async with open_api(queue) as api:
        assert (await api.get("/livez", {"X-Request-Id": id})).headers["x-request-id"] == id
        refused = await api.get("/nope", {"X-Request-Id": id})
        assert refused.json["request_id"] == refused.headers["x-request-id"] == id


@pytest.mark.parametrize("id", ["", "a b", 'a"', "a\\", "a,b", "x" * 129, "<a>"])
async def test_an_id_that_makes_no_sense_is_replaced(
    queue: TaskQueue, autojump_clock: Clock, id: str
) -> None:
    async with open_api(queue) as api:
        answer: Answer = await api.get("/nope", {"X-Request-Id": id})
        assert re.fullmatch(r"req-[0-9a-f]{32}", answer.headers["x-request-id"])
        assert json.loads(answer.body)["request_id"] == answer.headers["x-request-id"]
