"""GET /metrics: the formats, who may ask, and what is counted of HTTP itself."""

from __future__ import annotations

import re

import pytest
from raw_http import Answer, open_api
from trio.testing import MockClock

from tq.api.access import Answered
from tq.api.connection import Connection
from tq.handlers import TaskQueue


@pytest.fixture
def queue() -> TaskQueue:
    queue = TaskQueue()

    @queue.task("*")
    async def work(payload: object) -> object:
        return payload

    return queue


def sample(answer: Answer, name: str) -> list[str]:
    """The samples of *name*, as they are written."""
    return re.findall(rf"^({name}(?:\{{.*\}})? .*)$", answer.body.decode(), re.M)


async def test_metrics_are_plain_text_or_openmetrics(queue: TaskQueue, autojump_clock: MockClock) -> None:
    async with open_api(queue) as api:
        plain = await api.get("/metrics")
        assert (plain.status, plain.headers["content-type"]) == (
            200,
            "text/plain; version=0.0.4; charset=utf-8",
        )
        accept = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
        other = await api.ask("GET", "/metrics", headers={"Accept": accept})
        assert (other.status, other.headers["content-type"]) == (
            200,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )
        assert other.body.endswith(b"# EOF\n")
        assert b"# EOF" not in plain.body


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("text/plain", "text/plain"),
        ("text/*", "text/plain"),
        ("*/*", "text/plain"),
        ("application/openmetrics-text", "application/openmetrics-text"),
        ("application/openmetrics-text;q=0, */*", "text/plain"),
        ("application/*", "application/openmetrics-text"),
    ],
)
async def test_whichever_of_the_two_is_accepted_is_given(
    queue: TaskQueue, autojump_clock: MockClock, accept: str, media: str
) -> None:
    async with open_api(queue) as api:
        answer = await api.get("/metrics", {"Accept": accept})
        assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (200, media)
        refused = await api.get("/metrics", {"Accept": "application/json"})
        assert refused.status == 406
        assert [each.partition(";")[0] for each in refused.json["accepted"]] == [
            "text/plain",
            "application/openmetrics-text",
        ]


async def test_requests_are_counted_by_method_route_and_status(
    queue: TaskQueue, autojump_clock: MockClock
) -> None:
    async with open_api(queue) as api:
        await api.post("/v1/tasks", {"id": "a", "type": "email"})
        for path in ("/v1/tasks/a", "/v1/tasks/none", "/v1/tasks/nil", "/nowhere", "/else/where"):
            await api.get(path)
        await api.ask("BREW", "/v1/tasks")
        answer = await api.get("/metrics")
    assert sample(answer, "tq_http_requests_total") == [
        'tq_http_requests_total{method="POST",route="/v1/tasks",status="201"} 1.0',
        'tq_http_requests_total{method="GET",route="/v1/tasks/{id}",status="200"} 1.0',
        'tq_http_requests_total{method="GET",route="/v1/tasks/{id}",status="404"} 2.0',
        'tq_http_requests_total{method="GET",route="",status="404"} 2.0',
        'tq_http_requests_total{method="other",route="",status="405"} 1.0',
    ]
    assert sample(answer, r"tq_http_request_seconds_count") == [
        'tq_http_request_seconds_count{route="/v1/tasks"} 1.0',
        'tq_http_request_seconds_count{route="/v1/tasks/{id}"} 3.0',
        'tq_http_request_seconds_count{route=""} 3.0',
    ]


async def test_requests_are_told_of_elsewhere_too(queue: TaskQueue, autojump_clock: MockClock) -> None:
    told: list[Answered] = []
    async with open_api(queue, on_request=told.append) as api:
        await api.get("/livez")
        answer = await api.get("/metrics")
    assert [each.route for each in told] == ["/livez", "/metrics"]
    assert sample(answer, "tq_http_requests_total") == [
        'tq_http_requests_total{method="GET",route="/livez",status="200"} 1.0'
    ]


async def test_connections_are_counted_and_those_that_fail_with_an_error_of_ours(
    queue: TaskQueue, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_api(queue) as api:
        kept = await api.connect()
        async with kept.stream:
            await kept.ask("GET", "/livez")
            monkeypatch.setattr("tq.api.serve.Connection", Broken)
            broken = await api.connect()
            assert await broken.until_closed() == b""
            await broken.stream.aclose()
            api.errors.clear()
            answer = await kept.ask("GET", "/metrics")
    assert sample(answer, "tq_connections") == ["tq_connections 1.0"]
    assert sample(answer, "tq_connections_accepted_total") == ["tq_connections_accepted_total 2.0"]
    assert sample(answer, "tq_connections_failed_total") == ["tq_connections_failed_total 1.0"]
    assert sample(answer, "tq_connections_refused_total") == [
        'tq_connections_refused_total{why="full"} 0.0',
        'tq_connections_refused_total{why="address"} 0.0',
    ]


class Broken(Connection):
    """Ends with an error, as a bug of ours would make it."""

    async def run(self) -> None:
        raise RuntimeError("as the test wants it")


async def test_a_page_that_knows_the_server_by_another_name_gets_no_metrics(
    queue: TaskQueue, autojump_clock: MockClock
) -> None:
    async with open_api(queue) as api:
        client = await api.connect()
        async with client.stream:
            await client.stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n")
            answer = await client.stream.receive_some(4096)
    assert answer.startswith(b"HTTP/1.1 403 ")
