"""How the server is seen from outside: below a path, by a name, in traces, and in its access log."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio.testing
from key_kit import ROOT, bearer, locked
from raw_http import JSON_TYPE, NDJSON_TYPE, open_api
from test_api_app import UPGRADE

from tq.api.access import Answered
from tq.api.origin import OriginPolicy
from tq.cli.serving import access_log
from tq.clock import SystemClock
from tq.context import Context
from tq.core.fields import read_traceparent
from tq.handlers import TaskQueue
from tq.logs import Level, Log

Clock = trio.testing.MockClock
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b8-00"


@pytest.fixture
def queue() -> TaskQueue:
    queue = TaskQueue()

    @queue.task("*", max_attempts=1)
    async def work(payload: Any, ctx: Context) -> Any:
        if payload == "again":
            return await ctx.submit("child")
        return ctx.traceparent

    return queue


# Below a path


async def test_below_the_root_path_all_is_as_without_it(queue: TaskQueue, autojump_clock: Clock) -> None:
    async with open_api(queue, root_path="/tq") as api:
        posted = await api.post("/tq/v1/tasks", {"id": "a", "type": "x"})
        assert (posted.status, posted.headers["location"]) == (201, "/tq/v1/tasks/a")
        await api.post("/tq/v1/tasks", {"id": "b", "type": "x"})
        page = await api.get("/tq/v1/tasks?limit=1")
        assert page.headers["link"].startswith("</tq/v1/tasks?")
        assert (await api.get(page.headers["link"][1:].partition(">")[0])).json["tasks"][0]["id"] == "a"
        assert (await api.get("http://localhost/tq/livez")).status == 200
        assert (await api.get("/tq/docs")).status == 200


@pytest.mark.parametrize("path", ["/livez", "/tqlivez", "/tqx/livez", "/tq%2flivez/", "/x/tq/livez"])
async def test_elsewhere_there_is_nothing(queue: TaskQueue, autojump_clock: Clock, path: str) -> None:
    async with open_api(queue, root_path="/tq") as api:
        assert (await api.get(path)).status == 404


async def test_the_root_path_itself_leads_to_the_dashboard_below_it(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue, root_path="/tq") as api:
        moved = await api.get("/tq")
        assert (moved.status, moved.headers["location"]) == (308, "/tq/")
        assert (await api.get("/tq/")).headers["content-type"] == "text/html; charset=utf-8"
        assert (await api.post("/tq", {})).status == 405


@pytest.mark.parametrize(("path", "status"), [("/tq/v1/events", 101), ("/v1/events", 404)])
async def test_a_websocket_is_below_the_root_path_too(
    queue: TaskQueue, autojump_clock: Clock, path: str, status: int
) -> None:
    told: list[Answered] = []
    async with open_api(queue, root_path="/tq", on_request=told.append) as api:
        client = await api.connect()
        async with client.stream:
            await client.begin("GET", path, UPGRADE | {"X-Request-Id": "mine"})
            head: Any = await client.event()
            assert head.status_code == status
            assert (b"x-request-id", b"mine") in head.headers.raw_items() or (
                dict(head.headers)[b"x-request-id"] == b"mine"
            )
    [one] = told
    assert (one.method, one.status, one.request_id) == ("WEBSOCKET", status, "mine")
    assert (one.route, one.path) == (("/v1/events", "") if status == 101 else ("", "/v1/events"))


async def test_a_name_that_was_given_is_known_and_its_pages_may_change_things(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue, origins=OriginPolicy(frozenset({"tasks.example.org"}))) as api:
        target = "http://tasks.example.org/v1/tasks"
        asked = JSON_TYPE | {"Origin": "https://tasks.example.org"}
        assert (await api.ask("POST", target, b'{"type":"x"}', asked)).status == 201
        assert (await api.get("http://other.example.org/v1/stats")).status == 403


async def test_head_is_told_of_as_having_sent_nothing(queue: TaskQueue, autojump_clock: Clock) -> None:
    told: list[Answered] = []
    async with open_api(queue, on_request=told.append) as api:
        await api.ask("HEAD", "/v1/stats")
        size = len((await api.get("/v1/stats")).body)
    assert [(one.method, one.sent_bytes) for one in told] == [("HEAD", 0), ("GET", size)]


# Traces


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (TRACE, TRACE),
        ("cc" + TRACE[2:] + "-more", "cc" + TRACE[2:]),
        ("cc" + TRACE[2:], "cc" + TRACE[2:]),
        (TRACE + "-more", None),
        ("ff" + TRACE[2:], None),
        ("cc" + TRACE[2:] + "more", None),
        (TRACE.upper(), None),
        (TRACE[:-1], None),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
        (f"00-{'a' * 32}-{'0' * 16}-01", None),
        (f"{TRACE}, {TRACE}", None),
        ("", None),
    ],
)
def test_a_traceparent_is_read_as_w3c_says(text: str, read: str | None) -> None:
    assert read_traceparent(text) == read


async def test_the_trace_of_a_submit_is_kept_shown_and_given_to_the_handler(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    async with open_api(queue) as api:
        asked = {"traceparent": TRACE}
        await api.post("/v1/tasks", {"id": "a", "type": "x"}, asked)
        await api.post("/v1/tasks/batch", [{"id": "b", "type": "x"}], asked)
        await api.post("/v1/tasks", {"id": "own", "type": "x", "traceparent": OTHER}, asked)
        await api.ask("POST", "/v1/tasks/batch", b'{"id":"c","type":"x"}\n', NDJSON_TYPE | asked)
        await api.post("/submit", {"id": "d", "type": "x", "payload": 1}, asked)
        await api.post("/v1/tasks", {"id": "odd", "type": "x"}, {"traceparent": "odd"})
        await api.post("/v1/tasks", {"id": "p", "type": "x", "payload": "again"}, asked)
        shown = {}
        for id in ("a", "b", "own", "c", "d", "odd"):
            task = (await api.get(f"/v1/tasks/{id}?wait=9")).json
            shown[id] = (task.get("traceparent"), task["result"])
        same = (TRACE, TRACE)
        assert shown == {
            "a": same,
            "b": same,
            "c": same,
            "d": same,
            "own": (OTHER, OTHER),
            "odd": (None, None),
        }
        child = (await api.get("/v1/tasks/p?wait=9")).json["result"]
        assert (await api.get(f"/v1/tasks/{child}?wait=9")).json["traceparent"] == TRACE
        refused = await api.post("/v1/tasks", {"type": "x", "traceparent": "odd"})
        assert (refused.status, refused.json["field"]) == (422, "traceparent")


# The access log


async def test_a_line_of_the_access_log_tells_no_secret_and_cannot_be_forged(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    written: list[bytes] = []
    on_request = access_log(Log(written.append, json=True, level=Level.INFO), SystemClock())
    async with open_api(queue, on_request=on_request) as api:
        secret = {"Authorization": "Bearer secret", "X-Request-Id": "r1"}
        await api.ask("POST", "/v1/tasks", b'{"type":"x","payload":"secret"}', JSON_TYPE | secret)
        await api.get("/v1/tasks/secret?wait=0", {"X-Request-Id": "r2"})
        ticket = (await api.ask("POST", "/v1/tickets")).json["ticket"]
        secret_query = f"?ticket={ticket}"
        client = await api.connect()
        async with client.stream:
            await client.begin("GET", f"/v1/events{secret_query}", UPGRADE)
            accepted: Any = await client.event()
            assert accepted.status_code == 101
        await api.get(f"/v1/tasks/secret/events?ticket={'f' * 64}")
        await api.get("/nowhere?secret")
        written_before = len(written)
        await api.get("/%0d%0aevil%1b[31m%e2%80%ae" + "y" * 200 + "?secret", {"X-Request-Id": "r3"})
    for canary in (b"secret", ticket.encode(), b"ffff", b"ticket="):
        assert canary not in b"".join(written), canary
    assert all(line.isascii() and line.count(b"\n") == 1 for line in written)
    # A WebSocket is written down when it is over, whenever its client's leaving is noticed.
    assert written_before >= 5
    everything = [json.loads(line) for line in written]
    [socket] = [line for line in everything if line["method"] == "WEBSOCKET"]
    assert (socket["route"], socket["status"]) == ("/v1/events", 101)
    lines = [line for line in everything if line["request_id"] in ("r1", "r2", "r3")]
    kept = [{name: line.get(name) for name in ("method", "route", "status", "request_id")} for line in lines]
    assert kept == [
        {"method": "POST", "route": "/v1/tasks", "status": 201, "request_id": "r1"},
        {"method": "GET", "route": "/v1/tasks/{id}", "status": 404, "request_id": "r2"},
        {"method": "GET", "route": None, "status": 404, "request_id": "r3"},
    ]
    assert lines[2]["path"].startswith("/\\r\\nevil\\x1b[31m\\u202ey")
    assert lines[2]["path"].count("y") == 87
    assert {line["event"] for line in everything} == {"http.answered"}


async def test_a_line_of_the_access_log_names_the_key_by_its_id(
    queue: TaskQueue, autojump_clock: Clock
) -> None:
    written: list[bytes] = []
    on_request = access_log(Log(written.append, json=True, level=Level.INFO), SystemClock())
    async with locked(queue, on_request=on_request) as api:
        assert (await api.get("/v1/tasks", bearer(ROOT))).status == 200
        assert (await api.get("/v1/tasks", bearer(ROOT.text[:-1] + "x"))).status == 401
        assert (await api.get("/livez", bearer(ROOT))).status == 200
        ticket = (await api.ask("POST", "/v1/tickets", headers=bearer(ROOT))).json["ticket"]
        assert (await api.get(f"/v1/tasks/none/events?ticket={ticket}")).status == 404
    told = [(line["route"], line["status"], line.get("key_id")) for line in map(json.loads, written)]
    assert told == [
        ("/v1/tasks", 200, ROOT.id),
        ("/v1/tasks", 401, None),
        ("/livez", 200, None),
        ("/v1/tickets", 201, ROOT.id),
        ("/v1/tasks/{id}/events", 404, ROOT.id),
    ]
    assert ROOT.text.encode() not in b"".join(written)
